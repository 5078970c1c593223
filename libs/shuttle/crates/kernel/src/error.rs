//! What may go wrong, and what to do then.

use std::io;
use std::path::PathBuf;

use crate::TableError;

/// Why a call on the data plane failed. Unless it says otherwise nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder for the pins cannot be used.
    #[error(
        "cannot use {path} for pinned kernel objects: {source}; mount a bpffs there (mount -t bpf bpf DIRECTORY) that the shuttle's user owns"
    )]
    PinDirectory {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A pinned map is not the one that the programs need.
    #[error(
        "pinned map {path} has {found}, but {expected} is needed; stop the ports' traffic and remove {path} and its neighbours, or put the old limits back"
    )]
    PinMismatch {
        /// The pin.
        path: PathBuf,
        /// What it has.
        found: String,
        /// What is needed.
        expected: String,
    },
    /// The programs cannot be loaded.
    #[error(
        "cannot load the eBPF programs: {source}; the kernel must be 6.6 or newer with CONFIG_DEBUG_INFO_BTF, and the shuttle needs CAP_BPF and CAP_NET_ADMIN; `weft doctor` names what is missing"
    )]
    Load {
        /// What aya or the kernel's verifier says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The compiled programs are not what this process was built for.
    #[error("the eBPF object has no {kind} {name}; build the shuttle again")]
    Incomplete {
        /// `map` or `program`.
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A device is not there.
    #[error(
        "there is no device with index {ifindex}; it must be in the shuttle's own network namespace"
    )]
    NoDevice {
        /// Its index.
        ifindex: u32,
    },
    /// A program cannot be attached.
    #[error("cannot attach {program} to the device with index {ifindex}: {source}")]
    Attach {
        /// Its name.
        program: &'static str,
        /// The device.
        ifindex: u32,
        /// Why not.
        source: io::Error,
    },
    /// The tables have not been written since the start, so a change has nothing to build on.
    #[error(
        "the tables are not in step since the start or a failed change; replace them all first"
    )]
    NotInStep,
    /// A network has more ports and hosts than broadcasts can go to.
    #[error(
        "network with VNI {vni} has {count} ports and hosts to send broadcasts to, above the limit of {}; split it",
        weft_abi::REPLICATION_MAX
    )]
    TooManyTargets {
        /// The network.
        vni: u32,
        /// Ports of this host and other hosts.
        count: usize,
    },
    /// The kernel refused a row. The tables in force have not changed.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Something of the machine cannot be read.
    #[error("cannot read {what}: {source}")]
    Machine {
        /// What.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}
