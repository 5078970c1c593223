//! What the shuttle decides about packets and tables. There are no sockets, no kernel and no clock
//! in here: frames, changes and the time go in, frames and what to write to the kernel come out.

mod engine;
mod flows;
mod packet;
#[cfg(test)]
mod sample;
mod slow;
mod tables;
mod too_big;
mod waiting;

pub use engine::{Applied, Engine, MISSES_PER_BATCH_MAX, Miss};
pub use flows::{Flow, FlowKey, FlowTarget};
pub use packet::Mac;
pub use slow::SlowFrame;
pub use tables::{
    Change, Endpoint, FlowRefusal, KernelChanges, Members, Network, Peer, PeerKey, PeerKind, Place,
    Plan, Port, Prefix, Row, TableError, Tables,
};
