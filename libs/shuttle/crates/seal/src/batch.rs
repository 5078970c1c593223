//! Sealed datagrams one behind the other, as one send with `UDP_SEGMENT` takes them.

use crate::cipher::TAG_BYTES;
use crate::session::SendSession;
use crate::wire::{DATA_HEADER_BYTES, DataHeader};

/// Datagrams of one send: what every kernel with `UDP_SEGMENT` takes (`UDP_MAX_SEGMENTS` before 6.9).
pub const DATAGRAMS_MAX: usize = 64;
/// Bytes of one send or one frame. Less than 65,535, so that headers which are put before it on the
/// way do not overflow a length field.
pub const BYTES_MAX: usize = 65_535 - 256;

/// A buffer of sealed datagrams. All have the same length, but that the last may be shorter.
#[derive(Debug)]
pub struct Batch {
    bytes: Box<[u8]>,
    used: usize,
    datagram_bytes: usize,
    datagrams: usize,
}

impl Default for Batch {
    fn default() -> Self {
        let bytes = vec![0; BYTES_MAX + 1].into_boxed_slice();
        Self { bytes, used: 0, datagram_bytes: 0, datagrams: 0 }
    }
}

impl Batch {
    /// The datagrams.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    /// Length of each datagram but the last.
    pub fn datagram_bytes(&self) -> usize {
        self.datagram_bytes
    }

    /// How many there are.
    pub fn datagrams(&self) -> usize {
        self.datagrams
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.datagrams == 0
    }

    /// Whether another datagram may still fit.
    pub fn is_open(&self) -> bool {
        self.used == self.datagrams * self.datagram_bytes
            && self.datagrams < DATAGRAMS_MAX
            && self.used + self.datagram_bytes <= BYTES_MAX
    }

    /// Forgets all datagrams.
    pub fn clear(&mut self) {
        (self.used, self.datagram_bytes, self.datagrams) = (0, 0, 0);
    }

    /// Appends a datagram of one zero byte, which is no message, where all have one length.
    pub fn end_unequal(&mut self) {
        if self.datagrams > 1 && self.used == self.datagrams * self.datagram_bytes {
            self.bytes[self.used] = 0;
            self.used += 1;
            self.datagrams += 1;
        }
    }

    /// How many of `count` datagrams fit, all but the last `full` bytes long and that one `last`
    /// bytes. To a batch that is not empty they are added all or none.
    pub(crate) fn room(&self, full: usize, last: usize, count: usize) -> usize {
        let full = if count == 1 { last } else { full };
        if self.is_empty() {
            return count.min(DATAGRAMS_MAX).min(BYTES_MAX / full);
        }
        let fits = self.is_open()
            && (full == self.datagram_bytes || (count == 1 && full < self.datagram_bytes))
            && self.datagrams + count <= DATAGRAMS_MAX
            && self.used + (count - 1) * full + last <= BYTES_MAX;
        if fits { count } else { 0 }
    }

    /// Appends a message. There must be room for it.
    pub(crate) fn seal(&mut self, session: &SendSession, counter: u64, payload: &[u8]) {
        let length = DATA_HEADER_BYTES + payload.len() + TAG_BYTES;
        if self.is_empty() {
            self.datagram_bytes = length;
        }
        let out = &mut self.bytes[self.used..][..length];
        DataHeader { receiver_index: session.receiver_index(), counter }.write(out);
        session.seal_to(counter, payload, &mut out[DATA_HEADER_BYTES..]);
        self.used += length;
        self.datagrams += 1;
    }
}
