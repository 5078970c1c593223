//! Floods of handshakes by strangers who know the public key (threat T16), while known peers change
//! their keys and a new peer comes.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "the numbers of a test are small"
)]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use support::{Seeded, World, id};
use weft_tunnel::{
    Budget, Endpoint, Engine, EngineConfig, LoadLimits, LocalKey, Now, Output, PeerConfig, PeerId,
    PeerKind, PeerState, Refusal,
};

const SECOND: Duration = Duration::from_secs(1);

/// Initiations to host 0 whose first MAC is right, made by somebody who is nobody's peer.
fn initiations(world: &World, count: usize) -> Vec<Vec<u8>> {
    let mut random = Seeded(99);
    let key = LocalKey::new(&random.key());
    let now = Now { monotonic: Duration::ZERO, unix: support::EPOCH };
    let mut engine = Engine::new(EngineConfig::new(key), Box::new(random), now);
    let public_key = world.hosts[0].key.public();
    let mut made = Vec::new();
    while made.len() < count {
        let mut peer = PeerConfig::new(public_key, PeerKind::Node);
        peer.candidates = vec![world.hosts[0].address];
        engine.add_peer(now, PeerId(1), peer).unwrap();
        engine.want_session(now, PeerId(1));
        while let Some(output) = engine.poll_output() {
            if let Output::Transmit(transmit) = output {
                made.push(transmit.bytes);
            }
        }
        engine.remove_peer(PeerId(1));
    }
    made
}

fn flood(world: &mut World, datagrams: &[Vec<u8>], source: impl Fn(u64) -> SocketAddr, steps: u64) {
    // Some 2,000 a second: more than may be worked on without a cookie.
    for step in 0..steps {
        let datagram = datagrams[step as usize % datagrams.len()].clone();
        world.receive(0, source(step), datagram);
        if step % 2 == 0 {
            world.run(Duration::from_millis(1));
        }
    }
}

fn spoofed(step: u64) -> SocketAddr {
    let ip = (0x0a00_0000 + (step * 2_654_435_761 % (1 << 24)) as u32).to_be_bytes();
    SocketAddr::from((ip, 1024 + (step % 60_000) as u16))
}

#[test]
fn a_flood_with_spoofed_sources_stops_neither_old_peers_nor_new_ones() {
    let mut world = World::of(1, 12, |_, _| ());
    let datagrams = initiations(&world, 64);
    for host in 1..11 {
        world.send(host, id(0));
    }
    world.run(SECOND);
    flood(&mut world, &datagrams, spoofed, 4000);
    let now = world.clock(0);
    assert!(world.hosts[0].engine.engine_status(now).is_under_load);
    assert!(world.refusals(0, Refusal::CookieAsked) > 1000);
    // New keys are due for all of the old peers.
    for host in 1..11 {
        world.crash(host);
        world.send(host, id(0));
    }
    world.send(11, id(0));
    flood(&mut world, &datagrams, spoofed, 4000);
    for host in 1..12 {
        assert_eq!(world.state(host, id(0)), PeerState::Connected, "host {host}");
    }
    assert_eq!(world.hosts[0].delivered.len(), 10 + 11);
    assert_eq!(world.refusals(0, Refusal::HalfOpenFull), 0);
}

#[test]
fn a_flood_from_one_source_costs_the_others_not_even_a_cookie() {
    let mut world = World::of(2, 3, |_, _| ());
    let datagrams = initiations(&world, 64);
    let source = SocketAddr::from(([198, 51, 100, 1], 1));
    flood(&mut world, &datagrams, |_| source, 4000);
    world.tape = Some(Vec::new());
    world.send(1, id(0));
    world.run(SECOND);
    let tape = world.tape.take().unwrap();
    assert_eq!(world.hosts[0].delivered.len(), 1);
    let answers: Vec<u8> = tape
        .iter()
        .filter(|(_, target, _)| *target == world.hosts[1].address)
        .map(|(_, _, bytes)| bytes[0])
        .collect();
    assert_eq!(answers[0], 2, "a response, no cookie");
}

#[test]
fn a_cookie_costs_an_own_host_one_round_trip() {
    let none = Budget { per_second: 0.0, burst: 0.0 };
    let mut world = World::of(6, 2, |_, config| {
        config.load = LoadLimits { global: none, prefix: none, ..LoadLimits::default() };
    });
    world.send(1, id(0));
    // Initiation, cookie, initiation, response, payload.
    world.run(world.weather.delay * 5);
    assert_eq!(world.hosts[0].delivered.len(), 1);
    assert_eq!(world.refusals(0, Refusal::CookieAsked), 1);
}

#[test]
fn random_bytes_and_wrong_macs_are_never_answered() {
    let mut world = World::of(3, 2, |_, _| ());
    let mut dice = Seeded(4);
    let mut datagram = initiations(&world, 1).remove(0);
    world.tape = Some(Vec::new());
    for _ in 0..2000 {
        let mut bytes = vec![0; dice.below(1500) as usize];
        weft_tunnel::Random::fill(&mut dice, &mut bytes);
        world.receive(0, spoofed(1), bytes);
        let at = dice.below(132) as usize;
        datagram[at] ^= 1;
        world.receive(0, spoofed(2), datagram.clone());
        datagram[at] ^= 1;
    }
    assert!(world.tape.as_ref().unwrap().is_empty());
    assert!(world.refusals(0, Refusal::WrongMac) > 1900);
}

#[test]
fn who_never_takes_the_outputs_does_not_fill_the_memory() {
    let world = World::of(5, 2, |_, _| ());
    let datagrams = initiations(&world, 8);
    let (mut engine, now) = (
        Engine::new(
            world.hosts[0].config.clone(),
            Box::new(Seeded(1)),
            Now { monotonic: SECOND, unix: support::EPOCH },
        ),
        Now { monotonic: SECOND, unix: support::EPOCH },
    );
    for step in 0..20_000 {
        let from = Endpoint { remote: spoofed(step), local: None };
        let _ = engine.handle_datagram(now, from, &datagrams[step as usize % 8]);
    }
    let outputs = std::iter::from_fn(|| engine.poll_output()).count();
    assert!(outputs <= 4096, "{outputs}");
}
