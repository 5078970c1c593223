//! What stands before a frame on the TAP: `struct virtio_net_hdr_v1` (`linux/virtio_net.h`) and
//! `struct seal_meta`, both in host order where nothing else is said.

/// Length of the virtio header.
pub const VNET_BYTES: usize = 12;
/// Length of what the kernel's programs tell with each frame.
pub const META_BYTES: usize = 16;
const META_MAGIC: u8 = 0x53;

const F_NEEDS_CSUM: u8 = 1;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What a super-packet is to be cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gso {
    /// TCP segments over IPv4.
    Tcp4,
    /// TCP segments over IPv6.
    Tcp6,
    /// UDP datagrams, over either.
    Udp,
}

/// A checksum that its sender left to whoever sends the frame out: the field holds the sum over the
/// pseudo header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Where the summed bytes begin; they end with the frame.
    pub start: u16,
    /// Where the field is, counted from `start`.
    pub offset: u16,
}

/// `struct virtio_net_hdr_v1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// `VIRTIO_NET_HDR_F_NEEDS_CSUM` and its two fields.
    pub unfinished: Option<Unfinished>,
    /// `gso_type` and `gso_size`, the payload bytes of each segment.
    pub gso: Option<(Gso, u16)>,
    /// `VIRTIO_NET_HDR_GSO_ECN`: the super-packet has CWR set.
    pub ecn: bool,
    /// Bytes of headers. The kernel fills it with the linear part of a packet: not to be relied on.
    pub header_bytes: u16,
}

impl VnetHeader {
    /// Reads a header. `None` where it asks for what this crate cannot do.
    pub fn parse(bytes: &[u8; VNET_BYTES]) -> Option<Self> {
        let field = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let gso_size = field(4);
        let gso = match bytes[1] & !GSO_ECN {
            0 => None,
            GSO_TCP4 => Some((Gso::Tcp4, gso_size)),
            GSO_TCP6 => Some((Gso::Tcp6, gso_size)),
            GSO_UDP_L4 => Some((Gso::Udp, gso_size)),
            _ => return None,
        };
        if gso.is_some() && gso_size == 0 {
            return None;
        }
        let unfinished = (bytes[0] & F_NEEDS_CSUM != 0)
            .then(|| Unfinished { start: field(6), offset: field(8) });
        Some(Self { unfinished, gso, ecn: bytes[1] & GSO_ECN != 0, header_bytes: field(2) })
    }

    /// The header as the kernel takes it.
    pub fn to_bytes(self) -> [u8; VNET_BYTES] {
        let mut bytes = [0; VNET_BYTES];
        let (gso_type, gso_size) = match self.gso {
            None => (0, 0),
            Some((Gso::Tcp4, size)) => (GSO_TCP4, size),
            Some((Gso::Tcp6, size)) => (GSO_TCP6, size),
            Some((Gso::Udp, size)) => (GSO_UDP_L4, size),
        };
        bytes[1] = gso_type | if self.ecn { GSO_ECN } else { 0 };
        bytes[2..4].copy_from_slice(&self.header_bytes.to_ne_bytes());
        bytes[4..6].copy_from_slice(&gso_size.to_ne_bytes());
        if let Some(Unfinished { start, offset }) = self.unfinished {
            bytes[0] = F_NEEDS_CSUM;
            bytes[6..8].copy_from_slice(&start.to_ne_bytes());
            bytes[8..10].copy_from_slice(&offset.to_ne_bytes());
        }
        bytes
    }
}

/// `struct seal_meta`: which peer and network a frame on the TAP is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SealMeta {
    /// Ethertype of what follows the Ethernet header; of use towards the kernel only.
    pub ethertype: u16,
    /// The peer to which the frame goes or from which it came.
    pub host_id: u32,
    /// The network.
    pub vni: u32,
}

impl SealMeta {
    /// Reads it. `None` without the magic number.
    pub fn parse(bytes: &[u8; META_BYTES]) -> Option<Self> {
        let word = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        (bytes[0] == META_MAGIC).then(|| Self {
            ethertype: u16::from_be_bytes([bytes[2], bytes[3]]),
            host_id: word(4),
            vni: word(8),
        })
    }

    /// The bytes that the kernel's programs read.
    pub fn to_bytes(self) -> [u8; META_BYTES] {
        let mut bytes = [0; META_BYTES];
        bytes[0] = META_MAGIC;
        bytes[2..4].copy_from_slice(&self.ethertype.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.host_id.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.vni.to_ne_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_read_back() {
        let header = VnetHeader {
            unfinished: Some(Unfinished { start: 50, offset: 16 }),
            gso: Some((Gso::Tcp6, 1318)),
            ecn: true,
            header_bytes: 82,
        };
        assert_eq!(VnetHeader::parse(&header.to_bytes()), Some(header));
        assert_eq!(VnetHeader::default().to_bytes(), [0; VNET_BYTES]);
    }

    #[test]
    fn unknown_offloads_are_refused() {
        let mut bytes = VnetHeader::default().to_bytes();
        bytes[1] = 3;
        assert_eq!(VnetHeader::parse(&bytes), None);
        bytes[1] = GSO_TCP4;
        assert_eq!(VnetHeader::parse(&bytes), None, "a segment of no bytes");
    }

    #[test]
    fn meta_reads_back_and_needs_its_magic() {
        let meta = SealMeta { ethertype: 0x86dd, host_id: 7, vni: 0x00ab_cdef };
        let mut bytes = meta.to_bytes();
        assert_eq!(SealMeta::parse(&bytes), Some(meta));
        bytes[0] ^= 1;
        assert_eq!(SealMeta::parse(&bytes), None);
    }
}
