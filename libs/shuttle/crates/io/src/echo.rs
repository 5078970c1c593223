//! ICMP echo from inside an endpoint's namespace, over a raw socket that was opened there.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

const ECHO_HEADER_BYTES: usize = 8;
const IPV4_HEADER_BYTES_MIN: usize = 20;
const RECEIVE_BYTES: usize = 2048;
// Types: RFC 792, RFC 4443.
const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REPLY_V4: u8 = 0;
const UNREACHABLE_V4: u8 = 3;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
const UNREACHABLE_V6: u8 = 1;
const TOO_BIG_V6: u8 = 2;
const ICMP_FILTER: i32 = 1;
const ICMPV6_FILTER: i32 = 1;

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The answer to the request of this number.
    Answered {
        /// As it was sent.
        sequence: u16,
    },
    /// An error about the request of this number.
    Unreachable {
        /// As it was sent.
        sequence: u16,
        /// For people.
        reason: String,
    },
}

/// Sends echo requests to one address and takes the answers.
#[derive(Debug)]
pub struct EchoSocket {
    descriptor: OwnedFd,
    target: IpAddr,
    identifier: u16,
}

impl EchoSocket {
    /// Takes over a raw ICMP or `ICMPv6` socket of the target's family. `identifier` tells its
    /// requests from those of others in the namespace.
    pub fn new(descriptor: OwnedFd, target: IpAddr, identifier: u16) -> io::Result<Self> {
        let socket = Self { descriptor, target, identifier };
        match target {
            IpAddr::V4(_) => {
                let pass = 1u32 << ECHO_REPLY_V4 | 1 << UNREACHABLE_V4;
                socket.set_option(libc::IPPROTO_RAW, ICMP_FILTER, &[!pass])?;
            }
            IpAddr::V6(_) => {
                let mut blocked = [u32::MAX; 8];
                for kind in [ECHO_REPLY_V6, UNREACHABLE_V6, TOO_BIG_V6] {
                    blocked[usize::from(kind / 32)] &= !(1 << (kind % 32));
                }
                socket.set_option(libc::IPPROTO_ICMPV6, ICMPV6_FILTER, &blocked)?;
            }
        }
        // SAFETY: no pointers.
        if unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(socket)
    }

    fn set_option(&self, level: i32, option: i32, words: &[u32]) -> io::Result<()> {
        let length = libc::socklen_t::try_from(size_of_val(words)).expect("options are short");
        // SAFETY: `words` is as long as said.
        let status = unsafe {
            libc::setsockopt(self.as_raw_fd(), level, option, words.as_ptr().cast(), length)
        };
        if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends a request with so many bytes behind its header.
    pub fn send(&self, sequence: u16, payload_bytes: usize) -> io::Result<()> {
        let kind = if self.target.is_ipv4() { ECHO_REQUEST_V4 } else { ECHO_REQUEST_V6 };
        let mut packet = vec![0; ECHO_HEADER_BYTES + payload_bytes];
        packet[0] = kind;
        packet[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        packet[6..8].copy_from_slice(&sequence.to_be_bytes());
        if self.target.is_ipv4() {
            // The kernel sums ICMPv6 itself (RFC 3542, 3.1), ICMP not.
            let sum = checksum(&packet);
            packet[2..4].copy_from_slice(&sum);
        }
        let (address, length) = socket_address(self.target);
        // SAFETY: packet and address are as long as said.
        let sent = unsafe {
            libc::sendto(
                self.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const address).cast(),
                length,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next reply to one of its requests, `None` for a packet of others;
    /// `ErrorKind::WouldBlock` when there is none.
    pub fn receive(&self) -> io::Result<Option<Reply>> {
        let mut buffer = [0u8; RECEIVE_BYTES];
        // SAFETY: the buffer is as long as said.
        let length =
            unsafe { libc::recv(self.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        Ok(parse(self.target, self.identifier, &buffer[..length]))
    }
}

impl AsRawFd for EchoSocket {
    fn as_raw_fd(&self) -> i32 {
        self.descriptor.as_raw_fd()
    }
}

/// What a packet says about the requests of this identifier to this address.
pub(crate) fn parse(target: IpAddr, identifier: u16, packet: &[u8]) -> Option<Reply> {
    match target {
        IpAddr::V4(target) => {
            let (source, icmp) = split_ipv4(packet)?;
            match *icmp.first()? {
                ECHO_REPLY_V4 if source == target => {
                    Some(Reply::Answered { sequence: sequence(icmp, identifier)? })
                }
                UNREACHABLE_V4 => {
                    let quote = icmp.get(ECHO_HEADER_BYTES..)?;
                    let quoted_target: Ipv4Addr = (*quote.get(16..)?.first_chunk::<4>()?).into();
                    let (_, request) = split_ipv4(quote)?;
                    let sequence =
                        sequence(request, identifier).filter(|_| quoted_target == target)?;
                    Some(Reply::Unreachable { sequence, reason: reason_v4(icmp[1]).to_owned() })
                }
                _ => None,
            }
        }
        IpAddr::V6(target) => match *packet.first()? {
            ECHO_REPLY_V6 => Some(Reply::Answered { sequence: sequence(packet, identifier)? }),
            kind => {
                let quote = packet.get(ECHO_HEADER_BYTES..)?;
                let quoted_target = Ipv6Addr::from(*quote.get(24..)?.first_chunk::<16>()?);
                let sequence =
                    sequence(quote.get(40..)?, identifier).filter(|_| quoted_target == target)?;
                let reason =
                    if kind == TOO_BIG_V6 { "the packet is too big" } else { reason_v6(packet[1]) };
                Some(Reply::Unreachable { sequence, reason: reason.to_owned() })
            }
        },
    }
}

/// The number of an echo message that has this identifier.
fn sequence(echo: &[u8], identifier: u16) -> Option<u16> {
    let number = |at: usize| echo.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
    number(6).filter(|_| number(4) == Some(identifier))
}

fn split_ipv4(packet: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    let header_bytes = usize::from(packet.first()? & 0xf) * 4;
    let source = packet.get(12..)?.first_chunk::<4>().copied()?.into();
    Some((source, packet.get(header_bytes.max(IPV4_HEADER_BYTES_MIN)..)?))
}

const fn reason_v4(code: u8) -> &'static str {
    match code {
        0 => "the network is unreachable",
        1 => "the host is unreachable",
        4 => "the packet is too big",
        9 | 10 | 13 => "it is forbidden",
        _ => "it is unreachable",
    }
}

const fn reason_v6(code: u8) -> &'static str {
    match code {
        0 => "there is no route",
        1 => "it is forbidden",
        3 => "the address is unreachable",
        _ => "it is unreachable",
    }
}

fn checksum(packet: &[u8]) -> [u8; 2] {
    let mut sum: u32 = packet
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).expect("folded to 16 bits")).to_be_bytes()
}

fn socket_address(target: IpAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all-zero is a valid sockaddr_storage, which is large enough and aligned for either
    // family.
    unsafe {
        let mut storage: libc::sockaddr_storage = mem::zeroed();
        let length = match target {
            IpAddr::V4(target) => {
                let address = (&raw mut storage).cast::<libc::sockaddr_in>();
                (*address).sin_family = libc::AF_INET as libc::sa_family_t;
                (*address).sin_addr.s_addr = u32::from_ne_bytes(target.octets());
                size_of::<libc::sockaddr_in>()
            }
            IpAddr::V6(target) => {
                let address = (&raw mut storage).cast::<libc::sockaddr_in6>();
                (*address).sin6_family = libc::AF_INET6 as libc::sa_family_t;
                (*address).sin6_addr.s6_addr = target.octets();
                size_of::<libc::sockaddr_in6>()
            }
        };
        (storage, length as libc::socklen_t)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(target: &str, packet: &[u8]) -> Option<Reply> {
        super::parse(target.parse().unwrap(), 0x1234, packet)
    }

    fn ipv4(source: [u8; 4], target: [u8; 4], icmp: &[u8]) -> Vec<u8> {
        let header = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0];
        [&header[..], &source, &target, icmp].concat()
    }

    #[test]
    fn an_answer_counts_when_it_is_from_the_target_and_to_this_socket() {
        let reply = [ECHO_REPLY_V4, 0, 0, 0, 0x12, 0x34, 0, 7];
        let own = [10, 20, 0, 11];
        assert_eq!(
            parse("10.20.0.13", &ipv4([10, 20, 0, 13], own, &reply)),
            Some(Reply::Answered { sequence: 7 })
        );
        assert_eq!(parse("10.20.0.13", &ipv4([10, 20, 0, 14], own, &reply)), None);
        let of_others = [ECHO_REPLY_V4, 0, 0, 0, 0x12, 0x35, 0, 7];
        assert_eq!(parse("10.20.0.13", &ipv4([10, 20, 0, 13], own, &of_others)), None);
    }

    #[test]
    fn an_error_is_joined_with_the_request_that_it_quotes() {
        let request = [ECHO_REQUEST_V4, 0, 0, 0, 0x12, 0x34, 0, 9];
        let quote = ipv4([10, 20, 0, 11], [10, 20, 0, 13], &request);
        let error = [&[UNREACHABLE_V4, 4, 0, 0, 0, 0, 5, 0x28][..], &quote].concat();
        let packet = ipv4([10, 20, 0, 1], [10, 20, 0, 11], &error);
        assert_eq!(
            parse("10.20.0.13", &packet),
            Some(Reply::Unreachable { sequence: 9, reason: "the packet is too big".to_owned() })
        );
        assert_eq!(parse("10.20.0.14", &packet), None);
    }

    #[test]
    fn an_ipv6_answer_comes_without_its_ip_header() {
        let reply = [ECHO_REPLY_V6, 0, 0, 0, 0x12, 0x34, 0, 3, 1, 2];
        assert_eq!(parse("fd20::13", &reply), Some(Reply::Answered { sequence: 3 }));
    }

    #[test]
    fn cut_off_packets_are_nobodys() {
        for length in 0..27 {
            let packet = ipv4([10, 20, 0, 13], [10, 20, 0, 11], &[0, 0, 0, 0, 0x12, 0x34, 0, 7]);
            assert_eq!(parse("10.20.0.13", &packet[..length]), None, "{length}");
        }
    }
}
