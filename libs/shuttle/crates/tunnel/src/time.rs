//! The two clocks that the protocol reads.

use std::time::Duration;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// `CLOCK_BOOTTIME` or `CLOCK_MONOTONIC`; all timers run on it. It never goes back, and a process
    /// that takes over sessions reads the same clock.
    pub monotonic: Duration,
    /// The wall clock since 1970, which may jump. Read for the stamps of handshakes alone.
    pub unix: Duration,
}

/// A budget of events that refills evenly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    refilled: Duration,
}

/// How many events may come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Events per second that may go on for ever.
    pub per_second: f64,
    /// Events that may come at once after a quiet time.
    pub burst: f64,
}

impl Bucket {
    pub(crate) fn full(budget: Budget, now: Duration) -> Self {
        Self { tokens: budget.burst, refilled: now }
    }

    /// Whether one more event is within the budget; it then counts.
    pub(crate) fn take(&mut self, budget: Budget, now: Duration) -> bool {
        self.refill(budget, now);
        let is_within = self.tokens >= 1.0;
        if is_within {
            self.tokens -= 1.0;
        }
        is_within
    }

    pub(crate) fn is_full(&mut self, budget: Budget, now: Duration) -> bool {
        self.refill(budget, now);
        self.tokens >= budget.burst
    }

    fn refill(&mut self, budget: Budget, now: Duration) {
        let passed = now.saturating_sub(self.refilled).as_secs_f64();
        self.tokens = (self.tokens + passed * budget.per_second).min(budget.burst);
        self.refilled = self.refilled.max(now);
    }
}

/// The earlier of two deadlines that may not be there.
pub(crate) fn earliest(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

pub(crate) fn is_due(deadline: Option<Duration>, now: Duration) -> bool {
    deadline.is_some_and(|deadline| deadline <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_what_it_refills() {
        let budget = Budget { per_second: 10.0, burst: 3.0 };
        let mut bucket = Bucket::full(budget, Duration::ZERO);
        let taken =
            |bucket: &mut Bucket, now| (0..100).filter(|_| bucket.take(budget, now)).count();
        assert_eq!(taken(&mut bucket, Duration::ZERO), 3);
        assert_eq!(taken(&mut bucket, Duration::from_millis(210)), 2);
        assert_eq!(taken(&mut bucket, Duration::from_mins(1)), 3);
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let budget = Budget { per_second: 10.0, burst: 1.0 };
        let mut bucket = Bucket::full(budget, Duration::from_secs(9));
        assert!(bucket.take(budget, Duration::from_secs(9)));
        assert!(!bucket.take(budget, Duration::from_secs(1)));
        assert!(!bucket.take(budget, Duration::from_secs(9)));
    }
}
