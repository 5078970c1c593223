//! The helper's side: admits one user, and enters namespaces one request after the other.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::fs::MetadataExt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, fs, io, mem, ptr};

use crate::wire::{Family, Operation, PATH_LENGTH_MAX, Refusal, Reply, Request};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 16;
/// A connected client that sends nothing for so long is left.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the helper cannot start.
#[derive(Debug)]
pub enum ServerError {
    /// It cannot listen.
    Socket {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The namespace to which it must return cannot be opened.
    OwnNamespace(io::Error),
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket { path, source } => {
                write!(f, "cannot listen at {}: {source}", path.display())
            }
            Self::OwnNamespace(source) => {
                write!(f, "cannot open the own network namespace: {source}")
            }
        }
    }
}

impl std::error::Error for ServerError {}

/// A listening helper.
#[derive(Debug)]
pub struct Server {
    listener: OwnedFd,
    home: File,
    admitted_uid: u32,
}

impl Server {
    /// Listens at `path`, in place of what an earlier helper left there. Any user may connect; all
    /// but `admitted_uid` are turned away by what the kernel says of them.
    pub fn bind(path: &Path, admitted_uid: u32) -> Result<Self, ServerError> {
        let home = File::open("/proc/self/ns/net").map_err(ServerError::OwnNamespace)?;
        let listener =
            listen(path).map_err(|source| ServerError::Socket { path: path.to_owned(), source })?;
        Ok(Self { listener, home, admitted_uid })
    }

    /// Serves requests; ends only when the listening socket fails.
    pub fn serve(&self) -> io::Result<()> {
        loop {
            // SAFETY: no address is asked for; the result is a new descriptor or -1.
            let connection = unsafe {
                libc::accept4(
                    self.listener.as_raw_fd(),
                    ptr::null_mut(),
                    ptr::null_mut(),
                    libc::SOCK_CLOEXEC,
                )
            };
            let connection = match own(connection) {
                Ok(connection) => connection,
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EINTR | libc::ECONNABORTED)) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            if peer_uid(connection.as_fd())? != self.admitted_uid {
                continue;
            }
            // A client that left in between concerns nobody.
            let _ = self.answer(connection.as_fd());
        }
    }

    fn answer(&self, connection: BorrowedFd<'_>) -> io::Result<()> {
        set_receive_timeout(connection)?;
        let mut bytes = [0u8; 2 * PATH_LENGTH_MAX];
        // SAFETY: the buffer is as long as said.
        let length = unsafe {
            libc::recv(connection.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), 0)
        };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        let reply = match Request::decode(&bytes[..length]).map(|request| self.perform(&request)) {
            Some(Ok(descriptors)) => Reply::Granted(descriptors),
            Some(Err((refusal, errno))) => Reply::Refused { refusal, errno },
            None => Reply::Refused { refusal: Refusal::BadRequest, errno: 0 },
        };
        reply.send(connection)
    }

    fn perform(&self, request: &Request) -> Result<Vec<OwnedFd>, (Refusal, i32)> {
        let namespace = self.open_namespace(&request.path)?;
        let socket = self.inside(namespace.as_fd(), || match request.operation {
            Operation::OpenNamespace => socket(libc::AF_NETLINK, libc::NETLINK_ROUTE),
            Operation::OpenEcho(Family::V4) => socket(libc::AF_INET, libc::IPPROTO_ICMP),
            Operation::OpenEcho(Family::V6) => socket(libc::AF_INET6, libc::IPPROTO_ICMPV6),
        })?;
        let socket = socket.map_err(refused(Refusal::CannotOpenSocket))?;
        Ok(match request.operation {
            Operation::OpenNamespace => vec![namespace, socket],
            Operation::OpenEcho(_) => vec![socket],
        })
    }

    /// Opens the file only after it has been seen to be a network namespace: opening some other
    /// file could itself do something.
    fn open_namespace(&self, path: &Path) -> Result<OwnedFd, (Refusal, i32)> {
        let name =
            CString::new(path.as_os_str().as_bytes()).map_err(|_| (Refusal::BadRequest, 0))?;
        // SAFETY: `name` is a C string; the result is a new descriptor or -1.
        let handle = own(unsafe { libc::open(name.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) })
            .map_err(|error| {
                let refusal = match error.raw_os_error() {
                    Some(libc::EACCES | libc::EPERM) => Refusal::NoPermission,
                    _ => Refusal::NotFound,
                };
                refused(refusal)(error)
            })?;
        if filesystem(handle.as_fd()).map_err(refused(Refusal::NotANamespace))? != libc::NSFS_MAGIC
        {
            return Err((Refusal::NotANamespace, 0));
        }
        let namespace = File::open(format!("/proc/self/fd/{}", handle.as_raw_fd()))
            .map_err(refused(Refusal::NoPermission))?;
        // SAFETY: NS_GET_NSTYPE takes no argument.
        let kind = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE) };
        if kind != libc::CLONE_NEWNET {
            return Err((Refusal::NotANetworkNamespace, 0));
        }
        let (theirs, ours) = (identity(&namespace), identity(&self.home));
        if theirs.map_err(refused(Refusal::NotANamespace))?
            == ours.map_err(refused(Refusal::NotANamespace))?
        {
            return Err((Refusal::OwnNamespace, 0));
        }
        Ok(namespace.into())
    }

    fn inside<T>(
        &self,
        namespace: BorrowedFd<'_>,
        act: impl FnOnce() -> T,
    ) -> Result<T, (Refusal, i32)> {
        enter(namespace).map_err(refused(Refusal::CannotEnter))?;
        let result = act();
        enter(self.home.as_fd()).unwrap_or_else(|error| {
            // Everything from here on would be done in a stranger's namespace.
            eprintln!("weft-netns: cannot return to the own network namespace: {error}");
            std::process::abort()
        });
        Ok(result)
    }
}

/// `_IO(0xb7, 3)` of linux/nsfs.h.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

fn refused(refusal: Refusal) -> impl Fn(io::Error) -> (Refusal, i32) {
    move |error| (refusal, error.raw_os_error().unwrap_or(0))
}

fn own(descriptor: RawFd) -> io::Result<OwnedFd> {
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the callers pass a descriptor that the kernel has just made for them.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn socket(family: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    own(unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) })
}

fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers. The process has one thread, so no other is left behind.
    if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.st_dev(), metadata.st_ino()))
}

fn filesystem(handle: BorrowedFd<'_>) -> io::Result<i64> {
    // SAFETY: all-zero is a valid statfs; the kernel fills it.
    unsafe {
        let mut status: libc::statfs = mem::zeroed();
        if libc::fstatfs(handle.as_raw_fd(), &raw mut status) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(status.f_type)
    }
}

fn peer_uid(connection: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: all-zero is a valid ucred, the length says its size.
    unsafe {
        let mut peer: libc::ucred = mem::zeroed();
        let mut length = size_of::<libc::ucred>() as libc::socklen_t;
        let descriptor = connection.as_raw_fd();
        if libc::getsockopt(
            descriptor,
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        ) < 0
        {
            return Err(io::Error::last_os_error());
        }
        Ok(peer.uid)
    }
}

fn set_receive_timeout(connection: BorrowedFd<'_>) -> io::Result<()> {
    let timeout = libc::timeval { tv_sec: REQUEST_TIMEOUT.as_secs().cast_signed(), tv_usec: 0 };
    // SAFETY: `timeout` is as long as said.
    let status = unsafe {
        libc::setsockopt(
            connection.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const timeout).cast(),
            size_of::<libc::timeval>() as libc::socklen_t,
        )
    };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn listen(path: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::PermissionsExt;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (address, length) = crate::client::address(path)?;
    // SAFETY: no pointers.
    let listener =
        own(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the address is as long as said.
    if unsafe { libc::bind(listener.as_raw_fd(), (&raw const address).cast(), length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    // SAFETY: no pointers.
    if unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(listener)
}
