//! What is fuzzed. A target takes any bytes, does with them what the shuttle would, and panics where
//! something that must hold does not. `fuzzers/` has a program for each, for cargo-fuzz; the tests here
//! hold each against its corpus with the stable compiler.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "the numbers of a target are small"
)]

mod frames;
mod slow;
mod tunnel;

/// A target: its name, which its program and the folder of its corpus have too, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 15] = [
    ("arrivals", frames::arrivals),
    ("control", tunnel::control),
    ("datagram", tunnel::datagram),
    ("echo", weft_io::fuzz::echo),
    ("handover", tunnel::handover),
    ("headers", frames::headers),
    ("helper", weft_netns::fuzz::request),
    ("keeper", weft_keep::fuzz::wish),
    ("life", tunnel::life),
    ("netlink", weft_io::fuzz::netlink),
    ("peer", tunnel::peer),
    ("requests", weft_shuttle::fuzz::requests),
    ("slow_frame", slow::slow_frame),
    ("state", weft_shuttle::fuzz::state),
    ("tap_frame", frames::tap_frame),
];

/// The target of a name, for its program.
///
/// # Panics
/// Where there is none.
pub fn target(name: &str) -> fn(&[u8]) {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.map(|(_, run)| *run).expect("a target of this name")
}
