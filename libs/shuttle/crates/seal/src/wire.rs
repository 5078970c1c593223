//! The header of a `WireGuard` data message (whitepaper, 5.4.6): type, three zero bytes, the
//! receiver's index and the counter, all little-endian.

/// Length of the header in front of a sealed payload.
pub const DATA_HEADER_BYTES: usize = 16;
const DATA: u8 = 4;

/// What a datagram says it is. Nothing in it is authentic yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A sealed payload follows the header.
    Data(DataHeader),
    /// An initiation, a response or a cookie: types 1 to 3.
    Handshake,
}

/// The header of a data message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataHeader {
    /// The number by which the receiver knows the session.
    pub receiver_index: u32,
    /// The nonce of this message.
    pub counter: u64,
}

impl DataHeader {
    /// Writes the header over the first 16 bytes of `out`.
    ///
    /// # Panics
    /// Where `out` is shorter.
    pub fn write(self, out: &mut [u8]) {
        out[..4].copy_from_slice(&[DATA, 0, 0, 0]);
        out[4..8].copy_from_slice(&self.receiver_index.to_le_bytes());
        out[8..16].copy_from_slice(&self.counter.to_le_bytes());
    }
}

impl Message {
    /// Reads the type and, of a data message, the header. `None` for what no type fits or what is
    /// too short for its header.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let (kind, rest) = datagram.split_first_chunk::<4>()?;
        match kind {
            [DATA, 0, 0, 0] => {
                let (index, rest) = rest.split_first_chunk()?;
                let counter = rest.first_chunk()?;
                Some(Self::Data(DataHeader {
                    receiver_index: u32::from_le_bytes(*index),
                    counter: u64::from_le_bytes(*counter),
                }))
            }
            [1..DATA, 0, 0, 0] => Some(Self::Handshake),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back() {
        let header = DataHeader { receiver_index: 0x0102_0304, counter: 0x1122_3344 };
        let mut out = [0; DATA_HEADER_BYTES];
        header.write(&mut out);
        assert_eq!(out, [4, 0, 0, 0, 4, 3, 2, 1, 0x44, 0x33, 0x22, 0x11, 0, 0, 0, 0]);
        assert_eq!(Message::parse(&out), Some(Message::Data(header)));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for datagram in [&[][..], &[0], &[4, 0, 0, 0, 1, 1, 1, 1], &[4, 0, 0, 1], &[5, 0, 0, 0]] {
            assert_eq!(Message::parse(datagram), None, "{datagram:?}");
        }
        assert_eq!(Message::parse(&[2, 0, 0, 0]), Some(Message::Handshake));
    }
}
