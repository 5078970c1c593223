//! The kernel half of the data plane: loads the eBPF programs of `bpf/`, keeps their maps and links pinned so that
//! packets move on while the process is gone, and writes tables and flows.
//!
//! There is no netlink and no runtime here: devices are made elsewhere and named by the ifindex that they have in
//! the network namespace of the process. Calls that write tables may block for some ten milliseconds.
//!
//! ```no_run
//! # fn main() -> Result<(), weft_kernel::Error> {
//! use weft_kernel::{Datapath, DatapathConfig, Delta, DeviceRole, Limits};
//!
//! let mut datapath = Datapath::open(&DatapathConfig {
//!     pin_dir: "/sys/fs/bpf/weft/alpha".into(),
//!     vxlan_port: 4789,
//!     limits: Limits::default(),
//! })?;
//! datapath.attach_device(DeviceRole::Vxlan, 7)?;
//! datapath.attach_device(DeviceRole::Slow, 8)?;
//! datapath.attach_device(DeviceRole::Seal, 9)?;
//! datapath.attach_device(DeviceRole::Underlay, 2)?;
//! datapath.replace_world(&Delta::default())?;
//! datapath.beat();
//! # Ok(())
//! # }
//! ```

mod datapath;
mod error;
mod features;
mod limits;
mod pins;
mod sys;
mod table;
#[cfg(feature = "testrun")]
pub mod testrun;
mod world;

pub use datapath::{
    Attachment, Datapath, DatapathConfig, DeviceRole, FlowSpec, FlowTarget, PeerCarrier, PeerPath,
    PeerSpec, PortSpec, Rate,
};
pub use error::Error;
pub use features::{Feature, features};
pub use limits::Limits;
pub use table::TableError;
pub use weft_abi as abi;
pub use world::{Delta, Endpoint, Location, Prefix};
