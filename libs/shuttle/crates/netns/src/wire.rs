//! The messages between shuttle and helper. Both ends run on one machine: integers are in its own
//! order.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::{fmt, io, mem, ptr};

/// Longest path that fits into a request, without its terminating zero.
pub(crate) const PATH_LENGTH_MAX: usize = 255;
/// Descriptors in one reply.
pub(crate) const DESCRIPTORS_MAX: usize = 2;
const MAGIC: u32 = u32::from_be_bytes(*b"WFN1");
const REQUEST_LENGTH: usize = 8 + PATH_LENGTH_MAX + 1;
const REPLY_LENGTH: usize = 12;

/// Internet protocol of an echo socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// ICMP.
    V4,
    /// `ICMPv6`.
    V6,
}

/// What the shuttle asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A descriptor of the namespace and a `NETLINK_ROUTE` socket that lives in it.
    OpenNamespace,
    /// A raw ICMP or `ICMPv6` socket that lives in it.
    OpenEcho(Family),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub operation: Operation,
    pub path: Box<Path>,
}

/// Why the helper did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Refusal {
    /// Not a request of this version.
    BadRequest = 1,
    /// There is no such file.
    NotFound = 2,
    /// The helper may not open the file.
    NoPermission = 3,
    /// The file is something else.
    NotANamespace = 4,
    /// A namespace of another kind.
    NotANetworkNamespace = 5,
    /// The host's own.
    OwnNamespace = 6,
    /// `setns(2)` failed.
    CannotEnter = 7,
    /// `socket(2)` failed inside.
    CannotOpenSocket = 8,
}

impl Refusal {
    const ALL: [Self; 8] = [
        Self::BadRequest,
        Self::NotFound,
        Self::NoPermission,
        Self::NotANamespace,
        Self::NotANetworkNamespace,
        Self::OwnNamespace,
        Self::CannotEnter,
        Self::CannotOpenSocket,
    ];
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadRequest => "the request is malformed: shuttle and weft-netns are of different versions",
            Self::NotFound => "it does not exist",
            Self::NoPermission => "weft-netns may not open it: name a namespace under /run/netns, not one of another user's process",
            Self::NotANamespace => "it is no namespace file",
            Self::NotANetworkNamespace => "it is a namespace, but not one of networks",
            Self::OwnNamespace => "it is the host's own network namespace",
            Self::CannotEnter => "weft-netns cannot enter it: does it run with CAP_SYS_ADMIN?",
            Self::CannotOpenSocket => "no socket could be opened in it: does weft-netns run with CAP_NET_RAW?",
        })
    }
}

impl Request {
    /// Fails with `InvalidInput` when the path is empty, longer than [`PATH_LENGTH_MAX`] or holds a
    /// zero byte.
    pub(crate) fn encode(&self) -> io::Result<[u8; REQUEST_LENGTH]> {
        let path = self.path.as_os_str().as_bytes();
        if path.is_empty() || path.len() > PATH_LENGTH_MAX || path.contains(&0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a namespace path has 1 to {PATH_LENGTH_MAX} bytes and no zero byte"),
            ));
        }
        let mut bytes = [0; REQUEST_LENGTH];
        bytes[..4].copy_from_slice(&MAGIC.to_ne_bytes());
        bytes[4] = match self.operation {
            Operation::OpenNamespace => 1,
            Operation::OpenEcho(Family::V4) => 2,
            Operation::OpenEcho(Family::V6) => 3,
        };
        bytes[8..8 + path.len()].copy_from_slice(path);
        Ok(bytes)
    }

    /// `None` for anything that [`Request::encode`] cannot have made.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != REQUEST_LENGTH || bytes[..4] != MAGIC.to_ne_bytes() {
            return None;
        }
        let operation = match bytes[4] {
            1 => Operation::OpenNamespace,
            2 => Operation::OpenEcho(Family::V4),
            3 => Operation::OpenEcho(Family::V6),
            _ => return None,
        };
        let path = CStr::from_bytes_until_nul(&bytes[8..]).ok()?.to_bytes();
        (!path.is_empty())
            .then(|| Self { operation, path: Path::new(OsStr::from_bytes(path)).into() })
    }
}

/// The answer: descriptors, or a refusal with the kernel's error number (0 when the helper itself
/// refused).
#[derive(Debug)]
pub(crate) enum Reply {
    Granted(Vec<OwnedFd>),
    Refused { refusal: Refusal, errno: i32 },
}

impl Reply {
    pub(crate) fn send(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let (code, errno, descriptors) = match self {
            Self::Granted(descriptors) => (0, 0, descriptors.as_slice()),
            Self::Refused { refusal, errno } => (*refusal as u32, *errno, &[][..]),
        };
        let mut bytes = [0; REPLY_LENGTH];
        bytes[..4].copy_from_slice(&MAGIC.to_ne_bytes());
        bytes[4..8].copy_from_slice(&code.to_ne_bytes());
        bytes[8..].copy_from_slice(&errno.to_ne_bytes());
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        send_with_descriptors(socket, &bytes, &raw)
    }

    /// Fails with what `recvmsg(2)` reports, or `InvalidData` when the answer is not one of the
    /// helper's.
    pub(crate) fn receive(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let malformed = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "weft-netns closed the connection or sent what is no reply",
            )
        };
        let mut bytes = [0; REPLY_LENGTH + 1];
        let (length, descriptors) = receive_with_descriptors(socket, &mut bytes)?;
        if length != REPLY_LENGTH || bytes[..4] != MAGIC.to_ne_bytes() {
            return Err(malformed());
        }
        let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        let code = u32::from_ne_bytes(word(4));
        if code == 0 {
            return Ok(Self::Granted(descriptors));
        }
        let refusal = Refusal::ALL
            .into_iter()
            .find(|refusal| *refusal as u32 == code)
            .ok_or_else(malformed)?;
        Ok(Self::Refused { refusal, errno: i32::from_ne_bytes(word(8)) })
    }
}

const CONTROL_LENGTH: usize = 64;
/// Room for the control message, aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
struct Control([u8; CONTROL_LENGTH]);

fn descriptors_length(count: usize) -> u32 {
    u32::try_from(count * size_of::<RawFd>()).expect("at most DESCRIPTORS_MAX")
}

fn send_with_descriptors(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[RawFd],
) -> io::Result<()> {
    assert!(descriptors.len() <= DESCRIPTORS_MAX);
    let mut control = Control([0; CONTROL_LENGTH]);
    let mut vector =
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    if !descriptors.is_empty() {
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE, CMSG_LEN only compute; `control` outlives `message`, is aligned, and
        // 64 bytes hold a header of 16 and two descriptors.
        unsafe {
            message.msg_controllen =
                libc::CMSG_SPACE(descriptors_length(descriptors.len())) as usize;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(descriptors_length(descriptors.len())) as usize;
            // The kernel wants bytes there, at any alignment.
            ptr::copy_nonoverlapping(
                descriptors.as_ptr().cast::<u8>(),
                libc::CMSG_DATA(header),
                size_of_val(descriptors),
            );
        }
    }
    // SAFETY: `message` points at buffers that live through the call.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn receive_with_descriptors(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = Control([0; CONTROL_LENGTH]);
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_LENGTH;
    // SAFETY: `message` points at buffers that live through the call.
    let received =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let Ok(length) = usize::try_from(received) else {
        return Err(io::Error::last_os_error());
    };
    let mut descriptors = Vec::new();
    // SAFETY: the kernel filled `control` and set `msg_controllen`; CMSG_* stay inside it. Each
    // descriptor is new and owned by nobody else.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let length = (*header).cmsg_len - libc::CMSG_LEN(0) as usize;
                for index in 0..length / size_of::<RawFd>() {
                    let mut bytes = [0; size_of::<RawFd>()];
                    let data = libc::CMSG_DATA(header).add(index * bytes.len());
                    ptr::copy_nonoverlapping(data, bytes.as_mut_ptr(), bytes.len());
                    let descriptor = RawFd::from_ne_bytes(bytes);
                    descriptors.push(OwnedFd::from_raw_fd(descriptor));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok((length, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str) -> Request {
        Request { operation: Operation::OpenEcho(Family::V6), path: Path::new(path).into() }
    }

    #[test]
    fn a_request_survives_the_wire() {
        let bytes = request("/run/netns/blue").encode().unwrap();
        assert_eq!(Request::decode(&bytes), Some(request("/run/netns/blue")));
    }

    #[test]
    fn paths_that_do_not_fit_are_refused() {
        for path in [String::new(), "x".repeat(PATH_LENGTH_MAX + 1), "a\0b".to_owned()] {
            assert_eq!(request(&path).encode().unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        assert!(request(&"x".repeat(PATH_LENGTH_MAX)).encode().is_ok());
    }

    #[test]
    fn strange_bytes_are_no_request() {
        let good = request("/run/netns/blue").encode().unwrap();
        assert_eq!(Request::decode(&good[..REQUEST_LENGTH - 1]), None);
        for (at, value) in [(0, 0), (4, 0), (4, 9), (8, 0)] {
            let mut bytes = good;
            bytes[at] = value;
            assert_eq!(Request::decode(&bytes), None, "byte {at} = {value}");
        }
        let mut unterminated = good;
        unterminated[8..].fill(b'x');
        assert_eq!(Request::decode(&unterminated), None);
    }
}
