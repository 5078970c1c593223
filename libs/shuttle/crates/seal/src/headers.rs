//! The headers of an inner Ethernet frame, as far as cutting and joining it asks.

use std::ops::Range;

use crate::checksum::Sum;

pub(crate) const ETHERNET_BYTES: usize = 14;
/// The most bytes that [`Headers`] finds: one VLAN tag, IPv4 and TCP with all their options.
pub(crate) const HEADERS_MAX: usize = ETHERNET_BYTES + VLAN_BYTES + 60 + 60;
const VLAN_BYTES: usize = 4;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const TCP_BYTES: usize = 20;
const UDP_BYTES: usize = 8;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;

/// Flags and fragment offset of a packet that may not be fragmented.
const DO_NOT_FRAGMENT: [u8; 2] = [0x40, 0];
const TCP_FIN_PSH: u8 = 0x01 | 0x08;
const TCP_CWR: u8 = 0x80;
const TCP_ACK: u8 = 0x10;
const TCP_ACK_PSH: u8 = TCP_ACK | 0x08;

/// Where the headers of a TCP or UDP frame are. All offsets lie within the frame that was parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Headers {
    pub(crate) ip: usize,
    pub(crate) transport: usize,
    /// Where the payload begins.
    pub(crate) end: usize,
    pub(crate) v6: bool,
    pub(crate) udp: bool,
}

impl Headers {
    /// Finds the headers of a frame with at most one VLAN tag. `None` where it is not TCP or UDP
    /// directly in IP, is a fragment, or ends within its headers.
    pub(crate) fn parse(frame: &[u8]) -> Option<Self> {
        let (ip, ethertype) = match ethertype(frame, 12)? {
            ETHERTYPE_VLAN => (ETHERNET_BYTES + VLAN_BYTES, ethertype(frame, 16)?),
            other => (ETHERNET_BYTES, other),
        };
        let v6 = ethertype == ETHERTYPE_IPV6;
        let known = v6 || ethertype == ETHERTYPE_IPV4;
        known.then(|| Self::of_packet(frame.get(ip..)?, ip, v6)).flatten()
    }

    /// Finds the headers of an IP packet that begins at the offset `ip` of its frame.
    pub(crate) fn of_packet(packet: &[u8], ip: usize, v6: bool) -> Option<Self> {
        let (length, protocol) = if v6 { ipv6(packet)? } else { ipv4(packet)? };
        let header = packet.get(length..)?;
        let transport = ip + length;
        let length = match protocol {
            PROTOCOL_TCP => usize::from(header.get(12)? >> 4) * 4,
            PROTOCOL_UDP => UDP_BYTES,
            _ => return None,
        };
        let udp = protocol == PROTOCOL_UDP;
        if (!udp && length < TCP_BYTES) || header.len() < length {
            return None;
        }
        Some(Self { ip, transport, end: transport + length, v6, udp })
    }

    /// Whether the transport checksum is that of the packet, which begins at the IP header.
    pub(crate) fn is_intact(self, packet: &[u8]) -> bool {
        let transport = &packet[self.transport - self.ip..];
        let at = self.checksum_offset();
        let absent = self.udp && transport[at..at + 2] == [0, 0];
        let packet_headers = Self { ip: 0, ..self };
        let sum = packet_headers.addresses(packet).number(field(transport.len())).bytes(transport);
        !absent && sum.complement() == [0, 0]
    }

    /// Where the transport checksum is within the transport header.
    pub(crate) fn checksum_offset(self) -> usize {
        if self.udp { 6 } else { 16 }
    }

    fn checksum_field(self) -> usize {
        self.transport + self.checksum_offset()
    }

    /// Sum over the pseudo header but for the length.
    pub(crate) fn addresses(self, headers: &[u8]) -> Sum {
        let range = if self.v6 {
            self.ip + 8..self.ip + IPV6_BYTES
        } else {
            self.ip + 12..self.ip + IPV4_BYTES
        };
        let protocol = if self.udp { PROTOCOL_UDP } else { PROTOCOL_TCP };
        Sum::default().bytes(&headers[range]).number(u16::from(protocol))
    }

    /// Writes the lengths for a payload of `payload` bytes, and the IPv4 checksum.
    ///
    /// # Panics
    /// Where the packet would be longer than its length fields can say.
    pub(crate) fn set_payload(self, headers: &mut [u8], payload: usize) {
        let whole = self.end + payload;
        let transport_bytes = field(whole - self.transport);
        if self.v6 {
            put(headers, self.ip + 4, field(whole - self.ip - IPV6_BYTES));
        } else {
            put(headers, self.ip + 2, field(whole - self.ip));
            self.sum_ipv4(headers);
        }
        if self.udp {
            put(headers, self.transport + 4, transport_bytes);
        }
    }

    /// Leaves the transport checksum at the sum over the pseudo header.
    pub(crate) fn set_partial(self, headers: &mut [u8], addresses: Sum, payload: usize) {
        let length = field(self.end + payload - self.transport);
        let at = self.checksum_field();
        headers[at..at + 2].copy_from_slice(&addresses.number(length).folded());
    }

    /// Writes the whole transport checksum.
    pub(crate) fn set_complete(self, headers: &mut [u8], addresses: Sum, payload: &[u8]) {
        let length = field(self.end + payload.len() - self.transport);
        let at = self.checksum_field();
        put(headers, at, 0);
        let sum = addresses.number(length).bytes(&headers[self.transport..self.end]).bytes(payload);
        headers[at..at + 2].copy_from_slice(&no_zero(sum.complement(), self.udp));
    }

    /// Adds to the IPv4 identification, which counts up by segment; IPv6 has none.
    pub(crate) fn add_identification(self, headers: &mut [u8], count: u16) {
        if !self.v6 {
            let at = self.ip + 4;
            let id = u16::from_be_bytes([headers[at], headers[at + 1]]).wrapping_add(count);
            put(headers, at, id);
        }
    }

    /// Adds to the TCP sequence number; UDP has none.
    pub(crate) fn add_sequence(self, headers: &mut [u8], count: u32) {
        if !self.udp {
            let at = self.transport + 4;
            let field = &mut headers[at..at + 4];
            let sequence = u32::from_be_bytes([field[0], field[1], field[2], field[3]]);
            field.copy_from_slice(&sequence.wrapping_add(count).to_be_bytes());
        }
    }

    /// The TCP flags; 0 for UDP.
    pub(crate) fn flags(self, headers: &[u8]) -> u8 {
        if self.udp { 0 } else { headers[self.transport + 13] }
    }

    /// Writes the TCP flags; UDP has none.
    pub(crate) fn set_flags(self, headers: &mut [u8], flags: u8) {
        if !self.udp {
            headers[self.transport + 13] = flags;
        }
    }

    /// Whether two packets have the same headers up to their ports, but for lengths, checksums and an
    /// identification: that of a packet which may not be fragmented means nothing (RFC 6864, 4.1). Both
    /// slices begin at the offset `from` of their frames.
    pub(crate) fn same_flow(self, one: &[u8], other: &[u8], from: usize) -> bool {
        let (ip, transport) = (self.ip - from, self.transport - from);
        let alike = |range: Range<usize>| one[range.clone()] == other[range];
        let ports = transport..transport + 4;
        if self.v6 {
            return alike(0..ip + 4) && alike(ip + 6..ports.end);
        }
        let whole = one[ip + 6..ip + 8] == DO_NOT_FRAGMENT;
        whole && alike(0..ip + 2) && alike(ip + 6..ip + 10) && alike(ip + 12..ports.end)
    }

    /// Whether the TCP segment `other` of the same flow comes right behind `one` and its payload of
    /// `payload` bytes: the same but for the sequence number, and for PSH, which ends a super-packet.
    pub(crate) fn continues(self, one: &[u8], other: &[u8], from: usize, payload: usize) -> bool {
        let (one, other) = (&one[self.transport - from..], &other[self.transport - from..]);
        let sequence =
            |header: &[u8]| u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let behind = u32::try_from(payload)
            .is_ok_and(|payload| sequence(other) == sequence(one).wrapping_add(payload));
        let plain = one[13] == TCP_ACK && matches!(other[13], TCP_ACK | TCP_ACK_PSH);
        let same = |range: Range<usize>| one[range.clone()] == other[range];
        behind && plain && same(8..13) && same(14..16) && one[20..] == other[20..]
    }

    fn sum_ipv4(self, headers: &mut [u8]) {
        put(headers, self.ip + 10, 0);
        let sum = Sum::default().bytes(&headers[self.ip..self.transport]).complement();
        headers[self.ip + 10..self.ip + 12].copy_from_slice(&sum);
    }
}

/// The flags of one segment, of those of its super-packet: FIN and PSH belong to the last, CWR to
/// the first.
pub(crate) fn segment_flags(whole: u8, first: bool, last: bool) -> u8 {
    let mut flags = whole;
    if !first {
        flags &= !TCP_CWR;
    }
    if !last {
        flags &= !TCP_FIN_PSH;
    }
    flags
}

/// UDP says "no checksum" by zero, so that a sum of zero is sent as all ones (RFC 768).
pub(crate) fn no_zero(sum: [u8; 2], udp: bool) -> [u8; 2] {
    if udp && sum == [0, 0] { [0xff, 0xff] } else { sum }
}

fn ethertype(frame: &[u8], at: usize) -> Option<u16> {
    let bytes = frame.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Length of the header, and the protocol behind it.
fn ipv4(header: &[u8]) -> Option<(usize, u8)> {
    let fixed = header.first_chunk::<IPV4_BYTES>()?;
    let length = usize::from(fixed[0] & 0x0f) * 4;
    let fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff != 0;
    (fixed[0] >> 4 == 4 && length >= IPV4_BYTES && !fragment).then_some((length, fixed[9]))
}

fn ipv6(header: &[u8]) -> Option<(usize, u8)> {
    let fixed = header.first_chunk::<IPV6_BYTES>()?;
    (fixed[0] >> 4 == 6).then_some((IPV6_BYTES, fixed[6]))
}

fn field(length: usize) -> u16 {
    u16::try_from(length).expect("super-packets are held below what a length field can say")
}

fn put(bytes: &mut [u8], at: usize, number: u16) {
    bytes[at..at + 2].copy_from_slice(&number.to_be_bytes());
}
