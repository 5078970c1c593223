//! The TAPs by which packets reach the shuttle and go back.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

// linux/if_tun.h.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNSETPERSIST: libc::Ioctl = 0x4004_54cb;
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
const TUNGETIFF: libc::Ioctl = 0x8004_54d2;
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8;
const TUN_F_CSUM: libc::c_ulong = 0x01;
const TUN_F_TSO4: libc::c_ulong = 0x02;
const TUN_F_TSO6: libc::c_ulong = 0x04;
const TUN_F_TSO_ECN: libc::c_ulong = 0x08;
const TUN_F_USO4: libc::c_ulong = 0x20;
const TUN_F_USO6: libc::c_ulong = 0x40;
/// `struct virtio_net_hdr_v1`.
const VNET_HEADER_BYTES: libc::c_int = 12;

/// A persistent TAP with a virtio header of 12 bytes before each frame, which takes and gives
/// super-packets whole.
#[derive(Debug)]
pub struct Tap {
    file: File,
}

impl Tap {
    /// Longest frame with its header: a super-packet of 64 KiB with what stands before it.
    pub const FRAME_BYTES_MAX: usize = (64 << 10) + 256;

    /// Makes the device, or takes it over from a process that is gone. `node` is the path of
    /// `/dev/net/tun`. Reading does not wait.
    ///
    /// `EBUSY` says that another process has it.
    pub fn open(node: &Path, name: &str) -> io::Result<Self> {
        let tap = Self::attach(node, name, 0)?;
        // SAFETY: sets a flag of a descriptor that is open.
        unsafe {
            check(libc::fcntl(tap.file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK))?;
        }
        Ok(tap)
    }

    /// Adds a queue to a device of several, which is made where it is missing, or taken over from a
    /// process that is gone. The kernel spreads frames over the queues by their flows. Reading
    /// waits: a queue is for a thread of its own.
    pub fn open_queue(node: &Path, name: &str) -> io::Result<Self> {
        Self::attach(node, name, libc::IFF_MULTI_QUEUE)
    }

    /// A queue that an earlier process had and that was kept open since: what came meanwhile waits in
    /// it. Fails where it is none of this device, or the device is gone.
    pub fn adopt(queue: OwnedFd, name: &str) -> io::Result<Self> {
        // SAFETY: all-zero is a valid ifreq.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        // SAFETY: this request writes an ifreq.
        check(unsafe { libc::ioctl(queue.as_raw_fd(), TUNGETIFF, &raw mut request) })?;
        let of = request.ifr_name.iter().map(|byte| byte.cast_unsigned());
        if of.take_while(|byte| *byte != 0).eq(name.bytes()) {
            Ok(Self { file: queue.into() })
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }

    fn attach(node: &Path, name: &str, flags: libc::c_int) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(node)?;
        // SAFETY: all-zero is a valid ifreq.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *slot = byte.cast_signed();
        }
        request.ifr_ifru.ifru_flags =
            (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | flags) as i16;
        let header_bytes = VNET_HEADER_BYTES;
        // What a TAP hands over is set for the device, so a persistent one has what its last user
        // set.
        let offloads =
            TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6;
        let persist: libc::c_ulong = 1;
        // SAFETY: each request takes what it is given: an ifreq, a pointer to an int, and numbers.
        unsafe {
            check(libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request))?;
            check(libc::ioctl(file.as_raw_fd(), TUNSETVNETHDRSZ, &raw const header_bytes))?;
            check(libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD, offloads))?;
            check(libc::ioctl(file.as_raw_fd(), TUNSETPERSIST, persist))?;
        }
        Ok(Self { file })
    }

    /// One frame; `ErrorKind::WouldBlock` when there is none and reading does not wait.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Gives a frame to the kernel, which has handled it when this returns.
    pub fn write(&self, frame: &[u8]) -> io::Result<()> {
        (&self.file).write(frame).map(drop)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn check(status: libc::c_int) -> io::Result<()> {
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
