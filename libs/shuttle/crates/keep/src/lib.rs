//! Descriptors that outlive a process, by the protocol of systemd: a program parks them with its
//! manager (`sd_notify(3)`, `FDSTORE=1`), and the next process of it finds them (`sd_listen_fds(3)`),
//! whether the end was clean or a crash.
//!
//! [`Store`] and [`Parked`] are the program's side, [`Keeper`] is the manager's where there is no
//! systemd.

mod back_off;
mod child;
mod client;
mod datagram;
pub mod fuzz;
mod keeper;
mod wish;

pub use client::{Parked, Store};
pub use keeper::Keeper;

use std::io;

/// Descriptors that are kept: more than any of our programs parks.
pub const DESCRIPTORS_MAX: usize = 16;
/// The first descriptor that a program is given (`SD_LISTEN_FDS_START`).
const FIRST: libc::c_int = 3;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
