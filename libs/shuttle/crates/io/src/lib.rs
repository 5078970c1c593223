//! The host's devices, routes and neighbours: what the shuttle makes, configures and watches in the
//! kernel beside its eBPF programs.
//!
//! All calls are synchronous and take some hundred microseconds; those that make or remove a device
//! may take some ten milliseconds.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "constants and sizes of kernel structs, whose fields are narrower than the types Rust names them with"
)]

mod echo;
mod ethtool;
pub mod fuzz;
mod links;
mod netlink;
mod path_mtu;
mod routes;
mod tap;
mod watch;

pub use echo::{EchoSocket, Reply};
pub use ethtool::{Offloads, offloads};
pub use links::{InnerDevice, Link, Links};
pub use netlink::NetlinkError;
pub use path_mtu::path_mtu;
pub use routes::{Address, Neighbour, NextHop, Routes};
pub use tap::Tap;
pub use watch::{Change, Watch};
