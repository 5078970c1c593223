//! What the kernel's programs hand up: frames of endpoints, which have anything in them.

use std::collections::BTreeSet;
use std::time::Duration;

use weft_abi::{Plain as _, SLOW_DROP, SLOW_MISS, SLOW_MTU, SLOW_NEIGHBOUR, SLOW_RESEND, SlowMeta};
use weft_engine::{
    Change, Endpoint, Engine, Flow, FlowTarget, MISSES_PER_BATCH_MAX, Mac, Network, Port, SlowFrame,
};

const LOCAL_HOST_ID: u32 = 1;
const NETWORK: Network = Network {
    network_id: 5,
    vni: 7,
    mtu_bytes: 1320,
    gateway_ipv4: Some(std::net::Ipv4Addr::new(10, 20, 0, 1)),
    gateway_ipv6: None,
};
/// The two that have ports.
const SOURCE: u32 = 11;
const TARGET: u32 = 13;
const VNET_BYTES: usize = 12;
/// More than anything waits.
const LONG: Duration = Duration::from_mins(1);

/// Frames, answers to what they ask, and time; each behind a byte that says which, and two of length.
/// Every frame ends once: sent again, dropped, or given up.
pub(crate) fn slow_frame(mut bytes: &[u8]) {
    let mut engine = engine();
    let (mut now, mut out, mut taken, mut ended) = (Duration::ZERO, Vec::new(), 0, 0);
    while let Some((&[what, low, high], rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        let (ethernet, rest) = rest.split_at(length);
        bytes = rest;
        let purpose = [SLOW_MISS, SLOW_NEIGHBOUR, SLOW_MTU][usize::from(what >> 3) % 3];
        let endpoint_id = if what & 0x80 == 0 { SOURCE } else { SOURCE + 1 };
        match what & 7 {
            0 => now += Duration::from_millis(u64::from(what >> 3) * 20),
            1 => answer(&mut engine, &mut out),
            2 => engine.handle_unresolved(&[(SOURCE, TARGET)], &mut out),
            3 => engine.handle_new_forwarder(),
            4 => void(&mut engine, &mut out),
            _ => {
                if let Some(frame) = frame(purpose, endpoint_id, ethernet) {
                    taken += 1;
                    engine.handle_frame(frame, now, &mut out);
                }
            }
        }
        engine.handle_timeout(now, &mut out);
        assert!(engine.poll_misses().len() <= MISSES_PER_BATCH_MAX);
        ended += count_ends(&mut out);
    }
    engine.handle_timeout(now + LONG, &mut out);
    ended += count_ends(&mut out);
    assert_eq!((taken, engine.waiting_bytes()), (ended, 0));
}

/// What came back and is no answer of the shuttle's own.
fn count_ends(out: &mut Vec<SlowFrame>) -> u32 {
    let is_end = |frame: &SlowFrame| matches!(frame.meta().purpose, SLOW_RESEND | SLOW_DROP);
    out.drain(..).filter(is_end).count() as u32
}

/// As the programs hand it up.
fn frame(purpose: u8, endpoint_id: u32, ethernet: &[u8]) -> Option<SlowFrame> {
    let (macs, rest) = ethernet.split_at_checked(12)?;
    let (ethertype, payload) = rest.split_first_chunk()?;
    let meta = SlowMeta {
        magic: weft_abi::SLOW_MAGIC,
        purpose,
        endpoint_id,
        ifindex: 7,
        ethertype: *ethertype,
        mtu: 1320,
        ..SlowMeta::default()
    };
    let parts = [&[0; VNET_BYTES], macs, &[8, 0], meta.as_bytes(), payload];
    SlowFrame::new(&parts.concat())
}

fn mac(endpoint_id: u32) -> Mac {
    Mac([2, 0, 0, 0, 0, endpoint_id as u8])
}

fn endpoint(endpoint_id: u32) -> Endpoint {
    Endpoint {
        endpoint_id,
        network_id: NETWORK.network_id,
        mac: mac(endpoint_id),
        addresses: vec![[10, 20, 0, endpoint_id as u8].into()],
        allowed_prefixes: Vec::new(),
        host_id: LOCAL_HOST_ID,
    }
}

fn engine() -> Engine {
    let mut engine = Engine::default();
    let mut changes = vec![Change::PutNetwork(NETWORK)];
    changes.extend([SOURCE, TARGET].map(|id| Change::PutEndpoint(endpoint(id))));
    let plan = engine.tables().plan(0, 1, LOCAL_HOST_ID, changes).expect("tables");
    engine.commit(plan, &mut Vec::new());
    for id in [SOURCE, TARGET] {
        let port = Port { endpoint: endpoint(id), network: NETWORK, ifindex: id, is_peer: false };
        let plan = engine.tables().plan_port(id, Some(port)).expect("a port");
        engine.commit(plan, &mut Vec::new());
    }
    engine
}

/// The forwarder's answer, on the tables in force.
fn answer(engine: &mut Engine, out: &mut Vec<SlowFrame>) {
    let flow = Flow {
        source_endpoint_id: SOURCE,
        target_endpoint_id: TARGET,
        target: FlowTarget::Port,
        table_revision: engine.tables().revision(),
    };
    let good = engine.check_flows(vec![flow]);
    engine.put_flows(&good, out);
}

/// The target moves to another MAC and back, which voids what depends on it.
fn void(engine: &mut Engine, out: &mut Vec<SlowFrame>) {
    for moved in [Endpoint { mac: mac(99), ..endpoint(TARGET) }, endpoint(TARGET)] {
        let revision = engine.tables().revision();
        let change = vec![Change::PutEndpoint(moved)];
        let plan = engine.tables().plan(revision, revision + 1, LOCAL_HOST_ID, change);
        let applied = engine.commit(plan.expect("a move"), out);
        let once: BTreeSet<_> = applied.void_flows.iter().collect();
        assert_eq!(once.len(), applied.void_flows.len());
    }
    assert!(engine.flows().is_empty());
}
