//! What the packet threads count. Writers add, anybody reads; no counter orders another.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use weft_seal::DropReason;

/// A counter that only ever rises.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What one thread dropped, and how often it had to do things another way. A thread has a struct of
/// its own, on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct LaneCounters {
    drops: Vec<Counter>,
    /// Sends, receives or writes that went the slow way, by [`Fallback`].
    fallbacks: [Counter; Fallback::ALL.len()],
}

impl Default for LaneCounters {
    fn default() -> Self {
        let drops = DropReason::ALL.iter().map(|_| Counter::default()).collect();
        Self { drops, fallbacks: Default::default() }
    }
}

impl LaneCounters {
    pub(crate) fn drop(&self, reason: DropReason) {
        self.drop_many(reason, 1);
    }

    pub(crate) fn drop_many(&self, reason: DropReason, count: usize) {
        self.drops[reason as usize].add(count as u64);
    }

    pub(crate) fn fall_back(&self, fallback: Fallback) {
        self.fallbacks[fallback as usize].add(1);
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].get()
    }

    pub(crate) fn fell_back(&self, fallback: Fallback) -> u64 {
        self.fallbacks[fallback as usize].get()
    }
}

/// What was done in another way than the fastest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fallback {
    /// A batch went out datagram by datagram.
    SentSingly,
    /// A batch was halved, because the kernel did not take it whole.
    Halved,
    /// A send was repeated, because a queue was full.
    Retried,
    /// A super-packet was written to the TAP segment by segment.
    WrittenSingly,
}

impl Fallback {
    /// Every one, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::SentSingly, Self::Halved, Self::Retried, Self::WrittenSingly];

    /// The name for metrics and status.
    pub fn name(self) -> &'static str {
        match self {
            Self::SentSingly => "sent_singly",
            Self::Halved => "halved",
            Self::Retried => "retried",
            Self::WrittenSingly => "written_singly",
        }
    }
}

/// What went to and came from one peer.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) sent: Direction,
    pub(crate) received: Direction,
}

/// Datagrams in one direction. Sender and receiver are two threads: each has a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Direction {
    pub(crate) bytes: Counter,
    pub(crate) datagrams: Counter,
    /// Datagrams that were neither empty nor messages to the control thread.
    pub(crate) payloads: Counter,
}

/// What was counted for a peer since it was put into the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerTraffic {
    /// Bytes of UDP payload sent.
    pub sent_bytes: u64,
    /// Datagrams with a frame sent.
    pub sent_datagrams: u64,
    /// Bytes of authentic UDP payload received.
    pub received_bytes: u64,
    /// Authentic datagrams received.
    pub received_datagrams: u64,
    /// Authentic datagrams received that were neither empty nor messages to the control thread.
    pub received_payloads: u64,
}

impl Traffic {
    pub(crate) fn read(&self) -> PeerTraffic {
        PeerTraffic {
            sent_bytes: self.sent.bytes.get(),
            sent_datagrams: self.sent.datagrams.get(),
            received_bytes: self.received.bytes.get(),
            received_datagrams: self.received.datagrams.get(),
            received_payloads: self.received.payloads.get(),
        }
    }
}
