//! Changes of devices, addresses, routes and neighbours, as they happen.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::netlink::{Messages, find, number32, open_descriptor, receive};
use crate::routes::{NEIGHBOUR_HEADER_BYTES, parse_address};

/// Room for one read.
const RECEIVE_BYTES: usize = 16 << 10;
/// What the kernel keeps for a slow reader before it says that something was lost.
static QUEUE_BYTES: i32 = 256 << 10;
const ROUTE_HEADER_BYTES: usize = 12;

/// Something changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A device: made, removed, other features, MTU, MAC or state.
    Link {
        /// Its index.
        ifindex: u32,
    },
    /// A neighbour.
    Neighbour {
        /// At this device.
        ifindex: u32,
        /// Itself.
        address: IpAddr,
    },
    /// Routes or addresses; or too much at once, so that anything may have changed.
    Anything,
}

/// A stream of changes.
#[derive(Debug)]
pub struct Watch {
    descriptor: OwnedFd,
    buffer: Vec<u8>,
}

impl Watch {
    /// Of the calling thread's namespace.
    pub fn open() -> io::Result<Self> {
        let groups = libc::RTMGRP_LINK
            | libc::RTMGRP_NEIGH
            | libc::RTMGRP_IPV4_IFADDR
            | libc::RTMGRP_IPV6_IFADDR
            | libc::RTMGRP_IPV4_ROUTE
            | libc::RTMGRP_IPV6_ROUTE;
        let descriptor = open_descriptor(groups.cast_unsigned())?;
        // SAFETY: the option is an int, and its length says so; no pointers in the second call.
        let status = unsafe {
            libc::setsockopt(
                descriptor.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUF,
                (&raw const QUEUE_BYTES).cast(),
                size_of::<i32>() as libc::socklen_t,
            ) | libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK)
        };
        if status < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { descriptor, buffer: vec![0; RECEIVE_BYTES] })
    }

    /// The changes that are there; `ErrorKind::WouldBlock` when there are none.
    pub fn receive(&mut self) -> io::Result<Vec<Change>> {
        match receive(self.descriptor.as_fd(), &mut self.buffer) {
            Ok(length) => Ok(Messages(&self.buffer[..length])
                .filter_map(|message| parse(message.kind, message.body))
                .collect()),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(vec![Change::Anything]),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> i32 {
        self.descriptor.as_raw_fd()
    }
}

pub(crate) fn parse(kind: u16, body: &[u8]) -> Option<Change> {
    match kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => Some(Change::Link { ifindex: number32(body, 4)? }),
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
            let address = find(body.get(NEIGHBOUR_HEADER_BYTES..)?, libc::NDA_DST)?;
            Some(Change::Neighbour {
                ifindex: number32(body, 4)?,
                address: parse_address(address)?,
            })
        }
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
            let target = find(body.get(ROUTE_HEADER_BYTES..)?, libc::RTA_DST);
            // What every device has: link-local and multicast. No other host is reached by it.
            let is_own_link = matches!(target, Some([0xff, ..] | [0xfe, 0x80, ..]) if body[0] == libc::AF_INET6 as u8);
            (!is_own_link).then_some(Change::Anything)
        }
        libc::RTM_NEWADDR | libc::RTM_DELADDR => Some(Change::Anything),
        _ => None,
    }
}
