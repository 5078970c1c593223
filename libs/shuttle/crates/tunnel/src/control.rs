//! Control frames: what two shuttles tell each other inside their tunnel. Each is the payload of one
//! data message: a Geneve header (RFC 8926) with the O bit, then a body of our own.
//!
//! ```text
//! | 0x00 | 0x80 (O) | 0x88b5 | VNI 0 | 0x00 |                      Geneve, 8 bytes
//! | version 1 | kind | length of the fields, 16 bit |               head, 4 bytes
//! | type, 16 bit | length, 16 bit | value | ...                     fields
//! | at most 15 zero bytes, to a multiple of 16 |
//! ```
//! All numbers are in network order. Fields of unknown types are skipped; everything else that is not
//! as it should be makes the frame invalid.

use std::net::{IpAddr, SocketAddr};

use weft_seal::{Cipher, Geneve};

/// The Ethernet type in the Geneve header: IEEE 802's first one for local experiments.
pub const CONTROL_PROTOCOL: u16 = 0x88b5;
/// The longest statement that a [`ControlFrame::Revoked`] carries, so that it fits every path.
pub const STATEMENT_BYTES_MAX: usize = 1024;
/// The longest frame: the largest datagram less its seal.
pub const CONTROL_BYTES_MAX: usize = 65_507 - 32;
/// A probe is no shorter, so that its answer never is longer.
pub const PROBE_BYTES_MIN: usize = 80;
/// The version of the wire that this code speaks.
pub const WIRE_VERSION: u16 = 1;
/// The lowest version that this code speaks. Who announces a higher one speaks those below it too.
pub const WIRE_VERSION_MIN: u16 = 1;

const OFFERS_MAX: usize = 4;
const FIELDS_MAX: usize = 32;
const GENEVE: [u8; 8] = [0x00, 0x80, 0x88, 0xb5, 0, 0, 0, 0];
const BODY_VERSION: u8 = 1;
const HEAD_BYTES: usize = GENEVE.len() + 4;
const FIELD_HEAD_BYTES: usize = 4;

const KIND_HELLO: u8 = 1;
const KIND_PROBE: u8 = 2;
const KIND_PROBE_REPLY: u8 = 3;
const KIND_REVOKED: u8 = 4;
const KIND_BYE: u8 = 5;

const FIELD_PADDING: u16 = 0;
const FIELD_WIRE_VERSION: u16 = 1;
const FIELD_FEATURES: u16 = 2;
const FIELD_OFFER: u16 = 3;
const FIELD_EXCHANGE: u16 = 4;
const FIELD_PROBE_ID: u16 = 5;
const FIELD_OBSERVED: u16 = 6;
const FIELD_STATEMENT: u16 = 7;

const EXCHANGE_ANSWERS: u8 = 1;
const EXCHANGE_WANTS_ANSWER: u8 = 2;

/// What a peer can take beyond plain Geneve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features(u32);

impl Features {
    /// Nothing but plain Geneve.
    pub const NONE: Self = Self(0);
    /// The SEG option: datagrams that are parts of one super-packet.
    pub const SEGMENTS: Self = Self(1);
    /// Frames whose transport checksum is still to be filled in.
    pub const PARTIAL_CHECKSUM: Self = Self(2);

    /// Exactly these bits, known or not.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The bits on the wire.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether all of `other` is there.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What is in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A sub-session that the sender can receive on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What it is sealed with.
    pub cipher: Cipher,
    /// The receiver index of its messages.
    pub index: u32,
}

/// What its sender can do. It stands for the session in which it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The peer's hello of this session has arrived.
    pub answers: bool,
    /// The sender does not know whether this hello arrives.
    pub wants_answer: bool,
    /// Versions below it are spoken too.
    pub wire_version: u16,
    /// What may be sent to its sender.
    pub features: Features,
    /// Sub-sessions that may be sent on, best first.
    pub offers: Vec<Offer>,
}

/// What one control frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlFrame {
    /// Capabilities.
    Hello(Hello),
    /// To be answered. `bytes` is the length of the whole frame, from [`PROBE_BYTES_MIN`] on.
    Probe {
        /// Comes back in the reply; means something to its sender alone.
        id: u64,
        /// Length of the payload, padding included.
        bytes: usize,
    },
    /// The answer to a probe.
    ProbeReply {
        /// That of the probe.
        id: u64,
        /// Where the probe seemed to come from.
        observed: Option<SocketAddr>,
    },
    /// A signed statement that somebody may take part no more, passed on as it was received.
    Revoked {
        /// Opaque here; at most [`STATEMENT_BYTES_MAX`].
        statement: Vec<u8>,
    },
    /// The sender leaves: no session with it is worth keeping.
    Bye,
}

/// Why a payload is no control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ControlError {
    /// Its Geneve header is not that of a control frame.
    #[error("not a control frame")]
    NotControl,
    /// A later version's frame, which may be left unread.
    #[error("unknown version or kind of control frame")]
    Unknown,
    /// Lengths do not add up, a field is missing, doubled or out of range, or padding is not zero.
    #[error("malformed control frame")]
    Malformed,
}

use ControlError::{Malformed, NotControl, Unknown};

impl ControlFrame {
    /// Whether an opened payload claims to be one: Geneve, version 0, O bit.
    pub fn is_control(payload: &[u8]) -> bool {
        Geneve::is_control(payload)
    }

    /// Reads the payload of a data message.
    pub fn parse(payload: &[u8]) -> Result<Self, ControlError> {
        let rest = payload.strip_prefix(&GENEVE).ok_or(NotControl)?;
        let (head, rest) = rest.split_first_chunk::<4>().ok_or(Malformed)?;
        let [version, kind, length @ ..] = *head;
        if version != BODY_VERSION {
            return Err(Unknown);
        }
        let length = usize::from(u16::from_be_bytes(length));
        let (fields, padding) = rest.split_at_checked(length).ok_or(Malformed)?;
        if padding.len() >= 16 || padding.iter().any(|byte| *byte != 0) {
            return Err(Malformed);
        }
        Self::assemble(kind, &Fields::parse(fields)?, payload.len())
    }

    fn assemble(kind: u8, fields: &Fields, bytes: usize) -> Result<Self, ControlError> {
        match kind {
            KIND_HELLO => Ok(Self::Hello(fields.hello()?)),
            KIND_PROBE if bytes < PROBE_BYTES_MIN => Err(Malformed),
            KIND_PROBE => Ok(Self::Probe { id: fields.probe_id.ok_or(Malformed)?, bytes }),
            KIND_PROBE_REPLY => Ok(Self::ProbeReply {
                id: fields.probe_id.ok_or(Malformed)?,
                observed: fields.observed,
            }),
            KIND_REVOKED => {
                Ok(Self::Revoked { statement: fields.statement.clone().ok_or(Malformed)? })
            }
            KIND_BYE => Ok(Self::Bye),
            _ => Err(Unknown),
        }
    }

    /// The payload of the data message that carries the frame.
    ///
    /// # Panics
    /// Where a statement or a probe is longer than it may be.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello(hello) => hello.encode(),
            Self::Probe { id, bytes } => {
                assert!((PROBE_BYTES_MIN..=CONTROL_BYTES_MAX).contains(bytes));
                let mut writer = Writer::new(KIND_PROBE);
                writer.field(FIELD_PROBE_ID, &id.to_be_bytes());
                let padding = bytes - writer.0.len() - FIELD_HEAD_BYTES;
                writer.field(FIELD_PADDING, &vec![0; padding]);
                writer.finish_unpadded()
            }
            Self::ProbeReply { id, observed } => {
                let mut writer = Writer::new(KIND_PROBE_REPLY);
                writer.field(FIELD_PROBE_ID, &id.to_be_bytes());
                if let Some(observed) = observed {
                    writer.field(FIELD_OBSERVED, &address_bytes(*observed));
                }
                writer.finish()
            }
            Self::Revoked { statement } => {
                assert!(statement.len() <= STATEMENT_BYTES_MAX);
                let mut writer = Writer::new(KIND_REVOKED);
                writer.field(FIELD_STATEMENT, statement);
                writer.finish()
            }
            Self::Bye => Writer::new(KIND_BYE).finish(),
        }
    }
}

impl Hello {
    fn encode(&self) -> Vec<u8> {
        let mut exchange = 0;
        if self.answers {
            exchange |= EXCHANGE_ANSWERS;
        }
        if self.wants_answer {
            exchange |= EXCHANGE_WANTS_ANSWER;
        }
        let mut writer = Writer::new(KIND_HELLO);
        writer.field(FIELD_EXCHANGE, &[exchange]);
        writer.field(FIELD_WIRE_VERSION, &self.wire_version.to_be_bytes());
        writer.field(FIELD_FEATURES, &self.features.bits().to_be_bytes());
        for offer in self.offers.iter().take(OFFERS_MAX) {
            let mut value = vec![cipher_number(offer.cipher)];
            value.extend_from_slice(&offer.index.to_be_bytes());
            writer.field(FIELD_OFFER, &value);
        }
        writer.finish()
    }
}

pub(crate) fn cipher_number(cipher: Cipher) -> u8 {
    match cipher {
        Cipher::ChaCha20Poly1305 => 1,
        Cipher::Aes256Gcm => 2,
    }
}

pub(crate) fn cipher_of(number: u8) -> Option<Cipher> {
    Cipher::ALL.into_iter().find(|cipher| cipher_number(*cipher) == number)
}

/// The known fields of a frame, each at most once but the offers.
#[derive(Default)]
struct Fields {
    exchange: Option<u8>,
    wire_version: Option<u16>,
    features: Option<u32>,
    offers: Vec<Offer>,
    probe_id: Option<u64>,
    observed: Option<SocketAddr>,
    statement: Option<Vec<u8>>,
}

impl Fields {
    fn parse(mut bytes: &[u8]) -> Result<Self, ControlError> {
        let mut fields = Self::default();
        for _ in 0..FIELDS_MAX {
            if bytes.is_empty() {
                return Ok(fields);
            }
            let (head, rest) = bytes.split_first_chunk::<FIELD_HEAD_BYTES>().ok_or(Malformed)?;
            let [kind @ .., length_high, length_low] = *head;
            let length = usize::from(u16::from_be_bytes([length_high, length_low]));
            let (value, rest) = rest.split_at_checked(length).ok_or(Malformed)?;
            fields.take(u16::from_be_bytes(kind), value)?;
            bytes = rest;
        }
        if bytes.is_empty() { Ok(fields) } else { Err(Malformed) }
    }

    fn take(&mut self, kind: u16, value: &[u8]) -> Result<(), ControlError> {
        match kind {
            FIELD_EXCHANGE => {
                let [exchange] = array(value)?;
                once(&mut self.exchange, exchange)
            }
            FIELD_WIRE_VERSION => once(&mut self.wire_version, u16::from_be_bytes(array(value)?)),
            FIELD_FEATURES => once(&mut self.features, u32::from_be_bytes(array(value)?)),
            FIELD_OFFER => self.take_offer(array(value)?),
            FIELD_PROBE_ID => once(&mut self.probe_id, u64::from_be_bytes(array(value)?)),
            FIELD_OBSERVED => once(&mut self.observed, address_of(value)?),
            FIELD_STATEMENT if value.len() > STATEMENT_BYTES_MAX => Err(Malformed),
            FIELD_STATEMENT => once(&mut self.statement, value.to_vec()),
            _ => Ok(()),
        }
    }

    /// Ciphers of later versions are skipped like fields of theirs.
    fn take_offer(&mut self, value: [u8; 5]) -> Result<(), ControlError> {
        let [number, index @ ..] = value;
        if self.offers.len() >= OFFERS_MAX {
            return Err(Malformed);
        }
        if let Some(cipher) = cipher_of(number) {
            self.offers.push(Offer { cipher, index: u32::from_be_bytes(index) });
        }
        Ok(())
    }

    fn hello(&self) -> Result<Hello, ControlError> {
        let exchange = self.exchange.ok_or(Malformed)?;
        Ok(Hello {
            answers: exchange & EXCHANGE_ANSWERS != 0,
            wants_answer: exchange & EXCHANGE_WANTS_ANSWER != 0,
            wire_version: self.wire_version.ok_or(Malformed)?,
            features: Features::from_bits(self.features.ok_or(Malformed)?),
            offers: self.offers.clone(),
        })
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), ControlError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Malformed),
    }
}

fn array<const N: usize>(value: &[u8]) -> Result<[u8; N], ControlError> {
    value.try_into().map_err(|_| Malformed)
}

fn address_bytes(address: SocketAddr) -> Vec<u8> {
    let mut bytes = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    bytes.extend_from_slice(&address.port().to_be_bytes());
    bytes
}

fn address_of(value: &[u8]) -> Result<SocketAddr, ControlError> {
    let (ip, port) = value.split_last_chunk::<2>().ok_or(Malformed)?;
    let ip = match ip.len() {
        4 => IpAddr::from(array::<4>(ip)?),
        16 => IpAddr::from(array::<16>(ip)?),
        _ => return Err(Malformed),
    };
    Ok(SocketAddr::new(ip, u16::from_be_bytes(*port)))
}

struct Writer(Vec<u8>);

impl Writer {
    fn new(kind: u8) -> Self {
        let mut bytes = GENEVE.to_vec();
        bytes.extend_from_slice(&[BODY_VERSION, kind, 0, 0]);
        Self(bytes)
    }

    fn field(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len()).expect("no field is longer than a datagram");
        self.0.extend_from_slice(&kind.to_be_bytes());
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(value);
    }

    fn finish_unpadded(mut self) -> Vec<u8> {
        let length = u16::try_from(self.0.len() - HEAD_BYTES).expect("a frame fits a datagram");
        self.0[HEAD_BYTES - 2..HEAD_BYTES].copy_from_slice(&length.to_be_bytes());
        self.0
    }

    fn finish(self) -> Vec<u8> {
        let mut bytes = self.finish_unpadded();
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello() -> Hello {
        Hello {
            answers: true,
            wants_answer: false,
            wire_version: 1,
            features: Features::SEGMENTS.or(Features::PARTIAL_CHECKSUM),
            offers: vec![Offer { cipher: Cipher::Aes256Gcm, index: 0xdead_beef }],
        }
    }

    fn frames() -> impl Strategy<Value = ControlFrame> {
        prop_oneof![
            (any::<u64>(), PROBE_BYTES_MIN..9000)
                .prop_map(|(id, bytes)| ControlFrame::Probe { id, bytes }),
            (any::<u64>(), any::<Option<SocketAddr>>()).prop_map(|(id, observed)| {
                // Scope and flow label of an IPv6 address mean something on their own host alone.
                let observed =
                    observed.map(|address| SocketAddr::new(address.ip(), address.port()));
                ControlFrame::ProbeReply { id, observed }
            }),
            prop::collection::vec(any::<u8>(), 0..=STATEMENT_BYTES_MAX)
                .prop_map(|statement| ControlFrame::Revoked { statement }),
            Just(ControlFrame::Bye),
            Just(ControlFrame::Hello(hello())),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed_again(frame in frames()) {
            let bytes = frame.encode();
            prop_assert!(ControlFrame::is_control(&bytes));
            prop_assert_eq!(ControlFrame::parse(&bytes), Ok(frame));
        }

        #[test]
        fn a_frame_cut_short_is_refused(frame in frames(), cut in any::<prop::sample::Index>()) {
            let bytes = frame.encode();
            let kept = cut.index(bytes.len());
            let is_only_padding = bytes[kept..].iter().all(|byte| *byte == 0)
                && !matches!(frame, ControlFrame::Probe { .. });
            prop_assert!(is_only_padding || ControlFrame::parse(&bytes[..kept]).is_err());
        }

        #[test]
        fn anything_may_come_in(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = ControlFrame::parse(&[&GENEVE[..], &[1], &bytes].concat());
        }
    }

    #[test]
    fn a_probe_has_the_length_that_it_says_and_is_never_shorter_than_its_reply() {
        let probe = ControlFrame::Probe { id: 1, bytes: 1387 };
        assert_eq!(probe.encode().len(), 1387);
        let observed = Some("[2001:db8::1]:9".parse().unwrap());
        let reply = ControlFrame::ProbeReply { id: 1, observed };
        assert!(reply.encode().len() <= PROBE_BYTES_MIN);
    }

    #[test]
    fn fields_and_ciphers_of_later_versions_are_skipped() {
        let mut writer = Writer::new(KIND_HELLO);
        writer.field(FIELD_EXCHANGE, &[EXCHANGE_ANSWERS]);
        writer.field(FIELD_WIRE_VERSION, &[0, 9]);
        writer.field(FIELD_FEATURES, &[0xff, 0, 0, 1]);
        writer.field(FIELD_OFFER, &[77, 0, 0, 0, 1]);
        writer.field(999, b"from the future");
        let Ok(ControlFrame::Hello(hello)) = ControlFrame::parse(&writer.finish()) else {
            panic!()
        };
        assert_eq!((hello.wire_version, hello.offers), (9, vec![]));
        assert!(hello.features.contains(Features::SEGMENTS));
    }

    #[test]
    fn doubled_fields_wrong_lengths_and_padding_that_says_something_are_malformed() {
        let mut doubled = Writer::new(KIND_PROBE_REPLY);
        doubled.field(FIELD_PROBE_ID, &[0; 8]);
        doubled.field(FIELD_PROBE_ID, &[0; 8]);
        let mut short = Writer::new(KIND_PROBE_REPLY);
        short.field(FIELD_PROBE_ID, &[0; 7]);
        let mut many = Writer::new(KIND_BYE);
        (0..=FIELDS_MAX).for_each(|_| many.field(FIELD_PADDING, &[]));
        let mut loud = ControlFrame::Bye.encode();
        *loud.last_mut().unwrap() = 1;
        let mut long = ControlFrame::Bye.encode();
        long.extend_from_slice(&[0; 16]);
        for bytes in [doubled.finish(), short.finish(), many.finish(), loud, long] {
            assert_eq!(ControlFrame::parse(&bytes), Err(Malformed));
        }
    }

    #[test]
    fn another_version_or_kind_is_unknown_and_not_malformed() {
        let mut version = ControlFrame::Bye.encode();
        version[8] = 2;
        assert_eq!(ControlFrame::parse(&version), Err(Unknown));
        let mut kind = ControlFrame::Bye.encode();
        kind[9] = 200;
        assert_eq!(ControlFrame::parse(&kind), Err(Unknown));
        assert_eq!(ControlFrame::parse(&[0x45; 40]), Err(NotControl));
    }
}
