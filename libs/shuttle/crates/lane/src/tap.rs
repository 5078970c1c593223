//! The TAP by which frames come from and go to the kernel's programs.

use std::fs::OpenOptions;
use std::io::{self, IoSlice};
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use arrayvec::ArrayVec;
use weft_seal::{FRAME_AT, META_BYTES, PARTS_MAX, SealMeta, Unfinished, VNET_BYTES, VnetHeader};

use crate::sys::{check, check_length};

// linux/if_tun.h.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8;
/// Checksums, TCP and UDP segmentation of both families: `TUN_F_CSUM` to `TUN_F_USO6`.
const OFFLOADS: libc::c_ulong = 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40;

const ETHERNET_BYTES: usize = 14;

/// What stands between the virtio header and the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// `struct seal_meta`, as the kernel's programs write and read it.
    Meta,
    /// Nothing: a TAP without programs, all of whose frames are for one peer in one network. For
    /// measurements.
    Bare {
        /// The peer.
        host_id: u32,
        /// The network.
        vni: u32,
    },
}

/// A TAP with a virtio header of 12 bytes before each frame, which takes and gives super-packets whole.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    framing: Framing,
}

impl Tap {
    /// Makes the device or takes it over. `node` is the path of `/dev/net/tun`.
    pub fn open(node: &Path, name: &str, framing: Framing) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(node)?;
        // SAFETY: all-zero is a valid ifreq.
        let mut request: libc::ifreq = unsafe { zeroed() };
        if name.len() >= request.ifr_name.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap_or_default();
        // SAFETY: the request is an ifreq that lives during the call.
        check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
        let tap = Self { fd: file.into(), framing };
        tap.configure()?;
        Ok(tap)
    }

    /// A queue of a device that somebody opened. Its offloads are set, since the device keeps those of
    /// whoever had it before.
    pub fn adopt(fd: OwnedFd, framing: Framing) -> io::Result<Self> {
        let tap = Self { fd, framing };
        tap.configure()?;
        Ok(tap)
    }

    /// The queue of the process before, as that one set it. Nothing is asked of the kernel, which might have to
    /// wait for whoever changes any device of the machine (`rtnl_lock`).
    pub fn resume(fd: OwnedFd, framing: Framing) -> Self {
        Self { fd, framing }
    }

    /// Something that takes and gives frames as a TAP does, such as a socket of a test.
    pub fn stand_in(fd: OwnedFd, framing: Framing) -> Self {
        Self { fd, framing }
    }

    fn configure(&self) -> io::Result<()> {
        let header = libc::c_int::try_from(VNET_BYTES).unwrap_or_default();
        let fd = self.fd.as_raw_fd();
        // SAFETY: this request reads an int.
        check(unsafe { libc::ioctl(fd, TUNSETVNETHDRSZ, &raw const header) })?;
        // SAFETY: this request takes a number.
        check(unsafe { libc::ioctl(fd, TUNSETOFFLOAD, OFFLOADS) })?;
        Ok(())
    }

    /// Reads one frame with what stands before it, and returns their length. Without `wait` the error
    /// is `WouldBlock` where there is none.
    pub(crate) fn read(&self, buffer: &mut [u8], wait: bool) -> io::Result<usize> {
        let skip = if self.framing == Framing::Meta { 0 } else { META_BYTES };
        let (front, rest) = buffer.split_at_mut(VNET_BYTES + skip);
        let parts = [part(&mut front[..VNET_BYTES]), part(rest)];
        let flags = if wait { 0 } else { libc::RWF_NOWAIT };
        // SAFETY: both parts are memory that lives during the call, with its length.
        let read = check_length(unsafe {
            libc::preadv2(self.fd.as_raw_fd(), parts.as_ptr(), 2, -1, flags)
        })?;
        match self.framing {
            Framing::Bare { host_id, vni } if read >= VNET_BYTES => {
                add_meta(front, SealMeta { ethertype: 0, host_id, vni });
            }
            _ => {}
        }
        Ok(read + skip)
    }

    /// Writes one frame whose first part is the header that the sealing crate makes.
    pub(crate) fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        match self.framing {
            Framing::Meta => self.write_parts(parts),
            Framing::Bare { .. } => self.write_bare(parts),
        }
    }

    fn write_bare(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let Some((header, payloads)) = parts.split_first() else { return Ok(()) };
        let (vnet, ethernet, rest) = without_meta(header).ok_or(io::ErrorKind::InvalidInput)?;
        let mut bare = ArrayVec::<IoSlice<'_>, { PARTS_MAX + 2 }>::new();
        bare.extend([IoSlice::new(&vnet), IoSlice::new(&ethernet), IoSlice::new(rest)]);
        bare.extend(payloads.iter().map(|payload| IoSlice::new(payload)));
        self.write_parts(&bare)
    }

    fn write_parts(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let count = libc::c_int::try_from(parts.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: an IoSlice has the layout of an iovec, and all of them live during the call.
        let written = unsafe { libc::writev(self.fd.as_raw_fd(), parts.as_ptr().cast(), count) };
        check_length(written).map(drop)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn part(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

/// Puts the meta behind the virtio header, whose offsets count it.
fn add_meta(front: &mut [u8], meta: SealMeta) {
    let (vnet, behind) = front.split_at_mut(VNET_BYTES);
    behind[..META_BYTES].copy_from_slice(&meta.to_bytes());
    let parsed = vnet.first_chunk().and_then(VnetHeader::parse);
    if let Some(header) = parsed.and_then(|header| shifted(header, u16::checked_add)) {
        vnet.copy_from_slice(&header.to_bytes());
    }
}

/// The virtio header as it is without meta, the Ethernet header with the true ethertype, and what
/// follows the meta.
fn without_meta(header: &[u8]) -> Option<([u8; VNET_BYTES], [u8; ETHERNET_BYTES], &[u8])> {
    let vnet = VnetHeader::parse(header.first_chunk()?)?;
    let vnet = shifted(vnet, u16::checked_sub)?.to_bytes();
    let mut ethernet: [u8; ETHERNET_BYTES] = *header.get(VNET_BYTES..)?.first_chunk()?;
    let (meta, rest) = header.get(VNET_BYTES + ETHERNET_BYTES..)?.split_first_chunk()?;
    ethernet[12..].copy_from_slice(&SealMeta::parse(meta)?.ethertype.to_be_bytes());
    Some((vnet, ethernet, rest))
}

fn shifted(header: VnetHeader, shift: fn(u16, u16) -> Option<u16>) -> Option<VnetHeader> {
    let by = u16::try_from(META_BYTES).ok()?;
    let unfinished = match header.unfinished {
        Some(Unfinished { start, offset }) => Some(Unfinished { start: shift(start, by)?, offset }),
        None => None,
    };
    let header_bytes = shift(header.header_bytes, by).unwrap_or(0);
    Some(VnetHeader { unfinished, header_bytes, ..header })
}

const _: () = assert!(FRAME_AT == VNET_BYTES + META_BYTES);
