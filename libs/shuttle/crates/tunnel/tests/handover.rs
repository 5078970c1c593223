//! Sessions that go from one process to the next.

mod support;

use std::time::Duration;

use proptest::prelude::*;
use support::{World, id};
use weft_seal::Cipher;
use weft_tunnel::{EngineConfig, Features, HandoverError, PeerState};

const SECOND: Duration = Duration::from_secs(1);

fn fast(_: usize, config: &mut EngineConfig) {
    config.sub_session_ciphers = vec![Cipher::Aes256Gcm];
    config.features = Features::SEGMENTS;
}

#[test]
fn sessions_go_on_in_the_next_process_without_a_handshake() {
    let mut world = World::of(1, 3, fast);
    world.check_all_pairs();
    world.tape = Some(Vec::new());
    for _ in 0..10 {
        world.hand_over(0);
        assert_eq!(world.state(0, id(1)), PeerState::Connected);
        assert_eq!(world.hosts[0].cipher(id(1)), Some(Cipher::Aes256Gcm));
        assert!(world.hosts[0].sending_features(id(1)).contains(Features::SEGMENTS));
        world.send(0, id(1));
        world.send(1, id(0));
        world.run(Duration::from_millis(20));
    }
    let tape = world.tape.take().unwrap();
    assert!(tape.iter().all(|(_, _, bytes)| bytes[0] == 4), "data messages alone");
    assert_eq!(world.hosts[0].delivered.len(), 2 + 10);
    assert_eq!(world.hosts[1].delivered.len(), 2 + 10);
}

#[test]
fn what_arrived_before_a_hand_over_is_a_replay_behind_it() {
    let mut world = World::of(2, 2, fast);
    world.tape = Some(Vec::new());
    world.send(0, id(1));
    world.run(SECOND);
    let tape = world.tape.take().unwrap();
    world.hand_over(1);
    let delivered = world.hosts[1].delivered.len();
    for (source, target, bytes) in tape {
        world.inject(source, target, &bytes);
    }
    world.run(SECOND);
    assert_eq!(world.hosts[1].delivered.len(), delivered);
    assert!(world.hosts[1].replays > 0);
}

#[test]
fn sessions_keep_their_age_over_hand_overs() {
    let mut world = World::of(3, 2, fast);
    world.send(0, id(1));
    for _ in 0..10 {
        world.run(SECOND * 17);
        world.hand_over(0);
        world.hand_over(1);
    }
    world.run(SECOND * 11);
    assert!(world.hosts[0].sending.is_empty() && world.hosts[1].receiving.is_empty());
}

#[test]
fn a_hand_over_is_taken_once() {
    let mut world = World::of(4, 2, fast);
    world.send(0, id(1));
    world.run(SECOND);
    let bytes = world.hand_over(0);
    assert_eq!(world.import(0, &bytes), Err(HandoverError::Consumed));
    world.crash(0);
    assert_eq!(world.import(0, &bytes), Err(HandoverError::Consumed));
    assert!(world.hosts[0].sending.is_empty());
}

#[test]
fn a_damaged_or_foreign_hand_over_is_refused() {
    let mut world = World::of(5, 2, fast);
    world.send(0, id(1));
    world.run(SECOND);
    let bytes = world.hand_over(0);
    assert_eq!(world.import(1, &bytes), Err(HandoverError::OtherHost));
    for at in (0..bytes.len()).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert_eq!(world.import(0, &damaged), Err(HandoverError::Damaged));
        assert_eq!(world.import(0, &bytes[..at]), Err(HandoverError::Damaged));
    }
}

#[test]
fn threads_that_did_not_stop_can_send_no_more() {
    let mut world = World::of(6, 2, fast);
    world.send(0, id(1));
    world.run(SECOND);
    let left_over = std::sync::Arc::clone(&world.hosts[0].sending[&id(1)].session);
    world.hand_over(0);
    assert_eq!(left_over.claim(1), None);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Send {
        host: usize,
        count: u8,
    },
    Wait {
        milliseconds: u64,
    },
    HandOver {
        host: usize,
    },
    Crash {
        host: usize,
    },
    /// The bytes of an earlier export are found again.
    Stale {
        host: usize,
    },
    /// The process dies after the export, before anything is taken over.
    ExportAndCrash {
        host: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let host = 0..2usize;
    let step = prop_oneof![
        4 => (host.clone(), 1..20u8).prop_map(|(host, count)| Step::Send { host, count }),
        4 => (1..40_000u64).prop_map(|milliseconds| Step::Wait { milliseconds }),
        2 => host.clone().prop_map(|host| Step::HandOver { host }),
        1 => host.clone().prop_map(|host| Step::Crash { host }),
        1 => host.clone().prop_map(|host| Step::Stale { host }),
        1 => host.prop_map(|host| Step::ExportAndCrash { host }),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// The world itself checks every counter that is put on the wire.
    #[test]
    fn no_counter_is_used_twice_whenever_a_process_dies(seed in any::<u64>(), steps in steps()) {
        let mut world = World::of(seed, 2, fast);
        let mut exports: [Vec<Vec<u8>>; 2] = Default::default();
        for step in steps {
            match step {
                Step::Send { host, count } => {
                    (0..count).for_each(|_| drop(world.send(host, id(1 - host))));
                }
                Step::Wait { milliseconds } => world.run(Duration::from_millis(milliseconds)),
                Step::HandOver { host } => {
                    let bytes = world.hand_over(host);
                    exports[host].push(bytes);
                }
                Step::Crash { host } => world.crash(host),
                Step::Stale { host } => {
                    for bytes in exports[host].clone() {
                        let _ = world.import(host, &bytes);
                    }
                }
                Step::ExportAndCrash { host } => {
                    let bytes = world.export_and_crash(host);
                    exports[host].push(bytes);
                }
            }
        }
        // Sessions with processes that died end at the latest then.
        world.run(SECOND * 200);
        world.check_all_pairs();
    }
}
