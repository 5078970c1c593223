//! One host of the crowd: an engine that has the shuttle for its only peer.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use weft_seal::{Cipher, ReceiveSession};
use weft_tunnel::{
    ControlFrame, DATA_HEADER_BYTES, Endpoint, Engine, EngineConfig, Features, LocalKey, Now,
    OsRandom, Output, PeerConfig, PeerId, PeerKind, Traffic,
};

/// The number of the shuttle's host.
pub(crate) const SHUTTLE: PeerId = PeerId(1);
const DATA: u8 = 4;

pub(crate) struct Host {
    pub(crate) address: Ipv4Addr,
    engine: Engine,
    receiving: HashMap<u32, Arc<ReceiveSession>>,
    /// What the shuttle sends by is agreed: its hello was heard, and its sub-session taken.
    is_agreed: bool,
    /// The shuttle said that it heard this host's hello.
    is_heard: bool,
    /// Frames that came.
    pub(crate) frames: usize,
}

/// A datagram to the shuttle.
pub(crate) type Sent = (SocketAddrV4, Vec<u8>);

impl Host {
    pub(crate) fn new(
        key: &[u8; 32],
        address: Ipv4Addr,
        shuttle: SocketAddrV4,
        shuttle_key: [u8; 32],
        now: Now,
    ) -> Result<Self, String> {
        let config = EngineConfig {
            features: Features::SEGMENTS.or(Features::PARTIAL_CHECKSUM),
            sub_session_ciphers: vec![Cipher::Aes256Gcm],
            ..EngineConfig::new(LocalKey::new(key))
        };
        let mut engine = Engine::new(config, Box::new(OsRandom), now);
        let peer = PeerConfig {
            candidates: vec![shuttle.into()],
            ..PeerConfig::new(shuttle_key, PeerKind::Node)
        };
        engine.add_peer(now, SHUTTLE, peer).map_err(|error| error.to_string())?;
        Ok(Self {
            address,
            engine,
            receiving: HashMap::new(),
            is_agreed: false,
            is_heard: false,
            frames: 0,
        })
    }

    /// Whether both sides have a session and know what they may send by it.
    pub(crate) fn is_established(&self) -> bool {
        self.is_agreed && self.is_heard
    }

    pub(crate) fn begin(&mut self, now: Now) {
        self.engine.want_session(now, SHUTTLE);
    }

    /// Begins to change the keys; it is established again when both sides have agreed on the new ones.
    pub(crate) fn change_keys(&mut self, now: Now) {
        (self.is_agreed, self.is_heard) = (false, false);
        self.engine.initiate_to(now, [SHUTTLE]);
        self.engine.handle_timeout(now);
    }

    pub(crate) fn is_due(&self, now: Now) -> bool {
        self.engine.poll_timeout().is_some_and(|at| at <= now.monotonic)
    }

    pub(crate) fn handle_timeout(&mut self, now: Now) {
        self.engine.handle_timeout(now);
    }

    /// Takes what came for this host; what is refused leads to nothing.
    pub(crate) fn receive(&mut self, now: Now, source: SocketAddr, bytes: &mut [u8]) {
        let from = Endpoint { remote: source, local: Some(self.address.into()) };
        if bytes.first() == Some(&DATA) {
            self.open(now, from, bytes);
        } else {
            let _ = self.engine.handle_datagram(now, from, bytes);
        }
    }

    fn open(&mut self, now: Now, from: Endpoint, bytes: &mut [u8]) -> Option<()> {
        let (header, sealed) = bytes.split_at_mut_checked(DATA_HEADER_BYTES)?;
        let index = u32::from_le_bytes(*header[4..].first_chunk()?);
        let counter = u64::from_le_bytes(*header[8..].first_chunk()?);
        let session = Arc::clone(self.receiving.get(&index)?);
        let payload = session.open_in_place(counter, sealed).ok()?;
        if ControlFrame::is_control(payload) {
            let frame = ControlFrame::parse(payload).ok()?;
            self.is_heard |= matches!(&frame, ControlFrame::Hello(hello) if hello.answers);
            return self.engine.handle_opened(now, index, from, payload).ok();
        }
        let packets = u64::from(!payload.is_empty());
        self.frames += usize::from(!payload.is_empty());
        let traffic = Traffic { packets, bytes: payload.len() as u64 };
        self.engine.note_received(now, index, from, traffic).ok()
    }

    /// Does what the engine says, and gives the next datagram to send.
    pub(crate) fn poll(&mut self) -> Option<Sent> {
        loop {
            match self.engine.poll_output()? {
                Output::Transmit(transmit) => {
                    if let SocketAddr::V4(target) = transmit.target {
                        return Some((target, transmit.bytes));
                    }
                }
                Output::ReceiveWith { index, session, .. } => {
                    self.receiving.insert(index, session);
                }
                Output::SendWith { session, features, .. } => {
                    self.is_agreed =
                        features != Features::NONE && session.cipher() == Cipher::Aes256Gcm;
                }
                Output::SessionEnded { index, .. } => {
                    self.receiving.remove(&index);
                }
                _ => {}
            }
        }
    }
}
