//! The hosts that there were sessions with, for the process after this one: those hosts seal by sessions
//! that died with it, until they are told.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::log;

const HOST_BYTES: usize = 4;

#[derive(Debug)]
pub(super) struct Recent {
    path: PathBuf,
    /// Of the process before, and not told yet.
    before: BTreeSet<u32>,
    /// As the file has them.
    kept: BTreeSet<u32>,
}

impl Recent {
    /// A file that cannot be read names nobody: then peers find out by themselves.
    pub(super) fn load(folder: &Path) -> Self {
        let path = folder.join("sealing.recent");
        let bytes = fs::read(&path).unwrap_or_default();
        let numbers = bytes.chunks_exact(HOST_BYTES).filter_map(|chunk| chunk.first_chunk());
        let before: BTreeSet<u32> = numbers.map(|bytes| u32::from_be_bytes(*bytes)).collect();
        Self { path, kept: before.clone(), before }
    }

    /// Whether the host was one of the process before; asked once.
    pub(super) fn take(&mut self, host_id: u32) -> bool {
        self.before.remove(&host_id)
    }

    /// Writes down which hosts there are sessions with now.
    pub(super) fn keep(&mut self, hosts: &BTreeSet<u32>) {
        if *hosts == self.kept {
            return;
        }
        self.kept.clone_from(hosts);
        let bytes: Vec<u8> = hosts.iter().flat_map(|host_id| host_id.to_be_bytes()).collect();
        let new = self.path.with_extension("new");
        if let Err(error) = fs::write(&new, bytes).and_then(|()| fs::rename(&new, &self.path)) {
            log::warn(
                "the hosts that are connected were not written down",
                json!({ "error": error.to_string() }),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_knows_the_hosts_of_the_one_before_once() {
        let folder = std::env::temp_dir().join(format!("weft-recent-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Recent::load(&folder).keep(&[3, 70_000].into());
        let mut next = Recent::load(&folder);
        fs::remove_dir_all(&folder).unwrap();
        assert!(next.take(70_000) && !next.take(70_000));
        assert!(next.take(3) && !next.take(4));
    }
}
