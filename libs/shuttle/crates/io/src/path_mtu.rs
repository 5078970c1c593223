//! What the kernel knows of the size of packets on a way.

use std::io;
use std::mem::size_of;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;

/// The largest IP packet that the kernel would send to an address now: by its route and device, and by
/// what routers on the way have told. Nothing is sent.
///
/// `ENETUNREACH` and its like say that there is no way.
pub fn path_mtu(target: SocketAddr) -> io::Result<usize> {
    let (socket, level, name) = match target {
        SocketAddr::V4(_) => {
            (UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?, libc::IPPROTO_IP, libc::IP_MTU)
        }
        SocketAddr::V6(_) => {
            (UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?, libc::IPPROTO_IPV6, libc::IPV6_MTU)
        }
    };
    socket.connect(target)?;
    let mut mtu: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes an int to where the pointer is, and its length.
    let status = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut mtu).cast(), &raw mut length)
    };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    usize::try_from(mtu).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_oneself_has_the_size_of_the_loopback_device() {
        let mtu = std::fs::read_to_string("/sys/class/net/lo/mtu").unwrap();
        let known = path_mtu(SocketAddr::from(([127, 0, 0, 1], 9))).unwrap();
        // No IPv4 packet is longer than its length field says.
        assert_eq!(known, mtu.trim().parse::<usize>().unwrap().min(65_535));
    }
}
