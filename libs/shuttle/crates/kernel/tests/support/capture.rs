//! What comes in at a device, by a packet socket.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsRawFd, FromRawFd};

use super::host::ifindex;

/// Every frame from its start on.
pub(crate) struct Capture {
    socket: File,
}

impl Capture {
    /// At a device of the calling thread's namespace.
    pub(crate) fn at(device: &str) -> Self {
        let protocol = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
        let flags = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers; the descriptor is new and owned by nobody else.
        let socket = unsafe {
            let descriptor = libc::socket(libc::AF_PACKET, flags, 0);
            assert!(descriptor >= 0, "{}", io::Error::last_os_error());
            File::from_raw_fd(descriptor)
        };
        // SAFETY: all-zero is a valid sockaddr_ll, whose length is that given.
        let status = unsafe {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
            address.sll_protocol = protocol;
            address.sll_ifindex = i32::try_from(ifindex(device)).unwrap();
            let length = libc::socklen_t::try_from(size_of_val(&address)).unwrap();
            libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length)
        };
        assert_eq!(status, 0, "{}", io::Error::last_os_error());
        Self { socket }
    }

    /// Those that came since the last call.
    pub(crate) fn frames(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match (&self.socket).read(&mut buffer) {
                Ok(length) => frames.push(buffer[..length].to_vec()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return frames,
                Err(error) => panic!("{error}"),
            }
        }
    }
}
