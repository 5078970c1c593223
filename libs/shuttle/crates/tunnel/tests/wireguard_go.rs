//! Against wireguard-go, in both roles, over loopback in a network namespace of its own.
//!
//! Needs root, `/dev/net/tun`, and in `WEFT_WIREGUARD_GO` the path of a `wireguard` that
//! `go install golang.zx2c4.com/wireguard@latest` built. It is skipped with the reason elsewhere.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of a test are small")]

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weft_seal::{ReceiveSession, SendSession};
use weft_tunnel::{
    Endpoint, Engine, EngineConfig, LocalKey, Now, OsRandom, Output, PeerConfig, PeerId, PeerKind,
    Traffic,
};

const BINARY: &str = "WEFT_WIREGUARD_GO";
const INSIDE: &str = "WEFT_INSIDE_NAMESPACE";
const PEER: PeerId = PeerId(1);
const PORT_HERE: u16 = 51822;
const PORT_THERE: u16 = 51821;
const OWN_KEY: [u8; 32] = [1; 32];
const OTHER_KEY: [u8; 32] = [2; 32];
const PSK: [u8; 32] = [3; 32];
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_session_from_here_carries_packets_of_all_sizes_and_follows_a_move() {
    in_namespace("a_session_from_here_carries_packets_of_all_sizes_and_follows_a_move", || {
        let _other = Other::start();
        let mut host = Host::new();
        let now = host.now();
        host.engine.want_session(now, PEER);
        host.run_until(|host| host.send.is_some());
        for length in (0..1392).step_by(29).chain([1392]) {
            host.ping(length);
        }
        host.socket = socket(PORT_HERE + 1);
        host.ping(100);
    });
}

#[test]
fn a_session_from_there_carries_packets() {
    in_namespace("a_session_from_there_carries_packets", || {
        let _other = Other::start();
        let mut host = Host::new();
        // Traffic of the other host's kernel makes it initiate.
        let sender = UdpSocket::bind("10.99.0.1:0").unwrap();
        sender.send_to(b"from there", "10.99.0.2:9").unwrap();
        host.run_until(|host| host.got.iter().any(|packet| packet.ends_with(b"from there")));
        host.ping(1000);
    });
}

/// Runs the test of this name again in a namespace, where what it needs is there.
fn in_namespace(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        body();
        return;
    }
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt;
        own.uid() == 0
    });
    if !is_root || std::env::var_os(BINARY).is_none() {
        eprintln!("skipped: needs root, and a wireguard-go in {BINARY}");
        return;
    }
    let status = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

fn run(program: &str, arguments: &str) {
    let status = Command::new(program).args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "{program} {arguments}");
}

fn socket(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    socket
}

/// A running wireguard-go.
struct Other {
    process: Child,
    control: PathBuf,
}

impl Other {
    fn start() -> Self {
        let name = format!("wft{}", std::process::id());
        run("ip", "link set lo up");
        let process = Command::new(std::env::var_os(BINARY).unwrap())
            .args(["-f", &name])
            .env("LOG_LEVEL", "error")
            .spawn()
            .unwrap();
        let control = PathBuf::from(format!("/var/run/wireguard/{name}.sock"));
        let other = Self { process, control };
        other.configure();
        run("ip", &format!("addr add 10.99.0.1/24 dev {name}"));
        run("ip", &format!("link set {name} up"));
        other
    }

    fn configure(&self) {
        let started = Instant::now();
        let mut stream = loop {
            match UnixStream::connect(&self.control) {
                Ok(stream) => break stream,
                Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let public = hex(&LocalKey::new(&OWN_KEY).public());
        let (private, psk) = (hex(&OTHER_KEY), hex(&PSK));
        write!(
            stream,
            "set=1\nprivate_key={private}\nlisten_port={PORT_THERE}\nreplace_peers=true\n\
             public_key={public}\npreshared_key={psk}\nendpoint=127.0.0.1:{PORT_HERE}\n\
             allowed_ip=10.99.0.2/32\n\n"
        )
        .unwrap();
        let mut answer = [0; 64];
        let length = stream.read(&mut answer).unwrap();
        assert!(answer[..length].starts_with(b"errno=0"));
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.control);
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

struct Host {
    engine: Engine,
    socket: UdpSocket,
    started: Instant,
    send: Option<(u32, Arc<SendSession>, Endpoint)>,
    receive: Vec<(u32, Arc<ReceiveSession>)>,
    got: Vec<Vec<u8>>,
}

impl Host {
    fn new() -> Self {
        let config = EngineConfig::new(LocalKey::new(&OWN_KEY));
        let started = Instant::now();
        let now = now(started);
        let mut engine = Engine::new(config, Box::new(OsRandom), now);
        let public = LocalKey::new(&OTHER_KEY).public();
        let mut peer = PeerConfig::new(public, PeerKind::Stock);
        peer.preshared_key = Some(PSK.into());
        peer.candidates = vec![([127, 0, 0, 1], PORT_THERE).into()];
        engine.add_peer(now, PEER, peer).unwrap();
        let socket = socket(PORT_HERE);
        Self { engine, socket, started, send: None, receive: Vec::new(), got: Vec::new() }
    }

    fn now(&self) -> Now {
        now(self.started)
    }

    fn run_until(&mut self, is_done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_done(self) {
            assert!(Instant::now() < end, "nothing came");
            let now = self.now();
            self.engine.handle_timeout(now);
            self.drain();
            let mut buffer = [0; 2048];
            if let Ok((length, remote)) = self.socket.recv_from(&mut buffer) {
                self.receive(Endpoint { remote, local: None }, &mut buffer[..length]);
            }
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Transmit(transmit) => {
                    self.socket.send_to(&transmit.bytes, transmit.target).unwrap();
                }
                Output::SendWith { index, session, endpoint, .. } => {
                    self.send = Some((index, session, endpoint));
                }
                Output::ReceiveWith { index, session, .. } => self.receive.push((index, session)),
                _ => {}
            }
        }
    }

    fn receive(&mut self, from: Endpoint, bytes: &mut [u8]) {
        let now = self.now();
        if bytes[0] != 4 {
            self.engine.handle_datagram(now, from, bytes).unwrap();
            return;
        }
        let index = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
        let counter = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
        let (_, session) = self.receive.iter().find(|(known, _)| *known == index).unwrap();
        let payload = session.open_in_place(counter, &mut bytes[16..]).unwrap();
        let packets = u64::from(!payload.is_empty());
        let traffic = Traffic { packets, bytes: payload.len() as u64 };
        self.engine.note_received(now, index, from, traffic).unwrap();
        if let Some(length) = payload.get(2..4) {
            let length = u16::from_be_bytes([length[0], length[1]]);
            self.got.push(payload[..length.into()].to_vec());
        }
    }

    /// Asks the other host's kernel for an echo, and waits for it.
    fn ping(&mut self, length: usize) {
        let data: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
        let packet = echo_request(&data);
        let (index, session, endpoint) = self.send.clone().expect("a session");
        let counter = session.claim(1).unwrap();
        let mut bytes = vec![4, 0, 0, 0];
        bytes.extend_from_slice(&session.receiver_index().to_le_bytes());
        bytes.extend_from_slice(&counter.to_le_bytes());
        bytes.extend_from_slice(&packet);
        bytes.resize(16 + packet.len().next_multiple_of(16), 0);
        let tag = session.seal_in_place(counter, &mut bytes[16..]);
        bytes.extend_from_slice(&tag);
        self.socket.send_to(&bytes, endpoint.remote).unwrap();
        let now = self.now();
        let traffic = Traffic { packets: 1, bytes: packet.len() as u64 };
        self.engine.note_sent(now, index, traffic).unwrap();
        let is_reply = |packet: &Vec<u8>| packet[20] == 0 && packet[28..] == data[..];
        self.run_until(|host| host.got.iter().any(is_reply));
        self.got.clear();
    }
}

fn now(started: Instant) -> Now {
    // Far from zero, so that nothing depends on where a clock begins.
    let monotonic = Duration::from_hours(1) + started.elapsed();
    Now { monotonic, unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap() }
}

/// IPv4 from 10.99.0.2 to 10.99.0.1 with an ICMP echo request (RFC 792).
fn echo_request(data: &[u8]) -> Vec<u8> {
    let mut icmp = vec![8, 0, 0, 0, 0, 1, 0, 1];
    icmp.extend_from_slice(data);
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0, 10, 99, 0, 2, 10, 99, 0, 1];
    packet[2..4].copy_from_slice(&(20 + icmp.len() as u16).to_be_bytes());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(&icmp);
    packet
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}
