//! The UDP socket of the sealed carrier.

use std::io::{self, ErrorKind};
use std::mem::{MaybeUninit, zeroed};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::address::{Family, RawAddress};
use crate::sys::{check, check_length, get_option, set_option, socklen};

/// Bytes that each direction may queue in the kernel.
const QUEUE_BYTES: libc::c_int = 8 << 20;
/// Bytes that a receive may fill: more than any UDP payload.
pub(crate) const RECEIVE_BYTES: usize = 1 << 16;

/// A socket that sends and receives batches of datagrams and never has them fragmented.
#[derive(Debug)]
pub struct UdpSocket {
    fd: OwnedFd,
    family: Family,
}

/// What one receive gave.
#[derive(Clone, Copy)]
pub(crate) struct Received {
    pub(crate) bytes: usize,
    /// Length of each datagram but the last.
    pub(crate) datagram_bytes: usize,
    pub(crate) source: RawAddress,
}

impl UdpSocket {
    /// A socket for both families on all addresses, or for IPv4 alone where the host has no IPv6.
    pub fn open(port: u16) -> io::Result<Self> {
        match Self::bind(SocketAddr::new(IpAddr::from([0u16; 8]), port)) {
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                Self::bind(SocketAddr::new(IpAddr::from([0u8; 4]), port))
            }
            socket => socket,
        }
    }

    /// A socket at one address; an IPv6 one takes IPv4 datagrams too where it is unspecified.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let (domain, family) = match address {
            SocketAddr::V4(_) => (libc::AF_INET, Family::V4),
            SocketAddr::V6(_) => (libc::AF_INET6, Family::Both),
        };
        // SAFETY: socket() takes no pointers.
        let fd = check(unsafe { libc::socket(domain, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: the descriptor is new and nobody else's.
        let socket = Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, family };
        if family == Family::Both {
            // It cannot be set any more once the socket is bound.
            socket.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
        }
        socket.configure()?;
        let raw = RawAddress::new(address, family).ok_or(ErrorKind::AddrNotAvailable)?;
        let bytes = raw.as_bytes();
        // SAFETY: the bytes are a socket address of that length.
        check(unsafe { libc::bind(fd, bytes.as_ptr().cast(), socklen(bytes.len())) })?;
        Ok(socket)
    }

    /// A socket that another process bound and handed over.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let option = |name| get_option(fd.as_fd(), libc::SOL_SOCKET, name);
        let family = match (option(libc::SO_TYPE)?, option(libc::SO_DOMAIN)?) {
            (libc::SOCK_DGRAM, libc::AF_INET) => Family::V4,
            (libc::SOCK_DGRAM, libc::AF_INET6) => Family::Both,
            _ => return Err(ErrorKind::InvalidInput.into()),
        };
        let socket = Self { fd, family };
        socket.configure()?;
        Ok(socket)
    }

    /// Something that sends and receives nearly as such a socket does, for a test.
    pub fn stand_in(fd: OwnedFd, family: Family) -> Self {
        Self { fd, family }
    }

    fn configure(&self) -> io::Result<()> {
        if self.family == Family::Both {
            self.set(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
        }
        self.set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
        for (force, plain) in
            [(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF), (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)]
        {
            // Without the right to go beyond the host's limit, up to it.
            if self.set(libc::SOL_SOCKET, force, QUEUE_BYTES).is_err() {
                self.set(libc::SOL_SOCKET, plain, QUEUE_BYTES)?;
            }
        }
        Ok(())
    }

    fn set(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
        set_option(self.fd.as_fd(), level, name, value)
    }

    /// Which addresses it takes.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The port it is bound to.
    pub fn port(&self) -> io::Result<u16> {
        let mut bytes = [0u8; RawAddress::CAPACITY];
        let mut length = socklen(bytes.len());
        // SAFETY: the kernel writes at most `length` bytes to the array.
        check(unsafe {
            libc::getsockname(self.fd.as_raw_fd(), bytes.as_mut_ptr().cast(), &raw mut length)
        })?;
        Ok(RawAddress::from_kernel(bytes, length as usize).get().port())
    }

    /// Whether the kernel may put received datagrams of one length together.
    pub(crate) fn set_gro(&self, on: bool) -> io::Result<()> {
        self.set(libc::SOL_UDP, libc::UDP_GRO, libc::c_int::from(on))
    }

    /// Lets a receive end with `WouldBlock` after a while.
    pub(crate) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        let limit = libc::timeval {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
            tv_usec: i64::from(patience.subsec_micros()),
        };
        set_option(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, limit)
    }

    /// Sends `bytes` as one datagram, or as many of `datagram_bytes` each.
    pub(crate) fn send(
        &self,
        target: &RawAddress,
        source: Option<IpAddr>,
        bytes: &[u8],
        datagram_bytes: Option<u16>,
    ) -> io::Result<()> {
        let mut control = Control::default();
        if let Some(datagram_bytes) = datagram_bytes {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, datagram_bytes);
        }
        if let Some(source) = source {
            self.push_source(&mut control, source);
        }
        let mut part =
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let address = target.as_bytes();
        // SAFETY: all-zero is a valid msghdr.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_name = address.as_ptr().cast_mut().cast();
        message.msg_namelen = socklen(address.len());
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        if control.used > 0 {
            message.msg_control = control.bytes.as_mut_ptr().cast();
            message.msg_controllen = control.used;
        }
        // SAFETY: all pointers are to memory that lives during the call and that it only reads.
        check_length(unsafe { libc::sendmsg(self.fd.as_raw_fd(), &raw const message, 0) }).map(drop)
    }

    fn push_source(&self, control: &mut Control, source: IpAddr) {
        match (self.family, source) {
            (Family::V4, IpAddr::V4(v4)) => {
                let ipi_spec_dst = libc::in_addr { s_addr: u32::from_ne_bytes(v4.octets()) };
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst,
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            (Family::V4, IpAddr::V6(_)) => {}
            (Family::Both, _) => {
                let v6 = match source {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => v6,
                };
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: v6.octets() },
                    ipi6_ifindex: 0,
                };
                control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
        }
    }

    /// Waits for datagrams and writes them one behind the other into `buffer`.
    pub(crate) fn receive(&self, buffer: &mut [u8], flags: libc::c_int) -> io::Result<Received> {
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut name = [0u8; RawAddress::CAPACITY];
        let mut control = Control::default();
        // SAFETY: all-zero is a valid msghdr.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_name = name.as_mut_ptr().cast();
        message.msg_namelen = socklen(name.len());
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.bytes.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control.bytes);
        // SAFETY: all pointers are to memory that lives during the call, with its length.
        let bytes =
            check_length(unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, flags) })?;
        let datagram_bytes = gro_bytes(&message).unwrap_or(bytes);
        let source = RawAddress::from_kernel(name, message.msg_namelen as usize);
        Ok(Received { bytes, datagram_bytes, source })
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The length that the kernel tells of datagrams which it put together.
fn gro_bytes(message: &libc::msghdr) -> Option<usize> {
    // SAFETY: the kernel filled the control buffer and set its length.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: the macros return null or a header that lies within the buffer.
        let (kind, next) = unsafe {
            (((*header).cmsg_level, (*header).cmsg_type), libc::CMSG_NXTHDR(message, header))
        };
        if kind == (libc::SOL_UDP, libc::UDP_GRO) {
            // SAFETY: this kind of message holds an int (net/ipv4/udp.c, udp_cmsg_recv).
            let bytes = unsafe { libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned() };
            return usize::try_from(bytes).ok().filter(|bytes| *bytes > 0);
        }
        header = next;
    }
    None
}

/// Control messages in the making. The words give the alignment that the kernel asks for.
struct Control {
    bytes: [MaybeUninit<u64>; 16],
    used: usize,
}

impl Default for Control {
    fn default() -> Self {
        Self { bytes: [const { MaybeUninit::uninit() }; 16], used: 0 }
    }
}

impl Control {
    fn push<T: Copy>(&mut self, level: libc::c_int, kind: libc::c_int, value: T) {
        let length = u32::try_from(size_of::<T>()).unwrap_or(u32::MAX);
        // SAFETY: these macros only compute.
        let (space, whole) = unsafe { (libc::CMSG_SPACE(length), libc::CMSG_LEN(length)) };
        let header = libc::cmsghdr { cmsg_len: whole as usize, cmsg_level: level, cmsg_type: kind };
        // Space is a multiple of the words' length.
        let words = &mut self.bytes[self.used / size_of::<u64>()..];
        assert!(space as usize <= size_of_val(words));
        let at = words.as_mut_ptr();
        // SAFETY: the assertion says that header and value fit behind what is there.
        unsafe {
            at.cast::<libc::cmsghdr>().write(header);
            libc::CMSG_DATA(at.cast()).cast::<T>().write_unaligned(value);
        }
        self.used += space as usize;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_socket_of_each_family_can_be_handed_over() {
        for address in ["127.0.0.1:0", "[::]:0"] {
            let Ok(socket) = UdpSocket::bind(address.parse().unwrap()) else { continue };
            let again = UdpSocket::adopt(socket.as_fd().try_clone_to_owned().unwrap()).unwrap();
            assert_eq!(again.family(), socket.family());
            assert_eq!(again.port().unwrap(), socket.port().unwrap());
        }
        let other = std::os::unix::net::UnixDatagram::unbound().unwrap();
        assert!(UdpSocket::adopt(other.into()).is_err());
    }
}
