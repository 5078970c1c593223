//! Frames for hosts to which no session is open yet.

use std::collections::HashMap;
use std::collections::VecDeque;

/// Frames that may wait for one host.
pub const FRAMES_PER_PEER_MAX: usize = 128;
/// Bytes of frames that may wait for one host.
pub const BYTES_PER_PEER_MAX: usize = 1 << 20;
/// Bytes of frames that may wait in all: eight hosts' worth.
pub const BYTES_MAX: usize = 8 << 20;

/// Frames by host, in the order of their arrival.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    hosts: HashMap<u32, Queue>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Box<[u8]>>,
    bytes: usize,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// It is the first for its host.
    First,
    /// It is behind others.
    Behind,
    /// There was no room for it.
    No,
}

impl Waiting {
    pub(crate) fn push(&mut self, host_id: u32, frame: &[u8]) -> Waits {
        if self.bytes + frame.len() > BYTES_MAX {
            return Waits::No;
        }
        let queue = self.hosts.entry(host_id).or_default();
        let count = queue.frames.len();
        if count == FRAMES_PER_PEER_MAX || queue.bytes + frame.len() > BYTES_PER_PEER_MAX {
            return Waits::No;
        }
        queue.frames.push_back(frame.into());
        queue.bytes += frame.len();
        self.bytes += frame.len();
        if count == 0 { Waits::First } else { Waits::Behind }
    }

    pub(crate) fn take(&mut self, host_id: u32) -> VecDeque<Box<[u8]>> {
        let queue = self.hosts.remove(&host_id).unwrap_or_default();
        self.bytes -= queue.bytes;
        queue.frames
    }

    pub(crate) fn hosts(&self) -> Vec<u32> {
        self.hosts.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_in_order_and_make_room() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.push(1, b"a"), Waits::First);
        assert_eq!(waiting.push(1, b"b"), Waits::Behind);
        assert_eq!(waiting.hosts(), [1]);
        let frames: Vec<_> = waiting.take(1).into_iter().flatten().collect();
        assert_eq!(frames, b"ab");
        assert_eq!((waiting.bytes, waiting.hosts()), (0, vec![]));
    }

    #[test]
    fn one_host_has_a_limit_of_frames_and_of_bytes() {
        let mut waiting = Waiting::default();
        for _ in 0..FRAMES_PER_PEER_MAX {
            assert_ne!(waiting.push(1, &[0; 100]), Waits::No);
        }
        assert_eq!(waiting.push(1, &[0; 100]), Waits::No);
        let large = vec![0; 64 << 10];
        let taken = (0..100).take_while(|_| waiting.push(2, &large) != Waits::No).count();
        assert_eq!(taken, BYTES_PER_PEER_MAX / large.len());
    }

    #[test]
    fn all_hosts_together_have_a_limit() {
        let mut waiting = Waiting::default();
        let large = vec![0; 64 << 10];
        let taken = (0..1000).filter(|host| waiting.push(*host, &large) != Waits::No).count();
        assert_eq!(taken, BYTES_MAX / large.len());
    }
}
