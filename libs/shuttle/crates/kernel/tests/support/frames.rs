//! Frames, byte by byte, with correct checksums.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const IP4: u16 = 0x0800;
pub(crate) const IP6: u16 = 0x86dd;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const VLAN: u16 = 0x8100;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP6: u8 = 58;

pub(crate) type Mac = [u8; 6];

pub(crate) fn eth(source: Mac, target: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&target[..], &source, &ethertype.to_be_bytes(), payload].concat()
}

pub(crate) fn ip4(source: Ipv4Addr, target: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut header = [0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, protocol].to_vec();
    header.extend([0, 0]);
    header.extend(source.octets());
    header.extend(target.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(payload);
    header
}

pub(crate) fn ip6(source: Ipv6Addr, target: Ipv6Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], protocol, 255];
    packet.extend(source.octets());
    packet.extend(target.octets());
    packet.extend(payload);
    packet
}

/// A UDP datagram without checksum.
pub(crate) fn udp(source: u16, target: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    [source, target, length, 0]
        .iter()
        .flat_map(|word| word.to_be_bytes())
        .chain(payload.iter().copied())
        .collect()
}

/// A TCP segment without options.
pub(crate) fn tcp(payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[12] = 5 << 4;
    segment.extend(payload);
    segment
}

pub(crate) fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4];
    message.extend(operation.to_be_bytes());
    for (mac, ip) in [sender, target] {
        message.extend(mac);
        message.extend(ip.octets());
    }
    message
}

/// A neighbour solicitation (135) or advertisement (136) with a MAC option, without checksum.
pub(crate) fn nd(kind: u8, flags: u32, target: Ipv6Addr, option: Option<(u8, Mac)>) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(flags.to_be_bytes());
    message.extend(target.octets());
    if let Some((number, mac)) = option {
        message.extend([number, 1]);
        message.extend(mac);
    }
    message
}

/// An `ICMPv6` packet with its checksum.
pub(crate) fn icmp6(source: Ipv6Addr, target: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    let pseudo =
        [&source.octets()[..], &target.octets(), &length.to_be_bytes(), &[0, 0, 0, ICMP6], message]
            .concat();
    let mut message = message.to_vec();
    message[2..4].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    ip6(source, target, ICMP6, &message)
}

/// What VXLAN puts in front of a frame, from the outer IP header on.
pub(crate) fn vxlan(
    source: Ipv4Addr,
    target: Ipv4Addr,
    ports: (u16, u16),
    vni: u32,
    frame: &[u8],
) -> Vec<u8> {
    let mut payload = vec![0x08, 0, 0, 0];
    payload.extend((vni << 8).to_be_bytes());
    payload.extend(frame);
    ip4(source, target, UDP, &udp(ports.0, ports.1, &payload))
}

pub(crate) fn mapped(address: impl Into<IpAddr>) -> [u8; 16] {
    weft_kernel::abi::mapped(address.into())
}

/// The Internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
