//! The session engine: what it reads, and its whole life.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use blake2::{Blake2s256, Digest};
use weft_seal::{Cipher, ReceiveSession};
use weft_tunnel::{
    ControlFrame, Endpoint, Engine, EngineConfig, Features, LocalKey, Now, Output, PROBE_BYTES_MIN,
    PeerConfig, PeerId, PeerKind, Random, Traffic,
};

const PEER: PeerId = PeerId(1);
const EPOCH: Duration = Duration::from_secs(1_700_000_000);

struct Counting(u64);

impl Random for Counting {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (self.0 >> 33) as u8;
        }
    }
}

fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host as u8], 51820))
}

fn keys() -> [LocalKey; 2] {
    [LocalKey::new(&[1; 32]), LocalKey::new(&[2; 32])]
}

/// No two processes draw the same numbers.
fn engine(host: usize, at: Duration, process: u64, consumed_handover: u64) -> Engine {
    let now = Now { monotonic: at, unix: EPOCH + at };
    let [own, other] = [host, 1 - host].map(|host| keys()[host].clone());
    let config = EngineConfig {
        features: Features::SEGMENTS,
        sub_session_ciphers: vec![Cipher::Aes256Gcm],
        consumed_handover,
        ..EngineConfig::new(own)
    };
    let random = Box::new(Counting(host as u64 + 1000 * process));
    let mut engine = Engine::new(config, random, now);
    let mut peer = PeerConfig::new(other.public(), PeerKind::Node);
    peer.candidates = vec![address(1 - host)];
    engine.add_peer(now, PEER, peer).unwrap();
    engine
}

/// A payload that claims to be a control frame.
pub(crate) fn control(data: &[u8]) {
    let Ok(frame) = ControlFrame::parse(data) else { return };
    assert!(ControlFrame::is_control(data));
    let encoded = frame.encode();
    assert!(encoded.len() <= data.len().max(PROBE_BYTES_MIN));
    assert_eq!(ControlFrame::parse(&encoded), Ok(frame));
}

/// Datagrams from a stranger, each two bytes of length and the rest.
pub(crate) fn datagram(mut data: &[u8]) {
    let mut engine = engine(0, Duration::ZERO, 0, 0);
    let now = Now { monotonic: Duration::ZERO, unix: EPOCH };
    engine.want_session(now, PEER);
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (datagram, rest) = rest.split_at(length);
        let _ = engine.handle_datagram(now, Endpoint { remote: address(7), local: None }, datagram);
        while let Some(output) = engine.poll_output() {
            if let Output::Transmit(transmit) = output {
                assert!(transmit.target != address(7) || transmit.bytes.len() <= datagram.len());
            }
        }
        data = rest;
    }
}

/// A hand-over whose checksum is right, with anything behind its head.
pub(crate) fn handover(data: &[u8]) {
    let at = Duration::from_secs(100);
    let mut bytes = b"weft-tun\x01".to_vec();
    bytes.extend_from_slice(&keys()[0].public());
    bytes.extend_from_slice(&1u64.to_be_bytes());
    bytes.extend_from_slice(data);
    let checksum = Blake2s256::digest(&bytes);
    bytes.extend_from_slice(&checksum);
    let mut engine = engine(0, at, 0, 0);
    let now = |at| Now { monotonic: at, unix: EPOCH + at };
    if engine.import(now(at), &bytes).is_ok() {
        assert!(engine.import(now(at), &bytes).is_err());
    }
    for _ in 0..20 {
        while engine.poll_output().is_some() {}
        let Some(next) = engine.poll_timeout() else { break };
        engine.handle_timeout(now(next.max(at)));
    }
}

/// A peer that has a session and says what it likes in it: each frame behind a byte of what happens before
/// it and two of length.
pub(crate) fn peer(mut data: &[u8]) {
    let mut life = Life::new();
    life.want(1);
    life.pass(Duration::from_secs(1));
    while let Some((&[what, low, high], rest)) = data.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        let (payload, rest) = rest.split_at(length);
        data = rest;
        match what & 7 {
            0 => life.pass(Duration::from_millis(u64::from(what >> 3) * 40)),
            1 => life.pass(Duration::from_secs(u64::from(what >> 3) * 10)),
            _ => {}
        }
        life.say(1, payload, usize::from(what >> 7));
    }
    life.make_up();
}

/// Two hosts; each pair of bytes says what happens to them next.
pub(crate) fn life(data: &[u8]) {
    let mut life = Life::new();
    for step in data.chunks_exact(2).take(200) {
        life.step(step[0], step[1]);
    }
    life.make_up();
}

struct Life {
    at: Duration,
    engines: [Engine; 2],
    receiving: [HashMap<u32, Arc<ReceiveSession>>; 2],
    /// What is under way to each host.
    wires: [VecDeque<Vec<u8>>; 2],
    connected: [bool; 2],
    sending: [Option<u32>; 2],
    consumed: [u64; 2],
    processes: u64,
    nonces: HashSet<(u32, u64)>,
}

impl Life {
    fn new() -> Self {
        let at = Duration::from_secs(100);
        Self {
            at,
            engines: [engine(0, at, 0, 0), engine(1, at, 0, 0)],
            receiving: Default::default(),
            wires: Default::default(),
            connected: [false; 2],
            sending: [None; 2],
            consumed: [0; 2],
            processes: 0,
            nonces: HashSet::new(),
        }
    }

    fn now(&self) -> Now {
        Now { monotonic: self.at, unix: EPOCH + self.at }
    }

    fn step(&mut self, what: u8, how: u8) {
        let host = usize::from(what & 1);
        match what >> 1 & 7 {
            0 => self.want(host),
            1 => self.deliver(host),
            2 => self.pass(Duration::from_millis(u64::from(how) * 20)),
            3 => self.pass(Duration::from_secs(u64::from(how))),
            4 => self.damage(host, how),
            5 => self.repeat(host),
            6 if how & 1 == 0 => self.hand_over(host),
            _ => self.note(host),
        }
    }

    /// Whatever happened, they find each other once all is over.
    fn make_up(&mut self) {
        self.wires.iter_mut().for_each(VecDeque::clear);
        self.pass(Duration::from_secs(400));
        self.want(0);
        self.pass(Duration::from_secs(20));
        assert!(self.connected[0] && self.connected[1]);
    }

    /// The other host hears a payload from this one, by its own session and from one of two addresses.
    fn say(&mut self, host: usize, payload: &[u8], place: usize) {
        let (other, now) = (1 - host, self.now());
        let Some(index) = self.receiving[other].keys().max().copied() else { return };
        let from = Endpoint { remote: address(host + 5 * place), local: None };
        let engine = &mut self.engines[other];
        let _ = if ControlFrame::is_control(payload) {
            engine.handle_opened(now, index, from, payload)
        } else {
            let traffic = Traffic { packets: 1, bytes: payload.len() as u64 };
            engine.note_received(now, index, from, traffic)
        };
        self.drain(other);
    }

    fn want(&mut self, host: usize) {
        let now = self.now();
        self.engines[host].want_session(now, PEER);
        self.drain(host);
    }

    fn note(&mut self, host: usize) {
        let (now, Some(index)) = (self.now(), self.sending[host]) else { return };
        let _ = self.engines[host].note_sent(now, index, Traffic { packets: 1, bytes: 100 });
        self.drain(host);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.at + time;
        loop {
            while self.wires.iter().any(|wire| !wire.is_empty()) {
                self.deliver(0);
                self.deliver(1);
            }
            let next = self.engines.iter().filter_map(Engine::poll_timeout).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.at = self.at.max(next);
            for host in 0..2 {
                let now = self.now();
                self.engines[host].handle_timeout(now);
                assert!(self.engines[host].poll_timeout().is_none_or(|next| next > self.at));
                self.drain(host);
            }
        }
        self.at = end;
    }

    fn damage(&mut self, host: usize, how: u8) {
        let Some(bytes) = self.wires[host].front_mut() else { return };
        let at = usize::from(how) % bytes.len();
        bytes[at] ^= 1 << (how & 7);
    }

    fn repeat(&mut self, host: usize) {
        let Some(bytes) = self.wires[host].front().cloned() else { return };
        self.wires[host].push_back(bytes);
    }

    fn hand_over(&mut self, host: usize) {
        self.drain(host);
        self.processes += 1;
        let next = engine(host, self.at, self.processes, self.consumed[host]);
        let bytes = std::mem::replace(&mut self.engines[host], next).export();
        self.receiving[host].clear();
        self.connected[host] = false;
        self.sending[host] = None;
        let now = self.now();
        self.engines[host].import(now, &bytes).unwrap();
        self.drain(host);
    }

    fn deliver(&mut self, host: usize) {
        let Some(mut bytes) = self.wires[host].pop_front() else { return };
        let from = Endpoint { remote: address(1 - host), local: None };
        let now = self.now();
        if bytes[0] == 4 && bytes.len() >= 32 {
            let index = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
            let counter = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
            let Some(session) = self.receiving[host].get(&index) else { return };
            let Ok(payload) = session.open_in_place(counter, &mut bytes[16..]) else { return };
            let engine = &mut self.engines[host];
            let _ = if ControlFrame::is_control(payload) {
                engine.handle_opened(now, index, from, payload)
            } else {
                engine.note_received(now, index, from, Traffic::default())
            };
        } else {
            let _ = self.engines[host].handle_datagram(now, from, &bytes);
        }
        self.drain(host);
    }

    fn drain(&mut self, host: usize) {
        while let Some(output) = self.engines[host].poll_output() {
            match output {
                Output::Transmit(transmit) => self.transmit(host, transmit.bytes),
                Output::ReceiveWith { index, session, .. } => {
                    self.receiving[host].insert(index, session);
                }
                Output::SendWith { index, .. } => {
                    self.sending[host] = Some(index);
                    self.connected[host] = true;
                }
                Output::SessionEnded { index, .. } => {
                    self.receiving[host].remove(&index);
                    if self.sending[host] == Some(index) {
                        self.sending[host] = None;
                        self.connected[host] = false;
                    }
                }
                Output::KeepHandover(serial) => self.consumed[host] = serial,
                _ => {}
            }
        }
    }

    fn transmit(&mut self, host: usize, bytes: Vec<u8>) {
        if bytes[0] == 4 {
            let index = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
            let counter = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
            assert!(self.nonces.insert((index, counter)), "a nonce was used twice");
        }
        if self.wires[1 - host].len() < 64 {
            self.wires[1 - host].push_back(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use weft_tunnel::{COOKIE_REPLY_BYTES, Hello, Offer};

    use super::*;

    /// Writes what the targets begin with: `cargo test -p weft-fuzz --lib -- --ignored`.
    #[test]
    #[ignore = "changes the tree; for whoever changes a format"]
    fn write_the_corpus() {
        let hello = Hello {
            answers: true,
            wants_answer: true,
            wire_version: 1,
            features: Features::SEGMENTS,
            offers: vec![Offer { cipher: Cipher::Aes256Gcm, index: 7 }],
        };
        let observed = Some("[2001:db8::1]:51820".parse().unwrap());
        let frames = [
            ("hello", ControlFrame::Hello(hello)),
            ("probe", ControlFrame::Probe { id: 1, bytes: 100 }),
            ("probe-reply", ControlFrame::ProbeReply { id: 1, observed }),
            ("revoked", ControlFrame::Revoked { statement: b"signed".to_vec() }),
            ("bye", ControlFrame::Bye),
        ];
        for (name, frame) in &frames {
            write("control", name, &frame.encode());
        }
        let said: Vec<_> = frames.iter().map(|(_, frame)| said(2, &frame.encode())).collect();
        write("peer", "every-frame", &said.concat());

        let mut life = Life::new();
        life.want(1);
        let initiation = life.wires[0].front().unwrap().clone();
        write("datagram", "initiation", &datagram(&initiation));
        write("datagram", "twice", &datagram(&initiation).repeat(2));
        let cookie_reply = [&[3, 0, 0, 0][..], &[0; COOKIE_REPLY_BYTES - 4]].concat();
        write("datagram", "cookie-reply", &datagram(&cookie_reply));

        life.pass(Duration::from_secs(1));
        let next = engine(0, life.at, 1, 0);
        let exported = std::mem::replace(&mut life.engines[0], next).export();
        // Head (8 + 1 + 32 + 8) and checksum are what the target adds.
        write("handover", "two-sessions", &exported[49..exported.len() - 32]);
        write("handover", "nobody", &[0; 4]);
        write("life", "quiet", &[0, 0, 6, 250]);
        write(
            "life",
            "busy",
            &[0, 0, 3, 0, 2, 0, 14, 1, 4, 100, 12, 0, 14, 1, 6, 130, 15, 1, 13, 2],
        );
        write("life", "bad-weather", &[0, 0, 9, 77, 3, 0, 11, 0, 1, 0, 8, 30, 2, 0, 4, 200, 6, 9]);
    }

    fn said(what: u8, payload: &[u8]) -> Vec<u8> {
        [&[what][..], &(payload.len() as u16).to_le_bytes(), payload].concat()
    }

    fn datagram(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_le_bytes()[..], bytes].concat()
    }

    fn write(target: &str, name: &str, bytes: &[u8]) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        fs::write(folder.join(name), bytes).unwrap();
    }
}
