//! Processes that die at every point of a hand-over, with all that is on the wire looked at.

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket as StdSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use weft_lane::{CipherSpeeds, Events, Framing, Probes, Tap, UdpSocket};
use weft_seal::{DataHeader, Message, SealMeta, VnetHeader};
use weft_tunnel::{LocalKey, PeerConfig, PeerKind};

use super::memory::{self, Memory};
use super::parse::Settings;
use super::recall::Findings;
use super::resume::Resumed;
use super::running::{Means, Running};
use super::warm::Nat;
use super::{Member, SealedPeer};

const VNI: u32 = 7;
const WITHIN: Duration = Duration::from_secs(30);
const SEEDS: u64 = 4;
const STEPS: u32 = 24;

/// What happens to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It hands over to the next one.
    HandOver,
    /// It is killed.
    Crash,
    /// It is killed when it has exported, before that is parked.
    ExportThenCrash,
    /// The next one is killed as soon as it has taken the sessions over; the one after it is given the same
    /// again.
    TakenOverThenCrash,
    /// The next one cannot write down that the sessions are used up; the one after it is given the
    /// same again.
    NotWrittenDown,
    /// The next one is given what some earlier one exported.
    Stale,
}

const ALL: [Step; 6] = [
    Step::HandOver,
    Step::Crash,
    Step::ExportThenCrash,
    Step::TakenOverThenCrash,
    Step::NotWrittenDown,
    Step::Stale,
];

#[test]
fn no_counter_is_used_twice_wherever_a_process_dies() {
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let mut world = World::new(seed);
        world.talk();
        let mut taken_over = 0;
        for _ in 0..STEPS {
            let step = ALL[random.below(ALL.len())];
            let side = random.below(2);
            taken_over += world.hosts[side].act(step, &mut random);
            // Some die again before anything came through.
            if random.below(3) > 0 {
                world.talk();
            }
            world.wire.check();
        }
        world.talk();
        world.wire.check();
        assert!(taken_over > 0, "seed {seed}: nothing was ever taken over");
    }
}

#[test]
fn a_hand_over_keeps_sessions_and_loses_nothing_that_comes_meanwhile() {
    let mut world = World::new(100);
    world.talk();
    let handshakes = world.wire.handshakes();
    for side in [0, 1, 0, 1] {
        let host = &mut world.hosts[side];
        let exported = host.process.take().expect("runs").running.hand_over();
        // Nobody is there.
        for other in [side, 1 - side] {
            for _ in 0..100 {
                world.hosts[other].write();
            }
        }
        assert!(world.hosts[side].start(Some(exported.to_vec())) > 0);
        world.await_received([100, 100]);
    }
    assert_eq!(world.wire.handshakes(), handshakes);
    world.wire.check();
}

#[test]
fn a_killed_process_is_followed_by_one_with_new_sessions_and_no_help() {
    let mut world = World::new(101);
    world.talk();
    let handshakes = world.wire.handshakes();
    world.hosts[0].process.take().expect("runs").running.crash();
    assert_eq!(world.hosts[0].start(None), 0);
    world.talk();
    assert!(world.wire.handshakes() > handshakes);
}

#[test]
fn a_peer_that_was_removed_is_unknown_to_the_next_process() {
    let mut world = World::new(102);
    world.talk();
    let host = &mut world.hosts[0];
    let mut process = host.process.take().expect("runs");
    process.running.remove(host.peer_id);
    process.running.save();
    process.running.crash();
    host.start(None);
    assert!(host.process.as_ref().is_some_and(|process| process.peers == 0));
}

struct World {
    hosts: [Host; 2],
    wire: Arc<Wire>,
}

struct Host {
    peer_id: u32,
    kernel: OwnedFd,
    /// Kept open as `weft-keep` does.
    tap: OwnedFd,
    socket: OwnedFd,
    memory: OwnedFd,
    folder: PathBuf,
    exports: Vec<Vec<u8>>,
    process: Option<Process>,
    received: usize,
}

struct Process {
    running: Running,
    events: Events,
    peers: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let sockets = [(); 2].map(|()| UdpSocket::bind(loopback(0)).unwrap());
        let at = [0, 1].map(|side| loopback(sockets[side].port().unwrap()));
        let wire = Wire::start(at);
        let keys = [0, 1].map(|side: u8| LocalKey::new(&[side + 1; 32]));
        let mut side = 0;
        let hosts = sockets.map(|socket| {
            let other = 1 - side;
            let mut config = PeerConfig::new(keys[other].public(), PeerKind::Node);
            config.candidates = vec![wire.ends[side]];
            let host = Host::new(seed, side, keys[side].clone(), config, socket);
            side += 1;
            host
        });
        Self { hosts, wire }
    }

    /// Waits until frames cross both ways.
    fn talk(&mut self) {
        for host in &self.hosts {
            (0..5).for_each(|_| host.write());
        }
        self.await_received([1, 1]);
    }

    /// Waits until each host has received so many frames from now on.
    fn await_received(&mut self, counts: [usize; 2]) {
        let deadline = Instant::now() + WITHIN;
        self.hosts.iter_mut().for_each(|host| host.received = 0);
        while self.hosts.iter().zip(counts).any(|(host, count)| host.received < count) {
            assert!(Instant::now() < deadline, "frames in time");
            self.hosts.iter_mut().for_each(Host::turn);
            if counts == [1, 1] {
                self.hosts.iter().for_each(Host::write);
            }
            thread::sleep(Duration::from_millis(2));
        }
        // What is under way still belongs to this time.
        thread::sleep(Duration::from_millis(10));
        self.hosts.iter_mut().for_each(Host::turn);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.wire.stop.store(true, Relaxed);
        for host in &mut self.hosts {
            if let Some(process) = host.process.take() {
                process.running.crash();
            }
            let _ = fs::remove_dir_all(&host.folder);
        }
    }
}

impl Host {
    fn new(seed: u64, side: usize, key: LocalKey, peer: PeerConfig, socket: UdpSocket) -> Self {
        let name = format!("weft-crashes-{}-{seed}-{side}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let (kernel, tap) = socket_pair();
        let memory = Memory::create().unwrap();
        let (memory_kept, socket_kept) = (
            memory.as_fd().try_clone_to_owned().unwrap(),
            socket.as_fd().try_clone_to_owned().unwrap(),
        );
        let speeds = CipherSpeeds { chacha_bytes_per_second: 1.0, aes_bytes_per_second: 2.0 };
        let means = Means {
            tap: Tap::stand_in(tap.try_clone().unwrap(), Framing::Meta),
            memory: Some(memory),
            findings: Some(Findings { probes: Probes::from_bits(u32::MAX), speeds }),
            socket,
        };
        let port = means.socket.port().unwrap();
        let settings = Settings {
            key,
            previous_key: None,
            port,
            key_log: None,
            offloads_off: Vec::new(),
            chacha_only: false,
        };
        let (mut running, events) = Running::prepare(settings, means, &folder).unwrap();
        let peer_id = 100 + u32::try_from(1 - side).unwrap();
        let peer = SealedPeer { config: peer, nat: Nat::None };
        running.put(peer_id, &Member { peer, vnis: vec![VNI] });
        running.begin().unwrap();
        running.save();
        Self {
            peer_id,
            kernel,
            tap,
            socket: socket_kept,
            memory: memory_kept,
            folder,
            exports: Vec::new(),
            process: Some(Process { running, events, peers: 1 }),
            received: 0,
        }
    }

    /// Starts a process with what was kept, and tells how many sessions it took over.
    fn start(&mut self, sessions: Option<Vec<u8>>) -> usize {
        let memory = self.memory.try_clone().unwrap();
        let sessions = sessions.map(|bytes| memory::sealed(&bytes).unwrap().into());
        let tap = Tap::stand_in(self.tap.try_clone().unwrap(), Framing::Meta);
        let socket = self.socket.try_clone().unwrap();
        let adopt = |_| Ok(UdpSocket::adopt(socket)?);
        let resumed = Resumed::of(memory, sessions, tap, adopt, &self.folder).unwrap();
        let Resumed { running, events, peers, sessions } = resumed;
        running.note_success();
        self.process = Some(Process { running, events, peers: peers.len() });
        sessions
    }

    /// Lets it happen; another process runs afterwards. Tells how many sessions were taken over in all.
    fn act(&mut self, step: Step, random: &mut Random) -> usize {
        let running = self.process.take().expect("runs").running;
        if matches!(step, Step::Crash | Step::Stale) {
            running.crash();
            let at = random.below(self.exports.len() + 1);
            let stale = self.exports.get(at).filter(|_| step == Step::Stale).cloned();
            // One that nobody has used yet may still be good.
            return self.start(stale);
        }
        let exported = running.hand_over().to_vec();
        match step {
            Step::ExportThenCrash => {
                self.exports.push(exported);
                self.start(None)
            }
            Step::TakenOverThenCrash => {
                let taken_over = self.start(Some(exported.clone()));
                (0..20).for_each(|_| self.write());
                thread::sleep(Duration::from_millis(u64::try_from(random.below(4)).unwrap()));
                self.process.take().expect("runs").running.crash();
                self.exports.push(exported.clone());
                assert_eq!(self.start(Some(exported)), 0, "it was taken over before");
                taken_over
            }
            Step::NotWrittenDown => {
                let obstacle = self.folder.join("sealing.new");
                fs::create_dir(&obstacle).unwrap();
                assert_eq!(self.start(Some(exported.clone())), 0);
                fs::remove_dir(&obstacle).unwrap();
                (0..20).for_each(|_| self.write());
                self.process.take().expect("runs").running.crash();
                let taken_over = self.start(Some(exported.clone()));
                self.exports.push(exported);
                taken_over
            }
            _ => {
                self.exports.push(exported.clone());
                self.start(Some(exported))
            }
        }
    }

    /// Gives the TAP one frame to seal.
    fn write(&self) {
        let vnet = VnetHeader { unfinished: None, gso: None, ecn: false, header_bytes: 0 };
        let meta = SealMeta { ethertype: 0, host_id: self.peer_id, vni: VNI };
        let mut frame = [&vnet.to_bytes()[..], &meta.to_bytes(), &[2; 12], &[0x88, 0xb5]].concat();
        frame.resize(frame.len() + 300, 0xa5);
        let (at, length) = (frame.as_ptr().cast(), frame.len());
        // SAFETY: the bytes live during the call.
        let sent = unsafe { libc::send(self.kernel.as_raw_fd(), at, length, libc::MSG_DONTWAIT) };
        // A full queue drops, as a TAP does.
        assert!(
            sent > 0 || std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock
        );
    }

    /// Does what its control thread would, and counts what the TAP was given.
    fn turn(&mut self) {
        let mut buffer = [0u8; 4096];
        loop {
            let (at, length) = (buffer.as_mut_ptr().cast(), buffer.len());
            // SAFETY: the buffer lives during the call and has that length.
            let read =
                unsafe { libc::recv(self.kernel.as_raw_fd(), at, length, libc::MSG_DONTWAIT) };
            if read <= 0 {
                break;
            }
            self.received += 1;
        }
        if let Some(Process { running, events, .. }) = &mut self.process {
            for event in events.present() {
                running.handle(event);
            }
            running.look();
            running.patience(Duration::ZERO, Duration::ZERO);
        }
    }
}

/// Between both hosts, and sees everything.
struct Wire {
    /// Where each host believes the other one.
    ends: [SocketAddr; 2],
    stop: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Receiver index, side that sent it, and counter.
    counters: HashSet<(u32, usize, u64)>,
    again: Vec<(u32, usize, u64)>,
    handshakes: usize,
}

impl Wire {
    fn start(hosts: [SocketAddr; 2]) -> Arc<Self> {
        let sockets = [(); 2].map(|()| {
            let socket = StdSocket::bind(loopback(0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            Arc::new(socket)
        });
        let ends = [0, 1].map(|side| sockets[side].local_addr().unwrap());
        let wire = Arc::new(Self { ends, stop: AtomicBool::new(false), seen: Mutex::default() });
        for side in 0..2 {
            let (from, to) = (Arc::clone(&sockets[side]), Arc::clone(&sockets[1 - side]));
            let wire = Arc::clone(&wire);
            thread::spawn(move || {
                let mut buffer = [0; 2048];
                while !wire.stop.load(Relaxed) {
                    let Ok((length, _)) = from.recv_from(&mut buffer) else { continue };
                    let datagram = &mut buffer[..length];
                    wire.note(side, datagram);
                    let _ = to.send_to(datagram, hosts[1 - side]);
                }
            });
        }
        wire
    }

    fn note(&self, side: usize, datagram: &mut [u8]) {
        let mut seen = self.seen.lock().unwrap();
        match Message::parse(datagram) {
            Some(Message::Data(DataHeader { receiver_index, counter })) => {
                let one = (receiver_index, side, counter);
                if !seen.counters.insert(one) {
                    seen.again.push(one);
                }
            }
            Some(Message::Handshake) => seen.handshakes += 1,
            None => {}
        }
    }

    fn handshakes(&self) -> usize {
        self.seen.lock().unwrap().handshakes
    }

    /// No key has sealed two messages with one counter: a key has one receiver index and one sender.
    fn check(&self) {
        let seen = self.seen.lock().unwrap();
        assert!(seen.again.is_empty(), "used twice: {:x?}", seen.again);
        assert!(!seen.counters.is_empty());
    }
}

/// The same numbers for the same seed (`SplitMix64`).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).unwrap()
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Two sockets that keep the bounds of messages.
fn socket_pair() -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the array has room for two descriptors.
    assert_eq!(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }, 0);
    // SAFETY: both descriptors are new and nobody else's.
    unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) }
}
