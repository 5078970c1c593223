//! System calls that the standard library has no name for.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The result of a call that says by a negative number that `errno` tells why.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Like [`check`], for calls that return a length.
pub(crate) fn check_length(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// setsockopt(2) with a plain value, such as an int.
pub(crate) fn set_option<T: Copy>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: T,
) -> io::Result<()> {
    let (at, length) = ((&raw const value).cast(), socklen(size_of::<T>()));
    // SAFETY: the pointer is to a value that lives during the call, and the length is its size.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, at, length) }).map(drop)
}

/// getsockopt(2) of an int.
pub(crate) fn get_option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = socklen(size_of_val(&value));
    let at = (&raw mut value).cast();
    // SAFETY: the pointers are to an int, and to its length.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, at, &raw mut length) })?;
    Ok(value)
}

pub(crate) fn socklen(length: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(length).unwrap_or(libc::socklen_t::MAX)
}
