//! The maps by name and shape, and their pins.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use weft_abi::{
    ABI, Config, Counters, Fdb, FdbKey, Flow, FlowKey, Guard, GuardKey, Neigh, NeighKey, Peer,
    PeerKey, Port, Remote, RemoteKey, Replication, ReplicationKey,
};

use crate::sys::{self, MapInfo};
use crate::{Error, Limits};

const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PERCPU_ARRAY: u32 = 6;
const LPM_TRIE: u32 = 11;

const NO_PREALLOC: u32 = 1 << 0;
const MMAPABLE: u32 = 1 << 10;

/// Shape of a map.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) kind: u32,
    pub(crate) key_bytes: usize,
    pub(crate) value_bytes: usize,
    pub(crate) flags: u32,
}

const fn shape<K, V>(name: &'static str, kind: u32, flags: u32) -> Shape {
    Shape { name, kind, key_bytes: size_of::<K>(), value_bytes: size_of::<V>(), flags }
}

/// Every map of `bpf/maps.h`.
pub(crate) const MAPS: [Shape; 10] = [
    shape::<u32, Config>("config", ARRAY, MMAPABLE),
    shape::<u32, Port>("ports", HASH, NO_PREALLOC),
    shape::<u32, Counters>("port_counters", PERCPU_ARRAY, 0),
    shape::<FlowKey, Flow>("flows", HASH, NO_PREALLOC),
    shape::<FdbKey, Fdb>("fdb", HASH, NO_PREALLOC),
    shape::<NeighKey, Neigh>("neigh", HASH, NO_PREALLOC),
    shape::<GuardKey, Guard>("guard", LPM_TRIE, NO_PREALLOC),
    shape::<ReplicationKey, Replication>("replication", HASH, NO_PREALLOC),
    shape::<PeerKey, Peer>("peers", HASH, NO_PREALLOC),
    shape::<RemoteKey, Remote>("remotes", HASH, NO_PREALLOC),
];

/// The folder of one data plane's pins, by the number of the layouts.
#[derive(Debug)]
pub(crate) struct Pins {
    directory: PathBuf,
    pub(crate) maps: PathBuf,
    links: PathBuf,
}

impl Pins {
    /// Makes the folders where they are missing.
    pub(crate) fn open(directory: &Path) -> Result<Self, Error> {
        let versioned = directory.join(format!("v{ABI}"));
        let pins = Self {
            directory: directory.to_owned(),
            maps: versioned.join("maps"),
            links: versioned.join("links"),
        };
        for folder in [&pins.maps, &pins.links] {
            fs::create_dir_all(folder)
                .and_then(|()| require_bpffs(folder))
                .map_err(|source| Error::PinDirectory { path: folder.clone(), source })?;
        }
        Ok(pins)
    }

    /// Compares the maps that are pinned with what is needed, because the loader takes whatever is there.
    pub(crate) fn check_maps(&self, limits: &Limits) -> Result<(), Error> {
        for shape in &MAPS {
            let path = self.maps.join(shape.name);
            match sys::open_pin(&path).and_then(|map| sys::map_info(map.as_fd())) {
                Ok(found) => require_shape(path, &found, shape, limits)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(Error::PinDirectory { path, source }),
            }
        }
        Ok(())
    }

    /// Removes what other versions of the layouts pinned here: the links first, so that no program of theirs runs
    /// without its maps' pins.
    pub(crate) fn remove_other_versions(&self) -> Result<(), Error> {
        let error = |path: &Path, source| Error::PinDirectory { path: path.to_owned(), source };
        let entries = fs::read_dir(&self.directory).map_err(|s| error(&self.directory, s))?;
        for entry in entries {
            let name = entry.map_err(|source| error(&self.directory, source))?.file_name();
            let version =
                name.to_str().and_then(|name| name.strip_prefix('v')?.parse::<u32>().ok());
            if version.is_none_or(|version| version == ABI) {
                continue;
            }
            let folder = self.directory.join(name);
            for part in [folder.join("links"), folder] {
                match fs::remove_dir_all(&part) {
                    Err(source) if source.kind() != io::ErrorKind::NotFound => {
                        return Err(error(&part, source));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    pub(crate) fn open_map(&self, name: &'static str) -> Result<OwnedFd, Error> {
        sys::open_pin(&self.maps.join(name)).map_err(|_| Error::Incomplete { kind: "map", name })
    }

    /// Where the link of a program to a device is pinned.
    pub(crate) fn link(&self, program: &str, ifindex: u32) -> PathBuf {
        self.links.join(format!("{program}-{ifindex}"))
    }

    /// Program and device of every pinned link.
    pub(crate) fn links(&self) -> Result<Vec<(String, u32)>, Error> {
        let error = |source| Error::PinDirectory { path: self.links.clone(), source };
        let mut links = Vec::new();
        for entry in fs::read_dir(&self.links).map_err(error)? {
            let name = entry.map_err(error)?.file_name();
            let parts = name.to_str().and_then(|name| name.rsplit_once('-'));
            if let Some((program, Ok(ifindex))) =
                parts.map(|(program, ifindex)| (program, ifindex.parse()))
            {
                links.push((program.to_owned(), ifindex));
            }
        }
        links.sort();
        Ok(links)
    }
}

/// Removes a pin; it is well when there is none.
pub(crate) fn unpin(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(crate) fn require_bpffs(folder: &Path) -> io::Result<()> {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes())?;
    // SAFETY: statfs is integers, and the call fills it for a path that ends in NUL.
    let (result, stat) = unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        (libc::statfs(path.as_ptr(), &raw mut stat), stat)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if stat.f_type != BPF_FS_MAGIC {
        return Err(io::Error::other("it is not in a bpffs"));
    }
    Ok(())
}

fn require_shape(
    path: PathBuf,
    found: &MapInfo,
    shape: &Shape,
    limits: &Limits,
) -> Result<(), Error> {
    let describe = |info: &MapInfo| {
        format!(
            "type {}, key {} B, value {} B, {} rows, flags {:#x}",
            info.kind, info.key_size, info.value_size, info.max_entries, info.flags
        )
    };
    let expected = MapInfo {
        kind: shape.kind,
        id: found.id,
        key_size: u32::try_from(shape.key_bytes).expect("small"),
        value_size: u32::try_from(shape.value_bytes).expect("small"),
        max_entries: limits.rows(shape.name).unwrap_or(1),
        flags: shape.flags,
    };
    if *found == expected {
        return Ok(());
    }
    Err(Error::PinMismatch { path, found: describe(found), expected: describe(&expected) })
}
