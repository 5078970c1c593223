//! Frames for the tests: `web` (10.20.0.11, `fd20::11`) speaks to `api` (10.20.0.13, `fd20::13`).

use std::net::{Ipv4Addr, Ipv6Addr};

use weft_abi::{Plain, SlowMeta};

use crate::packet::{
    ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Mac, ND_SOLICITATION, PROTOCOL_ICMPV6,
    PROTOCOL_UDP,
};
use crate::slow::SlowFrame;

pub(crate) const WEB_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x11]);
pub(crate) const API_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x13]);
pub(crate) const WEB_IPV4: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 11);
pub(crate) const API_IPV4: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 13);
pub(crate) const WEB_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0x11);
pub(crate) const API_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0x13);

pub(crate) fn ethernet(target: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&target.0[..], &WEB_MAC.0, &ethertype.to_be_bytes(), payload].concat()
}

pub(crate) fn ipv4(protocol: u8, upper: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + upper.len()).unwrap();
    let mut header = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0];
    header[2..4].copy_from_slice(&length.to_be_bytes());
    [&header[..], &WEB_IPV4.octets(), &API_IPV4.octets(), upper].concat()
}

pub(crate) fn ipv6(protocol: u8, upper: &[u8]) -> Vec<u8> {
    let length = u16::try_from(upper.len()).unwrap().to_be_bytes();
    let header = [0x60, 0, 0, 0, length[0], length[1], protocol, 64];
    [&header[..], &WEB_IPV6.octets(), &API_IPV6.octets(), upper].concat()
}

/// From port 40,000 to port 53, with a payload of so many bytes.
pub(crate) fn udp(payload_length: usize) -> Vec<u8> {
    let length = u16::try_from(8 + payload_length).unwrap().to_be_bytes();
    let mut datagram = vec![0x9c, 0x40, 0, 53, length[0], length[1], 0, 0];
    datagram.resize(8 + payload_length, 0xa5);
    datagram
}

pub(crate) fn udp4() -> Vec<u8> {
    ethernet(API_MAC, ETHERTYPE_IPV4, &ipv4(PROTOCOL_UDP, &udp(16)))
}

/// Hop-by-hop options and a first fragment before the UDP header.
pub(crate) fn udp6_with_extensions() -> Vec<u8> {
    let extensions = [44, 0, 1, 4, 0, 0, 0, 0, PROTOCOL_UDP, 0, 0, 1, 0, 0, 0, 7];
    ethernet(API_MAC, ETHERTYPE_IPV6, &ipv6(0, &[&extensions[..], &udp(16)].concat()))
}

pub(crate) fn arp_request() -> Vec<u8> {
    let header = [0, 1, 8, 0, 6, 4, 0, 1];
    let payload =
        [&header[..], &WEB_MAC.0, &WEB_IPV4.octets(), &[0; 6], &API_IPV4.octets()].concat();
    ethernet(Mac([0xff; 6]), ETHERTYPE_ARP, &payload)
}

pub(crate) fn neighbour_solicitation() -> Vec<u8> {
    let upper =
        [&[ND_SOLICITATION, 0, 0, 0, 0, 0, 0, 0][..], &API_IPV6.octets(), &[1, 1], &WEB_MAC.0]
            .concat();
    ethernet(Mac([0x33, 0x33, 0xff, 0, 0, 0x13]), ETHERTYPE_IPV6, &ipv6(PROTOCOL_ICMPV6, &upper))
}

/// Endpoint `web` at ifindex 7, as the programs hand a frame up.
pub(crate) fn slow_frame(purpose: u8, ethernet: &[u8]) -> SlowFrame {
    let meta = SlowMeta {
        magic: weft_abi::SLOW_MAGIC,
        purpose,
        endpoint_id: 11,
        ifindex: 7,
        ethertype: [ethernet[12], ethernet[13]],
        mtu: 1320,
        ..SlowMeta::default()
    };
    let parts = [
        &[0; 12],
        &ethernet[..12],
        &ETHERTYPE_IPV4.to_be_bytes(),
        meta.as_bytes(),
        &ethernet[14..],
    ];
    SlowFrame::new(&parts.concat()).unwrap()
}
