//! A `WireGuard` client by another implementation, boringtun, without a device: a test gives and takes
//! its packets.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};

const PATIENCE: Duration = Duration::from_secs(20);
/// How often the client is woken to repeat and to look whether it is to end.
const TICK: Duration = Duration::from_millis(20);
const PACKET_BYTES_MAX: usize = 2048;
const ICMP: u8 = 1;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

/// A client that answers pings for as long as it is there.
pub(crate) struct Phone {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    core: Mutex<Core>,
    is_over: AtomicBool,
    address: Ipv4Addr,
}

struct Core {
    tunn: Tunn,
    socket: Arc<UdpSocket>,
    host: SocketAddr,
    /// Packets that came, but for requests that were answered.
    inbox: Vec<Vec<u8>>,
    /// Datagrams that came.
    datagrams: usize,
}

/// The public key of a private one.
pub(crate) fn public_key(private: [u8; 32]) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(private)).to_bytes()
}

impl Phone {
    pub(crate) fn new(
        socket: UdpSocket,
        private: [u8; 32],
        psk: Option<[u8; 32]>,
        (host, host_key): (SocketAddr, [u8; 32]),
        address: Ipv4Addr,
    ) -> Self {
        let tunn = Tunn::new(StaticSecret::from(private), host_key.into(), psk, None, 7, None);
        socket.set_read_timeout(Some(TICK)).expect("a timeout");
        let core = Core { tunn, socket: Arc::new(socket), host, inbox: Vec::new(), datagrams: 0 };
        let core = Mutex::new(core);
        let state = Arc::new(State { core, is_over: AtomicBool::new(false), address });
        let own = Arc::clone(&state);
        let thread = std::thread::spawn(move || own.run());
        Self { state, thread: Some(thread) }
    }

    /// Goes on at another socket, as a phone does that has changed networks.
    pub(crate) fn roam(&self, socket: UdpSocket) {
        socket.set_read_timeout(Some(TICK)).expect("a timeout");
        self.core().socket = Arc::new(socket);
    }

    pub(crate) fn send(&self, packet: &[u8]) {
        self.core().send(packet);
    }

    /// Sends an echo request and waits for its answer; whether it came.
    pub(crate) fn ping(&self, target: &str, sequence: u16) {
        let target: Ipv4Addr = target.parse().expect("an address");
        let is_answer = |packet: &[u8]| {
            packet.len() > 28
                && packet[12..16] == target.octets()
                && packet[20] == ECHO_REPLY
                && packet[26..28] == sequence.to_be_bytes()
        };
        let request = echo(self.state.address, target, ECHO_REQUEST, sequence, 56);
        self.send(&request);
        self.until("an answer", is_answer);
    }

    /// The first packet that is so, of those that came and come.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let inbox = &mut self.core().inbox;
            if let Some(at) = inbox.iter().position(|packet| is_so(packet)) {
                return inbox.swap_remove(at);
            }
            assert!(Instant::now() < deadline, "{what} did not come; {} others did", inbox.len());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn inbox(&self) -> Vec<Vec<u8>> {
        self.core().inbox.clone()
    }

    pub(crate) fn datagrams(&self) -> usize {
        self.core().datagrams
    }

    fn core(&self) -> std::sync::MutexGuard<'_, Core> {
        self.state.core.lock().expect("no panic")
    }
}

impl Drop for Phone {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    fn run(&self) {
        let mut buffer = [0; PACKET_BYTES_MAX];
        while !self.is_over.load(Ordering::Relaxed) {
            let Ok(core) = self.core.lock() else { return };
            let socket = Arc::clone(&core.socket);
            drop(core);
            let received = socket.recv(&mut buffer);
            let Ok(mut core) = self.core.lock() else { return };
            match received {
                Ok(length) => core.take(&buffer[..length], self.address),
                Err(_) => core.tick(),
            }
        }
    }
}

impl Core {
    fn send(&mut self, packet: &[u8]) {
        let mut out = [0; PACKET_BYTES_MAX];
        if let TunnResult::WriteToNetwork(datagram) = self.tunn.encapsulate(packet, &mut out) {
            // The host may be down.
            let _ = self.socket.send_to(datagram, self.host);
        }
    }

    fn tick(&mut self) {
        let mut out = [0; PACKET_BYTES_MAX];
        if let TunnResult::WriteToNetwork(datagram) = self.tunn.update_timers(&mut out) {
            let _ = self.socket.send_to(datagram, self.host);
        }
    }

    fn take(&mut self, datagram: &[u8], own: Ipv4Addr) {
        self.datagrams += 1;
        let mut out = [0; PACKET_BYTES_MAX];
        let mut input = datagram;
        loop {
            match self.tunn.decapsulate(None, input, &mut out) {
                TunnResult::WriteToNetwork(answer) => {
                    let _ = self.socket.send_to(answer, self.host);
                    input = &[];
                }
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    let packet = packet.to_vec();
                    return self.deliver(packet, own);
                }
                TunnResult::Done | TunnResult::Err(_) => return,
            }
        }
    }

    fn deliver(&mut self, packet: Vec<u8>, own: Ipv4Addr) {
        let is_request = packet.len() > 28
            && packet[9] == ICMP
            && packet[20] == ECHO_REQUEST
            && packet[16..20] == own.octets();
        if !is_request {
            return self.inbox.push(packet);
        }
        let mut answer = packet;
        let (source, target) = (answer[12..16].to_vec(), answer[16..20].to_vec());
        answer[12..16].copy_from_slice(&target);
        answer[16..20].copy_from_slice(&source);
        answer[20] = ECHO_REPLY;
        answer[22..24].fill(0);
        let sum = checksum(&answer[20..]);
        answer[22..24].copy_from_slice(&sum);
        self.send(&answer);
    }
}

/// A UDP socket of a namespace.
pub(crate) fn udp_inside(path: &str, address: &str) -> std::net::UdpSocket {
    let (path, address) = (path.to_owned(), address.to_owned());
    let open = move || {
        let namespace = std::fs::File::open(path).expect("a namespace");
        // SAFETY: only this thread moves, and it ends at once.
        let result =
            unsafe { libc::setns(std::os::fd::AsRawFd::as_raw_fd(&namespace), libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        std::net::UdpSocket::bind(address).expect("a socket")
    };
    std::thread::spawn(open).join().expect("no panic")
}

/// An ICMP echo message in IPv4.
pub(crate) fn echo(
    source: Ipv4Addr,
    target: Ipv4Addr,
    kind: u8,
    sequence: u16,
    payload_bytes: usize,
) -> Vec<u8> {
    let length = u16::try_from(28 + payload_bytes).expect("small").to_be_bytes();
    let mut packet = vec![0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, ICMP, 0, 0];
    packet.extend(source.octets());
    packet.extend(target.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum);
    let mut message = vec![kind, 0, 0, 0, 0x12, 0x34];
    message.extend(sequence.to_be_bytes());
    message.extend(vec![0x5a; payload_bytes]);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    packet.extend(message);
    packet
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).expect("folded")).to_be_bytes()
}
