//! Where keys, indices and jitter come from.

use std::time::Duration;

/// A source of bytes that nobody can foresee; in a test, one that can be repeated.
pub trait Random: Send {
    /// Fills all of `bytes`.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// The kernel's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsRandom;

impl Random for OsRandom {
    fn fill(&mut self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("getrandom(2) does not fail once the kernel has started");
    }
}

pub(crate) fn array<const N: usize>(random: &mut dyn Random) -> [u8; N] {
    let mut bytes = [0; N];
    random.fill(&mut bytes);
    bytes
}

pub(crate) fn number(random: &mut dyn Random) -> u32 {
    u32::from_ne_bytes(array(random))
}

/// Anything from zero to `most`.
pub(crate) fn jitter(random: &mut dyn Random, most: Duration) -> Duration {
    most.mul_f64(f64::from(number(random)) / f64::from(u32::MAX))
}
