//! Geneve (RFC 8926, 3.4 and 3.5) as it stands inside a sealed payload.

/// Length of the base header.
pub const GENEVE_BYTES: usize = 8;
/// Ethertype of an Ethernet frame behind the header.
pub const TRANSPARENT_ETHERNET: u16 = 0x6558;
/// Bytes of options beyond which a header is refused.
pub const OPTIONS_BYTES_MAX: usize = 64;
/// Options beyond which a header is refused.
pub const OPTIONS_MAX: usize = 8;
/// Length of the base header with one [`Segment`] option.
pub const GENEVE_SEGMENT_BYTES: usize = GENEVE_BYTES + 4 + SEGMENT_BYTES;

const CLASS: u16 = 0xff01;
const TYPE_SEGMENT: u8 = 0x04;
const TYPE_CRITICAL: u8 = 0x80;
const SEGMENT_BYTES: usize = 8;
const BASE_CONTROL: u8 = 0x80;
const BASE_CRITICAL: u8 = 0x40;

const FLAG_PARTIAL: u8 = 1;
const FLAG_UDP: u8 = 2;
const FLAG_ECN: u8 = 4;

/// Why a header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum GeneveError {
    /// It ends early, has another version, or an option that does not fit.
    #[error("malformed")]
    Malformed,
    /// An option that must be understood is not.
    #[error("unknown critical option")]
    Critical,
}

/// Option SEG: the frame's transport checksum was left unfinished, and which part of a super-packet
/// it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Payload bytes of each segment but the last; 0 for a frame that was never part of more.
    pub gso_size: u16,
    /// Which segment of its super-packet this is, from 0.
    pub index: u8,
    /// How many there are.
    pub count: u8,
    /// Tells the super-packets of a peer apart over a short time.
    pub super_id: u16,
    /// The transport checksum is over the pseudo header only.
    pub partial: bool,
    /// UDP rather than TCP.
    pub udp: bool,
    /// The super-packet had CWR set.
    pub ecn: bool,
    /// Bytes from the Ethernet header to the end of the transport header.
    pub header_bytes: u8,
}

impl Segment {
    fn to_bytes(self) -> [u8; SEGMENT_BYTES] {
        let [size_high, size_low] = self.gso_size.to_be_bytes();
        let [id_high, id_low] = self.super_id.to_be_bytes();
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let flags =
            flag(self.partial, FLAG_PARTIAL) | flag(self.udp, FLAG_UDP) | flag(self.ecn, FLAG_ECN);
        [size_high, size_low, self.index, self.count, id_high, id_low, flags, self.header_bytes]
    }

    fn parse(bytes: [u8; SEGMENT_BYTES]) -> Option<Self> {
        let [size_high, size_low, index, count, id_high, id_low, flags, header_bytes] = bytes;
        (index < count).then(|| Self {
            gso_size: u16::from_be_bytes([size_high, size_low]),
            index,
            count,
            super_id: u16::from_be_bytes([id_high, id_low]),
            partial: flags & FLAG_PARTIAL != 0,
            udp: flags & FLAG_UDP != 0,
            ecn: flags & FLAG_ECN != 0,
            header_bytes,
        })
    }
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geneve {
    /// The O bit: no frame follows but a message between the hosts.
    pub control: bool,
    /// Ethertype of what follows.
    pub protocol: u16,
    /// The network.
    pub vni: u32,
    /// Option SEG.
    pub segment: Option<Segment>,
}

impl Geneve {
    /// The header of an Ethernet frame in the network `vni`.
    pub fn frame(vni: u32, segment: Option<Segment>) -> Self {
        Self { control: false, protocol: TRANSPARENT_ETHERNET, vni, segment }
    }

    /// Whether an opened payload claims to be a message between the hosts.
    pub fn is_control(payload: &[u8]) -> bool {
        matches!(payload, [first, second, ..] if first >> 6 == 0 && second & BASE_CONTROL != 0)
    }

    /// Bytes that [`Self::write`] fills.
    pub fn header_bytes(&self) -> usize {
        if self.segment.is_some() { GENEVE_SEGMENT_BYTES } else { GENEVE_BYTES }
    }

    /// Writes the header over the first [`Self::header_bytes`] bytes of `out`.
    ///
    /// # Panics
    /// Where `out` is shorter.
    pub fn write(&self, out: &mut [u8]) {
        let out = &mut out[..self.header_bytes()];
        out[0] = ((out.len() - GENEVE_BYTES) / 4).to_le_bytes()[0];
        out[1] = if self.control { BASE_CONTROL } else { 0 };
        out[2..4].copy_from_slice(&self.protocol.to_be_bytes());
        out[4..8].copy_from_slice(&(self.vni << 8).to_be_bytes());
        if let Some(segment) = self.segment {
            out[8..10].copy_from_slice(&CLASS.to_be_bytes());
            out[10] = TYPE_SEGMENT;
            out[11] = (SEGMENT_BYTES / 4).to_le_bytes()[0];
            out[12..20].copy_from_slice(&segment.to_bytes());
        }
    }

    /// Reads the header and returns it with what follows.
    pub fn parse(payload: &[u8]) -> Result<(Self, &[u8]), GeneveError> {
        let (base, rest) =
            payload.split_first_chunk::<GENEVE_BYTES>().ok_or(GeneveError::Malformed)?;
        let [first, bits, protocol_high, protocol_low, vni_0, vni_1, vni_2, _] = *base;
        let options_bytes = usize::from(first & 0x3f) * 4;
        if first >> 6 != 0 || options_bytes > OPTIONS_BYTES_MAX {
            return Err(GeneveError::Malformed);
        }
        let (options, body) = rest.split_at_checked(options_bytes).ok_or(GeneveError::Malformed)?;
        let geneve = Self {
            control: bits & BASE_CONTROL != 0,
            protocol: u16::from_be_bytes([protocol_high, protocol_low]),
            vni: u32::from_be_bytes([0, vni_0, vni_1, vni_2]),
            segment: parse_options(options, bits & BASE_CRITICAL != 0)?,
        };
        Ok((geneve, body))
    }
}

fn parse_options(mut options: &[u8], critical: bool) -> Result<Option<Segment>, GeneveError> {
    let mut segment = None;
    for _ in 0..OPTIONS_MAX {
        let Some((header, rest)) = options.split_first_chunk::<4>() else { break };
        let [class_high, class_low, kind, words] = *header;
        let (data, rest) =
            rest.split_at_checked(usize::from(words & 0x1f) * 4).ok_or(GeneveError::Malformed)?;
        if u16::from_be_bytes([class_high, class_low]) == CLASS && kind == TYPE_SEGMENT {
            let data = data.try_into().map_err(|_| GeneveError::Malformed)?;
            let parsed = Segment::parse(data).ok_or(GeneveError::Malformed)?;
            if segment.replace(parsed).is_some() {
                return Err(GeneveError::Malformed);
            }
        } else if kind & TYPE_CRITICAL != 0 {
            return Err(GeneveError::Critical);
        }
        options = rest;
    }
    // The C bit says that some option is critical, and none of the known ones is.
    match (options, critical) {
        ([], false) => Ok(segment),
        ([], true) => Err(GeneveError::Critical),
        _ => Err(GeneveError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: Segment = Segment {
        gso_size: 1318,
        index: 3,
        count: 45,
        super_id: 0xbeef,
        partial: true,
        udp: false,
        ecn: true,
        header_bytes: 66,
    };

    fn written(segment: Option<Segment>) -> Vec<u8> {
        let geneve = Geneve::frame(0x00ab_cdef, segment);
        let mut out = vec![0; geneve.header_bytes()];
        geneve.write(&mut out);
        out
    }

    fn with_options(options: &[u8]) -> Vec<u8> {
        let mut bytes = written(None);
        bytes[0] = (options.len() / 4).to_le_bytes()[0];
        bytes.extend_from_slice(options);
        bytes
    }

    #[test]
    fn headers_read_back_with_and_without_segment() {
        for segment in [None, Some(SEGMENT)] {
            let mut bytes = written(segment);
            bytes.extend_from_slice(b"frame");
            let wanted = Geneve::frame(0x00ab_cdef, segment);
            assert_eq!(Geneve::parse(&bytes), Ok((wanted, &b"frame"[..])));
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_design() {
        let wanted = [
            0x03, 0, 0x65, 0x58, 0xab, 0xcd, 0xef, 0, // base
            0xff, 0x01, 0x04, 0x02, 0x05, 0x26, 3, 45, 0xbe, 0xef, 0x05, 66,
        ];
        assert_eq!(written(Some(SEGMENT)), wanted);
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = written(Some(SEGMENT));
        for end in 0..bytes.len() {
            assert_eq!(Geneve::parse(&bytes[..end]), Err(GeneveError::Malformed), "{end}");
        }
    }

    #[test]
    fn unknown_options_pass_unless_they_are_critical() {
        let unknown = [0xff, 0x01, 0x05, 1, 1, 2, 3, 4];
        let (geneve, body) =
            Geneve::parse(&with_options(&unknown)).map(|(g, b)| (g, b.len())).unwrap();
        assert_eq!((geneve.segment, body), (None, 0));
        let critical = [0xff, 0x01, 0x82, 1, 1, 2, 3, 4];
        assert_eq!(Geneve::parse(&with_options(&critical)), Err(GeneveError::Critical));
        let mut bit = with_options(&unknown);
        bit[1] = BASE_CRITICAL;
        assert_eq!(Geneve::parse(&bit), Err(GeneveError::Critical));
    }

    #[test]
    fn options_have_limits() {
        let empty = [0xff, 0x01, 0x05, 0];
        assert!(Geneve::parse(&with_options(&empty.repeat(OPTIONS_MAX))).is_ok());
        let one_more = with_options(&empty.repeat(OPTIONS_MAX + 1));
        assert_eq!(Geneve::parse(&one_more), Err(GeneveError::Malformed));
        let mut long = vec![0xff, 0x01, 0x05, 16];
        long.resize(68, 0);
        assert_eq!(Geneve::parse(&with_options(&long)), Err(GeneveError::Malformed));
    }

    #[test]
    fn two_segments_a_wrong_length_or_index_are_refused() {
        let option = &written(Some(SEGMENT))[GENEVE_BYTES..];
        assert_eq!(Geneve::parse(&with_options(&option.repeat(2))), Err(GeneveError::Malformed));
        let short = [0xff, 0x01, 0x04, 1, 0, 0, 0, 0];
        assert_eq!(Geneve::parse(&with_options(&short)), Err(GeneveError::Malformed));
        let beyond = written(Some(Segment { index: 45, ..SEGMENT }));
        assert_eq!(Geneve::parse(&beyond), Err(GeneveError::Malformed));
    }
}
