//! How many handshakes one core makes: `cargo run --release -p weft-tunnel --example handshakes`.
//!
//! Each is whole: initiation, response, and the first message that confirms the session. Both sides
//! run on the same core, so a host alone makes about twice as many.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weft_tunnel::{
    Budget, Endpoint, Engine, EngineConfig, LoadLimits, LocalKey, Now, OsRandom, Output,
    PeerConfig, PeerId, PeerKind, Random, Refusal,
};

const COUNT: u32 = 5000;
const FLOOD: u32 = 200_000;

fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, if host == 0 { 1 } else { 2 }], 51820))
}

fn at(milliseconds: u64) -> Now {
    let monotonic = Duration::from_millis(milliseconds);
    Now { monotonic, unix: Duration::from_secs(1_700_000_000) + monotonic }
}

fn engine(key: LocalKey) -> Engine {
    let unlimited = Budget { per_second: 1e9, burst: 1e9 };
    let load = LoadLimits { global: unlimited, prefix: unlimited, ..LoadLimits::default() };
    Engine::new(EngineConfig { load, ..EngineConfig::new(key) }, Box::new(OsRandom), at(0))
}

fn key() -> LocalKey {
    let mut private = [0; 32];
    OsRandom.fill(&mut private);
    LocalKey::new(&private)
}

fn main() {
    let keys = [key(), key()];
    let mut engines = [engine(keys[0].clone()), engine(keys[1].clone())];
    let (mut sessions, mut spent) = (0u32, [Duration::ZERO; 2]);
    let started = Instant::now();
    for round in 0..COUNT {
        let now = at(u64::from(round) * 1000);
        for (host, engine) in engines.iter_mut().enumerate() {
            engine.remove_peer(PeerId(1));
            let mut peer = PeerConfig::new(keys[1 - host].public(), PeerKind::Stock);
            peer.candidates = vec![address(1 - host)];
            engine.add_peer(now, PeerId(1), peer).expect("a new peer");
        }
        sessions += shake(&mut engines, now, &mut spent);
    }
    let took = started.elapsed();
    println!("{sessions} handshakes in {took:?}");
    for (name, spent) in ["initiator", "responder"].into_iter().zip(spent) {
        println!(
            "{name}: {:?} each, {:.0} per second",
            spent / sessions,
            per_second(sessions, spent)
        );
    }
    flood(&keys);
}

fn per_second(count: u32, time: Duration) -> f64 {
    f64::from(count) / time.as_secs_f64()
}

/// Lets host 0 make a session with host 1; the number of sessions that came of it.
fn shake(engines: &mut [Engine; 2], now: Now, spent: &mut [Duration; 2]) -> u32 {
    let began = Instant::now();
    engines[0].want_session(now, PeerId(1));
    spent[0] += began.elapsed();
    let mut sessions = 0;
    for host in [0, 1, 0] {
        while let Some(output) = engines[host].poll_output() {
            match output {
                Output::SendWith { .. } => sessions += 1,
                Output::Transmit(transmit) if transmit.bytes[0] != 4 => {
                    let from = Endpoint { remote: address(host), local: None };
                    let other = 1 - host;
                    let began = Instant::now();
                    engines[other]
                        .handle_datagram(now, from, &transmit.bytes)
                        .expect("what the other side sent is authentic");
                    spent[other] += began.elapsed();
                }
                _ => {}
            }
        }
    }
    sessions
}

/// What one datagram of a flood costs: initiations with the right first MAC and spoofed sources.
fn flood(keys: &[LocalKey; 2]) {
    let mut stranger = engine(key());
    let mut peer = PeerConfig::new(keys[1].public(), PeerKind::Node);
    peer.candidates = vec![address(1)];
    stranger.add_peer(at(0), PeerId(1), peer).expect("a new peer");
    stranger.want_session(at(0), PeerId(1));
    let initiation =
        std::iter::from_fn(|| stranger.poll_output()).find_map(|output| match output {
            Output::Transmit(transmit) => Some(transmit.bytes),
            _ => None,
        });
    let initiation = initiation.expect("an initiation");
    let config = EngineConfig::new(keys[1].clone());
    let mut engine = Engine::new(config, Box::new(OsRandom), at(0));
    let (started, mut worked) = (Instant::now(), 0);
    for number in 0..FLOOD {
        let now = at(u64::from(number) / 100);
        let source = (0x0a00_0000 + number.wrapping_mul(2_654_435_761) % (1 << 24)).to_be_bytes();
        let from = Endpoint { remote: SocketAddr::from((source, 1000)), local: None };
        let result = engine.handle_datagram(now, from, &initiation);
        worked += u32::from(result == Err(Refusal::UnknownPeer));
        while engine.poll_output().is_some() {}
    }
    let took = started.elapsed();
    println!(
        "flood of 100,000 initiations/s for {} s: {:.0} % of a core, {worked} worked on",
        FLOOD / 100_000,
        took.as_secs_f64() / f64::from(FLOOD / 100_000) * 100.0,
    );
}
