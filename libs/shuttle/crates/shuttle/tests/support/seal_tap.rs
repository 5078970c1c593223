//! Stands in for what seals: a cable between the two hosts' TAPs, and traffic to send through it.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::mem;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd, FromRawFd as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use weft_abi::{Plain as _, SEAL_MAGIC, SealMeta};
use weft_io::Tap;

use super::{Host, VNI, World};

const VNET_HEADER: usize = 12;
const META: usize = size_of::<SealMeta>();
const MACS: usize = 12;
const ETHERNET: usize = 14;
const POLL_MS: i32 = 20;
const PATIENCE: Duration = Duration::from_secs(10);
const VIRTIO_NET_HDR_GSO_UDP_L4: u8 = 5;
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
/// For local experiments (IEEE 802, 9.2.3).
const ETHERTYPE_EXPERIMENT: u16 = 0x88b5;

/// A frame that went from the first host to the second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crossed {
    /// From its Ethernet header on.
    pub(crate) bytes: usize,
    gso_type: u8,
}

impl Crossed {
    pub(crate) fn is_udp_super_packet(&self) -> bool {
        self.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4
    }
}

/// Moves frames between two TAPs, in both directions, as a sealed transport without loss would.
pub(crate) struct Cable {
    is_over: Arc<AtomicBool>,
    crossed: Arc<Mutex<Vec<Crossed>>>,
    threads: Vec<JoinHandle<usize>>,
}

impl Cable {
    /// Between hosts whose shuttles do not run.
    pub(crate) fn plug(world: &World, hosts: [&Host; 2]) -> Self {
        let [first, second] = hosts.map(|host| {
            let open = || Tap::open_queue("/dev/net/tun".as_ref(), "wl-seal").expect("a TAP");
            Arc::new(in_namespace(&world.path(host.name), open).join().expect("no panic"))
        });
        let is_over = Arc::new(AtomicBool::new(false));
        let crossed = Arc::new(Mutex::new(Vec::new()));
        let [there, back] = [(&first, &second, hosts), (&second, &first, [hosts[1], hosts[0]])]
            .map(|(from, to, [source, target])| Lane {
                from: Arc::clone(from),
                to: Arc::clone(to),
                source_host_id: source.id,
                target_host_id: target.id,
                is_over: Arc::clone(&is_over),
            });
        let seen = Arc::clone(&crossed);
        let threads = vec![
            thread::spawn(move || there.run(|frame| seen.lock().expect("no panic").push(frame))),
            thread::spawn(move || back.run(|_| ())),
        ];
        Self { is_over, crossed, threads }
    }

    /// What went from the first host to the second since the last call.
    pub(crate) fn take_crossed(&self) -> Vec<Crossed> {
        mem::take(&mut self.crossed.lock().expect("no panic"))
    }

    /// Gives how many frames were not for the other host, or not of the network.
    pub(crate) fn unplug(self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    }
}

struct Lane {
    from: Arc<Tap>,
    to: Arc<Tap>,
    source_host_id: u32,
    target_host_id: u32,
    is_over: Arc<AtomicBool>,
}

impl Lane {
    fn run(self, mut note: impl FnMut(Crossed)) -> usize {
        let mut buffer = vec![0; Tap::FRAME_BYTES_MAX];
        let mut astray = 0;
        while !self.is_over.load(Ordering::Relaxed) {
            let descriptor = self.from.as_fd().as_raw_fd();
            let mut poll = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
            // SAFETY: one pollfd, as said.
            if unsafe { libc::poll(&raw mut poll, 1, POLL_MS) } <= 0 {
                continue;
            }
            let length = self.from.read(&mut buffer).expect("a frame");
            let (vnet_header, rest) = buffer[..length].split_at(VNET_HEADER);
            let (meta, frame) = rest.split_at(META);
            let meta = SealMeta::from_bytes(meta);
            assert_eq!((meta.magic, &meta.ethertype[..]), (SEAL_MAGIC, &frame[MACS..ETHERNET]));
            if (meta.host_id, meta.vni) != (self.target_host_id, VNI) {
                astray += 1;
                continue;
            }
            note(Crossed { bytes: frame.len(), gso_type: vnet_header[1] });
            let front =
                if meta.ethertype == ETHERTYPE_IPV6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
            let meta = SealMeta { host_id: self.source_host_id, ..meta };
            let (macs, payload) = (&frame[..MACS], &frame[ETHERNET..]);
            // The checksum's place is as far from the start as it was.
            let out = [vnet_header, macs, &front, meta.as_bytes(), payload].concat();
            self.to.write(&out).expect("the kernel takes the frame");
        }
        astray
    }
}

/// Runs something in a network namespace, on a thread of its own.
fn in_namespace<T: Send + 'static>(
    path: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let namespace = File::open(path).expect("a namespace");
    thread::spawn(move || {
        // SAFETY: only this thread moves.
        let status = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(status, 0, "{}", io::Error::last_os_error());
        work()
    })
}

fn address(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(text.parse::<IpAddr>().expect("an address"), port)
}

/// Sends so many bytes by TCP, as fast as it goes, and expects each of them.
pub(crate) fn send_stream(from: (&str, &str), to: (&str, &str), bytes: usize) {
    const CHUNK: usize = 128 << 10;
    let pattern: Arc<[u8]> = (0..251).cycle().take(CHUNK).collect();
    let target = address(to.1, 5001);
    let (listener, expected) = (
        in_namespace(to.0, move || TcpListener::bind(target).expect("bound")).join().unwrap(),
        Arc::clone(&pattern),
    );
    let receiver = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut chunk = vec![0; CHUNK];
        for _ in 0..bytes / CHUNK {
            stream.read_exact(&mut chunk).expect("all bytes come");
            assert!(chunk[..] == expected[..], "other bytes than were sent");
        }
    });
    let sender = in_namespace(from.0, move || {
        let mut stream = TcpStream::connect_timeout(&target, PATIENCE).expect("connected");
        for _ in 0..bytes / CHUNK {
            stream.write_all(&pattern).expect("sent");
        }
    });
    sender.join().expect("no panic");
    receiver.join().expect("no panic");
}

fn bound(namespace: &str, address: SocketAddr) -> UdpSocket {
    let bind = move || UdpSocket::bind(address).expect("bound");
    let socket = in_namespace(namespace, bind).join().expect("no panic");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    socket
}

/// Sends datagrams in one super-packet and expects each of them.
pub(crate) fn send_datagrams(from: (&str, &str), to: (&str, &str), count: usize, bytes: usize) {
    let receiver = bound(to.0, address(to.1, 5002));
    let sender = bound(from.0, address(from.1, 0));
    let segment = libc::c_int::try_from(bytes).expect("small");
    // SAFETY: the option takes an int.
    let status = unsafe {
        let (value, length) = ((&raw const segment).cast(), size_of_val(&segment));
        let length = libc::socklen_t::try_from(length).expect("small");
        libc::setsockopt(sender.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, value, length)
    };
    assert_eq!(status, 0, "{}", io::Error::last_os_error());
    let all: Vec<u8> =
        (0..count * bytes).map(|at| u8::try_from(at / bytes).expect("few")).collect();
    sender.send_to(&all, address(to.1, 5002)).expect("sent");
    let mut buffer = vec![0; 2 * bytes];
    for sent in all.chunks(bytes) {
        let (length, source) = receiver.recv_from(&mut buffer).expect("a datagram");
        assert_eq!(source.ip(), address(from.1, 0).ip());
        assert!(buffer[..length] == *sent, "another datagram than was sent");
    }
}

/// Sends a broadcast and expects it.
pub(crate) fn send_broadcast(from: (&str, &str), to: (&str, &str)) {
    let receiver = bound(to.0, address("0.0.0.0", 5003));
    let sender = bound(from.0, address(from.1, 0));
    sender.set_broadcast(true).expect("a socket");
    sender.send_to(b"to all", address(to.1, 5003)).expect("sent");
    let mut buffer = [0; 64];
    let length = receiver.recv(&mut buffer).expect("the broadcast");
    assert_eq!(&buffer[..length], b"to all");
}

/// Sends a short frame that is no IP from and to `eth0`, and expects it.
pub(crate) fn send_raw(from: (&str, [u8; 6]), to: (&str, [u8; 6])) {
    let mut receiver = in_namespace(to.0, packet_socket).join().expect("no panic");
    let mut sender = in_namespace(from.0, packet_socket).join().expect("no panic");
    let payload = b"no IP, and short";
    let frame = [&to.1[..], &from.1, &ETHERTYPE_EXPERIMENT.to_be_bytes(), payload].concat();
    sender.write_all(&frame).expect("sent");
    let mut buffer = [0; 256];
    let length = loop {
        match receiver.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => break other.expect("the frame"),
        }
    };
    assert!(buffer[..length].starts_with(&frame), "{:02x?}", &buffer[..length]);
}

/// For frames of the type for experiments at `eth0`.
fn packet_socket() -> File {
    let protocol = ETHERTYPE_EXPERIMENT.to_be();
    // SAFETY: no pointers; the descriptor is new and owned by nobody else.
    let socket = unsafe {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        let descriptor = libc::socket(libc::AF_PACKET, kind, i32::from(protocol));
        assert!(descriptor >= 0, "{}", io::Error::last_os_error());
        File::from_raw_fd(descriptor)
    };
    // SAFETY: a name that ends in NUL; an all-zero sockaddr_ll and timeval are valid, and their lengths those given.
    unsafe {
        let length = |size: usize| libc::socklen_t::try_from(size).expect("small");
        let mut address: libc::sockaddr_ll = mem::zeroed();
        address.sll_family = u16::try_from(libc::AF_PACKET).expect("small");
        address.sll_protocol = protocol;
        address.sll_ifindex = libc::if_nametoindex(c"eth0".as_ptr()).cast_signed();
        let (name, bytes) = ((&raw const address).cast(), length(size_of_val(&address)));
        assert_eq!(libc::bind(socket.as_raw_fd(), name, bytes), 0);
        let mut timeout: libc::timeval = mem::zeroed();
        timeout.tv_sec = PATIENCE.as_secs().cast_signed();
        let (value, bytes) = ((&raw const timeout).cast(), length(size_of_val(&timeout)));
        let (level, option) = (libc::SOL_SOCKET, libc::SO_RCVTIMEO);
        assert_eq!(libc::setsockopt(socket.as_raw_fd(), level, option, value, bytes), 0);
    }
    socket
}
