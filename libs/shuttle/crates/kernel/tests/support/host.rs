//! A host of its own for a test: network and mount namespace of the calling thread, a bpffs, devices.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Command, id};

use weft_kernel::{Datapath, DatapathConfig, Limits};

pub(crate) const LIMITS: Limits =
    Limits { ports: 64, endpoints: 64, prefixes: 64, networks: 16, hosts: 16, flows: 256 };

pub(crate) const VXLAN_PORT: u16 = 4790;

pub(crate) struct Host {
    bpffs: PathBuf,
}

impl Host {
    /// `None` without root, after saying so.
    pub(crate) fn new(name: &str) -> Option<Self> {
        // SAFETY: geteuid has no preconditions.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipped: {name} needs root to load eBPF programs");
            return None;
        }
        // SAFETY: only this thread moves, into namespaces of its own.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) };
        assert_eq!(result, 0, "unshare: {}", io::Error::last_os_error());
        run("mount --make-rprivate /");
        let bpffs = std::env::temp_dir().join(format!("weft-kernel-{name}-{}", id()));
        fs::create_dir_all(&bpffs).unwrap();
        run(&format!("mount -t bpf bpf {}", bpffs.display()));
        // Else the devices say things of their own, which the programs would count.
        fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        run("ip link set lo up");
        Some(Self { bpffs })
    }

    pub(crate) fn config(&self) -> DatapathConfig {
        DatapathConfig { pin_dir: self.pin_dir(), vxlan_port: VXLAN_PORT, limits: LIMITS }
    }

    pub(crate) fn pin_dir(&self) -> PathBuf {
        self.bpffs.join("weft")
    }

    pub(crate) fn open(&self) -> Datapath {
        Datapath::open(&self.config()).unwrap()
    }

    /// Makes a veth pair in this namespace and gives the index of its first end.
    #[allow(clippy::unused_self, reason = "there must be a host")]
    pub(crate) fn veth(&self, name: &str) -> u32 {
        run(&format!("ip link add {name} type veth peer name {name}-other"));
        run(&format!("ip link set {name} up"));
        run(&format!("ip link set {name}-other up"));
        ifindex(name)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        run(&format!("umount {}", self.bpffs.display()));
        fs::remove_dir(&self.bpffs).unwrap();
    }
}

pub(crate) fn ifindex(name: &str) -> u32 {
    let name = std::ffi::CString::new(name).unwrap();
    // SAFETY: a string that ends in NUL.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "no device {name:?}");
    index
}

pub(crate) fn run(command: &str) {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}
