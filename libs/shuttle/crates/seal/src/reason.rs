//! Why a frame or datagram ends here.

use crate::geneve::GeneveError;
use crate::session::OpenError;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $reason:ident = $name:literal,)*) => {
        /// Why a frame or datagram was dropped. Each has a counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DropReason {
            $($(#[doc = $doc])* $reason,)*
        }

        impl DropReason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$reason,)*];

            /// The name for metrics and status.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// What came from the TAP has no header, meta or Ethernet header that can be read.
    TapFrame = "tap_frame",
    /// A super-packet of a kind that cannot be cut.
    Unsplittable = "unsplittable",
    /// A sealed frame is longer than the way to the peer takes.
    TooLarge = "too_large",
    /// A frame without IP for a peer that takes nothing else.
    NotIp = "not_ip",
    /// The session has used up its counters.
    Exhausted = "exhausted",
    /// A frame for a host that is not in the table.
    PeerUnknown = "peer_unknown",
    /// A frame for a host without a session, while enough of them wait already.
    WaitingFull = "waiting_full",
    /// The kernel did not send a datagram.
    SendFailed = "send_failed",
    /// A datagram that is no message of the protocol.
    MessageUnknown = "message_unknown",
    /// A data message of a session that is not in the table.
    IndexUnknown = "index_unknown",
    /// A data message with a counter that was accepted before or is too old to tell.
    Replayed = "replayed",
    /// A data message whose tag is not that of its content.
    Forged = "forged",
    /// An opened payload without a Geneve header that can be read.
    GeneveMalformed = "geneve_malformed",
    /// A Geneve header with an option that must be understood and is not.
    OptionUnknown = "option_unknown",
    /// An opened payload of a kind that this peer may not send.
    KindRefused = "kind_refused",
    /// An opened frame in a network that this peer is not part of.
    NetworkRefused = "network_refused",
    /// An opened frame that is not what its header says.
    FrameMalformed = "frame_malformed",
    /// A message for the control thread, while enough of them wait already.
    ControlFull = "control_full",
    /// A handshake message, while enough of them wait already.
    HandshakesFull = "handshakes_full",
    /// The TAP did not take a frame.
    TapRefused = "tap_refused",
}

impl From<GeneveError> for DropReason {
    fn from(error: GeneveError) -> Self {
        match error {
            GeneveError::Malformed => Self::GeneveMalformed,
            GeneveError::Critical => Self::OptionUnknown,
        }
    }
}

impl From<OpenError> for DropReason {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Replayed => Self::Replayed,
            OpenError::Forged => Self::Forged,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_complete() {
        for (number, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
        }
        let names: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
