//! Datagrams of a unix socket that carry descriptors.

use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr;

use crate::DESCRIPTORS_MAX;

/// Longest text: that of systemd is shorter too.
const TEXT_BYTES_MAX: usize = 4096;
/// Of one descriptor, as the macros want it.
const FD_BYTES: libc::c_uint = 4;
const _: () = assert!(size_of::<RawFd>() == FD_BYTES as usize);

/// Room for the sender's credentials and as many descriptors as one datagram may carry. The words give
/// the alignment that the kernel asks for.
type Control = [MaybeUninit<u64>; 24];

/// What came.
pub(crate) struct Datagram {
    pub(crate) text: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
    /// The sender, as the kernel says.
    pub(crate) pid: libc::pid_t,
}

/// Sends a text with at most one descriptor to the other end of a connected socket.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    text: &str,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut control: Control = [const { MaybeUninit::uninit() }; 24];
    let mut part = libc::iovec { iov_base: text.as_ptr().cast_mut().cast(), iov_len: text.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if let Some(descriptor) = descriptor {
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: these macros compute, and give the first header, for which there is room.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(FD_BYTES) as usize;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(FD_BYTES) as usize;
            let bytes = descriptor.as_raw_fd().to_ne_bytes();
            libc::CMSG_DATA(header).cast::<[u8; FD_BYTES as usize]>().write(bytes);
        }
    }
    // SAFETY: all pointers are to memory that lives during the call and that it only reads.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The next datagram; `WouldBlock` where there is none. What does not fit is cut off.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> io::Result<Datagram> {
    let mut text = vec![0; TEXT_BYTES_MAX];
    let mut control: Control = [const { MaybeUninit::uninit() }; 24];
    let mut part = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: text.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: all pointers are to memory that lives during the call, with its length.
    let read = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    text.truncate(read);
    let mut datagram = Datagram { text, descriptors: Vec::new(), pid: 0 };
    // SAFETY: the kernel filled the control buffer and set its length.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: the macros return null or a header that lies within the buffer.
        header = unsafe {
            take(header, &mut datagram);
            libc::CMSG_NXTHDR(&raw const message, header)
        };
    }
    Ok(datagram)
}

/// # Safety
/// The header lies within a control buffer that the kernel filled.
unsafe fn take(header: *const libc::cmsghdr, datagram: &mut Datagram) {
    // SAFETY: the caller says so.
    let (level, kind, length, data) = unsafe {
        ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len, libc::CMSG_DATA(header))
    };
    match (level, kind) {
        (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
            // SAFETY: CMSG_LEN only computes.
            let bytes = length - unsafe { libc::CMSG_LEN(0) } as usize;
            let count = bytes / size_of::<RawFd>();
            for at in 0..count.min(DESCRIPTORS_MAX) {
                // SAFETY: this kind holds `count` descriptors, which are new and nobody else's.
                datagram.descriptors.push(unsafe {
                    let bytes = data.add(at * size_of::<RawFd>()).cast::<[u8; FD_BYTES as usize]>();
                    OwnedFd::from_raw_fd(RawFd::from_ne_bytes(bytes.read()))
                });
            }
        }
        (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
            // SAFETY: this kind holds one ucred.
            let credentials = unsafe { ptr::read_unaligned(data.cast::<libc::ucred>()) };
            datagram.pid = credentials.pid;
        }
        _ => {}
    }
}
