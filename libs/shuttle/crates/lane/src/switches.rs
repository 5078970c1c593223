//! Offloads that can be switched off while packets flow, by an operator or by what the kernel answered.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// What the kernel does for many packets at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Offload {
    /// One send for many datagrams (`UDP_SEGMENT`).
    UdpGso,
    /// One receive for many datagrams (`UDP_GRO`).
    UdpGro,
    /// One write to the TAP for a super-packet.
    TapGso,
    /// Sends in which all datagrams have one length, which some kernels spoil. Off, a last datagram
    /// of one byte is added, which the receiver ignores.
    EqualTail,
}

impl Offload {
    /// Every offload, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::UdpGso, Self::UdpGro, Self::TapGso, Self::EqualTail];

    /// The name for switches, metrics and status.
    pub fn name(self) -> &'static str {
        match self {
            Self::UdpGso => "udp_gso",
            Self::UdpGro => "udp_gro",
            Self::TapGso => "tap_gso",
            Self::EqualTail => "equal_tail",
        }
    }
}

/// Whether an offload is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// It is.
    On,
    /// Switched off by whoever configures.
    Off,
    /// The test at start-up showed that this kernel does not do it right.
    ProbeFailed,
    /// The kernel refused it while packets flowed.
    Refused,
}

impl State {
    const ALL: [Self; 4] = [Self::On, Self::Off, Self::ProbeFailed, Self::Refused];

    /// The name for status.
    pub fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::ProbeFailed => "probe failed",
            Self::Refused => "refused by the kernel",
        }
    }
}

/// The state of each offload.
#[derive(Debug, Default)]
pub(crate) struct Switches([AtomicU8; Offload::ALL.len()]);

impl Switches {
    /// The state of an offload.
    pub(crate) fn get(&self, offload: Offload) -> State {
        State::ALL[usize::from(self.0[offload as usize].load(Relaxed))]
    }

    /// Sets it; packet threads see it with their next packets.
    pub(crate) fn set(&self, offload: Offload, state: State) {
        self.0[offload as usize].store(state as u8, Relaxed);
    }

    pub(crate) fn is_on(&self, offload: Offload) -> bool {
        self.get(offload) == State::On
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offloads_are_on_until_set_and_numbered_in_order() {
        let switches = Switches::default();
        for (number, offload) in Offload::ALL.into_iter().enumerate() {
            assert_eq!(offload as usize, number);
            assert!(switches.is_on(offload));
        }
        for (number, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, number);
            switches.set(Offload::TapGso, state);
            assert_eq!(switches.get(Offload::TapGso), state);
        }
    }
}
