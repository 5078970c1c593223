//! Why what came in led to nothing, and how often it did.

macro_rules! refusals {
    ($($(#[doc = $doc:literal])* $refusal:ident = $name:literal, $error:literal;)*) => {
        /// Why a message led to nothing. Each has a counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
        pub enum Refusal {
            $($(#[doc = $doc])* #[error($error)] $refusal,)*
        }

        impl Refusal {
            /// Every one, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$refusal,)*];

            /// The name for metrics and status.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$refusal => $name,)*
                }
            }
        }
    };
}

refusals! {
    /// Not a whole handshake message or cookie reply.
    NotHandshake = "malformed", "not a handshake message";
    /// The sender does not know this host's public key.
    WrongMac = "wrong_mac", "wrong first MAC";
    /// There are too many strangers: the sender was asked to prove its address.
    CookieAsked = "cookie_asked", "asked for a cookie";
    /// There is too much even from senders that proved their address.
    OverBudget = "over_budget", "over budget";
    /// Nothing waits under its receiver index.
    UnknownIndex = "unknown_index", "unknown index";
    /// Its content is not authentic.
    Forged = "forged", "forged";
    /// Its sender is authentic, but no peer.
    UnknownPeer = "unknown_peer", "unknown peer";
    /// A stamp no later than the last one of this peer.
    Replayed = "replayed", "replayed";
    /// A stamp days ahead of what the control server signed.
    FromFuture = "from_future", "from the future";
    /// More than 50 initiations per second from one peer.
    TooOften = "too_often", "too often";
    /// The table of sessions that wait for their first message is full.
    HalfOpenFull = "half_open_full", "too many half-open sessions";
    /// A control frame that cannot be read.
    ControlMalformed = "control_malformed", "malformed control frame";
    /// A control frame of a later version.
    ControlUnknown = "control_unknown", "unknown control frame";
    /// A hello of a peer that speaks no version of the wire that this host does.
    VersionUnknown = "version_unknown", "unknown version of the wire";
    /// A peer's control frames are more than it may send.
    ControlOften = "control_too_often", "too many control frames";
}

/// How often each came about. Adding to it allocates nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals([u64; Refusal::ALL.len()]);

impl Refusals {
    /// Of one kind.
    pub fn of(&self, refusal: Refusal) -> u64 {
        self.0[refusal as usize]
    }

    pub(crate) fn add(&mut self, refusal: Refusal) {
        self.0[refusal as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_complete() {
        for (number, refusal) in Refusal::ALL.iter().enumerate() {
            assert_eq!(*refusal as usize, number);
        }
        let names: HashSet<_> = Refusal::ALL.iter().map(|refusal| refusal.name()).collect();
        assert_eq!(names.len(), Refusal::ALL.len());
    }
}
