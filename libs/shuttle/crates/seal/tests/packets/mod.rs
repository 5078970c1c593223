//! Packets made and checked byte by byte, apart from the code under test.

use proptest::prelude::*;
use weft_seal::{Gso, META_BYTES, SealMeta, Unfinished, VnetHeader};

/// A TCP or UDP frame as an endpoint sends it, with its transport checksum left to the device.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "any of them together makes a frame")]
pub(crate) struct Packet {
    pub(crate) vni: u32,
    pub(crate) vlan: bool,
    pub(crate) v6: bool,
    pub(crate) udp: bool,
    /// Not IP at all.
    pub(crate) arp: bool,
    pub(crate) ip_options: usize,
    pub(crate) tcp_options: usize,
    pub(crate) flags: u8,
    pub(crate) gso_size: Option<u16>,
    pub(crate) id: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: Vec<u8>,
}

impl Packet {
    pub(crate) fn tcp4(payload: usize, gso_size: Option<u16>) -> Self {
        Self {
            vni: 42,
            vlan: false,
            v6: false,
            udp: false,
            arp: false,
            ip_options: 0,
            tcp_options: 12,
            flags: 0x18,
            gso_size,
            id: 7,
            sequence: 1,
            payload: vec![1; payload],
        }
    }

    pub(crate) fn is_super(&self) -> bool {
        self.gso_size.is_some_and(|size| self.payload.len() > usize::from(size))
    }

    fn ip_at(&self) -> usize {
        if self.vlan { 18 } else { 14 }
    }

    fn transport_at(&self) -> usize {
        self.ip_at() + if self.v6 { 40 } else { 20 + self.ip_options }
    }

    fn payload_at(&self) -> usize {
        self.transport_at() + if self.udp { 8 } else { 20 + self.tcp_options }
    }

    pub(crate) fn vnet(&self) -> VnetHeader {
        if self.arp {
            return VnetHeader::default();
        }
        let kind = match (self.udp, self.v6) {
            (true, _) => Gso::Udp,
            (false, true) => Gso::Tcp6,
            (false, false) => Gso::Tcp4,
        };
        VnetHeader {
            unfinished: Some(Unfinished {
                start: u16::try_from(META_BYTES + self.transport_at()).unwrap(),
                offset: if self.udp { 6 } else { 16 },
            }),
            gso: self.gso_size.map(|size| (kind, size)),
            ecn: self.gso_size.is_some() && !self.udp && self.flags & 0x80 != 0,
            header_bytes: 0,
        }
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut frame: Vec<u8> = (1..=12).collect();
        if self.vlan {
            frame.extend_from_slice(&[0x81, 0, 0, 5]);
        }
        frame.extend_from_slice(match (self.arp, self.v6) {
            (true, _) => &[0x08, 0x06],
            (_, true) => &[0x86, 0xdd],
            (_, false) => &[0x08, 0x00],
        });
        let transport_bytes = self.payload_at() - self.transport_at() + self.payload.len();
        frame.resize(self.payload_at(), 0);
        self.write_ip(&mut frame, transport_bytes);
        let at = self.transport_at();
        frame[at..at + 4].copy_from_slice(&[0x30, 0x39, 0x14, 0x51]);
        let sum = pseudo(&frame, self, transport_bytes).to_be_bytes();
        if self.udp {
            frame[at + 4..at + 6].copy_from_slice(&be(transport_bytes));
            frame[at + 6..at + 8].copy_from_slice(&sum);
        } else {
            frame[at + 4..at + 8].copy_from_slice(&self.sequence.to_be_bytes());
            frame[at + 12] = u8::try_from((20 + self.tcp_options) / 4).unwrap() << 4;
            frame[at + 13] = self.flags;
            frame[at + 16..at + 18].copy_from_slice(&sum);
            frame[at + 20..at + 20 + self.tcp_options].fill(1);
        }
        frame.extend_from_slice(&self.payload);
        frame
    }

    fn write_ip(&self, frame: &mut [u8], transport_bytes: usize) {
        let at = self.ip_at();
        let protocol = if self.udp { 17 } else { 6 };
        if self.v6 {
            frame[at] = 0x60;
            frame[at + 4..at + 6].copy_from_slice(&be(transport_bytes));
            frame[at + 6..at + 8].copy_from_slice(&[protocol, 64]);
            frame[at + 8..at + 40].fill(0xfd);
            return;
        }
        frame[at] = 0x45 + u8::try_from(self.ip_options / 4).unwrap();
        frame[at + 2..at + 4].copy_from_slice(&be(20 + self.ip_options + transport_bytes));
        frame[at + 4..at + 6].copy_from_slice(&self.id.to_be_bytes());
        frame[at + 6..at + 10].copy_from_slice(&[0x40, 0, 64, protocol]);
        frame[at + 12..at + 20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        frame[at + 20..at + 20 + self.ip_options].fill(1);
        let sum = !sum(&frame[at..at + 20 + self.ip_options]);
        frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
    }

    /// What a read from the TAP gives.
    pub(crate) fn as_read(&self) -> Vec<u8> {
        let meta = SealMeta { ethertype: 0, host_id: 1, vni: self.vni };
        [&self.vnet().to_bytes()[..], &meta.to_bytes(), &self.frame()].concat()
    }
}

pub(crate) fn packet() -> impl Strategy<Value = Packet> {
    let shape = (any::<[bool; 4]>(), 0usize..=10, 0usize..=10, any::<u8>());
    let payload = prop_oneof![
        3 => 1usize..4000,
        1 => 1usize..65_000,
    ];
    let numbers = (any::<u16>(), any::<u32>(), 0u32..1 << 24);
    (shape, prop_oneof![1u16..100, 400u16..9000], payload, any::<u8>(), numbers).prop_map(
        |(shape, gso_size, payload, seed, (id, sequence, vni))| {
            let ([vlan, v6, udp, gso], ip_options, tcp_options, flags) = shape;
            let payload = if gso { payload } else { payload.min(9000) };
            Packet {
                vni,
                vlan,
                v6,
                udp,
                arp: false,
                ip_options: if v6 { 0 } else { ip_options * 4 },
                tcp_options: if udp { 0 } else { tcp_options * 4 },
                flags,
                gso_size: gso.then_some(gso_size),
                id,
                sequence,
                payload: (0..payload).map(|i| seed.wrapping_add(i.to_le_bytes()[0])).collect(),
            }
        },
    )
}

/// Does what a device does with an unfinished checksum.
pub(crate) fn resolve(vnet: &VnetHeader, frame: &mut [u8]) {
    let Some(Unfinished { start, offset }) = vnet.unfinished else { return };
    let start = usize::from(start) - META_BYTES;
    let at = start + usize::from(offset);
    let value = match !sum(&frame[start..]) {
        0 if offset == 6 => 0xffff,
        value => value,
    };
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Checks that the frames are those that the packet has to become.
pub(crate) fn check_standalone(packet: &Packet, frames: &[Vec<u8>]) {
    let step = match packet.gso_size {
        Some(size) => usize::from(size),
        None => packet.payload.len(),
    };
    let chunks: Vec<_> = packet.payload.chunks(step).collect();
    assert_eq!(frames.len(), chunks.len());
    for (i, (frame, chunk)) in frames.iter().zip(&chunks).enumerate() {
        let place = (i, i == 0, i + 1 == chunks.len());
        check_segment(packet, frame, chunk, step, place);
    }
}

fn check_segment(
    packet: &Packet,
    frame: &[u8],
    payload: &[u8],
    step: usize,
    (index, first, last): (usize, bool, bool),
) {
    let (ip, transport) = (packet.ip_at(), packet.transport_at());
    assert_eq!(&frame[..ip], &packet.frame()[..ip]);
    assert_eq!(&frame[packet.payload_at()..], payload);
    let transport_bytes = frame.len() - transport;
    let field = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    if packet.v6 {
        assert_eq!(usize::from(field(ip + 4)), transport_bytes);
    } else {
        assert_eq!(usize::from(field(ip + 2)), frame.len() - ip);
        assert_eq!(field(ip + 4), packet.id.wrapping_add(u16::try_from(index).unwrap()));
        assert_eq!(sum(&frame[ip..transport]), 0xffff, "IPv4 checksum");
    }
    let words = [pseudo(frame, packet, transport_bytes), sum(&frame[transport..])];
    assert_eq!(sum(&words.map(u16::to_be_bytes).concat()), 0xffff, "transport checksum");
    if packet.udp {
        assert_eq!(usize::from(field(transport + 4)), transport_bytes);
        assert_ne!(field(transport + 6), 0);
        return;
    }
    let sequence = packet.sequence.wrapping_add(u32::try_from(index * step).unwrap());
    assert_eq!(frame[transport + 4..transport + 8], sequence.to_be_bytes());
    let mut flags = packet.flags;
    if packet.gso_size.is_some() {
        flags &= if last { 0xff } else { !0x09 } & if first { 0xff } else { !0x80 };
    }
    assert_eq!(frame[transport + 13], flags);
}

/// The sum over the pseudo header, not complemented.
fn pseudo(frame: &[u8], packet: &Packet, transport_bytes: usize) -> u16 {
    let at = packet.ip_at();
    let addresses = if packet.v6 { &frame[at + 8..at + 40] } else { &frame[at + 12..at + 20] };
    let protocol = if packet.udp { 17 } else { 6 };
    sum(&[addresses, &[0, protocol], &be(transport_bytes)].concat())
}

fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

fn be(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap().to_be_bytes()
}
