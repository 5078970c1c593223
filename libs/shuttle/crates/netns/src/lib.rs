//! Entering a network namespace needs `CAP_SYS_ADMIN`, which the shuttle must not have. A process
//! that does nothing else, `weft-netns`, enters it instead and hands descriptors over.
//!
//! One connection of an `AF_UNIX` `SOCK_SEQPACKET` socket carries one [`Request`] and one
//! [`Reply`], both of fixed size, the reply with the descriptors as `SCM_RIGHTS`. The helper keeps
//! no state, so either process may be replaced at any time.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "constants and sizes of kernel structs, whose fields are narrower than the types Rust names them with"
)]

mod client;
pub mod fuzz;
mod server;
mod wire;

pub use client::{Client, Error};
pub use server::{Server, ServerError};
pub use wire::{Family, Refusal};
