//! The sockets of the crowd and the signals. All `unsafe` of this program is here.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::mem::{size_of, size_of_val, zeroed};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::args::Frames;

/// What the answers of a thousand hosts need while this program is busy.
const QUEUE_BYTES: libc::c_int = 64 << 20;

static STOPPED: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicUsize = AtomicUsize::new(0);

/// Whether SIGTERM or SIGINT asked for the end.
pub(crate) fn is_stopped() -> bool {
    STOPPED.load(Relaxed)
}

/// How often SIGUSR1 asked to go on.
pub(crate) fn times_asked() -> usize {
    ASKED.load(Relaxed)
}

extern "C" fn note(signal: libc::c_int) {
    if signal == libc::SIGUSR1 {
        ASKED.fetch_add(1, Relaxed);
    } else {
        STOPPED.store(true, Relaxed);
    }
}

/// Lets signals say what is to be done. Calls that wait are interrupted (no `SA_RESTART`).
pub(crate) fn note_signals() {
    let handler: extern "C" fn(libc::c_int) = note;
    // SAFETY: an all-zero sigaction is a valid value; the handler only stores to atomics, which is async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1] {
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

/// The UDP socket of all hosts.
pub(crate) struct Wire(Socket);

#[derive(Clone, Copy)]
pub(crate) struct Received {
    pub(crate) bytes: usize,
    pub(crate) source: SocketAddrV4,
    /// The host's address.
    pub(crate) target: Ipv4Addr,
}

/// Room for one `in_pktinfo`, aligned as control messages are.
type Control = [u64; 4];

impl Wire {
    pub(crate) fn open(port: u16) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        set_option(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, &1_i32)?;
        for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
            set_option(&socket, libc::SOL_SOCKET, option, &QUEUE_BYTES)?;
        }
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
        Ok(Self(socket))
    }

    /// Waits until there is something, a signal comes, or the time is over.
    pub(crate) fn wait(&self, patience: Duration) -> io::Result<()> {
        let timeout = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, as said.
        match check(unsafe { libc::poll(&raw mut poll, 1, timeout) }) {
            Err(error) if error.kind() != ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    /// What is there already.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        let mut control: Control = [0; 4];
        let mut vector =
            libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: all-zero values of these are valid; the header points at buffers that outlive the call, with their true
        // lengths; the CMSG functions stay within the length that the kernel reports.
        let (bytes, name, info) = unsafe {
            let mut name: libc::sockaddr_in = zeroed();
            let mut header: libc::msghdr = zeroed();
            header.msg_name = (&raw mut name).cast();
            header.msg_namelen = length_of::<libc::sockaddr_in>();
            header.msg_iov = &raw mut vector;
            header.msg_iovlen = 1;
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = size_of_val(&control);
            let bytes = libc::recvmsg(self.0.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT);
            let Ok(bytes) = usize::try_from(bytes) else {
                let error = io::Error::last_os_error();
                return match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(None),
                    _ => Err(error),
                };
            };
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            if message.is_null() || (*message).cmsg_type != libc::IP_PKTINFO {
                return Err(io::Error::other("a datagram does not tell where it was sent to"));
            }
            let info: libc::in_pktinfo =
                libc::CMSG_DATA(message).cast::<libc::in_pktinfo>().read_unaligned();
            (bytes, name, info)
        };
        let address = |raw: libc::in_addr| Ipv4Addr::from_bits(u32::from_be(raw.s_addr));
        let source = SocketAddrV4::new(address(name.sin_addr), u16::from_be(name.sin_port));
        Ok(Some(Received { bytes, source, target: address(info.ipi_addr) }))
    }

    /// Sends from the address of a host.
    pub(crate) fn send(
        &self,
        source: Ipv4Addr,
        target: SocketAddrV4,
        bytes: &[u8],
    ) -> io::Result<()> {
        let mut control: Control = [0; 4];
        let mut vector =
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let raw = |address: Ipv4Addr| libc::in_addr { s_addr: address.to_bits().to_be() };
        let name = SockAddr::from(target);
        // SAFETY: as for receiving; the kernel does not write to what is sent, and the control buffer has room for the message.
        let sent = unsafe {
            let mut header: libc::msghdr = zeroed();
            header.msg_name = name.as_ptr().cast_mut().cast();
            header.msg_namelen = name.len();
            header.msg_iov = &raw mut vector;
            header.msg_iovlen = 1;
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = libc::CMSG_SPACE(length_of::<libc::in_pktinfo>()) as usize;
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            (*message).cmsg_level = libc::IPPROTO_IP;
            (*message).cmsg_type = libc::IP_PKTINFO;
            (*message).cmsg_len = libc::CMSG_LEN(length_of::<libc::in_pktinfo>()) as usize;
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: raw(source),
                ipi_addr: raw(source),
            };
            libc::CMSG_DATA(message).cast::<libc::in_pktinfo>().write_unaligned(info);
            libc::sendmsg(self.0.as_raw_fd(), &raw const header, 0)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Sends frames out by a device of another namespace.
pub(crate) struct FrameSocket(Socket);

impl FrameSocket {
    pub(crate) fn open(frames: &Frames) -> io::Result<Self> {
        let namespace = File::open(&frames.netns)?;
        let device = std::ffi::CString::new(frames.device.as_str())?;
        // Only the thread moves to the namespace.
        let opened = thread::spawn(move || -> io::Result<Socket> {
            // SAFETY: no pointers.
            check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })?;
            let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
            // SAFETY: the name ends in NUL.
            let index = unsafe { libc::if_nametoindex(device.as_ptr()) };
            if index == 0 {
                return Err(io::Error::last_os_error());
            }
            bind_to_device(socket.as_raw_fd(), index)?;
            Ok(socket)
        });
        opened.join().map_err(|_| io::Error::other("a thread panicked"))?.map(Self)
    }

    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.0.send(frame).map(drop)
    }
}

fn bind_to_device(socket: RawFd, index: u32) -> io::Result<()> {
    let family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    // SAFETY: an all-zero sockaddr_ll is valid, and its length that given. No protocol: nothing is received.
    check(unsafe {
        let mut address: libc::sockaddr_ll = zeroed();
        address.sll_family = family;
        address.sll_ifindex = index.cast_signed();
        libc::bind(socket, (&raw const address).cast(), length_of::<libc::sockaddr_ll>())
    })
    .map(drop)
}

fn set_option<T>(
    socket: &Socket,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: `value` lives through the call and its length is passed with it.
    let result = unsafe {
        let value = std::ptr::from_ref(value).cast();
        libc::setsockopt(socket.as_raw_fd(), level, name, value, length_of::<T>())
    };
    check(result).map(drop)
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("a structure of the kernel is small")
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
