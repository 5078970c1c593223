//! What operators see of a peer.

use std::net::SocketAddr;
use std::time::Duration;

use weft_seal::Cipher;

use crate::control::Features;
use crate::engine::Engine;
use crate::limits::HALF_OPEN_MAX;
use crate::output::{Endpoint, PeerId, PeerState};
use crate::path::PathStatus;
use crate::peer::{PeerKind, Traffic};
use crate::refusal::Refusals;
use crate::stamp::Stamp;
use crate::time::Now;

/// The row of a peer in `weft connection ls`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeerStatus {
    /// What it understands.
    pub kind: PeerKind,
    /// How things stand.
    pub state: PeerState,
    /// Where it was heard last.
    pub endpoint: Option<Endpoint>,
    /// Where it sees this host's packets come from.
    pub observed: Option<SocketAddr>,
    /// What the probes have shown; empty for stock peers.
    pub path: PathStatus,
    /// How long ago the handshake of the session in force ended.
    pub session_age: Option<Duration>,
    /// What data to it is sealed with.
    pub cipher: Option<Cipher>,
    /// What may be sent to it beyond plain Geneve.
    pub features: Features,
    /// Payloads to it.
    pub sent: Traffic,
    /// Payloads from it.
    pub received: Traffic,
    /// How long ago it was heard.
    pub heard_ago: Option<Duration>,
    /// The last stamp of its initiations: keep it, so that a new process takes no replay.
    pub greatest_stamp: Option<Stamp>,
}

/// How loaded an engine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineStatus {
    /// Strangers must show a cookie.
    pub is_under_load: bool,
    /// Sessions that wait for their first message, of [`HALF_OPEN_MAX`].
    pub half_open: usize,
    /// Indices in use by sessions, sub-sessions and handshakes.
    pub indices: usize,
    /// What led to nothing, by reason.
    pub refusals: Refusals,
}

const _: () = assert!(HALF_OPEN_MAX <= 4096, "the sum in `limits` says so");

impl Engine {
    /// How things stand with a peer.
    pub fn status(&self, now: Now, id: PeerId) -> Option<PeerStatus> {
        let peer = self.peers.get(&id)?;
        let ago = |at: Duration| now.monotonic.saturating_sub(at);
        Some(PeerStatus {
            kind: peer.config.kind,
            state: peer.state,
            endpoint: peer.endpoint,
            observed: peer.observed,
            path: peer.path.status(),
            session_age: peer.current_session().map(|session| session.age(now.monotonic)),
            cipher: peer.cipher(),
            features: peer.features(),
            sent: peer.sent,
            received: peer.received,
            heard_ago: peer.heard_at.map(ago),
            greatest_stamp: peer.greatest_stamp,
        })
    }

    /// How loaded the engine is.
    pub fn engine_status(&self, now: Now) -> EngineStatus {
        EngineStatus {
            is_under_load: self.shared.load.is_loaded(now.monotonic),
            half_open: self.shared.half_open,
            indices: self.shared.indices.len(),
            refusals: self.shared.refusals,
        }
    }

    /// The peers there are.
    pub fn peer_ids(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.peers.keys().copied()
    }
}
