//! The numbers of the protocol (whitepaper, 6.1) and the bounds of the engine's tables.

use std::time::Duration;

/// The initiator of a session as old as this makes a new one when there is something to send.
pub const REKEY_AFTER_TIME: Duration = Duration::from_mins(2);
/// Nothing is sealed or opened by an older session.
pub const REJECT_AFTER_TIME: Duration = Duration::from_mins(3);
/// A session with more messages is replaced, whoever began it.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// An initiation without a response is repeated after it.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// The most that is added to it by chance, so that two hosts do not stay in step.
pub const REKEY_TIMEOUT_JITTER: Duration = Duration::from_millis(333);
/// A handshake is given up after it.
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// Who received data and had nothing to send for this long sends an empty message.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that does not answer for so long is said not to.
pub const NO_ANSWER_AFTER: Duration = Duration::from_secs(15);

/// Between two own hosts the first initiations are repeated sooner than [`REKEY_TIMEOUT`]: one lost
/// datagram must not cost 5 s, and holes in NATs open only once both sides have sent.
pub(crate) const NODE_RETRIES: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
/// Between the initiations to two candidates of one peer.
pub(crate) const CANDIDATE_PACE: Duration = Duration::from_millis(100);
/// Not more than 50 initiations per second are accepted from one peer.
pub(crate) const INITIATION_INTERVAL_MIN: Duration = Duration::from_millis(20);
/// A session that replaces one with more features waits so long for the peer's hello.
pub(crate) const HEIR_PATIENCE: Duration = Duration::from_secs(1);
/// A hello is repeated after 1 s, 2 s, 4 s and so on, up to this many times in all.
pub(crate) const HELLO_TRIES: u32 = 6;
pub(crate) const HELLO_RETRY: Duration = Duration::from_secs(1);
/// Peers that were active before an unclean start are initiated to one millisecond apart.
pub(crate) const RESTART_PACE: Duration = Duration::from_millis(1);

/// Peers of one engine.
pub const PEERS_MAX: usize = 1 << 16;
/// Candidate endpoints of one peer.
pub const CANDIDATES_MAX: usize = 8;
/// Sessions of all peers that wait for their first message. Only peers can make one, and no peer has
/// more than four; 4,096 of some 3 KiB are 12 MiB.
pub const HALF_OPEN_MAX: usize = 4096;
/// Sessions of one peer that wait for their first message: one for each way that its initiations
/// took.
pub(crate) const UNCONFIRMED_MAX: usize = 4;
/// Sessions of one peer that another one took the place of. Messages under way still open.
pub(crate) const SUPERSEDED_MAX: usize = 2;
/// Initiations of one peer whose responses are waited for: two rounds of all candidates.
pub(crate) const ATTEMPTS_MAX: usize = 2 * CANDIDATES_MAX;
/// Outputs that wait to be polled; beyond it strangers get no cookies.
pub(crate) const OUTPUTS_FOR_STRANGERS: usize = 4096;

/// What a peer may ask for by control frames.
pub(crate) const CONTROL_BUDGET: crate::time::Budget =
    crate::time::Budget { per_second: 50.0, burst: 100.0 };
