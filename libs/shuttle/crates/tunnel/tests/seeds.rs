//! Everything that can go wrong at once, by seed: loss, reordering, copies, clocks that jump, hosts
//! that move, processes that die or hand over, replays and forgeries. The world checks at every step
//! that no counter is used twice, nothing is opened that was not sealed or was opened before, and no
//! answer is larger than the question; at the end everybody reaches everybody.
//!
//! `WEFT_TUNNEL_SEEDS` says how many seeds (200 if unset, 10,000 in `npm test`), `WEFT_TUNNEL_SEED` which is the first.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "the numbers of a test are small"
)]

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use support::{Seeded, Weather, World, id};
use weft_seal::Cipher;
use weft_tunnel::{EngineConfig, Features, PeerKind};

const SEEDS: u64 = 200;

fn variable(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().expect("a number of seeds"))
}

#[test]
fn everybody_reaches_everybody_after_whatever_happened() {
    let first = variable("WEFT_TUNNEL_SEED").unwrap_or(1);
    let end = first + variable("WEFT_TUNNEL_SEEDS").unwrap_or(SEEDS);
    let (next, sessions, delivered) = (AtomicU64::new(first), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let result = std::panic::catch_unwind(|| run(seed));
                    let (begun, arrived) = result.unwrap_or_else(|_| {
                        panic!("repeat with WEFT_TUNNEL_SEEDS=1 WEFT_TUNNEL_SEED={seed}")
                    });
                    sessions.fetch_add(begun, Ordering::Relaxed);
                    delivered.fetch_add(arrived, Ordering::Relaxed);
                }
            });
        }
    });
    let (sessions, delivered) = (sessions.into_inner(), delivered.into_inner());
    println!("{} seeds, {sessions} sessions, {delivered} payloads", end - first);
    assert!(sessions > 5 * (end - first), "keys change: {sessions}");
}

/// Sessions that came into force and payloads that arrived.
fn run(seed: u64) -> (u64, u64) {
    let mut dice = Seeded(seed ^ 0x5eed);
    let mut world = create(seed, &mut dice);
    let steps = 10 + dice.below(30);
    for _ in 0..steps {
        step(&mut world, &mut dice);
    }
    world.weather = Weather::FINE;
    for host in &mut world.hosts {
        host.clock_error = 0;
    }
    tell_addresses(&mut world);
    // Handshakes that were given up, and sessions with processes that died, are over then.
    world.run(Duration::from_mins(5));
    world.tape = None;
    world.check_all_pairs();
    let begun = world.hosts.iter().map(|host| host.sessions_begun).sum();
    let arrived = world.hosts.iter().map(|host| host.delivered.len() as u64).sum();
    (begun, arrived)
}

/// The control server tells everybody where everybody is.
fn tell_addresses(world: &mut World) {
    let addresses: Vec<_> = world.hosts.iter().map(|host| host.address).collect();
    for host in 0..addresses.len() {
        for (peer, address) in addresses.iter().enumerate().filter(|(peer, _)| *peer != host) {
            world.update_peer(host, id(peer), |peer| peer.candidates = vec![*address]);
        }
    }
}

fn create(seed: u64, dice: &mut Seeded) -> World {
    let count = 2 + dice.below(2) as u8;
    let choices: Vec<u64> = (0..count).map(|_| dice.next()).collect();
    let mut world = World::of(seed, count, |host, config| tune(choices[host], config));
    if dice.chance(50) {
        world.is_time_trusted = true;
        (0..count.into()).for_each(|host| world.trust_time(host));
    }
    if dice.chance(30) {
        let key = dice.key();
        for (host, peer) in [(0, 1), (1, 0)] {
            world.update_peer(host, id(peer), |peer| peer.preshared_key = Some(key.into()));
        }
    }
    if dice.chance(20) {
        for (host, peer) in [(0, 1), (1, 0)] {
            world.update_peer(host, id(peer), |peer| peer.kind = PeerKind::Stock);
        }
    }
    world.weather = weather(dice);
    world.tape = Some(Vec::new());
    world
}

fn tune(choice: u64, config: &mut EngineConfig) {
    if choice & 3 != 0 {
        config.sub_session_ciphers = vec![Cipher::Aes256Gcm];
    }
    config.is_key_logged = choice & 0x1c == 0;
    config.features = Features::from_bits((choice >> 8) as u32);
}

fn weather(dice: &mut Seeded) -> Weather {
    Weather {
        loss_percent: if dice.chance(50) { 0 } else { dice.below(40) },
        copy_percent: if dice.chance(50) { 0 } else { dice.below(30) },
        delay: Duration::from_millis(dice.below(150)),
        jitter: Duration::from_millis(dice.below(200)),
        mtu: 1280 + dice.below(300) as usize,
    }
}

fn step(world: &mut World, dice: &mut Seeded) {
    let hosts = world.hosts.len() as u64;
    let host = dice.below(hosts) as usize;
    let peer = (host + 1 + dice.below(hosts - 1) as usize) % hosts as usize;
    match dice.below(100) {
        0..35 => burst(world, dice, host, peer),
        35..60 => world.run(Duration::from_millis(dice.below(2000))),
        60..72 => world.run(Duration::from_secs(dice.below(130))),
        72..77 => world.weather = weather(dice),
        77..82 => world.hosts[host].clock_error = dice.below(700_000_000) as i64 - 350_000_000,
        82..86 => world.hosts[host].address.set_port(1024 + dice.below(60_000) as u16),
        86..89 => world.crash(host),
        89..92 => drop(world.hand_over(host)),
        92..98 => forge(world, dice),
        _ => {
            world.act(host, |engine, now| engine.remove_peer(id(peer)).then_some(now));
            let config = world.hosts[host].peers[&id(peer)].clone();
            world.add_peer(host, id(peer), config);
        }
    }
    if !world.is_time_trusted && world.hosts[host].clock_error > 0 {
        // A clock that ran ahead and is trusted by nobody locks its host out by design.
        world.hosts[host].clock_error = -world.hosts[host].clock_error;
    }
}

fn burst(world: &mut World, dice: &mut Seeded, host: usize, peer: usize) {
    for _ in 0..=dice.below(8) {
        world.send(host, id(peer));
        if dice.chance(40) {
            world.send(peer, id(host));
        }
        world.run(Duration::from_millis(dice.below(50)));
    }
}

/// Something that was on the wire comes again, as it was or changed, from there or from elsewhere.
fn forge(world: &mut World, dice: &mut Seeded) {
    let tape = world.tape.take().unwrap_or_default();
    for _ in 0..=dice.below(20) {
        let Some((source, target, bytes)) = tape.get(dice.below(tape.len() as u64) as usize) else {
            break;
        };
        let (mut source, mut bytes) = (*source, bytes.clone());
        if dice.chance(50) {
            source = SocketAddr::from(([198, 51, 100, 1], 1 + dice.below(60_000) as u16));
        }
        match dice.below(3) {
            0 => {
                let at = dice.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << dice.below(8);
            }
            1 => bytes.truncate(dice.below(bytes.len() as u64) as usize),
            _ => {}
        }
        world.receive_from_wire(source, *target, bytes);
    }
    world.tape = Some(tape);
}
