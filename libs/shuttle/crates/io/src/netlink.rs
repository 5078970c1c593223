//! Requests to the kernel over `NETLINK_ROUTE` (RFC 3549, linux/netlink.h, linux/rtnetlink.h).

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use thiserror::Error;

/// Room for one read. The kernel makes dump messages of at most 32 KiB.
const RECEIVE_BYTES: usize = 64 << 10;
const HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// `NLMSGERR_ATTR_MSG` of linux/netlink.h: what the kernel says in words.
const ERROR_TEXT: u16 = 1;

/// The kernel refused a request.
#[derive(Debug, Error)]
#[error("cannot {what}: {source}{}", .text.as_deref().map(|text| format!(" ({text})")).unwrap_or_default())]
pub struct NetlinkError {
    /// What was wanted, for example `make device wl7`.
    pub what: String,
    /// The kernel's error number.
    pub source: io::Error,
    /// The kernel's own words.
    pub text: Option<String>,
}

impl NetlinkError {
    /// The kernel's error number, 0 for none.
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }
}

/// A message as it is built: header, family header, attributes.
#[derive(Debug)]
pub(crate) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// `flags` beside `NLM_F_REQUEST`; `family_header` is the fixed struct of the message type.
    pub(crate) fn new(kind: u16, flags: i32, family_header: &[u8]) -> Self {
        let flags = u16::try_from(libc::NLM_F_REQUEST | flags).expect("flags have 16 bits");
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(family_header);
        let mut request = Self { bytes };
        request.pad();
        request
    }

    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        self.attribute(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    pub(crate) fn nested(mut self, kind: u16, content: impl FnOnce(Self) -> Self) -> Self {
        let at = self.bytes.len();
        self.push(kind | NESTED, &[]);
        let mut outer = content(self);
        let length = u16::try_from(outer.bytes.len() - at).expect("requests are short");
        outer.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        outer
    }

    /// A fixed struct inside a nested attribute.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        let length =
            u16::try_from(ATTRIBUTE_HEADER_BYTES + value.len()).expect("attributes are short");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

const NESTED: u16 = libc::NLA_F_NESTED as u16;
const TYPE_MASK: u16 = libc::NLA_TYPE_MASK as u16;

/// Attributes in the order of the message.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(number16(rest, 0)?);
        let kind = number16(rest, 2)? & TYPE_MASK;
        let value = rest.get(ATTRIBUTE_HEADER_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(crate) fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

pub(crate) fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

pub(crate) fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// A message from the kernel: its type, and what follows the netlink header.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: u16,
    pub(crate) body: Vec<u8>,
}

/// A socket for one request at a time.
#[derive(Debug)]
pub(crate) struct Socket {
    descriptor: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// In the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        Self::from_descriptor(open_descriptor(0)?)
    }

    /// In the namespace where the descriptor was made.
    pub(crate) fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK, libc::NETLINK_GET_STRICT_CHK] {
            let on: i32 = 1;
            // SAFETY: the option is an int, and its length says so.
            let status = unsafe {
                libc::setsockopt(
                    descriptor.as_raw_fd(),
                    libc::SOL_NETLINK,
                    option,
                    (&raw const on).cast(),
                    size_of::<i32>() as libc::socklen_t,
                )
            };
            if status < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Self { descriptor, sequence: 0, buffer: vec![0; RECEIVE_BYTES] })
    }

    /// Sends a request and waits until the kernel has done it.
    pub(crate) fn execute(&mut self, what: &str, request: Request) -> Result<(), NetlinkError> {
        self.exchange(what, request, libc::NLM_F_ACK, |_| {})
    }

    /// The one message that answers a question.
    pub(crate) fn ask(
        &mut self,
        what: &str,
        request: Request,
    ) -> Result<Option<Message>, NetlinkError> {
        let mut answer = None;
        self.exchange(what, request, libc::NLM_F_ACK, |message| answer = Some(message))?;
        Ok(answer)
    }

    /// All rows of a table.
    pub(crate) fn dump(
        &mut self,
        what: &str,
        request: Request,
    ) -> Result<Vec<Message>, NetlinkError> {
        let mut messages = Vec::new();
        self.exchange(what, request, libc::NLM_F_DUMP, |message| messages.push(message))?;
        Ok(messages)
    }

    fn exchange(
        &mut self,
        what: &str,
        request: Request,
        flags: i32,
        mut take: impl FnMut(Message),
    ) -> Result<(), NetlinkError> {
        let failed = |source, text| NetlinkError { what: what.to_owned(), source, text };
        self.sequence += 1;
        let mut bytes = request.bytes;
        let length = u32::try_from(bytes.len()).expect("requests are short");
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let flags = number16(&bytes, 6).expect("a header")
            | u16::try_from(flags).expect("flags have 16 bits");
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        send(self.descriptor.as_fd(), &bytes).map_err(|error| failed(error, None))?;
        loop {
            let length = receive(self.descriptor.as_fd(), &mut self.buffer)
                .map_err(|error| failed(error, None))?;
            for message in Messages(&self.buffer[..length]) {
                if message.sequence != self.sequence {
                    continue;
                }
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => {
                        let (errno, text) = message.error();
                        return match errno {
                            0 => Ok(()),
                            errno => Err(failed(io::Error::from_raw_os_error(errno), text)),
                        };
                    }
                    _ => take(Message { kind: message.kind, body: message.body.to_vec() }),
                }
            }
        }
    }
}

/// A new `NETLINK_ROUTE` socket that hears of the groups in the mask.
pub(crate) fn open_descriptor(groups: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor is new and owned by nobody else.
    let descriptor = unsafe {
        let descriptor = libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::NETLINK_ROUTE,
        );
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(descriptor)
    };
    // SAFETY: all-zero is a valid sockaddr_nl: the kernel chooses the address.
    let status = unsafe {
        let mut address: libc::sockaddr_nl = mem::zeroed();
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = groups;
        let length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        libc::bind(descriptor.as_raw_fd(), (&raw const address).cast(), length)
    };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(descriptor) }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    // A message with an address is judged by who sends it, one without also by who opened the
    // socket (`__netlink_ns_capable`, net/netlink/af_netlink.c): the helper, which opens sockets in
    // namespaces, has no CAP_NET_ADMIN.
    // SAFETY: all-zero is a valid address, that of the kernel.
    let mut kernel: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    kernel.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    // SAFETY: the buffer and the address are as long as said.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            0,
            (&raw const kernel).cast(),
            size_of::<libc::sockaddr_nl>() as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// One datagram; `ErrorKind::WouldBlock` for none on a socket that does not block.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is as long as said.
    let received =
        unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}

/// The messages of a datagram.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

pub(crate) struct RawMessage<'a> {
    pub(crate) kind: u16,
    flags: u16,
    sequence: u32,
    pub(crate) body: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = RawMessage<'a>;

    fn next(&mut self) -> Option<RawMessage<'a>> {
        let length = usize::try_from(number32(self.0, 0)?).ok()?;
        let message = RawMessage {
            kind: number16(self.0, 4)?,
            flags: number16(self.0, 6)?,
            sequence: number32(self.0, 8)?,
            body: self.0.get(HEADER_BYTES..length)?,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

impl RawMessage<'_> {
    pub(crate) fn error(&self) -> (i32, Option<String>) {
        let errno =
            number32(self.body, 0).map_or(libc::EPROTO, |value| value.cast_signed().wrapping_neg());
        let has_text = i32::from(self.flags) & libc::NLM_F_ACK_TLVS != 0;
        // NETLINK_CAP_ACK: after the number comes the header of the request alone.
        let text = self
            .body
            .get(4 + HEADER_BYTES..)
            .filter(|_| has_text)
            .and_then(|rest| find(rest, ERROR_TEXT));
        let text = text.map(|text| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
        (errno, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_nest_and_are_found_again() {
        let request = Request::new(1, 0, &[9; 3])
            .text(3, "wl7")
            .nested(4, |inner| inner.number(1, 7).attribute(2, &[1, 2, 3]));
        let body = &request.bytes[HEADER_BYTES + 4..];
        assert_eq!(find(body, 3), Some(&b"wl7\0"[..]));
        let inner = find(body, 4).unwrap();
        assert_eq!(find(inner, 1).and_then(|value| number32(value, 0)), Some(7));
        assert_eq!(find(inner, 2), Some(&[1, 2, 3][..]));
        assert_eq!(find(inner, 3), None);
    }

    #[test]
    fn a_truncated_message_ends_the_walk() {
        let bytes = [200u32.to_ne_bytes(), [0; 4], [0; 4], [0; 4]].concat();
        assert_eq!(Messages(&bytes).count(), 0);
        assert_eq!(attributes(&[12, 0, 1, 0, 0]).count(), 0);
    }
}
