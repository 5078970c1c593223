//! The messages of `WireGuard` on the wire (whitepaper, 5.4): lengths and places of their parts.

use weft_seal::TAG_BYTES;

/// Length of a handshake initiation.
pub const INITIATION_BYTES: usize = 148;
/// Length of a handshake response.
pub const RESPONSE_BYTES: usize = 92;
/// Length of a cookie reply.
pub const COOKIE_REPLY_BYTES: usize = 64;
/// Length of the header of a data message.
pub const DATA_HEADER_BYTES: usize = 16;

/// Length of the Noise message within an initiation: ephemeral, static, stamp.
pub(crate) const NOISE_INITIATION_BYTES: usize = 108;
/// Length of the Noise message within a response: ephemeral, nothing.
pub(crate) const NOISE_RESPONSE_BYTES: usize = 48;

const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const COOKIE_REPLY: u8 = 3;
const DATA: u8 = 4;
const MAC_BYTES: usize = 16;
const NONCE_BYTES: usize = 24;

/// A handshake message of the right type and length, authentic or not.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    Initiation(Initiation<'a>),
    Response(Response<'a>),
    CookieReply(CookieReply<'a>),
}

impl<'a> Message<'a> {
    /// `None` for everything that is not a whole message of types 1 to 3.
    pub(crate) fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (head, _) = datagram.split_first_chunk::<4>()?;
        match *head {
            [INITIATION, 0, 0, 0] => Some(Self::Initiation(Initiation(datagram.try_into().ok()?))),
            [RESPONSE, 0, 0, 0] => Some(Self::Response(Response(datagram.try_into().ok()?))),
            [COOKIE_REPLY, 0, 0, 0] => {
                Some(Self::CookieReply(CookieReply(datagram.try_into().ok()?)))
            }
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Initiation<'a>(pub(crate) &'a [u8; INITIATION_BYTES]);

impl Initiation<'_> {
    pub(crate) fn sender_index(&self) -> u32 {
        index_at(self.0, 4)
    }

    pub(crate) fn noise(&self) -> &[u8] {
        &self.0[8..8 + NOISE_INITIATION_BYTES]
    }
}

#[derive(Debug)]
pub(crate) struct Response<'a>(pub(crate) &'a [u8; RESPONSE_BYTES]);

impl Response<'_> {
    pub(crate) fn sender_index(&self) -> u32 {
        index_at(self.0, 4)
    }

    pub(crate) fn receiver_index(&self) -> u32 {
        index_at(self.0, 8)
    }

    pub(crate) fn noise(&self) -> &[u8] {
        &self.0[12..12 + NOISE_RESPONSE_BYTES]
    }
}

#[derive(Debug)]
pub(crate) struct CookieReply<'a>(pub(crate) &'a [u8; COOKIE_REPLY_BYTES]);

impl CookieReply<'_> {
    pub(crate) fn receiver_index(&self) -> u32 {
        index_at(self.0, 4)
    }

    pub(crate) fn nonce(&self) -> &[u8] {
        &self.0[8..8 + NONCE_BYTES]
    }

    pub(crate) fn sealed_cookie(&self) -> &[u8] {
        &self.0[8 + NONCE_BYTES..]
    }
}

/// An initiation whose MACs are still zero.
pub(crate) fn initiation(sender_index: u32, noise: &[u8; NOISE_INITIATION_BYTES]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(INITIATION_BYTES);
    bytes.extend_from_slice(&[INITIATION, 0, 0, 0]);
    bytes.extend_from_slice(&sender_index.to_le_bytes());
    bytes.extend_from_slice(noise);
    bytes.resize(INITIATION_BYTES, 0);
    bytes
}

/// A response whose MACs are still zero.
pub(crate) fn response(
    sender_index: u32,
    receiver_index: u32,
    noise: &[u8; NOISE_RESPONSE_BYTES],
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RESPONSE_BYTES);
    bytes.extend_from_slice(&[RESPONSE, 0, 0, 0]);
    bytes.extend_from_slice(&sender_index.to_le_bytes());
    bytes.extend_from_slice(&receiver_index.to_le_bytes());
    bytes.extend_from_slice(noise);
    bytes.resize(RESPONSE_BYTES, 0);
    bytes
}

pub(crate) fn cookie_reply(receiver_index: u32, nonce: &[u8], sealed_cookie: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(COOKIE_REPLY_BYTES);
    bytes.extend_from_slice(&[COOKIE_REPLY, 0, 0, 0]);
    bytes.extend_from_slice(&receiver_index.to_le_bytes());
    bytes.extend_from_slice(nonce);
    bytes.extend_from_slice(sealed_cookie);
    bytes
}

/// Header and payload of a data message, with room for the tag.
pub(crate) fn data(receiver_index: u32, counter: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(DATA_HEADER_BYTES + payload.len() + TAG_BYTES);
    bytes.extend_from_slice(&[DATA, 0, 0, 0]);
    bytes.extend_from_slice(&receiver_index.to_le_bytes());
    bytes.extend_from_slice(&counter.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The part of an initiation or response that the first MAC covers, that MAC, and the second.
pub(crate) fn macs(message: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let (covered, rest) = message.split_at(message.len() - 2 * MAC_BYTES);
    let (first, second) = rest.split_at(MAC_BYTES);
    (covered, first, second)
}

/// The index by which the sender of an initiation or response wants to be answered.
pub(crate) fn sender_index(message: &[u8]) -> u32 {
    index_at(message, 4)
}

fn index_at(bytes: &[u8], at: usize) -> u32 {
    let mut index = [0; 4];
    index.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_another_length_or_with_reserved_bits_is_none() {
        let whole = initiation(7, &[1; NOISE_INITIATION_BYTES]);
        assert!(matches!(Message::parse(&whole), Some(Message::Initiation(_))));
        for length in 0..whole.len() {
            assert!(Message::parse(&whole[..length]).is_none(), "{length}");
        }
        let longer = [&whole[..], &[0]].concat();
        assert!(Message::parse(&longer).is_none());
        for at in 1..4 {
            let mut reserved = whole.clone();
            reserved[at] = 1;
            assert!(Message::parse(&reserved).is_none());
        }
    }

    #[test]
    fn the_parts_of_a_response_stand_where_they_were_put() {
        let bytes = response(0x0102_0304, 0x0506_0708, &[9; NOISE_RESPONSE_BYTES]);
        let Some(Message::Response(response)) = Message::parse(&bytes) else { panic!() };
        assert_eq!(response.sender_index(), 0x0102_0304);
        assert_eq!(response.receiver_index(), 0x0506_0708);
        assert_eq!(response.noise(), [9; NOISE_RESPONSE_BYTES]);
        assert_eq!(macs(&bytes).0.len(), 60);
    }
}
