//! Packet threads of the sealed carrier: frames from a TAP are sealed and sent by UDP, datagrams are
//! opened and written to the TAP. Who may talk to whom, and with which sessions, is told by a control
//! thread; packet threads wait for nobody.

mod address;
mod counters;
mod events;
mod lanes;
mod measure;
mod probe;
mod receive;
mod socket;
mod switches;
mod sys;
mod table;
mod tap;
mod transmit;
mod waiting;

pub use address::Family;
pub use counters::{Fallback, PeerTraffic};
pub use events::{EVENTS_MAX, Event, Events, HANDSHAKES_MAX, KNOWN_HANDSHAKES_MAX, NoEvent};
pub use lanes::Lanes;
pub use measure::CipherSpeeds;
pub use probe::Probes;
pub use socket::UdpSocket;
pub use switches::{Offload, State};
pub use table::{Kind, PeerEntry, Table};
pub use tap::{Framing, Tap};
pub use waiting::{BYTES_MAX, BYTES_PER_PEER_MAX, FRAMES_PER_PEER_MAX};
