//! The answers to a packet that exceeds its network's MTU: "fragmentation needed" (RFC 792, RFC
//! 1191) and "packet too big" (RFC 4443, RFC 8201).
//!
//! They go out whether or not an IPv4 sender set "don't fragment": the network does not fragment,
//! and Linux takes the hint either way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::packet::{
    Content, ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_ICMP, PROTOCOL_ICMPV6, Packet,
};

/// RFC 1812, 4.3.2.3: an error quotes as much as fits into a datagram of 576 bytes.
const IPV4_ERROR_LENGTH_MAX: usize = 576;
/// RFC 4443, 2.4 (c): as much as fits into the minimum IPv6 MTU.
const IPV6_ERROR_LENGTH_MAX: usize = 1280;
const IPV4_HEADER_LENGTH: usize = 20;
const IPV6_HEADER_LENGTH: usize = 40;
const ICMP_HEADER_LENGTH: usize = 8;
const HOP_LIMIT: u8 = 64;

/// Where a network's errors come from and what they announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub mtu_bytes: u32,
    pub gateway_ipv4: Option<Ipv4Addr>,
    pub gateway_ipv6: Option<Ipv6Addr>,
}

/// An Ethernet frame that tells the sender of `packet` the MTU, or `None` where no error may be
/// sent: about a later fragment, an error, a group address (RFC 1122, 3.2.2), what is not IP, or in
/// a network without a gateway of that family.
pub(crate) fn answer(packet: &Packet<'_>, limits: Limits) -> Option<Vec<u8>> {
    let Content::Ip(header) = packet.content else { return None };
    if header.is_later_fragment
        || packet.target_mac.is_group()
        || header.source.is_unspecified()
        || is_error(packet, header.protocol)
    {
        return None;
    }
    let (ethertype, datagram) = match header.source {
        IpAddr::V4(sender) => (
            ETHERTYPE_IPV4,
            fragmentation_needed(packet.payload, sender, limits.gateway_ipv4?, limits.mtu_bytes),
        ),
        IpAddr::V6(sender) => (
            ETHERTYPE_IPV6,
            packet_too_big(packet.payload, sender, limits.gateway_ipv6?, limits.mtu_bytes),
        ),
    };
    // It comes from where the packet went: the sender has that neighbour already.
    Some(
        [&packet.source_mac.0[..], &packet.target_mac.0, &ethertype.to_be_bytes(), &datagram]
            .concat(),
    )
}

fn is_error(packet: &Packet<'_>, protocol: u8) -> bool {
    match (protocol, packet.upper().first()) {
        // Destination unreachable, source quench, redirect, time exceeded, parameter problem.
        (PROTOCOL_ICMP, Some(3 | 4 | 5 | 11 | 12)) => true,
        // ICMPv6 errors have the high bit clear (RFC 4443, 2.1); a redirect counts as one (2.4
        // e.2).
        (PROTOCOL_ICMPV6, Some(kind)) => *kind < 128 || *kind == 137,
        _ => false,
    }
}

fn fragmentation_needed(
    offending: &[u8],
    sender: Ipv4Addr,
    gateway: Ipv4Addr,
    mtu_bytes: u32,
) -> Vec<u8> {
    let quote = &offending
        [..offending.len().min(IPV4_ERROR_LENGTH_MAX - IPV4_HEADER_LENGTH - ICMP_HEADER_LENGTH)];
    let mtu = u16::try_from(mtu_bytes).unwrap_or(u16::MAX).to_be_bytes();
    let mut icmp = [&[3, 4, 0, 0, 0, 0, mtu[0], mtu[1]][..], quote].concat();
    let sum = checksum(&[&icmp]);
    icmp[2..4].copy_from_slice(&sum);

    let length = be_length(IPV4_HEADER_LENGTH + icmp.len());
    let mut header = [0x45, 0, length[0], length[1], 0, 0, 0x40, 0, HOP_LIMIT, PROTOCOL_ICMP, 0, 0];
    let sum = checksum(&[&header, &gateway.octets(), &sender.octets()]);
    header[10..].copy_from_slice(&sum);
    [&header[..], &gateway.octets(), &sender.octets(), &icmp].concat()
}

fn packet_too_big(
    offending: &[u8],
    sender: Ipv6Addr,
    gateway: Ipv6Addr,
    mtu_bytes: u32,
) -> Vec<u8> {
    let quote = &offending
        [..offending.len().min(IPV6_ERROR_LENGTH_MAX - IPV6_HEADER_LENGTH - ICMP_HEADER_LENGTH)];
    let mut icmp = [&[2, 0, 0, 0][..], &mtu_bytes.to_be_bytes(), quote].concat();
    let length = be_length(icmp.len());
    // The pseudo header of RFC 8200, 8.1.
    let pseudo = [0, 0, length[0], length[1], 0, 0, 0, PROTOCOL_ICMPV6];
    let sum = checksum(&[&gateway.octets(), &sender.octets(), &pseudo, &icmp]);
    icmp[2..4].copy_from_slice(&sum);

    let header = [0x60, 0, 0, 0, length[0], length[1], PROTOCOL_ICMPV6, HOP_LIMIT];
    [&header[..], &gateway.octets(), &sender.octets(), &icmp].concat()
}

fn be_length(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("errors have at most 1280 bytes").to_be_bytes()
}

/// The Internet checksum (RFC 1071) of parts that follow each other; all but the last have an even
/// length.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).expect("folded to 16 bits")).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::{ETHERNET_LENGTH, Mac, PROTOCOL_UDP};
    use crate::sample;

    const LIMITS: Limits = Limits {
        mtu_bytes: 1320,
        gateway_ipv4: Some(Ipv4Addr::new(10, 20, 0, 1)),
        gateway_ipv6: Some(Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 1)),
    };

    fn answer_to(frame: &[u8]) -> Option<Vec<u8>> {
        answer(&Packet::parse(frame).unwrap(), LIMITS)
    }

    #[test]
    fn an_ipv4_sender_learns_the_mtu_from_the_gateway() {
        let frame = sample::ethernet(
            sample::API_MAC,
            ETHERTYPE_IPV4,
            &sample::ipv4(PROTOCOL_UDP, &sample::udp(1400)),
        );
        let reply = answer_to(&frame).unwrap();
        let packet = Packet::parse(&reply).unwrap();
        assert_eq!((packet.target_mac, packet.source_mac), (sample::WEB_MAC, sample::API_MAC));
        let Content::Ip(header) = packet.content else { panic!("{packet:?}") };
        assert_eq!(header.source, IpAddr::from(LIMITS.gateway_ipv4.unwrap()));
        assert_eq!(header.target, IpAddr::from(sample::WEB_IPV4));
        assert_eq!(packet.payload.len(), IPV4_ERROR_LENGTH_MAX);
        assert_eq!(packet.upper()[..2], [3, 4]);
        assert_eq!(packet.upper()[6..8], 1320u16.to_be_bytes());
        assert_eq!(packet.upper()[8..], frame[ETHERNET_LENGTH..][..packet.upper().len() - 8]);
        assert_eq!(checksum(&[&packet.payload[..20]]), [0, 0]);
        assert_eq!(checksum(&[packet.upper()]), [0, 0]);
    }

    #[test]
    fn an_ipv6_sender_learns_the_mtu_from_the_gateway() {
        let frame = sample::ethernet(
            sample::API_MAC,
            ETHERTYPE_IPV6,
            &sample::ipv6(PROTOCOL_UDP, &sample::udp(1400)),
        );
        let reply = answer_to(&frame).unwrap();
        let packet = Packet::parse(&reply).unwrap();
        let Content::Ip(header) = packet.content else { panic!("{packet:?}") };
        assert_eq!(header.source, IpAddr::from(LIMITS.gateway_ipv6.unwrap()));
        assert_eq!(packet.payload.len(), IPV6_ERROR_LENGTH_MAX);
        assert_eq!(packet.upper()[..2], [2, 0]);
        assert_eq!(packet.upper()[4..8], 1320u32.to_be_bytes());
        let length = u32::try_from(packet.upper().len()).unwrap().to_be_bytes();
        let pseudo = [&packet.payload[8..40], &length, &[0, 0, 0, PROTOCOL_ICMPV6]].concat();
        assert_eq!(checksum(&[&pseudo, packet.upper()]), [0, 0]);
    }

    #[test]
    fn no_error_is_sent_about_an_error() {
        let unreachable = sample::ipv4(PROTOCOL_ICMP, &[&[3u8, 1, 0, 0][..], &[0; 1400]].concat());
        assert_eq!(
            answer_to(&sample::ethernet(sample::API_MAC, ETHERTYPE_IPV4, &unreachable)),
            None
        );
        let too_big = sample::ipv6(PROTOCOL_ICMPV6, &[&[2u8, 0, 0, 0][..], &[0; 1400]].concat());
        assert_eq!(answer_to(&sample::ethernet(sample::API_MAC, ETHERTYPE_IPV6, &too_big)), None);
    }

    #[test]
    fn no_error_is_sent_about_a_group_a_later_fragment_or_what_is_not_ip() {
        let datagram = sample::ipv4(PROTOCOL_UDP, &sample::udp(1400));
        assert_eq!(
            answer_to(&sample::ethernet(Mac([1, 0, 0x5e, 0, 0, 1]), ETHERTYPE_IPV4, &datagram)),
            None
        );
        let mut fragment = datagram;
        fragment[7] = 9;
        assert_eq!(answer_to(&sample::ethernet(sample::API_MAC, ETHERTYPE_IPV4, &fragment)), None);
        assert_eq!(answer_to(&sample::ethernet(sample::API_MAC, 0x88b5, &[0; 1400])), None);
    }

    #[test]
    fn an_echo_request_is_answered() {
        let echo = sample::ipv4(PROTOCOL_ICMP, &[&[8u8, 0, 0, 0][..], &[0; 1400]].concat());
        assert!(answer_to(&sample::ethernet(sample::API_MAC, ETHERTYPE_IPV4, &echo)).is_some());
    }

    proptest! {
        #[test]
        fn errors_are_well_formed_for_any_length(length in 0usize..3000, mtu_bytes in 68u32..65_536) {
            let limits = Limits { mtu_bytes, ..LIMITS };
            let v4 = sample::ethernet(sample::API_MAC, ETHERTYPE_IPV4, &sample::ipv4(PROTOCOL_UDP, &sample::udp(length)));
            let reply = answer(&Packet::parse(&v4).unwrap(), limits).unwrap();
            let packet = Packet::parse(&reply).unwrap();
            prop_assert!(packet.payload.len() <= IPV4_ERROR_LENGTH_MAX);
            prop_assert_eq!(checksum(&[packet.upper()]), [0, 0]);
            let v6 = sample::ethernet(sample::API_MAC, ETHERTYPE_IPV6, &sample::ipv6(PROTOCOL_UDP, &sample::udp(length)));
            let reply = answer(&Packet::parse(&v6).unwrap(), limits).unwrap();
            prop_assert!(reply.len() <= ETHERNET_LENGTH + IPV6_ERROR_LENGTH_MAX);
        }
    }
}
