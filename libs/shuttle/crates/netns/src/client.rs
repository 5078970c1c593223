//! The shuttle's side.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{fmt, io, mem};

use crate::wire::{Family, Operation, Refusal, Reply, Request};

/// Why no descriptor came.
#[derive(Debug)]
pub enum Error {
    /// The path cannot be asked for at all.
    BadPath {
        /// What was asked for.
        path: PathBuf,
        /// Why it cannot be asked for.
        source: io::Error,
    },
    /// The helper does not answer.
    Unreachable {
        /// Where it should listen.
        socket: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The helper refused.
    Refused {
        /// What was asked for.
        path: PathBuf,
        /// Why.
        refusal: Refusal,
        /// The kernel's error number, 0 where the helper itself refused.
        errno: i32,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadPath { path, source } => {
                write!(f, "{} is no path of a namespace: {source}", path.display())
            }
            Self::Unreachable { socket, source } => {
                write!(
                    f,
                    "weft-netns does not answer at {}: {source}; start it, and let it admit this user",
                    socket.display()
                )
            }
            Self::Refused { path, refusal, errno: 0 } => {
                write!(f, "network namespace {}: {refusal}", path.display())
            }
            Self::Refused { path, refusal, errno } => {
                write!(
                    f,
                    "network namespace {}: {refusal} ({})",
                    path.display(),
                    io::Error::from_raw_os_error(*errno)
                )
            }
        }
    }
}

impl std::error::Error for Error {}

/// Asks the helper that listens at a path.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Connects for each request anew, so a helper may be replaced at any time.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// A descriptor of the namespace at `path` and a `NETLINK_ROUTE` socket in it.
    pub fn open_namespace(&self, path: &Path) -> Result<(OwnedFd, OwnedFd), Error> {
        let [namespace, netlink] = self.ask(Operation::OpenNamespace, path)?;
        Ok((namespace, netlink))
    }

    /// A raw echo socket in the namespace at `path`.
    pub fn open_echo(&self, path: &Path, family: Family) -> Result<OwnedFd, Error> {
        let [socket] = self.ask(Operation::OpenEcho(family), path)?;
        Ok(socket)
    }

    fn ask<const N: usize>(
        &self,
        operation: Operation,
        path: &Path,
    ) -> Result<[OwnedFd; N], Error> {
        let request = Request { operation, path: path.into() };
        let bytes =
            request.encode().map_err(|source| Error::BadPath { path: path.to_owned(), source })?;
        let unreachable = |source| Error::Unreachable { socket: self.socket.clone(), source };
        let reply = exchange(&self.socket, &bytes).map_err(unreachable)?;
        match reply {
            Reply::Granted(descriptors) => descriptors.try_into().map_err(|_| {
                unreachable(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "it sent another number of descriptors",
                ))
            }),
            Reply::Refused { refusal, errno } => {
                Err(Error::Refused { path: path.to_owned(), refusal, errno })
            }
        }
    }
}

fn exchange(path: &Path, request: &[u8]) -> io::Result<Reply> {
    let (address, length) = address(path)?;
    // SAFETY: no pointers; the descriptor is new and owned by nobody else.
    let socket = unsafe {
        let descriptor = libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0);
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(descriptor)
    };
    // SAFETY: the address and the request are as long as said.
    unsafe {
        if libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) < 0
            || libc::send(
                socket.as_raw_fd(),
                request.as_ptr().cast(),
                request.len(),
                libc::MSG_NOSIGNAL,
            ) < 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    Reply::receive(socket.as_fd())
}

/// The socket address of a path.
pub(crate) fn address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: all-zero is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() {
        let text = format!("a socket path has at most {} bytes", address.sun_path.len() - 1);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    for (slot, byte) in address.sun_path.iter_mut().zip(bytes) {
        *slot = byte.cast_signed();
    }
    Ok((address, size_of::<libc::sockaddr_un>() as libc::socklen_t))
}
