//! What a fuzzer calls.

use crate::wish::Wish;

/// Reads the bytes as what a program says to its manager.
///
/// # Panics
/// Where a name is taken that the next process could not be told.
pub fn wish(bytes: &[u8]) {
    let Some(Wish::Keep(name) | Wish::Forget(name)) = Wish::parse(bytes) else { return };
    assert!(!name.is_empty() && !name.contains([':', ' ', '\0']) && name.is_ascii());
}
