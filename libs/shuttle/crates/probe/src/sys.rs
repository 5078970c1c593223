//! The system calls that the standard library and socket2 do not offer. All `unsafe` of this program is here.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::Socket;

static STOPPED: AtomicBool = AtomicBool::new(false);

/// Whether SIGTERM or SIGINT asked for the end.
pub(crate) fn is_stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}

extern "C" fn remember_stop(_signal: libc::c_int) {
    STOPPED.store(true, Ordering::Relaxed);
}

/// Lets SIGTERM and SIGINT end the counting instead of the process. Calls that wait are interrupted (no `SA_RESTART`).
pub(crate) fn stop_on_signals() {
    let handler: extern "C" fn(libc::c_int) = remember_stop;
    // SAFETY: an all-zero sigaction is a valid value; the handler only stores to an atomic, which is async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        for signal in [libc::SIGTERM, libc::SIGINT] {
            libc::sigaction(signal, &raw const action, null_mut());
        }
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("an option is a few bytes long")
}

fn set_option<T>(
    socket: &Socket,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: `value` lives through the call and its length is passed with it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            length_of::<T>(),
        )
    };
    check(result).map(drop)
}

/// Gives a socket a receive buffer beyond `net.core.rmem_max` where the process may, so that a pause of this program loses nothing.
pub(crate) fn enlarge_receive_buffer(socket: &Socket, bytes: libc::c_int) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &bytes)
        .or_else(|_| set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &bytes))
}

/// Makes every send a chain of datagrams of `bytes` each (UDP GSO, `UDP_SEGMENT` of udp(7)).
pub(crate) fn set_udp_segment(socket: &Socket, bytes: u16) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, &libc::c_int::from(bytes))
}

/// Index of the drop counter in what `SO_MEMINFO` returns (`SK_MEMINFO_DROPS` of `linux/sock_diag.h`).
const SK_MEMINFO_DROPS: usize = 8;
const SK_MEMINFO_VARS: usize = 9;

/// Packets that the socket's own full buffer dropped since it was made.
pub(crate) fn socket_drops(socket: &Socket) -> io::Result<u32> {
    let mut values = [0_u32; SK_MEMINFO_VARS];
    let mut length = length_of::<[u32; SK_MEMINFO_VARS]>();
    // SAFETY: the kernel writes at most `length` bytes into `values`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    check(result)?;
    Ok(values[SK_MEMINFO_DROPS])
}

/// Nanoseconds on `CLOCK_MONOTONIC`, the clock of `process.hrtime` in Node: times of several programs can be subtracted.
pub(crate) fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec. The call cannot fail for a clock that exists.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    nanoseconds(time)
}

fn nanoseconds(time: libc::timespec) -> u64 {
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Lets the kernel tell when it received each packet (`SO_TIMESTAMPNS` of socket(7)).
pub(crate) fn enable_timestamps(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1_i32)
}

/// Nanoseconds on the clock of those timestamps, `CLOCK_REALTIME`.
pub(crate) fn realtime_ns() -> u64 {
    clock_ns(libc::CLOCK_REALTIME)
}

/// Receives one packet and the time at which the kernel had it.
pub(crate) fn receive_with_timestamp(
    socket: &Socket,
    packet: &mut [u8],
) -> io::Result<(usize, Option<u64>)> {
    let mut control = [0_u64; 8];
    let mut vector = libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: packet.len() };
    // SAFETY: an all-zero msghdr is valid; it points at buffers that outlive the call, with their true lengths. The control
    // buffer is aligned for cmsghdr, and the CMSG functions stay within the length that the kernel reports.
    unsafe {
        let mut header: libc::msghdr = zeroed();
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control);
        let length = libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0);
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        let message = libc::CMSG_FIRSTHDR(&raw const header);
        if message.is_null() || (*message).cmsg_type != libc::SCM_TIMESTAMPNS {
            return Ok((length, None));
        }
        let time: libc::timespec = std::ptr::read_unaligned(libc::CMSG_DATA(message).cast());
        Ok((length, Some(nanoseconds(time))))
    }
}

/// Datagrams that one system call sends or receives.
pub(crate) const BATCH: usize = 64;

/// Sends `packets` (at most [`BATCH`]) on a connected socket and returns how many the kernel took.
pub(crate) fn send_batch(socket: &Socket, packets: &mut [Vec<u8>]) -> io::Result<usize> {
    // SAFETY: all-zero `iovec`s and `mmsghdr`s are valid; every one that the kernel reads is filled below.
    let (mut vectors, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
        unsafe { zeroed() };
    let count = packets.len().min(BATCH);
    for (at, packet) in packets.iter_mut().take(count).enumerate() {
        vectors[at] = libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: packet.len() };
        headers[at].msg_hdr.msg_iov = &raw mut vectors[at];
        headers[at].msg_hdr.msg_iovlen = 1;
    }
    let length = libc::c_uint::try_from(count).expect("a batch is small");
    // SAFETY: the first `count` headers point at vectors and packets that outlive the call.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), length, 0) };
    check(sent).map(|sent| usize::try_from(sent).expect("checked to be positive"))
}

/// Waits for datagrams and receives up to [`BATCH`] of them; `lengths` gets one entry for each. A time-out or a signal yields none.
pub(crate) fn receive_batch(
    socket: &Socket,
    packets: &mut [Vec<u8>],
    lengths: &mut Vec<usize>,
) -> io::Result<()> {
    // SAFETY: as in `send_batch`.
    let (mut vectors, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
        unsafe { zeroed() };
    let count = packets.len().min(BATCH);
    for (at, packet) in packets.iter_mut().take(count).enumerate() {
        vectors[at] = libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: packet.len() };
        headers[at].msg_hdr.msg_iov = &raw mut vectors[at];
        headers[at].msg_hdr.msg_iovlen = 1;
    }
    let length = libc::c_uint::try_from(count).expect("a batch is small");
    // SAFETY: the first `count` headers point at vectors and buffers that outlive the call.
    let received = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            length,
            libc::MSG_WAITFORONE,
            null_mut(),
        )
    };
    lengths.clear();
    match check(received) {
        Ok(received) => {
            let received = usize::try_from(received).expect("checked to be positive");
            lengths.extend(headers[..received].iter().map(|header| header.msg_len as usize));
            Ok(())
        }
        Err(error) if is_pause(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a wait ended without an answer: a time-out, a signal, or an ICMP error that belongs to an earlier packet.
pub(crate) fn is_pause(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock
            | io::ErrorKind::TimedOut
            | io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionRefused
    )
}

fn device_index(name: &str) -> io::Result<libc::c_uint> {
    let name = CString::new(name)?;
    // SAFETY: the name is a string with its terminator.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// `ETH_P_ALL` in network order, the form that packet(7) wants.
const ALL_PROTOCOLS: u16 = 0x0003_u16.to_be();
/// `linux/if_packet.h`
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// A raw socket that sends and receives whole frames of one device; what the device itself sends is not seen.
pub(crate) fn packet_socket(device: &str) -> io::Result<Socket> {
    let socket = Socket::new(
        libc::AF_PACKET.into(),
        socket2::Type::RAW,
        Some(i32::from(ALL_PROTOCOLS).into()),
    )?;
    set_option(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1_i32)?;
    // SAFETY: an all-zero sockaddr_ll is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).expect("a family is a small number");
    address.sll_protocol = ALL_PROTOCOLS;
    address.sll_ifindex = device_index(device)?.cast_signed();
    // SAFETY: the address lives through the call and its length is passed with it.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            length_of::<libc::sockaddr_ll>(),
        )
    };
    check(result)?;
    Ok(socket)
}

/// Moves this thread into a network namespace.
pub(crate) fn enter_netns(path: &str) -> io::Result<()> {
    let namespace = File::open(path)?;
    // SAFETY: the descriptor is open; setns changes only this thread.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Length of `virtio_net_hdr_v1`, the header that hypervisors use.
static VNET_HEADER_BYTES: libc::c_int = 12;
/// `linux/if_tun.h`: checksum, TSO for IPv4 and IPv6.
const OFFLOADS: libc::c_ulong = 0x01 | 0x02 | 0x04;

/// Opens a TAP device of this thread's namespace, making it where it is missing. With `vnet_header` every frame carries a
/// `virtio_net_hdr_v1` in front, and frames come and go unsegmented.
pub(crate) fn open_tap(name: &str, vnet_header: bool) -> io::Result<OwnedFd> {
    let path = c"/dev/net/tun";
    // SAFETY: the path is a string with its terminator.
    let raw: RawFd = check(unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) })?;
    // SAFETY: `raw` was just opened and belongs to nobody else.
    let device = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: an all-zero ifreq is a valid value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{name}` is too long for a device"),
        ));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI;
    if vnet_header {
        flags |= libc::IFF_VNET_HDR;
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(flags).expect("these flags fit into 15 bits");
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    check(unsafe { libc::ioctl(raw, libc::TUNSETIFF, &raw mut request) })?;
    if vnet_header {
        // SAFETY: TUNSETVNETHDRSZ reads one int; TUNSETOFFLOAD takes its flags by value.
        unsafe {
            check(libc::ioctl(raw, libc::TUNSETVNETHDRSZ, &raw const VNET_HEADER_BYTES))?;
            check(libc::ioctl(raw, libc::TUNSETOFFLOAD, OFFLOADS))?;
        }
    }
    Ok(device)
}

/// Waits until `device` can be read, at most `milliseconds`; false on a time-out or a signal.
pub(crate) fn wait_readable(device: &OwnedFd, milliseconds: libc::c_int) -> bool {
    let mut poll = libc::pollfd { fd: device.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd is passed.
    unsafe { libc::poll(&raw mut poll, 1, milliseconds) > 0 }
}
