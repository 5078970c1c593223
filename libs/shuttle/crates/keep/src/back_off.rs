//! When a program that ended by itself is started again.

use std::time::Duration;

/// Whoever lived for so long may have done its work: it is started again at once.
const LIFE_MIN: Duration = Duration::from_secs(1);
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// Counts short lives.
#[derive(Debug, Default)]
pub(crate) struct BackOff {
    next: Duration,
}

impl BackOff {
    /// How long to wait after a life of that length. The first short one costs nothing.
    pub(crate) fn after(&mut self, lived: Duration) -> Duration {
        if lived >= LIFE_MIN {
            self.next = Duration::ZERO;
            return Duration::ZERO;
        }
        let wait = self.next;
        self.next = (wait * 2).clamp(FIRST, LONGEST);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_lives_are_waited_for_longer_and_longer_up_to_a_limit() {
        let mut back_off = BackOff::default();
        let waits: Vec<u128> =
            (0..10).map(|_| back_off.after(Duration::ZERO).as_millis()).collect();
        assert_eq!(waits, [0, 50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(back_off.after(LIFE_MIN), Duration::ZERO);
        assert_eq!(back_off.after(Duration::ZERO), Duration::ZERO);
        assert_eq!(back_off.after(Duration::ZERO), FIRST);
    }
}
