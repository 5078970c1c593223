//! What two and three engines do together, in a world without sockets.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "the numbers of a test are small"
)]

mod support;

use std::time::Duration;

use support::nat::Nat;
use support::{Seeded, Weather, World, id};
use weft_seal::Cipher;
use weft_tunnel::{
    ControlFrame, Endpoint, Engine, EngineConfig, Features, Hello, LocalKey, PeerConfig, PeerKind,
    PeerState, Refusal,
};

const SECOND: Duration = Duration::from_secs(1);

fn plain(_: usize, _: &mut EngineConfig) {}

fn fast(_: usize, config: &mut EngineConfig) {
    config.sub_session_ciphers = vec![Cipher::Aes256Gcm];
    config.features = Features::SEGMENTS.or(Features::PARTIAL_CHECKSUM);
}

#[test]
fn the_first_packet_brings_a_session_up_and_arrives() {
    let mut world = World::of(1, 2, plain);
    let payload = world.send(0, id(1));
    world.run(Duration::from_millis(100));
    assert_eq!(world.hosts[1].delivered, [(id(0), payload)]);
    assert_eq!(world.state(0, id(1)), PeerState::Connected);
    assert_eq!(world.state(1, id(0)), PeerState::Connected);
    world.check_all_pairs();
}

#[test]
fn own_hosts_agree_on_features_and_on_a_faster_cipher() {
    let mut world = World::of(2, 2, fast);
    world.send(0, id(1));
    world.run(SECOND);
    for (host, peer) in [(0, id(1)), (1, id(0))] {
        assert_eq!(world.hosts[host].cipher(peer), Some(Cipher::Aes256Gcm));
        assert!(world.hosts[host].sending_features(peer).contains(Features::SEGMENTS));
    }
    world.check_all_pairs();
}

#[test]
fn one_side_without_the_faster_cipher_makes_both_stay_with_chacha() {
    let tune = |host: usize, config: &mut EngineConfig| {
        if host == 0 {
            fast(host, config);
        }
    };
    let mut world = World::of(3, 2, tune);
    world.send(0, id(1));
    world.run(SECOND);
    assert_eq!(world.hosts[0].cipher(id(1)), Some(Cipher::ChaCha20Poly1305));
    assert_eq!(world.hosts[1].cipher(id(0)), Some(Cipher::ChaCha20Poly1305));
    assert_eq!(world.hosts[0].sending_features(id(1)), Features::NONE);
    assert!(world.hosts[1].sending_features(id(0)).contains(Features::SEGMENTS));
    world.check_all_pairs();
}

#[test]
fn a_hello_of_a_version_that_nobody_speaks_any_more_is_refused_by_name_and_others_are_taken() {
    for (version, is_taken) in [(0, false), (1, true), (9, true)] {
        let mut world = World::of(60, 2, plain);
        world.send(0, id(1));
        // It has answered, and nothing of what follows arrives.
        world.run(Duration::from_millis(7));
        world.weather.loss_percent = 100;
        let index = *world.hosts[1].receiving.keys().next().unwrap();
        let hello = ControlFrame::Hello(Hello {
            answers: false,
            wants_answer: false,
            wire_version: version,
            features: Features::SEGMENTS,
            offers: Vec::new(),
        });
        let from = Endpoint { remote: world.hosts[0].address, local: None };
        let frame = hello.encode();
        world.act(1, |engine, now| engine.handle_opened(now, index, from, &frame)).unwrap();
        let status = world.hosts[1].engine.engine_status(world.clock(1));
        let refused = status.refusals.of(Refusal::VersionUnknown);
        assert_eq!(refused, u64::from(!is_taken), "{version}");
        let features = world.hosts[1].sending_features(id(0));
        assert_eq!(features.contains(Features::SEGMENTS), is_taken, "{version}");
    }
}

#[test]
fn the_key_log_names_the_keys_and_keeps_sub_sessions_away() {
    let tune = |host: usize, config: &mut EngineConfig| {
        fast(host, config);
        config.is_key_logged = host == 0;
    };
    let mut world = World::of(4, 2, tune);
    world.send(0, id(1));
    world.run(SECOND);
    assert_eq!(world.hosts[0].cipher(id(1)), Some(Cipher::ChaCha20Poly1305));
    assert_eq!(world.hosts[1].cipher(id(0)), Some(Cipher::ChaCha20Poly1305));
    assert_eq!(world.hosts[0].key_log.lines().count(), 4);
    assert!(world.hosts[1].key_log.is_empty());
}

#[test]
fn both_sides_at_once_end_with_one_session_in_force_on_both() {
    for seed in 0..20 {
        let mut world = World::of(seed, 2, plain);
        world.send(0, id(1));
        world.run(Duration::from_millis(seed % 5));
        world.send(1, id(0));
        world.run(SECOND * 2);
        world.check_all_pairs();
        for (host, peer) in [(0, 1), (1, 0)] {
            let here = &world.hosts[host].sending[&id(peer)];
            let there = &world.hosts[peer].sending[&id(host)];
            assert_eq!(here.session.receiver_index(), there.index, "seed {seed}");
        }
    }
}

#[test]
fn traffic_gets_new_keys_every_two_minutes_and_loses_nothing() {
    let mut world = World::of(6, 2, fast);
    let mut sent = Vec::new();
    for _ in 0..6000 {
        sent.push(world.send(0, id(1)));
        world.run(Duration::from_millis(100));
    }
    let delivered: Vec<_> =
        world.hosts[1].delivered.iter().map(|(_, payload)| payload.clone()).collect();
    assert_eq!(delivered, sent);
    assert_eq!(world.hosts[0].sessions_begun, 5, "600 s are four changes of keys");
}

#[test]
fn features_and_cipher_stay_through_a_change_of_keys() {
    let mut world = World::of(7, 2, fast);
    world.send(0, id(1));
    world.run(SECOND);
    for _ in 0..300 {
        world.send(0, id(1));
        world.send(1, id(0));
        world.run(SECOND);
        for (host, peer) in [(0, id(1)), (1, id(0))] {
            assert_eq!(world.hosts[host].cipher(peer), Some(Cipher::Aes256Gcm));
        }
    }
    assert!(world.hosts[0].sessions_begun >= 3);
    assert_eq!(world.hosts[0].downgrades + world.hosts[1].downgrades, 0);
}

#[test]
fn an_idle_session_ends_after_three_minutes_and_says_nothing() {
    let mut world = World::of(8, 2, fast);
    world.send(0, id(1));
    world.run(SECOND * 30);
    world.tape = Some(Vec::new());
    world.run(SECOND * 149);
    assert_eq!(world.tape.as_ref().unwrap().len(), 0);
    world.run(SECOND * 2);
    for host in [0, 1] {
        assert!(world.hosts[host].sending.is_empty());
        assert!(world.hosts[host].receiving.is_empty());
        assert_eq!(world.state(host, id(1 - host)), PeerState::Idle);
        assert_eq!(world.hosts[host].engine.poll_timeout(), None);
        assert_eq!(world.hosts[host].engine.engine_status(world.clock(host)).indices, 0);
    }
    world.check_all_pairs();
}

#[test]
fn a_lost_initiation_costs_own_hosts_half_a_second() {
    let mut world = World::of(9, 2, plain);
    world.weather.loss_percent = 100;
    let payload = world.send(0, id(1));
    world.run(Duration::from_millis(100));
    world.weather = Weather::FINE;
    world.run(Duration::from_millis(850));
    assert_eq!(world.hosts[1].delivered, [(id(0), payload)]);
}

#[test]
fn who_gets_data_and_has_nothing_to_say_says_so_after_ten_seconds() {
    let mut world = World::of(10, 2, |_, _| ());
    for (host, peer) in [(0, id(1)), (1, id(0))] {
        world.update_peer(host, peer, |peer| peer.kind = PeerKind::Stock);
    }
    world.send(0, id(1));
    world.run(SECOND);
    world.tape = Some(Vec::new());
    world.run(SECOND * 10);
    let tape = world.tape.take().unwrap();
    assert_eq!(tape.len(), 1);
    assert_eq!((tape[0].0, tape[0].2.len()), (world.hosts[1].address, 32), "an empty message");
}

#[test]
fn a_peer_that_fell_silent_is_initiated_to_and_given_up_after_a_while() {
    let mut world = World::of(11, 2, plain);
    world.send(0, id(1));
    world.run(SECOND * 12);
    world.weather.loss_percent = 100;
    world.tape = Some(Vec::new());
    world.send(0, id(1));
    world.run(SECOND * 200);
    assert_eq!(world.state(0, id(1)), PeerState::NoAnswer);
    let mut initiations = world.tape.take().unwrap();
    initiations.retain(|(_, _, bytes)| bytes[0] == 1);
    assert!((15..=22).contains(&initiations.len()), "{}", initiations.len());
    world.weather = Weather::FINE;
    world.tape = Some(Vec::new());
    world.run(SECOND * 600);
    assert_eq!(world.tape.as_ref().unwrap().len(), 0, "nobody asks any more");
    world.check_all_pairs();
}

#[test]
fn a_peer_without_an_address_is_said_to_have_none_until_there_is_one() {
    let mut world = World::of(12, 2, plain);
    world.update_peer(0, id(1), |peer| peer.candidates.clear());
    world.send(0, id(1));
    world.run(SECOND);
    assert_eq!(world.state(0, id(1)), PeerState::NoEndpoint);
    let address = world.hosts[1].address;
    world.update_peer(0, id(1), |peer| peer.candidates = vec![address]);
    world.run(SECOND);
    assert_eq!(world.hosts[1].delivered.len(), 1);
}

#[test]
fn the_candidate_that_answers_wins() {
    let mut world = World::of(13, 2, plain);
    let address = world.hosts[1].address;
    world.update_peer(0, id(1), |peer| {
        peer.candidates = (1..=7)
            .map(|host| std::net::SocketAddr::from(([203, 0, 113, host], 51820)))
            .chain([address])
            .collect();
    });
    world.send(0, id(1));
    world.run(SECOND);
    assert_eq!(world.hosts[1].delivered.len(), 1);
    let status = world.hosts[0].engine.status(world.clock(0), id(1)).unwrap();
    assert_eq!(status.endpoint.unwrap().remote, address);
}

#[test]
fn a_host_that_moves_is_followed_and_a_pinned_one_is_not() {
    for is_pinned in [false, true] {
        let mut world = World::of(14, 2, plain);
        let address = world.hosts[0].address;
        world.update_peer(1, id(0), |peer| peer.is_endpoint_pinned = is_pinned);
        world.send(0, id(1));
        world.run(SECOND);
        let mut elsewhere = address;
        elsewhere.set_port(7);
        world.hosts[0].address = elsewhere;
        world.send(0, id(1));
        world.run(SECOND);
        let expected = if is_pinned { address } else { elsewhere };
        assert_eq!(world.hosts[1].sending[&id(0)].endpoint.remote, expected);
    }
}

#[test]
fn replayed_datagrams_of_every_type_change_nothing() {
    let mut world = World::of(15, 2, fast);
    world.tape = Some(Vec::new());
    for _ in 0..200 {
        world.send(0, id(1));
        world.send(1, id(0));
        world.run(SECOND);
    }
    let tape = world.tape.take().unwrap();
    let before = [0, 1].map(|host| {
        let at = &world.hosts[host];
        (at.delivered.len(), at.sessions_begun, at.sending[&id(1 - host)].endpoint)
    });
    let evil = std::net::SocketAddr::from(([198, 51, 100, 1], 1));
    for (_, target, bytes) in tape.iter().chain(tape.iter().rev()) {
        world.inject(evil, *target, bytes);
    }
    world.run(SECOND);
    let after = [0, 1].map(|host| {
        let at = &world.hosts[host];
        (at.delivered.len(), at.sessions_begun, at.sending[&id(1 - host)].endpoint)
    });
    assert_eq!(before, after);
    assert!(world.refusals(1, Refusal::Replayed) > 0);
    assert!(world.hosts[0].replays + world.hosts[1].replays > 0);
    world.check_all_pairs();
}

#[test]
fn an_old_initiation_to_a_host_that_restarted_does_not_move_anybody() {
    let mut world = World::of(16, 2, plain);
    world.tape = Some(Vec::new());
    world.send(0, id(1));
    world.run(SECOND);
    let (_, target, initiation) = world.tape.take().unwrap()[0].clone();
    assert_eq!(initiation[0], 1);
    world.crash(1);
    world.send(1, id(0));
    world.run(SECOND);
    let evil = std::net::SocketAddr::from(([198, 51, 100, 1], 1));
    world.tape = Some(Vec::new());
    world.receive_from_wire(evil, target, initiation);
    let answered = world.tape.take().unwrap();
    assert!(answered.iter().any(|(_, target, _)| *target == evil), "it was taken for new");
    assert_eq!(world.hosts[1].sending[&id(0)].endpoint.remote, world.hosts[0].address);
    world.check_all_pairs();
}

#[test]
fn a_stamp_that_was_kept_makes_replays_after_a_restart_useless() {
    let mut world = World::of(17, 2, plain);
    world.tape = Some(Vec::new());
    world.send(0, id(1));
    world.run(SECOND);
    let (source, target, initiation) = world.tape.take().unwrap()[0].clone();
    let stamp = world.hosts[1].engine.status(world.clock(1), id(0)).unwrap().greatest_stamp;
    world.hosts[1].peers.get_mut(&id(0)).unwrap().greatest_stamp = stamp;
    world.crash(1);
    world.inject(source, target, &initiation);
    world.run(SECOND);
    assert_eq!(world.refusals(1, Refusal::Replayed), 1);
}

#[test]
fn a_removed_peer_is_cut_off_at_once() {
    let mut world = World::of(18, 2, fast);
    world.send(0, id(1));
    world.run(SECOND);
    assert!(world.act(1, |engine, _| engine.remove_peer(id(0))));
    assert!(world.hosts[1].receiving.is_empty());
    assert!(world.hosts[1].sending.is_empty());
    world.hosts[1].delivered.clear();
    world.send(0, id(1));
    world.run(SECOND * 300);
    assert!(world.hosts[1].delivered.is_empty());
    assert!(world.refusals(1, Refusal::UnknownPeer) > 0);
    assert_eq!(world.state(0, id(1)), PeerState::NoAnswer);
}

#[test]
fn another_preshared_key_ends_the_sessions_until_both_have_it() {
    let mut world = World::of(19, 2, plain);
    world.send(0, id(1));
    world.run(SECOND);
    world.update_peer(0, id(1), |peer| peer.preshared_key = Some([7; 32].into()));
    assert!(world.hosts[0].sending.is_empty());
    world.send(0, id(1));
    world.run(SECOND * 5);
    assert_eq!(world.hosts[1].delivered.len(), 1);
    world.update_peer(1, id(0), |peer| peer.preshared_key = Some([7; 32].into()));
    world.run(SECOND * 10);
    assert_eq!(world.hosts[1].delivered.len(), 2);
    world.check_all_pairs();
}

#[test]
fn a_host_that_leaves_says_so() {
    let mut world = World::of(20, 2, plain);
    world.send(0, id(1));
    world.run(SECOND);
    world.act(0, Engine::leave);
    world.run(SECOND);
    assert!(world.hosts[1].sending.is_empty());
    assert_eq!(world.state(1, id(0)), PeerState::Idle);
}

#[test]
fn a_revocation_is_passed_on_inside_the_tunnels() {
    let mut world = World::of(21, 2, plain);
    assert!(!world.act(0, |engine, now| engine.send_revoked(now, id(1), b"early")));
    world.send(0, id(1));
    world.run(SECOND);
    assert!(world.act(0, |engine, now| engine.send_revoked(now, id(1), b"signed")));
    assert!(!world.act(0, |engine, now| engine.send_revoked(now, id(1), &[0; 1025])));
    world.run(SECOND);
    assert_eq!(world.hosts[1].revoked, [b"signed".to_vec()]);
}

#[test]
fn two_hosts_behind_two_nats_meet() {
    let mut world = World::of(22, 2, plain);
    let outsides = behind_nats(&mut world, [false, false]);
    world.update_peer(0, id(1), |peer| peer.candidates = vec![outsides[1]]);
    world.update_peer(1, id(0), |peer| peer.candidates = vec![outsides[0]]);
    world.send(0, id(1));
    // The control server tells the other side a moment later.
    world.run(Duration::from_millis(200));
    world.act(1, |engine, now| engine.want_session(now, id(0)));
    world.run(SECOND * 2);
    assert_eq!(world.hosts[1].delivered.len(), 1);
    assert_eq!(world.hosts[0].observed, Some(outsides[0]), "the peer tells what it sees");
    world.check_all_pairs();
}

#[test]
fn two_hosts_behind_symmetric_nats_do_not_meet_and_it_is_said() {
    let mut world = World::of(23, 2, plain);
    let outsides = behind_nats(&mut world, [true, true]);
    world.update_peer(0, id(1), |peer| peer.candidates = vec![outsides[1]]);
    world.update_peer(1, id(0), |peer| peer.candidates = vec![outsides[0]]);
    world.send(0, id(1));
    world.send(1, id(0));
    world.run(SECOND * 16);
    assert_eq!(world.state(0, id(1)), PeerState::NoAnswer);
}

#[test]
fn a_nat_that_restarts_is_crossed_again_from_inside() {
    let mut world = World::of(24, 2, plain);
    let inside = world.hosts[0].address;
    let outside = behind_nats(&mut world, [false, false])[0];
    world.hosts[1].nat = None;
    world.update_peer(1, id(0), |peer| peer.candidates.clear());
    world.update_peer(0, id(1), |peer| {
        peer.persistent_keepalive = Some(SECOND * 25);
    });
    world.run(SECOND * 2);
    assert_eq!(world.hosts[1].sending[&id(0)].endpoint.remote, outside);
    world.hosts[0].nat.as_mut().unwrap().restart();
    world.run(SECOND * 26);
    let target = world.hosts[1].address;
    let expected = world.hosts[0].nat.as_mut().unwrap().mapping(inside, target);
    assert_ne!(expected, outside);
    assert_eq!(world.hosts[1].sending[&id(0)].endpoint.remote, expected);
    world.check_all_pairs();
}

fn behind_nats(world: &mut World, is_symmetric: [bool; 2]) -> [std::net::SocketAddr; 2] {
    [0, 1].map(|host| {
        let outside = std::net::IpAddr::from([203, 0, 113, host as u8 + 1]);
        let mut nat = Nat::new(outside, is_symmetric[host]);
        let someone = std::net::SocketAddr::from(([198, 51, 100, 9], 9));
        let mapping = nat.mapping(world.hosts[host].address, someone);
        world.hosts[host].nat = Some(nat);
        mapping
    })
}

#[test]
fn the_path_is_measured_while_there_is_traffic() {
    let mut world = World::of(25, 2, plain);
    world.weather.mtu = 1400;
    for _ in 0..30 {
        world.send(0, id(1));
        world.run(SECOND);
    }
    let path = world.hosts[0].engine.status(world.clock(0), id(1)).unwrap().path;
    assert_eq!(path.rtt, Some(Duration::from_millis(10)));
    assert_eq!(path.loss, Some(0.0));
    assert!((1393..=1400).contains(&path.mtu.unwrap()), "{path:?}");
    world.weather.mtu = 1300;
    world.run(SECOND);
    assert_eq!(world.hosts[0].mtus.last(), Some(&(id(1), 1280)), "the black hole was seen");
}

#[test]
fn an_unclean_start_is_mended_at_once() {
    let mut world = World::of(26, 3, fast);
    world.check_all_pairs();
    world.crash(0);
    world.act(0, |engine, now| engine.initiate_to(now, [id(1), id(2)]));
    world.run(Duration::from_millis(100));
    for peer in [1, 2] {
        assert_eq!(world.state(0, id(peer)), PeerState::Connected);
        let before = world.hosts[0].delivered.len();
        world.send(peer, id(0));
        world.run(Duration::from_millis(20));
        assert_eq!(world.hosts[0].delivered.len(), before + 1);
    }
}

#[test]
fn a_clock_years_ahead_for_some_minutes_locks_nobody_out() {
    let mut world = World::of(27, 2, plain);
    world.is_time_trusted = true;
    world.trust_time(0);
    world.trust_time(1);
    world.hosts[0].clock_error = 10 * 365 * 86_400;
    world.send(0, id(1));
    world.run(SECOND * 300);
    assert_eq!(world.hosts[1].delivered.len(), 1);
    world.hosts[0].clock_error = 0;
    world.crash(0);
    world.send(0, id(1));
    world.run(SECOND * 30);
    assert_eq!(world.hosts[1].delivered.len(), 2);
}

#[test]
fn a_wrong_clock_is_forgiven_once_the_control_server_tells_the_time() {
    let mut world = World::of(29, 2, plain);
    world.hosts[0].clock_error = 10 * 365 * 86_400;
    world.send(0, id(1));
    world.run(SECOND);
    assert_eq!(world.hosts[1].delivered.len(), 1, "nobody knows better yet");
    world.hosts[0].clock_error = 0;
    world.crash(0);
    world.is_time_trusted = true;
    world.trust_time(0);
    world.trust_time(1);
    world.send(0, id(1));
    world.run(SECOND);
    assert_eq!(world.hosts[1].delivered.len(), 2);
}

#[test]
fn a_clock_set_back_by_years_changes_nothing() {
    let mut world = World::of(28, 2, plain);
    world.send(0, id(1));
    world.run(SECOND * 5);
    world.hosts[0].clock_error = -10 * 365 * 86_400;
    world.crash(0);
    world.send(0, id(1));
    world.run(SECOND * 5);
    assert_eq!(world.hosts[1].delivered.len(), 2);
}

#[test]
fn a_host_answers_to_its_previous_key_until_that_is_taken_away() {
    let mut world = World::of(50, 2, plain);
    let (old, new) = (world.hosts[0].key.clone(), LocalKey::new(&[7; 32]));
    world.act(0, |engine, _| engine.set_keys(new.clone(), Some(old.clone())));
    // The other host has heard nothing of it, and begins.
    let payload = world.send(1, id(0));
    world.run(SECOND);
    assert_eq!(world.hosts[0].delivered, [(id(1), payload)]);
    world.check_all_pairs();

    world.act(0, |engine, _| engine.set_keys(new.clone(), None));
    world.act(1, |engine, _| engine.remove_peer(id(0)));
    let mut peer = PeerConfig::new(old.public(), PeerKind::Node);
    peer.candidates = vec![world.hosts[0].address];
    world.add_peer(1, id(0), peer);
    world.send(1, id(0));
    world.run(SECOND * 20);
    assert_eq!(world.state(1, id(0)), PeerState::NoAnswer);
    assert!(world.refusals(0, Refusal::WrongMac) > 0);
}

#[test]
fn initiations_are_taken_from_the_key_that_a_peer_had_before_and_from_no_other() {
    let mut world = World::of(51, 2, plain);
    let (old, new) = (world.hosts[0].key.clone(), LocalKey::new(&[7; 32]));
    let renew = |previous: Option<[u8; 32]>| {
        let public_key = new.public();
        move |config: &mut PeerConfig| {
            config.public_key = public_key;
            config.previous_public_key = previous;
        }
    };
    // It was told of the new key before the host itself took it.
    world.update_peer(1, id(0), renew(Some(old.public())));
    let payload = world.send(0, id(1));
    world.run(SECOND);
    assert_eq!(world.hosts[1].delivered, [(id(0), payload)]);
    world.check_all_pairs();

    world.act(0, Engine::leave);
    world.run(SECOND * 30);
    world.update_peer(1, id(0), renew(None));
    world.send(0, id(1));
    world.run(SECOND * 20);
    assert_eq!(world.state(0, id(1)), PeerState::NoAnswer);
    assert!(world.refusals(1, Refusal::UnknownPeer) > 0);
}

#[test]
fn an_initiation_is_not_taken_again_after_its_sender_got_another_key() {
    let mut world = World::of(52, 2, plain);
    world.tape = Some(Vec::new());
    world.send(0, id(1));
    world.run(SECOND);
    let tape = world.tape.take().unwrap();
    let (from, to, initiation) = tape.into_iter().find(|(_, _, bytes)| bytes[0] == 1).unwrap();
    let (old, new) = (world.hosts[0].key.public(), [9; 32]);
    world.update_peer(1, id(0), |config| {
        config.public_key = LocalKey::new(&new).public();
        config.previous_public_key = Some(old);
    });
    world.inject(from, to, &initiation);
    world.run(SECOND);
    assert_eq!(world.refusals(1, Refusal::Replayed), 1);
}

#[test]
fn another_key_that_does_not_follow_from_the_one_before_ends_all_sessions() {
    let mut world = World::of(53, 2, plain);
    world.send(0, id(1));
    world.run(SECOND);
    world.update_peer(1, id(0), |config| config.public_key = LocalKey::new(&[9; 32]).public());
    assert_eq!(world.state(1, id(0)), PeerState::Idle);
}

/// Keys are changed while packets flow; peers hear of it sooner or later than the host itself does.
#[test]
fn a_change_of_keys_costs_no_packet_whoever_hears_of_it_first() {
    for seed in 0..25 {
        let mut world = World::of(seed, 2, fast);
        let mut chance = Seeded(seed);
        let mut sent = [Vec::new(), Vec::new()];
        let (mut key, mut previous) = (world.hosts[0].key.clone(), None);
        let (mut changes_at, mut heard_at) = (chance.below(100), u64::MAX);
        let mut withdrawn_at = u64::MAX;
        let mut is_heard_first = false;
        for second in 0..600 {
            if second == changes_at {
                is_heard_first = chance.chance(20);
                previous = Some(std::mem::replace(&mut key, LocalKey::new(&chance.key())));
                // A session lasts 60 s longer than it has to.
                heard_at = second + if is_heard_first { 0 } else { chance.below(50) };
                withdrawn_at = heard_at + 200 + chance.below(100);
                changes_at = withdrawn_at + chance.below(100);
                if !is_heard_first {
                    let (key, previous) = (key.clone(), previous.clone());
                    world.act(0, |engine, _| engine.set_keys(key, previous));
                }
            }
            if second == heard_at {
                let (public, old) = (key.public(), previous.as_ref().map(LocalKey::public));
                world.update_peer(1, id(0), |config| {
                    config.public_key = public;
                    config.previous_public_key = old;
                });
                if is_heard_first {
                    world.run(Duration::from_millis(chance.below(400)));
                    let (key, previous) = (key.clone(), previous.clone());
                    world.act(0, |engine, _| engine.set_keys(key, previous));
                }
            }
            if second == withdrawn_at {
                let key = key.clone();
                world.act(0, |engine, _| engine.set_keys(key, None));
                world.update_peer(1, id(0), |config| config.previous_public_key = None);
            }
            for (host, peer) in [(0, 1), (1, 0)] {
                if chance.chance(50) {
                    sent[host].push(world.send(host, id(peer)));
                }
            }
            world.run(SECOND);
        }
        world.run(SECOND * 5);
        for (host, peer) in [(0, 1), (1, 0)] {
            let mut delivered: Vec<_> =
                world.hosts[peer].delivered.iter().map(|(_, payload)| payload.clone()).collect();
            delivered.sort();
            sent[host].sort();
            assert_eq!(delivered, sent[host], "seed {seed}, from {host}");
        }
    }
}
