//! bpf(2) where aya has no call: batches, links by ifindex, link updates. Source: `include/uapi/linux/bpf.h`, 6.18.

use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_MAP_CREATE: i32 = 0;
const BPF_MAP_LOOKUP_ELEM: i32 = 1;
const BPF_MAP_UPDATE_ELEM: i32 = 2;
const BPF_MAP_DELETE_ELEM: i32 = 3;
const BPF_MAP_GET_NEXT_KEY: i32 = 4;
const BPF_PROG_LOAD: i32 = 5;
const BPF_OBJ_PIN: i32 = 6;
const BPF_OBJ_GET: i32 = 7;
const BPF_PROG_TEST_RUN: i32 = 10;
const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
const BPF_MAP_LOOKUP_BATCH: i32 = 24;
const BPF_MAP_UPDATE_BATCH: i32 = 26;
const BPF_MAP_DELETE_BATCH: i32 = 27;
const BPF_LINK_CREATE: i32 = 28;
const BPF_LINK_UPDATE: i32 = 29;

const BPF_TCX_INGRESS: u32 = 46;

#[repr(C)]
#[derive(Clone, Copy)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
#[allow(clippy::struct_field_names, reason = "the names of union bpf_attr")]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
#[allow(clippy::struct_field_names, reason = "the names of union bpf_attr")]
struct Info {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    pad: u32,
    expected_revision: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// Start of `struct bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
}

/// Start of `struct bpf_link_info` of a TCX link.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    /// 0 when the device is gone.
    pub(crate) ifindex: u32,
    attach_type: u32,
}

fn bpf<T: Copy>(command: i32, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is the part of union bpf_attr that the command reads and writes, with its size; the pointers in
    // it are made below from live slices.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::try_from(result).expect("a file descriptor or 0"))
}

fn bpf_fd<T: Copy>(command: i32, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the command returned a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).expect("a descriptor is not negative")
}

/// The kernel refuses a buffer of no bytes that has an address.
fn address(bytes: &[u8]) -> u64 {
    if bytes.is_empty() { 0 } else { bytes.as_ptr() as u64 }
}

fn address_mut(bytes: &mut [u8]) -> u64 {
    if bytes.is_empty() { 0 } else { bytes.as_mut_ptr() as u64 }
}

/// Reads a value. `value` has the map's value size (times the CPUs, each rounded up to 8, for a per-CPU map).
pub(crate) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    let mut attr = Element {
        map_fd: raw(map),
        pad: 0,
        key: address(key),
        value: address_mut(value),
        flags: 0,
    };
    bpf(BPF_MAP_LOOKUP_ELEM, &mut attr).map(drop)
}

/// Writes a value.
pub(crate) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attr =
        Element { map_fd: raw(map), pad: 0, key: address(key), value: address(value), flags: 0 };
    bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Removes a key.
pub(crate) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    let mut attr = Element { map_fd: raw(map), pad: 0, key: address(key), value: 0, flags: 0 };
    bpf(BPF_MAP_DELETE_ELEM, &mut attr).map(drop)
}

/// The key after `key`, or the first; ENOENT after the last.
pub(crate) fn next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<()> {
    let mut attr = Element {
        map_fd: raw(map),
        pad: 0,
        key: key.map_or(0, address),
        value: address_mut(next),
        flags: 0,
    };
    bpf(BPF_MAP_GET_NEXT_KEY, &mut attr).map(drop)
}

/// Writes `count` values at once. Tells how many were written when it fails.
pub(crate) fn update_batch(
    map: BorrowedFd<'_>,
    keys: &[u8],
    values: &[u8],
    count: u32,
) -> Result<(), (u32, io::Error)> {
    let mut attr = batch(map, count);
    attr.keys = address(keys);
    attr.values = address(values);
    bpf(BPF_MAP_UPDATE_BATCH, &mut attr).map(drop).map_err(|error| (attr.count, error))
}

/// Removes `count` keys at once; stops at one that is not there with ENOENT. Tells how many were removed.
pub(crate) fn delete_batch(
    map: BorrowedFd<'_>,
    keys: &[u8],
    count: u32,
) -> Result<(), (u32, io::Error)> {
    let mut attr = batch(map, count);
    attr.keys = address(keys);
    bpf(BPF_MAP_DELETE_BATCH, &mut attr).map(drop).map_err(|error| (attr.count, error))
}

/// Reads up to as many rows as fit. `cursor` is the place to go on, `None` at the start; gives the number of rows and
/// whether they were the last ones. ENOSPC asks for more room: one bucket of the table holds more rows than fit.
pub(crate) fn lookup_batch(
    map: BorrowedFd<'_>,
    cursor: &mut Option<u64>,
    keys: &mut [u8],
    values: &mut [u8],
    room: u32,
) -> io::Result<(u32, bool)> {
    // The kernel keeps a u32 bucket number in it.
    let mut next = 0_u64;
    let mut attr = batch(map, room);
    attr.in_batch = cursor.as_ref().map_or(0, |cursor| std::ptr::from_ref(cursor) as u64);
    attr.out_batch = std::ptr::from_mut(&mut next) as u64;
    attr.keys = address_mut(keys);
    attr.values = address_mut(values);
    match bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) {
        Ok(_) => {
            *cursor = Some(next);
            Ok((attr.count, false))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((attr.count, true)),
        Err(error) => Err(error),
    }
}

fn batch(map: BorrowedFd<'_>, count: u32) -> Batch {
    Batch {
        in_batch: 0,
        out_batch: 0,
        keys: 0,
        values: 0,
        count,
        map_fd: raw(map),
        elem_flags: 0,
        flags: 0,
    }
}

/// Makes a map.
pub(crate) fn map_create(
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr = MapCreate { kind, key_size, value_size, max_entries, flags, pad: 0 };
    bpf_fd(BPF_MAP_CREATE, &mut attr)
}

/// Loads a classifier, given as instructions.
pub(crate) fn prog_load(instructions: &[u64]) -> io::Result<OwnedFd> {
    const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
    let license = c"Dual MIT/GPL";
    let mut attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_SCHED_CLS,
        insn_cnt: u32::try_from(instructions.len()).expect("a handful"),
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
    };
    bpf_fd(BPF_PROG_LOAD, &mut attr)
}

/// What a program did with a packet.
#[cfg_attr(not(feature = "testrun"), expect(dead_code, reason = "probes look at the code alone"))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct TestResult {
    pub(crate) code: u32,
    pub(crate) output_bytes: usize,
    pub(crate) duration_ns: u32,
}

/// Runs a classifier `repeat` times on a packet. `context` is a `struct __sk_buff`, read and written; `output` takes
/// the packet as it is afterwards.
pub(crate) fn test_run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    context: &mut [u8],
    output: &mut [u8],
    repeat: u32,
) -> io::Result<TestResult> {
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).expect("below 4 GiB");
    let mut attr = TestRun {
        prog_fd: raw(program),
        retval: 0,
        data_size_in: size(packet),
        data_size_out: size(output),
        data_in: address(packet),
        data_out: address_mut(output),
        repeat,
        duration: 0,
        ctx_size_in: size(context),
        ctx_size_out: size(context),
        ctx_in: address(context),
        ctx_out: address_mut(context),
        flags: 0,
        cpu: 0,
        batch_size: 0,
        pad: 0,
    };
    bpf(BPF_PROG_TEST_RUN, &mut attr)?;
    Ok(TestResult {
        code: attr.retval,
        output_bytes: attr.data_size_out as usize,
        duration_ns: attr.duration,
    })
}

/// Gives a kernel object a name in a bpffs.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = Object { pathname: path.as_ptr() as u64, bpf_fd: raw(object), file_flags: 0 };
    bpf(BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Opens a pinned kernel object.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = Object { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    bpf_fd(BPF_OBJ_GET, &mut attr)
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// Attaches a program to the TCX ingress of a device, in front of all others.
pub(crate) fn link_create(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    const BPF_F_BEFORE: u32 = 1 << 3;
    let mut attr = LinkCreate {
        prog_fd: raw(program),
        target_ifindex: ifindex,
        attach_type: BPF_TCX_INGRESS,
        flags: BPF_F_BEFORE,
        relative_fd: 0,
        pad: 0,
        expected_revision: 0,
    };
    bpf_fd(BPF_LINK_CREATE, &mut attr)
}

/// Exchanges the program of a link, between two packets. ENOLINK: the device is gone.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr =
        LinkUpdate { link_fd: raw(link), new_prog_fd: raw(program), flags: 0, old_prog_fd: 0 };
    bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// What a map is.
pub(crate) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    info(map)
}

/// Where a link is attached.
pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    info(link)
}

fn info<T: Copy>(object: BorrowedFd<'_>) -> io::Result<T> {
    // SAFETY: both info structs are integers only, for which zero is a value.
    let mut info: T = unsafe { zeroed() };
    let mut attr = Info {
        bpf_fd: raw(object),
        info_len: u32::try_from(size_of::<T>()).expect("small"),
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// Waits until every program that runs now has ended.
///
/// Programs run in an RCU read-side section, and this command of membarrier(2) is `synchronize_rcu()`. Where it is
/// refused (machines with `nohz_full` CPUs) a pause does: a program runs for microseconds in a softirq.
pub(crate) fn wait_for_programs() {
    const MEMBARRIER_CMD_GLOBAL: i32 = 1;
    // SAFETY: membarrier takes integers only.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_ns()`.
pub(crate) fn monotonic_ns() -> u64 {
    // SAFETY: timespec is integers; clock_gettime fills it and cannot fail for this clock.
    let time = unsafe {
        let mut time: libc::timespec = zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time);
        time
    };
    let seconds = u64::try_from(time.tv_sec).expect("after boot");
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).expect("below a second")
}

/// CPUs that may ever come up: the number of values of a per-CPU row.
pub(crate) fn possible_cpus() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit(['-', ',']).next().unwrap_or_default();
    last.parse::<usize>()
        .map(|last| last + 1)
        .map_err(|_| io::Error::other(format!("/sys/devices/system/cpu/possible says {text:?}")))
}
