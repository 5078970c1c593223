//! The fuzzers' entry functions over the corpus, as it is and changed at random. `WEFT_FUZZ_CASES` sets how
//! often each file is changed.

use std::fs;
use std::path::Path;

use weft_seal::fuzz;

#[test]
fn headers_hold_over_the_corpus() {
    run("headers", fuzz::headers);
}

#[test]
fn arrivals_hold_over_the_corpus() {
    run("arrivals", fuzz::arrivals);
}

#[test]
fn tap_frames_hold_over_the_corpus() {
    run("tap_frame", fuzz::tap_frame);
}

fn run(name: &str, target: fn(&[u8])) {
    let cases = std::env::var("WEFT_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files = 0;
    let mut random = Random(0x5eed);
    for entry in fs::read_dir(folder).expect("the corpus is in the tree") {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        target(&bytes);
        for _ in 0..cases.unwrap_or(500) {
            target(&random.change(bytes.clone()));
        }
        files += 1;
    }
    assert!(files >= 3, "{name} has {files} files");
}

/// A xorshift generator: the same changes every time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end.max(1) as u64).unwrap()
    }

    /// Up to eight changed bytes among the first 128, where headers are, and sometimes another length.
    fn change(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..=self.below(8) {
            let at = self.below(bytes.len().min(128));
            if let Some(byte) = bytes.get_mut(at) {
                *byte = self.below(256).to_le_bytes()[0];
            }
        }
        match self.below(4) {
            0 => bytes.truncate(self.below(bytes.len())),
            1 => bytes.resize(bytes.len() + self.below(64), 0),
            _ => {}
        }
        bytes
    }
}
