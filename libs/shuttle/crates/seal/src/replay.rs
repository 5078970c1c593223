//! Which counters of a session were accepted already (RFC 6479: a ring of words that never shifts).

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Mutex, MutexGuard, PoisonError};

const WORD_BITS: u64 = u64::BITS as u64;
const WORDS: usize = 256;

/// A counter is told apart from a replay while fewer than this many newer ones were accepted. One
/// word of the ring is being filled, and so gives no memory.
pub const REPLAY_WINDOW: u64 = (WORDS as u64 - 1) * WORD_BITS;

/// Reads take no lock and may be late by what is being marked at the moment; marking decides.
pub(crate) struct Window {
    words: [AtomicU64; WORDS],
    /// One above the highest counter that was marked.
    next: AtomicU64,
    marking: Mutex<()>,
}

impl Window {
    /// Refuses every counter below `next`.
    pub(crate) fn starting_at(next: u64) -> Self {
        let window = Self {
            words: [const { AtomicU64::new(0) }; WORDS],
            next: AtomicU64::new(next),
            marking: Mutex::new(()),
        };
        if next > 0 {
            // The window never reaches below itself, so all ones say that all of it was seen.
            for word in &window.words {
                word.store(u64::MAX, Relaxed);
            }
            let open = u64::MAX << (next % WORD_BITS);
            window.word(next).fetch_and(!open, Relaxed);
        }
        window
    }

    pub(crate) fn next(&self) -> u64 {
        self.next.load(Acquire)
    }

    /// Whether the counter was not seen yet and is not too old to tell.
    pub(crate) fn admits(&self, counter: u64) -> bool {
        let next = self.next();
        if counter >= next {
            return true;
        }
        next - counter <= REPLAY_WINDOW && self.word(counter).load(Relaxed) & bit(counter) == 0
    }

    /// Lets one thread mark.
    pub(crate) fn lock(&self) -> Marking<'_> {
        // A thread that panicked left whole words: there is nothing to repair.
        let lock = self.marking.lock().unwrap_or_else(PoisonError::into_inner);
        Marking { window: self, _lock: lock }
    }

    /// Empties the words that begin behind the word of the highest counter, up to that of `counter`.
    fn clear_between(&self, next: u64, counter: u64) {
        let newest = next.saturating_sub(1) / WORD_BITS;
        let wanted = counter / WORD_BITS;
        for index in 1..=(wanted - newest).min(WORDS as u64) {
            self.words[slot(newest + index)].store(0, Relaxed);
        }
    }

    fn word(&self, counter: u64) -> &AtomicU64 {
        &self.words[slot(counter / WORD_BITS)]
    }
}

/// The right to mark counters of a window.
pub(crate) struct Marking<'a> {
    window: &'a Window,
    _lock: MutexGuard<'a, ()>,
}

impl Marking<'_> {
    /// Marks the counter and tells whether it was new.
    pub(crate) fn mark(&self, counter: u64) -> bool {
        let window = self.window;
        if !window.admits(counter) {
            return false;
        }
        let next = window.next();
        if counter >= next {
            window.clear_between(next, counter);
            // Who sees the new end sees the words before it cleared.
            window.next.store(counter.saturating_add(1), Release);
        }
        window.word(counter).fetch_or(bit(counter), Relaxed);
        true
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the number is reduced to that of the words")]
fn slot(word: u64) -> usize {
    word as usize % WORDS
}

fn bit(counter: u64) -> u64 {
    1 << (counter % WORD_BITS)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn mark(window: &Window, counter: u64) -> bool {
        window.lock().mark(counter)
    }

    #[test]
    fn a_counter_is_accepted_once() {
        let window = Window::starting_at(0);
        assert!(mark(&window, 5));
        assert!(!mark(&window, 5));
        assert!(!window.admits(5));
        assert!(window.admits(4));
    }

    #[test]
    fn the_window_is_wide_enough_for_many_paths() {
        const { assert!(REPLAY_WINDOW >= 8192) };
        let window = Window::starting_at(0);
        let newest = 1_000_000;
        assert!(mark(&window, newest));
        assert!(mark(&window, newest + 1 - REPLAY_WINDOW));
        assert!(!mark(&window, newest - REPLAY_WINDOW));
    }

    #[test]
    fn a_resumed_window_refuses_all_before_it_and_nothing_after() {
        for next in [1, 63, 64, 65, 70_000] {
            let window = Window::starting_at(next);
            for below in next.saturating_sub(200)..next {
                assert!(!mark(&window, below), "{below} of {next}");
            }
            for above in next..next + 200 {
                assert!(mark(&window, above), "{above} of {next}");
            }
        }
    }

    #[test]
    fn the_last_counters_there_are_do_not_wrap() {
        let window = Window::starting_at(0);
        assert!(mark(&window, u64::MAX - 1));
        assert!(!mark(&window, u64::MAX - 1));
        assert!(mark(&window, u64::MAX - 5));
        assert!(!mark(&window, 3));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_all_counters(
            steps in prop::collection::vec((any::<bool>(), 0u64..40_000), 1..400),
        ) {
            let window = Window::starting_at(0);
            let (mut seen, mut next) = (HashSet::new(), 0u64);
            for (back, step) in steps {
                let counter = if back { next.saturating_sub(step) } else { next + step / 8 };
                let wanted = (counter >= next || next - counter <= REPLAY_WINDOW)
                    && !seen.contains(&counter);
                prop_assert_eq!(window.admits(counter), wanted);
                prop_assert_eq!(mark(&window, counter), wanted);
                seen.insert(counter);
                next = next.max(counter + 1);
            }
        }
    }
}
