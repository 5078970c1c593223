//! The `WireGuard` protocol as a state machine: handshakes, sessions, timers, roaming, and what two
//! shuttles tell each other beyond it. There are no sockets, no threads and no clock in here:
//! datagrams, notes of the packet threads and the time go in; datagrams, sessions and states come out.
//!
//! Source: Donenfeld, "`WireGuard`: Next Generation Kernel Network Tunnel" (the whitepaper), 2020.

mod control;
mod cookie;
mod engine;
mod handover;
mod handshake;
mod indices;
mod key_log;
mod limits;
mod load;
mod message;
mod noise;
mod output;
mod path;
mod peer;
mod random;
mod refusal;
mod session;
mod shared;
mod stamp;
mod status;
#[cfg(test)]
mod testing;
mod time;

pub use control::{
    CONTROL_BYTES_MAX, CONTROL_PROTOCOL, ControlError, ControlFrame, Features, Hello, Offer,
    PROBE_BYTES_MIN, STATEMENT_BYTES_MAX, WIRE_VERSION, WIRE_VERSION_MIN,
};
pub use engine::{Engine, PeerError};
pub use handover::HandoverError;
pub use key_log::KeyLogLines;
pub use limits::{
    CANDIDATES_MAX, HALF_OPEN_MAX, KEEPALIVE_TIMEOUT, NO_ANSWER_AFTER, PEERS_MAX,
    REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT,
    REKEY_TIMEOUT_JITTER,
};
pub use load::LoadLimits;
pub use message::{COOKIE_REPLY_BYTES, DATA_HEADER_BYTES, INITIATION_BYTES, RESPONSE_BYTES};
pub use noise::{LocalKey, Secret, is_public_key};
pub use output::{Endpoint, Output, PeerId, PeerState, Transmit};
pub use path::{BASE_MTU, PathStatus};
pub use peer::{PeerConfig, PeerKind, Traffic};
pub use random::{OsRandom, Random};
pub use refusal::{Refusal, Refusals};
pub use shared::EngineConfig;
pub use stamp::Stamp;
pub use status::{EngineStatus, PeerStatus};
pub use time::{Budget, Now};
