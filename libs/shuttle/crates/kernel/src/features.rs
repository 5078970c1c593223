//! What the kernel must have, tried out one by one.

use std::fs;
use std::io;
use std::mem::size_of;
use std::os::fd::AsFd;
use std::path::Path;

use crate::pins::{MAPS, require_bpffs};
use crate::sys;

/// Something that the data plane needs of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Stable name.
    pub name: &'static str,
    /// Whether it is there.
    pub is_present: bool,
    /// Whether the data plane cannot start without it.
    pub is_required: bool,
    /// What it is for; where it is missing, why, and the remedy.
    pub detail: String,
}

/// Tries everything out that this crate needs, with the folder for pins and the device node of TAPs. Devices (VXLAN,
/// veth) are tried by who makes them.
pub fn features(pins: &Path, tun_node: &Path) -> Vec<Feature> {
    vec![
        required("net-admin", &capability(12), "attach programs to devices", GIVE_CAPABILITY),
        required("bpf", &capability(39), "load programs and make maps", GIVE_CAPABILITY),
        required(
            "bpffs",
            &bpffs(pins),
            "keep programs and maps over a restart",
            "mount -t bpf bpf /sys/fs/bpf",
        ),
        required(
            "programs",
            &classifier().map(drop),
            "run classifiers",
            "a kernel with CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_ACT",
        ),
        required("maps", &maps(), "hold the forwarding tables", NEWER_KERNEL),
        required("batches", &batches(), "write tables in batches", NEWER_KERNEL),
        required("tcx", &tcx(), "attach classifiers by links", NEWER_KERNEL),
        required(
            "redirect-peer",
            &redirect_peer(),
            "hand packets straight into a namespace",
            NEWER_KERNEL,
        ),
        required("strip-header", &strip_header(), "take a tunnel header off", NEWER_KERNEL),
        required(
            "tun",
            &tun(tun_node),
            "hand first packets to the shuttle",
            "modprobe tun, and let the shuttle's user open its device node",
        ),
        Feature {
            is_required: false,
            ..required("jit", &jit(), "run programs fast", "sysctl net.core.bpf_jit_enable=1")
        },
    ]
}

const NEWER_KERNEL: &str = "Linux 6.6 or newer";
const GIVE_CAPABILITY: &str = "start it by its systemd unit or as root";

fn required(name: &'static str, result: &io::Result<()>, purpose: &str, remedy: &str) -> Feature {
    let detail = match result {
        Ok(()) => purpose.to_owned(),
        Err(error) => format!("{purpose}: {error}; needs {remedy}"),
    };
    Feature { name, is_present: result.is_ok(), is_required: true, detail }
}

/// Bit numbers as in `include/uapi/linux/capability.h`.
fn capability(bit: u32) -> io::Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .ok_or_else(|| io::Error::other("/proc/self/status shows no CapEff"))?;
    if effective & (1 << bit) == 0 {
        return Err(io::Error::other("the process lacks the capability"));
    }
    Ok(())
}

/// The folder itself is made where it is missing, so the one that it will be in counts.
fn bpffs(pins: &Path) -> io::Result<()> {
    let present = pins.ancestors().find(|folder| folder.exists()).unwrap_or(pins);
    require_bpffs(present)
}

fn maps() -> io::Result<()> {
    for shape in &MAPS {
        let bytes = |size: usize| u32::try_from(size).expect("small");
        sys::map_create(
            shape.kind,
            bytes(shape.key_bytes),
            bytes(shape.value_bytes),
            1,
            shape.flags,
        )
        .map_err(|error| io::Error::other(format!("map {}: {error}", shape.name)))?;
    }
    Ok(())
}

fn batches() -> io::Result<()> {
    const HASH: u32 = 1;
    let map = sys::map_create(HASH, 4, 4, 2, 0)?;
    let rows = [0; 2 * size_of::<u32>()];
    sys::update_batch(map.as_fd(), &rows[..4], &rows[4..], 1).map_err(|(_, error)| error)
}

fn classifier() -> io::Result<std::os::fd::OwnedFd> {
    sys::prog_load(&[load(0, 0), EXIT])
}

fn tcx() -> io::Result<()> {
    // Nobody has this device, and where there is no TCX nobody looks for it.
    const NO_DEVICE: u32 = 0x7fff_fff0;
    match sys::link_create(classifier()?.as_fd(), NO_DEVICE) {
        Err(error) if error.raw_os_error() != Some(libc::ENODEV) => Err(error),
        _ => Ok(()),
    }
}

fn redirect_peer() -> io::Result<()> {
    const REDIRECT_PEER: i32 = 155;
    sys::prog_load(&[load(1, 1), load(2, 0), call(REDIRECT_PEER), EXIT]).map(drop)
}

fn strip_header() -> io::Result<()> {
    const ADJUST_ROOM: i32 = 50;
    const BPF_ADJ_ROOM_MAC: i32 = 1;
    const DECAP_L3_IPV4: i32 = 1 << 7;
    let program = sys::prog_load(&[
        load(2, -8),
        load(3, BPF_ADJ_ROOM_MAC),
        load(4, DECAP_L3_IPV4),
        call(ADJUST_ROOM),
        EXIT,
    ])?;
    let mut packet = [0; 64];
    packet[12..14].copy_from_slice(&[0x08, 0x00]);
    packet[14] = 0x45;
    let result = sys::test_run(program.as_fd(), &packet, &mut [], &mut [0; 64], 1)?;
    if result.code != 0 {
        return Err(io::Error::from_raw_os_error(result.code.cast_signed().saturating_neg()));
    }
    Ok(())
}

fn tun(node: &Path) -> io::Result<()> {
    fs::File::options().read(true).write(true).open(node).map(drop)
}

fn jit() -> io::Result<()> {
    if fs::read_to_string("/proc/sys/net/core/bpf_jit_enable")?.trim() == "0" {
        return Err(io::Error::other("it is off"));
    }
    Ok(())
}

const EXIT: u64 = 0x95;

/// `register = value`, in the encoding of `struct bpf_insn`.
const fn load(register: u64, value: i32) -> u64 {
    0xb7 | register << 8 | (value.cast_unsigned() as u64) << 32
}

/// A call of a helper by number.
const fn call(helper: i32) -> u64 {
    0x85 | (helper.cast_unsigned() as u64) << 32
}
