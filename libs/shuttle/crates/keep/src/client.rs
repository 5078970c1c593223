//! The program's side.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::{FIRST, check, datagram};

/// A manager that does not read must not hold a program up.
const PATIENCE: Duration = Duration::from_millis(500);

/// A manager that keeps descriptors for the next process of this program.
#[derive(Debug)]
pub struct Store {
    socket: UnixDatagram,
}

impl Store {
    /// The manager that `NOTIFY_SOCKET` names, where there is one.
    pub fn from_environment() -> io::Result<Option<Self>> {
        let name = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        name.map(|name| Self::connect(&name)).transpose()
    }

    fn connect(name: &OsString) -> io::Result<Self> {
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket })
    }

    /// Parks a descriptor. One that is parked by that name already is kept beside it.
    ///
    /// It is kept even where it tells of an error or a hang-up (`FDPOLL=0`): a socket does that of its
    /// peers, too.
    pub fn put(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let text = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0");
        datagram::send(self.socket.as_fd(), &text, Some(descriptor))
    }

    /// Has all descriptors of that name closed.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        datagram::send(self.socket.as_fd(), &format!("FDSTOREREMOVE=1\nFDNAME={name}"), None)
    }

    /// Says that the program serves.
    pub fn ready(&self) -> io::Result<()> {
        datagram::send(self.socket.as_fd(), "READY=1", None)
    }
}

/// What an earlier process of this program parked.
#[derive(Debug, Default)]
pub struct Parked(BTreeMap<String, OwnedFd>);

impl Parked {
    /// Takes what this process was given at its start; nothing the second time. Of several of one name
    /// the last one is taken. No other program that this process starts will have them.
    pub fn take_from_environment() -> Self {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Relaxed) {
            return Self::default();
        }
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
        if number("LISTEN_PID") != Some(std::process::id()) {
            return Self::default();
        }
        let count = number("LISTEN_FDS").unwrap_or(0).min(256).cast_signed();
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut parked = BTreeMap::new();
        for descriptor in FIRST..FIRST + count {
            let name = names.next().unwrap_or_default();
            // SAFETY: fcntl takes any number.
            if unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) } == 0 {
                // SAFETY: it is open, was given to this process, and is taken once.
                parked.insert(name.to_owned(), unsafe { OwnedFd::from_raw_fd(descriptor) });
            }
        }
        Self(parked)
    }

    /// The descriptor of that name, once.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        self.0.remove(name)
    }
}

/// A socket for a manager, and the name by which a program finds it. The kernel chooses the name
/// (unix(7), autobind): there is no file that stays behind.
pub(crate) fn listen() -> io::Result<(UnixDatagram, String)> {
    let socket = UnixDatagram::unbound()?;
    let family = libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or_default();
    let (fd, on): (_, libc::c_int) = (socket.as_raw_fd(), 1);
    // SAFETY: the pointers are to values that live during the calls, with their lengths.
    unsafe {
        check(libc::bind(fd, (&raw const family).cast(), socklen(size_of_val(&family))))?;
        let (at, length) = ((&raw const on).cast(), socklen(size_of_val(&on)));
        check(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_PASSCRED, at, length))?;
    }
    let address = socket.local_addr()?;
    let name = address.as_abstract_name().ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok((socket, format!("@{}", String::from_utf8_lossy(name))))
}

fn socklen(length: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(length).unwrap_or(libc::socklen_t::MAX)
}
