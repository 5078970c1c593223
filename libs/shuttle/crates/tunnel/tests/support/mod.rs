//! A world of hosts without sockets: engines, what their packet threads would do, a network with
//! loss, delay, copies and NATs, and a checker of what must never happen.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "the numbers of a test are small"
)]
#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod nat;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nat::Nat;
use weft_seal::{ReceiveSession, SendSession};
use weft_tunnel::{
    ControlFrame, Endpoint, Engine, EngineConfig, Features, HandoverError, LocalKey, Now, Output,
    PeerConfig, PeerId, PeerKind, PeerState, Random, Refusal, Stamp, Traffic, Transmit,
};

/// The wall clock of a world begins here.
pub(crate) const EPOCH: Duration = Duration::from_secs(1_700_000_000);

/// The same bytes for the same seed (`SplitMix64`).
#[derive(Clone)]
pub(crate) struct Seeded(pub(crate) u64);

impl Seeded {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn key(&mut self) -> [u8; 32] {
        let mut key = [0; 32];
        self.fill(&mut key);
        key
    }
}

impl Random for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// What the packet threads know of sending to a peer.
pub(crate) struct Sending {
    pub(crate) index: u32,
    pub(crate) session: Arc<SendSession>,
    pub(crate) features: Features,
    pub(crate) endpoint: Endpoint,
    pub(crate) ends_at: Duration,
}

pub(crate) struct Host {
    pub(crate) engine: Engine,
    pub(crate) config: EngineConfig,
    pub(crate) key: LocalKey,
    pub(crate) address: SocketAddr,
    pub(crate) nat: Option<Nat>,
    /// What its wall clock is wrong by, in seconds.
    pub(crate) clock_error: i64,
    pub(crate) peers: BTreeMap<PeerId, PeerConfig>,
    pub(crate) receiving: HashMap<u32, (PeerId, Arc<ReceiveSession>, Duration)>,
    pub(crate) sending: HashMap<PeerId, Sending>,
    pub(crate) staged: HashMap<PeerId, Vec<Vec<u8>>>,
    pub(crate) delivered: Vec<(PeerId, Vec<u8>)>,
    pub(crate) states: Vec<(Duration, PeerId, PeerState)>,
    pub(crate) refused: HashMap<Refusal, u64>,
    pub(crate) replays: u64,
    pub(crate) sessions_begun: u64,
    /// How often a session without features took the place of one with some.
    pub(crate) downgrades: u64,
    pub(crate) mtus: Vec<(PeerId, usize)>,
    pub(crate) observed: Option<SocketAddr>,
    pub(crate) revoked: Vec<Vec<u8>>,
    pub(crate) key_log: String,
    pub(crate) durable_stamp: Option<Stamp>,
    pub(crate) durable_handover: u64,
}

impl Host {
    pub(crate) fn sending_features(&self, peer: PeerId) -> Features {
        self.sending.get(&peer).map_or(Features::NONE, |sending| sending.features)
    }

    pub(crate) fn cipher(&self, peer: PeerId) -> Option<weft_seal::Cipher> {
        self.sending.get(&peer).map(|sending| sending.session.cipher())
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) loss_percent: u64,
    pub(crate) copy_percent: u64,
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    /// IP packets larger than this vanish.
    pub(crate) mtu: usize,
}

impl Weather {
    pub(crate) const FINE: Self = Self {
        loss_percent: 0,
        copy_percent: 0,
        delay: Duration::from_millis(5),
        jitter: Duration::ZERO,
        mtu: 1500,
    };
}

#[derive(Clone)]
struct Flight {
    source: SocketAddr,
    target: SocketAddr,
    bytes: Vec<u8>,
}

pub(crate) struct World {
    pub(crate) random: Seeded,
    pub(crate) now: Duration,
    pub(crate) hosts: Vec<Host>,
    pub(crate) weather: Weather,
    /// Every datagram that was put on the wire, in order, if wanted.
    pub(crate) tape: Option<Vec<(SocketAddr, SocketAddr, Vec<u8>)>>,
    /// The control server tells every process the time.
    pub(crate) is_time_trusted: bool,
    flights: BTreeMap<(Duration, u64), Flight>,
    serial: u64,
    nonces: HashMap<(u32, u64), Vec<u8>>,
    sealed: HashSet<Vec<u8>>,
    opened: HashSet<(usize, Vec<u8>)>,
    next_payload: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: Seeded(seed),
            now: Duration::from_secs(1000),
            hosts: Vec::new(),
            weather: Weather::FINE,
            tape: None,
            is_time_trusted: false,
            flights: BTreeMap::new(),
            serial: 0,
            nonces: HashMap::new(),
            sealed: HashSet::new(),
            opened: HashSet::new(),
            next_payload: 0,
        }
    }

    /// Hosts that know each other; host `n` is peer `n` of all others.
    pub(crate) fn of(seed: u64, count: u8, tune: impl Fn(usize, &mut EngineConfig)) -> Self {
        let mut world = Self::new(seed);
        for number in 0..count {
            let key = LocalKey::new(&world.random.key());
            let mut config = EngineConfig::new(key);
            tune(number.into(), &mut config);
            world.add_host(SocketAddr::from(([192, 0, 2, number + 1], 51820)), config);
        }
        for one in 0..usize::from(count) {
            for other in 0..usize::from(count) {
                if one != other {
                    let mut peer = PeerConfig::new(world.hosts[other].key.public(), PeerKind::Node);
                    peer.candidates = vec![world.hosts[other].address];
                    world.add_peer(one, id(other), peer);
                }
            }
        }
        world
    }

    pub(crate) fn add_host(&mut self, address: SocketAddr, config: EngineConfig) -> usize {
        let random = Box::new(Seeded(self.random.next()));
        let engine = Engine::new(
            config.clone(),
            random,
            Now { monotonic: self.now, unix: EPOCH + self.now },
        );
        self.hosts.push(Host {
            engine,
            key: config.key.clone(),
            config,
            address,
            nat: None,
            clock_error: 0,
            peers: BTreeMap::new(),
            receiving: HashMap::new(),
            sending: HashMap::new(),
            staged: HashMap::new(),
            delivered: Vec::new(),
            states: Vec::new(),
            refused: HashMap::new(),
            replays: 0,
            sessions_begun: 0,
            downgrades: 0,
            mtus: Vec::new(),
            observed: None,
            revoked: Vec::new(),
            key_log: String::new(),
            durable_stamp: None,
            durable_handover: 0,
        });
        self.hosts.len() - 1
    }

    pub(crate) fn add_peer(&mut self, host: usize, peer: PeerId, config: PeerConfig) {
        let now = self.clock(host);
        self.hosts[host].peers.insert(peer, config.clone());
        self.hosts[host].engine.add_peer(now, peer, config).unwrap();
        self.drain(host);
    }

    pub(crate) fn update_peer(
        &mut self,
        host: usize,
        peer: PeerId,
        tune: impl Fn(&mut PeerConfig),
    ) {
        let now = self.clock(host);
        let config = self.hosts[host].peers.get_mut(&peer).unwrap();
        tune(config);
        let config = config.clone();
        self.hosts[host].engine.update_peer(now, peer, config).unwrap();
        self.drain(host);
    }

    /// Does something with an engine, then what it asks for.
    pub(crate) fn act<T>(&mut self, host: usize, act: impl FnOnce(&mut Engine, Now) -> T) -> T {
        let now = self.clock(host);
        let result = act(&mut self.hosts[host].engine, now);
        self.drain(host);
        result
    }

    pub(crate) fn clock(&self, host: usize) -> Now {
        let error = self.hosts[host].clock_error;
        let unix = (EPOCH + self.now).as_secs().saturating_add_signed(error);
        Now { monotonic: self.now, unix: Duration::new(unix, self.now.subsec_nanos()) }
    }

    /// Sends a payload that no other is like; it waits where there is no session.
    pub(crate) fn send(&mut self, host: usize, peer: PeerId) -> Vec<u8> {
        self.next_payload += 1;
        let length = 16 + self.random.below(1200) as usize;
        // Ethernet in Geneve without the O bit.
        let mut payload = vec![0, 0, 0x65, 0x58, 0, 0, 1, 0];
        payload.extend_from_slice(&self.next_payload.to_be_bytes());
        payload.resize(length, 0xa5);
        self.sealed.insert(payload.clone());
        self.send_payload(host, peer, payload.clone());
        payload
    }

    fn send_payload(&mut self, host: usize, peer: PeerId, payload: Vec<u8>) {
        let now = self.now;
        let at = &mut self.hosts[host];
        let Some(sending) = at.sending.get(&peer).filter(|sending| now < sending.ends_at) else {
            at.staged.entry(peer).or_default().push(payload);
            self.act(host, |engine, now| engine.want_session(now, peer));
            return;
        };
        let counter = sending.session.claim(1).unwrap();
        let mut bytes = vec![4, 0, 0, 0];
        bytes.extend_from_slice(&sending.session.receiver_index().to_le_bytes());
        bytes.extend_from_slice(&counter.to_le_bytes());
        bytes.extend_from_slice(&payload);
        let tag = sending.session.seal_in_place(counter, &mut bytes[16..]);
        bytes.extend_from_slice(&tag);
        let (index, target) = (sending.index, sending.endpoint.remote);
        self.fly(host, Transmit { source: None, target, bytes });
        let traffic = Traffic { packets: 1, bytes: payload.len() as u64 };
        let _ = self.act(host, |engine, now| engine.note_sent(now, index, traffic));
    }

    /// Puts a datagram on the wire.
    fn fly(&mut self, host: usize, transmit: Transmit) {
        self.check_nonce(&transmit.bytes);
        let mut source = self.hosts[host].address;
        let Transmit { target, bytes, .. } = transmit;
        if let Some(nat) = &mut self.hosts[host].nat {
            source = nat.translate_out(source, target);
        }
        self.inject(source, target, &bytes);
    }

    /// Puts a datagram on the wire, whoever sent it.
    pub(crate) fn inject(&mut self, source: SocketAddr, target: SocketAddr, bytes: &[u8]) {
        if let Some(tape) = &mut self.tape {
            tape.push((source, target, bytes.to_vec()));
        }
        let weather = self.weather;
        if bytes.len() + 28 > weather.mtu || self.random.chance(weather.loss_percent) {
            return;
        }
        let copies = 1 + u64::from(self.random.chance(weather.copy_percent));
        for _ in 0..copies {
            let jitter = self.random.below(weather.jitter.as_micros() as u64 + 1);
            let at = self.now + weather.delay + Duration::from_micros(jitter);
            self.serial += 1;
            let flight = Flight { source, target, bytes: bytes.to_vec() };
            self.flights.insert((at, self.serial), flight);
        }
    }

    fn check_nonce(&mut self, bytes: &[u8]) {
        if bytes[0] != 4 {
            return;
        }
        let index = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
        let counter = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
        let before = self.nonces.insert((index, counter), bytes.to_vec());
        assert!(before.is_none(), "a nonce was used twice: {index:08x} {counter}");
    }

    /// Lets time pass and everything happen that is due.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let flight = self.flights.first_key_value().map(|((at, _), _)| *at);
            let timeout = self.hosts.iter().filter_map(|host| host.engine.poll_timeout()).min();
            let Some(next) = flight.into_iter().chain(timeout).min().filter(|at| *at <= end) else {
                break;
            };
            assert!(next >= self.now || timeout == Some(next), "time goes on");
            self.now = self.now.max(next);
            self.land();
            for host in 0..self.hosts.len() {
                if self.hosts[host].engine.poll_timeout().is_some_and(|at| at <= self.now) {
                    self.act(host, Engine::handle_timeout);
                    let still = self.hosts[host].engine.poll_timeout();
                    assert!(still.is_none_or(|at| at > self.now), "a timeout was not handled");
                }
            }
        }
        self.now = end;
    }

    fn land(&mut self) {
        while let Some(entry) = self.flights.first_entry().filter(|entry| entry.key().0 <= self.now)
        {
            let flight = entry.remove();
            let receiver = (0..self.hosts.len()).find_map(|host| {
                let at = &mut self.hosts[host];
                let inside = match &mut at.nat {
                    Some(nat) => nat.translate_in(flight.source, flight.target),
                    None => (at.address == flight.target).then_some(at.address),
                };
                inside.map(|_| host)
            });
            if let Some(host) = receiver {
                self.receive(host, flight.source, flight.bytes);
            }
        }
    }

    /// Lets a datagram arrive now, whoever sent it.
    pub(crate) fn receive_from_wire(
        &mut self,
        source: SocketAddr,
        target: SocketAddr,
        bytes: Vec<u8>,
    ) {
        if let Some(host) = self.hosts.iter().position(|host| host.address == target) {
            self.receive(host, source, bytes);
        }
    }

    /// Hands a datagram to a host as if it had arrived.
    pub(crate) fn receive(&mut self, host: usize, source: SocketAddr, bytes: Vec<u8>) {
        let from = Endpoint { remote: source, local: None };
        if bytes.first() == Some(&4) && bytes.len() >= 32 {
            self.open(host, from, bytes);
            return;
        }
        let now = self.clock(host);
        let result = self.hosts[host].engine.handle_datagram(now, from, &bytes);
        if let Err(refusal) = result {
            *self.hosts[host].refused.entry(refusal).or_default() += 1;
        }
        let answered = self.drain(host);
        // Data messages are for a peer that proved who it is. A cookie that was asked for brings one
        // more initiation.
        let back = answered.iter().filter(|(target, kind, _)| *target == source && *kind != 4);
        let back: usize = back.map(|(_, _, length)| length).sum();
        let is_cookie = bytes.first() == Some(&3);
        assert!(is_cookie || back <= bytes.len(), "{back} bytes for {}", bytes.len());
    }

    fn open(&mut self, host: usize, from: Endpoint, mut bytes: Vec<u8>) {
        let index = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
        let counter = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
        let now = self.now;
        let at = &mut self.hosts[host];
        let Some((peer, session, _)) =
            at.receiving.get(&index).filter(|(_, _, ends_at)| now < *ends_at)
        else {
            return;
        };
        let (peer, session) = (*peer, Arc::clone(session));
        let payload = match session.open_in_place(counter, &mut bytes[16..]) {
            Ok(payload) => payload.to_vec(),
            Err(weft_seal::OpenError::Replayed) => {
                at.replays += 1;
                return;
            }
            Err(weft_seal::OpenError::Forged) => return,
        };
        if ControlFrame::is_control(&payload) {
            let result =
                self.act(host, |engine, now| engine.handle_opened(now, index, from, &payload));
            assert_eq!(result, Ok(()));
            return;
        }
        let is_data = !payload.is_empty();
        if is_data {
            assert!(self.sealed.contains(&payload), "what was opened was never sealed");
            assert!(self.opened.insert((host, payload.clone())), "delivered twice");
            self.hosts[host].delivered.push((peer, payload.clone()));
        }
        let traffic = Traffic { packets: is_data.into(), bytes: payload.len() as u64 };
        let result = self.act(host, |engine, now| engine.note_received(now, index, from, traffic));
        assert_eq!(result, Ok(()));
    }

    /// Does what an engine asks for; targets, types and lengths of what it sent.
    pub(crate) fn drain(&mut self, host: usize) -> Vec<(SocketAddr, u8, usize)> {
        let mut sent = Vec::new();
        while let Some(output) = self.hosts[host].engine.poll_output() {
            let at = &mut self.hosts[host];
            match output {
                Output::Transmit(transmit) => {
                    sent.push((transmit.target, transmit.bytes[0], transmit.bytes.len()));
                    self.fly(host, transmit);
                }
                Output::ReceiveWith { peer, index, session, ends_at } => {
                    let before = at.receiving.insert(index, (peer, session, ends_at));
                    assert!(before.is_none(), "an index is used twice");
                }
                Output::SendWith { peer, index, session, features, endpoint, ends_at } => {
                    let is_new = at.sending.get(&peer).is_none_or(|sending| sending.index != index);
                    at.sessions_begun += u64::from(is_new);
                    let had_features = at
                        .sending
                        .get(&peer)
                        .is_some_and(|sending| sending.features != Features::NONE);
                    at.downgrades += u64::from(had_features && features == Features::NONE);
                    let sending = Sending { index, session, features, endpoint, ends_at };
                    at.sending.insert(peer, sending);
                    for payload in at.staged.remove(&peer).unwrap_or_default() {
                        self.send_payload(host, peer, payload);
                    }
                }
                Output::SessionEnded { peer, index } => {
                    at.receiving.remove(&index);
                    if at.sending.get(&peer).is_some_and(|sending| sending.index == index) {
                        at.sending.remove(&peer);
                    }
                }
                Output::EndpointChanged { peer, endpoint } => {
                    if let Some(sending) = at.sending.get_mut(&peer) {
                        sending.endpoint = endpoint;
                    }
                }
                Output::StateChanged { peer, state } => at.states.push((self.now, peer, state)),
                Output::PathMtu { peer, mtu } => at.mtus.push((peer, mtu)),
                Output::Observed { address, .. } => at.observed = Some(address),
                Output::Revoked { statement, .. } => at.revoked.push(statement),
                Output::KeepStamp(stamp) => at.durable_stamp = Some(stamp),
                Output::KeepHandover(serial) => at.durable_handover = serial,
                Output::KeyLog(lines) => at.key_log.push_str(&lines),
            }
        }
        sent
    }

    pub(crate) fn state(&self, host: usize, peer: PeerId) -> PeerState {
        self.hosts[host].engine.status(self.clock(host), peer).unwrap().state
    }

    pub(crate) fn refusals(&self, host: usize, refusal: Refusal) -> u64 {
        let told = self.hosts[host].refused.get(&refusal).copied().unwrap_or(0);
        let counted = self.hosts[host].engine.engine_status(self.clock(host)).refusals;
        assert_eq!(counted.of(refusal), told, "{}", refusal.name());
        told
    }

    /// Kills the process of a host; what is durable survives.
    pub(crate) fn crash(&mut self, host: usize) {
        let now = self.clock(host);
        let random = Box::new(Seeded(self.random.next()));
        let at = &mut self.hosts[host];
        at.config.persisted_stamp = at.durable_stamp;
        at.config.consumed_handover = at.durable_handover;
        at.engine = Engine::new(at.config.clone(), random, now);
        at.receiving.clear();
        at.sending.clear();
        at.staged.clear();
        for (peer, config) in at.peers.clone() {
            self.hosts[host].engine.add_peer(now, peer, config).unwrap();
        }
        self.trust_time(host);
    }

    pub(crate) fn trust_time(&mut self, host: usize) {
        let (now, signed) = (self.clock(host), EPOCH + self.now);
        if self.is_time_trusted {
            self.hosts[host].engine.trust_time(now, signed);
        }
        self.drain(host);
    }

    /// Ends the process of a host and gives its sessions to the next one. The bytes, for mischief.
    pub(crate) fn hand_over(&mut self, host: usize) -> Vec<u8> {
        let bytes = self.export_and_crash(host);
        self.import(host, &bytes).unwrap();
        bytes
    }

    pub(crate) fn export_and_crash(&mut self, host: usize) -> Vec<u8> {
        let now = self.clock(host);
        let random = Box::new(Seeded(self.random.next()));
        let empty = Engine::new(self.hosts[host].config.clone(), random, now);
        let bytes = std::mem::replace(&mut self.hosts[host].engine, empty).export().to_vec();
        self.crash(host);
        bytes
    }

    pub(crate) fn import(&mut self, host: usize, bytes: &[u8]) -> Result<usize, HandoverError> {
        self.act(host, |engine, now| engine.import(now, bytes))
    }

    /// Every host was sent something by every peer that it has a session with, so both directions
    /// of all sessions in force work.
    pub(crate) fn check_all_pairs(&mut self) {
        let pairs: BTreeSet<(usize, PeerId)> = (0..self.hosts.len())
            .flat_map(|host| self.hosts[host].peers.keys().map(move |peer| (host, *peer)))
            .collect();
        let payloads: Vec<_> =
            pairs.into_iter().map(|(host, peer)| (host, peer, self.send(host, peer))).collect();
        self.run(Duration::from_secs(20));
        for (host, peer, payload) in payloads {
            let target = &self.hosts[peer.0 as usize];
            let found = target.delivered.contains(&(id(host), payload));
            assert!(found, "{host} does not reach {peer:?}");
        }
    }
}

pub(crate) fn id(host: usize) -> PeerId {
    PeerId(host as u32)
}
