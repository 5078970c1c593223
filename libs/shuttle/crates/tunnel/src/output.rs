//! What the engine tells its caller.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use weft_seal::{ReceiveSession, SendSession};

use crate::control::Features;
use crate::key_log::KeyLogLines;
use crate::stamp::Stamp;

/// A peer, by the number that the caller gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// The two ends of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The peer's end.
    pub remote: SocketAddr,
    /// The own address that the peer sent to, so that answers come from there.
    pub local: Option<IpAddr>,
}

/// A datagram to send, sealed where it has a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The address to send from, where that matters.
    pub source: Option<IpAddr>,
    /// Where to.
    pub target: SocketAddr,
    /// The UDP payload.
    pub bytes: Vec<u8>,
}

/// How things stand with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// No session, and nobody asked for one.
    Idle,
    /// A handshake is under way.
    Connecting,
    /// There is a session to send on.
    Connected,
    /// There is no address to try.
    NoEndpoint,
    /// No candidate answered for [`crate::NO_ANSWER_AFTER`]. It is tried on until
    /// [`crate::REKEY_ATTEMPT_TIME`] is over, and again when somebody asks.
    NoAnswer,
}

/// What to do, in this order: what must be durable is durable before anything behind it is done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send a datagram, not fragmented (`IP_PMTUDISC_PROBE`): some of them measure the path MTU.
    Transmit(Transmit),
    /// Open data messages with this receiver index by this session. The first message that opens is
    /// to be noted at once: it tells that the peer has the session too.
    ReceiveWith {
        /// Who sends them.
        peer: PeerId,
        /// The receiver index.
        index: u32,
        /// Shared with the packet threads.
        session: Arc<ReceiveSession>,
        /// Nothing may be opened from then on, on [`crate::Now::monotonic`].
        ends_at: Duration,
    },
    /// Send to this peer by this session from now on. What waited for a session may go.
    SendWith {
        /// Who receives them.
        peer: PeerId,
        /// What to say in [`crate::Engine::note_sent`]; [`Output::SessionEnded`] names it too.
        index: u32,
        /// Shared with the packet threads.
        session: Arc<SendSession>,
        /// What the peer said that it takes.
        features: Features,
        /// Where to send, until [`Output::EndpointChanged`].
        endpoint: Endpoint,
        /// Nothing may be sealed from then on, on [`crate::Now::monotonic`].
        ends_at: Duration,
    },
    /// Neither open nor seal by the sessions of this index any more.
    SessionEnded {
        /// Whose it was.
        peer: PeerId,
        /// As in [`Output::ReceiveWith`] or [`Output::SendWith`].
        index: u32,
    },
    /// The peer was heard from elsewhere: send there.
    EndpointChanged {
        /// Who moved.
        peer: PeerId,
        /// Where to.
        endpoint: Endpoint,
    },
    /// Things stand otherwise.
    StateChanged {
        /// With whom.
        peer: PeerId,
        /// How.
        state: PeerState,
    },
    /// IP packets up to this size reach the peer.
    PathMtu {
        /// Who is reached.
        peer: PeerId,
        /// Bytes of an IP packet.
        mtu: usize,
    },
    /// The peer sees this host's packets come from here.
    Observed {
        /// Who says so.
        peer: PeerId,
        /// What it sees.
        address: SocketAddr,
    },
    /// The peer passes a revocation on. It is not verified yet.
    Revoked {
        /// Who passed it on.
        peer: PeerId,
        /// As it was signed.
        statement: Vec<u8>,
    },
    /// Make this durable; it is [`crate::EngineConfig::persisted_stamp`] of the next process.
    KeepStamp(Stamp),
    /// Make this durable; it is [`crate::EngineConfig::consumed_handover`] of the next process.
    KeepHandover(u64),
    /// Lines for the key log. Whoever reads them reads the traffic.
    KeyLog(KeyLogLines),
}
