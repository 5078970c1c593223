//! What must be durable before a datagram goes out, and the key log.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use weft_tunnel::Stamp;

const STAMP_BYTES: usize = 12;
const OWN_MODE: u32 = 0o600;

/// The last stamp and hand-over that may have been used: two numbers in a file of their own.
#[derive(Debug)]
pub(super) struct Used {
    path: PathBuf,
    pub(super) stamp: Option<Stamp>,
    pub(super) handover: u64,
}

impl Used {
    /// What the process before wrote. A file that says nothing sensible counts as none: the clock is
    /// past its stamps in all likelihood, and peers refuse them otherwise.
    pub(super) fn load(folder: &Path) -> io::Result<Self> {
        let path = folder.join("sealing.state");
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            result => result?,
        };
        let stamp = bytes.first_chunk::<STAMP_BYTES>().map(|bytes| Stamp::from_bytes(*bytes));
        let handover = bytes.get(STAMP_BYTES..).and_then(<[u8]>::first_chunk::<8>);
        Ok(Self { path, stamp, handover: handover.map_or(0, |bytes| u64::from_be_bytes(*bytes)) })
    }

    /// On disk when this returns.
    pub(super) fn save(&self) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&self.stamp.map_or([0; STAMP_BYTES], Stamp::to_bytes))?;
        file.write_all(&self.handover.to_be_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }
}

/// A file for Wireshark. Whoever reads it reads the traffic, and can pass for this host.
#[derive(Debug)]
pub(super) struct KeyLog {
    pub(super) path: PathBuf,
    file: File,
}

impl KeyLog {
    /// One that is there already is closed to everybody else too. A link is not followed.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(OWN_MODE).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(path)?;
        file.set_permissions(Permissions::from_mode(OWN_MODE))?;
        Ok(Self { path: path.to_owned(), file })
    }

    pub(super) fn append(&mut self, lines: &str) -> io::Result<()> {
        self.file.write_all(lines.as_bytes())
    }
}
