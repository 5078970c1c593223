//! The fuzz targets with the stable compiler: the corpus, and what comes of changing it by chance.
//!
//! `WEFT_FUZZ_RUNS` says how many cases each target gets (200 if unset), `WEFT_FUZZ_SEED` repeats one.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "the numbers of a test are small"
)]

#[path = "../fuzz/targets.rs"]
mod targets;

mod support;

use std::path::Path;

use support::Seeded;

const RUNS: u64 = 200;

fn variable(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().expect("a number"))
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = std::fs::read_dir(folder).expect("a corpus");
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn smoke(target: &str, run: fn(&[u8])) {
    let corpus = corpus(target);
    assert!(!corpus.is_empty());
    for case in &corpus {
        run(case);
    }
    let first = variable("WEFT_FUZZ_SEED").unwrap_or(1);
    let runs = variable("WEFT_FUZZ_RUNS").unwrap_or(RUNS);
    let end = if variable("WEFT_FUZZ_SEED").is_some() { first + 1 } else { first + runs };
    for seed in first..end {
        let case = mutate(&corpus, &mut Seeded(seed));
        let result = std::panic::catch_unwind(|| run(&case));
        assert!(result.is_ok(), "repeat {target} with WEFT_FUZZ_SEED={seed}");
    }
}

fn mutate(corpus: &[Vec<u8>], dice: &mut Seeded) -> Vec<u8> {
    let mut case = corpus[dice.below(corpus.len() as u64) as usize].clone();
    for _ in 0..=dice.below(8) {
        let at = dice.below(case.len() as u64 + 1) as usize;
        match dice.below(5) {
            0 => case.truncate(at),
            1 => case.insert(at, dice.next() as u8),
            2 if at < case.len() => case[at] ^= 1 << dice.below(8),
            3 if at < case.len() => case[at] = dice.next() as u8,
            _ => {
                let other = &corpus[dice.below(corpus.len() as u64) as usize];
                let from = dice.below(other.len() as u64 + 1) as usize;
                case.truncate(at);
                case.extend_from_slice(&other[from..]);
            }
        }
    }
    case
}

#[test]
fn control_frames() {
    smoke("control", targets::control);
}

#[test]
fn datagrams_of_strangers() {
    smoke("datagram", targets::datagram);
}

#[test]
fn hand_overs() {
    smoke("handover", targets::handover);
}

#[test]
fn lives_of_two_hosts() {
    smoke("life", targets::life);
}

/// Writes the corpus anew: `cargo test -p weft-tunnel --test fuzz_smoke -- --ignored`.
#[test]
#[ignore = "changes the tree; for whoever changes a format"]
fn write_the_corpus() {
    use weft_seal::Cipher;
    use weft_tunnel::{ControlFrame, Features, Hello, Offer};
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
    for (name, frame) in frames {
        write("control", name, &frame.encode());
    }
    let mut world = support::World::of(1, 2, |_, config| {
        config.sub_session_ciphers = vec![Cipher::Aes256Gcm];
    });
    world.tape = Some(Vec::new());
    world.send(0, support::id(1));
    world.run(std::time::Duration::from_secs(1));
    let mut datagrams = Vec::new();
    for (_, _, bytes) in world.tape.take().unwrap().iter().take(3) {
        datagrams.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
        datagrams.extend_from_slice(bytes);
    }
    write("datagram", "handshake", &datagrams);
    write("datagram", "cookie-reply", &[&[64, 0, 3][..], &[0; 63]].concat());
    // Head (8 + 1 + 32 + 8) and checksum are what the target adds.
    let exported = world.hand_over(0);
    let mut peers = exported[49..exported.len() - 32].to_vec();
    let peer = weft_tunnel::LocalKey::new(&[2; 32]).public();
    peers[4..36].copy_from_slice(&peer);
    write("handover", "two-sessions", &peers);
    write("handover", "nobody", &[0; 4]);
    write("life", "quiet", &[0, 0, 6, 250]);
    write("life", "busy", &[0, 0, 3, 0, 2, 0, 14, 1, 4, 100, 12, 0, 14, 1, 6, 130, 15, 1, 13, 2]);
    write("life", "bad-weather", &[0, 0, 9, 77, 3, 0, 11, 0, 1, 0, 8, 30, 2, 0, 4, 200, 6, 9]);
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), bytes).unwrap();
}
