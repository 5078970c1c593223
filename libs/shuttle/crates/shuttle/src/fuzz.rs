//! What a fuzzer calls: each function takes any bytes, reads them as the process reads what the forwarder
//! says or what an earlier process left, and checks what must hold whatever they are.

use prost::Message;
use weft_engine::Engine;

use crate::plane::Wanted;
use crate::proto::{
    AttachPortRequest, ConfigureSealingRequest, Flow, PingRequest, TableChange, WireguardAttachment,
};
use crate::state::State;
use crate::{convert, ping, sealing, trace};

const LOCAL_HOST_ID: u32 = 1;

/// Reads the bytes as calls of the forwarder: a byte that says which, two of length in network order, and
/// the message. Table changes and flows come into force.
///
/// # Panics
/// Where a flow that was taken is told otherwise than it came.
pub fn requests(mut bytes: &[u8]) {
    let mut engine = Engine::default();
    let mut released = Vec::new();
    while let Some((&[kind, high, low], rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
        let (message, rest) = rest.split_at(length);
        bytes = rest;
        match kind % 8 {
            0 => {
                let Ok(message) = TableChange::decode(message) else { continue };
                put(&mut engine, message, kind & 0x80 != 0);
            }
            1 => {
                let Ok(message) = Flow::decode(message) else { continue };
                let Ok(flow) = convert::flow(&message) else { continue };
                assert_eq!(convert::flow(&convert::flow_message(&flow)).ok(), Some(flow));
                let good = engine.check_flows(vec![flow]);
                engine.put_flows(&good, &mut released);
            }
            2 => {
                let Ok(message) = AttachPortRequest::decode(message) else { continue };
                let _ = Wanted::parse(&message);
            }
            3 => {
                let Ok(message) = PingRequest::decode(message) else { continue };
                let _ = ping::Request::parse(&message);
            }
            4 => {
                let Ok(message) = ConfigureSealingRequest::decode(message) else { continue };
                let _ = sealing::Settings::parse(message);
            }
            5 => {
                let Ok(message) = WireguardAttachment::decode(message) else { continue };
                let _ = sealing::SealedPeer::parse_client(&message);
            }
            _ => {
                let _ = std::str::from_utf8(message).map(trace::parse_traceparent);
            }
        }
    }
}

/// As an application of tables does it, with one change.
fn put(engine: &mut Engine, mut message: TableChange, is_whole: bool) {
    let mut changes = sealing::Changes::default();
    if convert::note_sealed(&mut message, &mut changes).is_err() {
        return;
    }
    let Ok(change) = convert::change(message) else { return };
    let revision = engine.tables().revision();
    let base = if is_whole { 0 } else { revision };
    let plan = engine.tables().plan(base, revision + 1, LOCAL_HOST_ID, vec![change]);
    if let Ok(plan) = plan {
        engine.commit(plan, &mut Vec::new());
        assert!(engine.tables().revision() > revision);
    }
}

/// Reads the bytes as what an earlier process left: the file of its ports, or, where the first byte is odd,
/// the memory of its sealed peers.
///
/// # Panics
/// Where what was read is not read again as it was.
pub fn state(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    if kind & 1 == 1 {
        return sealing::fuzz::memory(bytes);
    }
    let Ok(state) = State::decode(bytes) else { return };
    for port in &state.ports {
        let _ = port.request.as_ref().map(Wanted::parse);
    }
    assert_eq!(State::decode(state.encode_to_vec().as_slice()), Ok(state));
}
