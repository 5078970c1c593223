//! Against boringtun, another implementation of the protocol, in both roles.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "the numbers of a test are small"
)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use support::{EPOCH, Seeded};
use weft_seal::{ReceiveSession, SendSession};
use weft_tunnel::{
    Budget, Endpoint, Engine, EngineConfig, LoadLimits, LocalKey, Now, Output, PeerConfig, PeerId,
    PeerKind, Refusal, Traffic,
};

const PEER: PeerId = PeerId(1);

fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], 51820))
}

/// An engine and the other implementation, joined by a wire without loss.
struct Pair {
    engine: Engine,
    tunn: Tunn,
    now: Duration,
    /// Where the other one is, and where this one sends to it.
    there: SocketAddr,
    target: Option<SocketAddr>,
    send: Option<(u32, Arc<SendSession>)>,
    receive: Vec<(u32, Arc<ReceiveSession>)>,
    /// Types of the datagrams of both directions, in order.
    wire: Vec<u8>,
    got_here: Vec<Vec<u8>>,
    got_there: Vec<Vec<u8>>,
    refused: Vec<Refusal>,
}

impl Pair {
    fn new(psk: Option<[u8; 32]>, load: LoadLimits, handshakes_there: u64) -> Self {
        let mut random = Seeded(7);
        let (here, there) = (random.key(), StaticSecret::from(random.key()));
        let key = LocalKey::new(&here);
        let public_there = PublicKey::from(&there);
        let limiter = Arc::new(RateLimiter::new(&public_there, handshakes_there));
        let public_own = PublicKey::from(key.public());
        let tunn = Tunn::new(there, public_own, psk, None, 9, Some(limiter));
        let config = EngineConfig { load, ..EngineConfig::new(key) };
        let now = Duration::from_secs(5);
        let clock = Now { monotonic: now, unix: EPOCH };
        let mut engine = Engine::new(config, Box::new(random), clock);
        let mut peer = PeerConfig::new(public_there.to_bytes(), PeerKind::Stock);
        peer.candidates = vec![address(2)];
        peer.preshared_key = psk.map(Into::into);
        engine.add_peer(clock, PEER, peer).unwrap();
        Self {
            engine,
            tunn,
            now,
            there: address(2),
            target: None,
            send: None,
            receive: Vec::new(),
            wire: Vec::new(),
            got_here: Vec::new(),
            got_there: Vec::new(),
            refused: Vec::new(),
        }
    }

    fn clock(&self) -> Now {
        Now { monotonic: self.now, unix: EPOCH + self.now }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.engine.handle_timeout(self.clock());
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Transmit(transmit) => self.carry_there(&transmit.bytes),
                Output::SendWith { index, session, endpoint, .. } => {
                    self.send = Some((index, session));
                    self.target = Some(endpoint.remote);
                }
                Output::EndpointChanged { endpoint, .. } => self.target = Some(endpoint.remote),
                Output::ReceiveWith { index, session, .. } => self.receive.push((index, session)),
                _ => {}
            }
        }
    }

    fn carry_there(&mut self, bytes: &[u8]) {
        self.wire.push(bytes[0]);
        let mut out = [0; 2048];
        let source = Some(address(1).ip());
        let mut input = bytes;
        loop {
            match self.tunn.decapsulate(source, input, &mut out) {
                TunnResult::WriteToNetwork(answer) => {
                    let answer = answer.to_vec();
                    self.carry_here(&answer);
                    input = &[];
                }
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    self.got_there.push(packet.to_vec());
                    return;
                }
                TunnResult::Done => return,
                TunnResult::Err(error) => panic!("refused there: {error:?}"),
            }
        }
    }

    fn carry_here(&mut self, bytes: &[u8]) {
        self.wire.push(bytes[0]);
        let from = Endpoint { remote: self.there, local: None };
        if bytes[0] != 4 {
            self.refused.extend(self.engine.handle_datagram(self.clock(), from, bytes).err());
            self.drain();
            return;
        }
        let index = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
        let counter = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
        let mut sealed = bytes[16..].to_vec();
        let (_, session) = self.receive.iter().find(|(known, _)| *known == index).unwrap();
        let payload = session.open_in_place(counter, &mut sealed).unwrap().to_vec();
        let traffic =
            Traffic { packets: u64::from(!payload.is_empty()), bytes: payload.len() as u64 };
        self.engine.note_received(self.clock(), index, from, traffic).unwrap();
        if !payload.is_empty() {
            self.got_here.push(payload);
        }
        self.drain();
    }

    fn send_from_here(&mut self, packet: &[u8]) {
        let (index, session) = self.send.clone().expect("a session");
        let counter = session.claim(1).unwrap();
        let mut bytes = vec![4, 0, 0, 0];
        bytes.extend_from_slice(&session.receiver_index().to_le_bytes());
        bytes.extend_from_slice(&counter.to_le_bytes());
        bytes.extend_from_slice(packet);
        bytes.resize(16 + packet.len().next_multiple_of(16), 0);
        let tag = session.seal_in_place(counter, &mut bytes[16..]);
        bytes.extend_from_slice(&tag);
        self.carry_there(&bytes);
        let traffic = Traffic { packets: 1, bytes: packet.len() as u64 };
        self.engine.note_sent(self.clock(), index, traffic).unwrap();
        self.drain();
    }

    fn send_from_there(&mut self, packet: &[u8]) {
        let mut out = [0; 2048];
        let TunnResult::WriteToNetwork(bytes) = self.tunn.encapsulate(packet, &mut out) else {
            panic!("nothing to send");
        };
        let bytes = bytes.to_vec();
        self.carry_here(&bytes);
    }

    fn initiate_there(&mut self) {
        let mut out = [0; 2048];
        let TunnResult::WriteToNetwork(bytes) =
            self.tunn.format_handshake_initiation(&mut out, true)
        else {
            panic!("no initiation");
        };
        let bytes = bytes.to_vec();
        self.carry_here(&bytes);
    }

    fn check_traffic(&mut self) {
        for length in 20..=1420 {
            self.exchange(length);
        }
    }

    /// A packet each way, which has to come as it was.
    fn exchange(&mut self, length: usize) {
        let packet = ipv4(length);
        let before = (self.got_here.len(), self.got_there.len());
        self.send_from_here(&packet);
        assert_eq!(self.got_there.last(), Some(&packet));
        self.send_from_there(&packet);
        assert_eq!(self.got_here.last().map(|got| &got[..length]), Some(&packet[..]));
        assert_eq!((self.got_here.len(), self.got_there.len()), (before.0 + 1, before.1 + 1));
    }
}

/// A packet that says how long it is and where from.
fn ipv4(length: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; length];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
    packet
}

const MANY: u64 = 1000;

#[test]
fn an_initiation_from_here_is_answered_there_with_and_without_a_preshared_key() {
    for psk in [None, Some([3; 32])] {
        let mut pair = Pair::new(psk, LoadLimits::default(), MANY);
        let now = pair.clock();
        pair.engine.want_session(now, PEER);
        pair.drain();
        assert_eq!(pair.wire, [1, 2, 4]);
        pair.check_traffic();
    }
}

#[test]
fn an_initiation_from_there_is_answered_here_with_and_without_a_preshared_key() {
    for psk in [None, Some([3; 32])] {
        let mut pair = Pair::new(psk, LoadLimits::default(), MANY);
        pair.initiate_there();
        assert_eq!(pair.wire, [1, 2, 4]);
        assert!(pair.send.is_some(), "the first message from there confirms the session");
        pair.check_traffic();
    }
}

#[test]
fn a_cookie_from_there_is_shown_with_the_next_initiation() {
    // Two handshake messages a second, then cookies.
    let mut pair = Pair::new(None, LoadLimits::default(), 2);
    for _ in 0..3 {
        // A stranger that knows the public key.
        let mut stranger =
            Tunn::new(StaticSecret::from([8; 32]), public_there(), None, None, 3, None);
        let mut out = [0; 2048];
        let TunnResult::WriteToNetwork(bytes) =
            stranger.format_handshake_initiation(&mut out, true)
        else {
            panic!()
        };
        let mut answer = [0; 2048];
        let _ = pair.tunn.decapsulate(Some(address(7).ip()), bytes, &mut answer);
    }
    let now = pair.clock();
    pair.engine.want_session(now, PEER);
    pair.drain();
    assert_eq!(pair.wire, [1, 3], "a cookie, and patience towards a stock peer");
    pair.pass(Duration::from_secs(6));
    assert_eq!(pair.wire, [1, 3, 1, 2, 4]);
    pair.check_traffic();
}

fn public_there() -> PublicKey {
    let mut random = Seeded(7);
    random.key();
    PublicKey::from(&StaticSecret::from(random.key()))
}

#[test]
fn a_cookie_from_here_is_shown_by_the_next_initiation_from_there() {
    let none = Budget { per_second: 0.0, burst: 0.0 };
    let load = LoadLimits { global: none, prefix: none, ..LoadLimits::default() };
    let mut pair = Pair::new(None, load, MANY);
    pair.initiate_there();
    assert_eq!((&pair.wire[..], &pair.refused[..]), (&[1, 3][..], &[Refusal::CookieAsked][..]));
    pair.initiate_there();
    assert_eq!(pair.wire, [1, 3, 1, 2, 4]);
    pair.check_traffic();
}

#[test]
fn keys_change_after_two_minutes_of_traffic() {
    let mut pair = Pair::new(None, LoadLimits::default(), MANY);
    let now = pair.clock();
    pair.engine.want_session(now, PEER);
    pair.drain();
    pair.pass(Duration::from_secs(121));
    let before = pair.send.clone().unwrap().0;
    pair.check_traffic();
    assert_ne!(pair.send.clone().unwrap().0, before);
    let handshakes: Vec<u8> = pair.wire.iter().copied().filter(|kind| *kind != 4).collect();
    assert_eq!(handshakes, [1, 2, 1, 2]);
}

#[test]
fn half_an_hour_of_both_clocks_brings_every_packet_as_it_was() {
    let mut pair = Pair::new(Some([3; 32]), LoadLimits::default(), MANY);
    pair.initiate_there();
    let mut length = 20;
    for second in 0..30 * 60 {
        pair.pass(Duration::from_secs(1));
        for _ in 0..20 {
            pair.exchange(length);
            length = if length == 1420 { 20 } else { length + 1 };
        }
        // Its timers run by the machine's clock, so that it is told when two minutes are over; after a
        // session that was begun here it is told nothing.
        if second % 240 == 119 {
            pair.initiate_there();
        } else if second % 240 == 130 {
            let now = pair.clock();
            pair.engine.initiate_to(now, [PEER]);
            pair.drain();
        }
    }
    let handshakes: Vec<u8> = pair.wire.iter().copied().filter(|kind| *kind != 4).collect();
    assert!(handshakes.len() >= 2 * 16, "{handshakes:?}");
    assert_eq!((pair.got_here.len(), pair.got_there.len()), (36_000, 36_000));
    assert_eq!(pair.refused, []);
}

#[test]
fn it_is_followed_when_it_moves() {
    let mut pair = Pair::new(None, LoadLimits::default(), MANY);
    pair.initiate_there();
    pair.exchange(100);
    pair.there = address(3);
    pair.send_from_there(&ipv4(100));
    assert_eq!(pair.target, Some(address(3)));
    pair.exchange(100);
}
