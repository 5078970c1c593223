//! What must be known of ports after a restart and is not in the kernel: a file in the state
//! folder.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use prost::Message;

use crate::proto::AttachPortRequest;

/// Ports of clients have secrets.
const OWN_MODE: u32 = 0o600;

/// A port as it was made.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SavedPort {
    #[prost(message, optional, tag = "1")]
    pub(crate) request: Option<AttachPortRequest>,
    #[prost(string, tag = "2")]
    pub(crate) host_device: String,
    /// Or what stands in for one.
    #[prost(uint32, tag = "3")]
    pub(crate) ifindex: u32,
    /// The device's other end is in another network namespace.
    #[prost(bool, tag = "4")]
    pub(crate) is_peer: bool,
}

/// The whole file.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct State {
    #[prost(string, tag = "1")]
    pub(crate) instance_id: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) ports: Vec<SavedPort>,
}

/// The file. It need not survive the machine's boot, as the devices do not either.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self { path: folder.join("ports.binpb") }
    }

    /// The state that was saved last, or an empty one. A file that cannot be read is moved aside:
    /// its ports are swept later.
    pub(crate) fn load(&self) -> io::Result<State> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
            Err(error) => return Err(error),
        };
        State::decode(bytes.as_slice()).or_else(|_| {
            fs::rename(&self.path, self.path.with_extension("broken"))?;
            Ok(State::default())
        })
    }

    /// Puts a new state in the place of the old one, whole or not at all.
    pub(crate) fn save(&self, state: &State) -> io::Result<()> {
        let new = self.path.with_extension("new");
        // What is there by this name may be readable by others.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(OWN_MODE).open(&new)?;
        file.write_all(&state.encode_to_vec())?;
        fs::rename(&new, &self.path)
    }

    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
