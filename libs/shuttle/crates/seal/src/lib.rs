//! What happens to a frame between the TAP and the wire: cut and sealed into `WireGuard` data messages,
//! opened and joined again. There are no sockets, no threads and no clock in here.

mod batch;
mod checksum;
mod cipher;
mod geneve;
mod headers;
mod join;
mod reason;
mod replay;
mod session;
mod split;
mod vnet;
mod wire;

pub use batch::{BYTES_MAX, Batch, DATAGRAMS_MAX};
pub use cipher::{Cipher, TAG_BYTES};
pub use geneve::{
    GENEVE_BYTES, GENEVE_SEGMENT_BYTES, Geneve, GeneveError, OPTIONS_BYTES_MAX, OPTIONS_MAX,
    Segment, TRANSPARENT_ETHERNET,
};
pub use join::{Arrival, Emission, PARTS_MAX, join};
pub use reason::DropReason;
pub use replay::REPLAY_WINDOW;
pub use session::{OpenError, REJECT_AFTER_MESSAGES, ReceiveSession, Sealed, SendSession};
pub use split::{
    FRAME_AT, Form, OVERHEAD_BYTES, Route, Split, TAP_BYTES_MAX, TapFrame,
    super_packet_payload_bytes,
};
pub use vnet::{Gso, META_BYTES, SealMeta, Unfinished, VNET_BYTES, VnetHeader};
pub use wire::{DATA_HEADER_BYTES, DataHeader, Message};
