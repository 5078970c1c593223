//! Whether handshakes come faster than they may be worked on. Every one costs two key agreements
//! before its sender is known, and whoever knows a public key can ask for them from any source
//! address.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use crate::time::{Bucket, Budget};

/// Rows of the table of prefixes, four to a hash: 4,096 rows of 48 bytes, 192 KiB.
const SETS: usize = 1024;
const WAYS: usize = 4;
/// The state of being under load ends this long after the last cause.
const CALM: Duration = Duration::from_secs(1);

/// What initiations may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoadLimits {
    /// From all sources together, without a cookie. A whole one costs some 250 µs.
    pub global: Budget,
    /// From one IPv4 address or IPv6 /64, without a cookie.
    pub prefix: Budget,
    /// From all sources that showed a cookie.
    pub proven_global: Budget,
    /// From one IPv4 address or IPv6 /64 that showed a cookie.
    pub proven_prefix: Budget,
}

impl Default for LoadLimits {
    fn default() -> Self {
        Self {
            global: Budget { per_second: 1000.0, burst: 1000.0 },
            prefix: Budget { per_second: 100.0, burst: 250.0 },
            proven_global: Budget { per_second: 1000.0, burst: 2000.0 },
            proven_prefix: Budget { per_second: 500.0, burst: 1000.0 },
        }
    }
}

/// What is done with an initiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Work,
    AskForCookie,
    Drop,
}

pub(crate) struct Load {
    limits: LoadLimits,
    global: Bucket,
    proven_global: Bucket,
    strangers: Prefixes,
    proven: Prefixes,
    /// All strangers need a cookie until then.
    loaded_until: Duration,
}

impl Load {
    pub(crate) fn new(limits: LoadLimits, now: Duration) -> Self {
        Self {
            limits,
            global: Bucket::full(limits.global, now),
            proven_global: Bucket::full(limits.proven_global, now),
            strangers: Prefixes::new(limits.prefix),
            proven: Prefixes::new(limits.proven_prefix),
            loaded_until: Duration::ZERO,
        }
    }

    pub(crate) fn is_loaded(&self, now: Duration) -> bool {
        now < self.loaded_until
    }

    /// `is_proven` is asked only where it matters, since it costs a MAC or two.
    pub(crate) fn admit(
        &mut self,
        source: IpAddr,
        is_proven: impl FnOnce() -> bool,
        now: Duration,
    ) -> Admission {
        if self.is_within_budget(source, now) {
            return Admission::Work;
        }
        if !is_proven() {
            return Admission::AskForCookie;
        }
        let is_admitted = self.proven.take(source, now)
            && self.proven_global.take(self.limits.proven_global, now);
        if is_admitted { Admission::Work } else { Admission::Drop }
    }

    fn is_within_budget(&mut self, source: IpAddr, now: Duration) -> bool {
        // The prefix comes first: one source must not use up what is there for all.
        if !self.strangers.take(source, now) {
            return false;
        }
        // Those that are asked for a cookie count too, so that the flood's own rate decides when it
        // is over.
        if !self.global.take(self.limits.global, now) {
            self.loaded_until = now + CALM;
        }
        !self.is_loaded(now)
    }
}

/// One bucket a prefix, in a table whose size strangers cannot change.
struct Prefixes {
    budget: Budget,
    hasher: RandomState,
    rows: Vec<Option<(IpAddr, Bucket)>>,
}

impl Prefixes {
    fn new(budget: Budget) -> Self {
        Self { budget, hasher: RandomState::new(), rows: vec![None; SETS * WAYS] }
    }

    /// Where there is no row for one more prefix it is over its budget: a cookie then tells.
    fn take(&mut self, source: IpAddr, now: Duration) -> bool {
        let (prefix, budget) = (prefix_of(source), self.budget);
        let set = self.set_of(prefix);
        let rows = &mut self.rows[set..set + WAYS];
        if let Some((_, bucket)) = rows.iter_mut().flatten().find(|(known, _)| *known == prefix) {
            return bucket.take(budget, now);
        }
        // A bucket that is full again says no more than none.
        let is_free = |row: &mut Option<(IpAddr, Bucket)>| {
            row.as_mut().is_none_or(|(_, bucket)| bucket.is_full(budget, now))
        };
        let Some(row) = rows.iter_mut().find_map(|row| is_free(row).then_some(row)) else {
            return false;
        };
        let mut bucket = Bucket::full(budget, now);
        let is_within = bucket.take(budget, now);
        *row = Some((prefix, bucket));
        is_within
    }

    fn set_of(&self, prefix: IpAddr) -> usize {
        let sets = SETS as u64;
        usize::try_from(self.hasher.hash_one(prefix) % sets).unwrap_or_default() * WAYS
    }
}

/// The address itself for IPv4, its /64 for IPv6: what one customer of a provider has.
fn prefix_of(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn load() -> Load {
        Load::new(LoadLimits::default(), Duration::ZERO)
    }

    fn source(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number))
    }

    #[test]
    fn a_flood_from_many_sources_makes_all_strangers_show_cookies() {
        let mut load = load();
        let worked = (0..100_000)
            .filter(|number| {
                load.admit(source(*number), || false, Duration::ZERO) == Admission::Work
            })
            .count();
        assert!(worked <= 1000, "{worked}");
        assert!(load.is_loaded(Duration::from_millis(999)));
        let stranger = load.admit(source(200_000), || false, Duration::from_millis(1));
        assert_eq!(stranger, Admission::AskForCookie);
        let known = load.admit(source(200_000), || true, Duration::from_millis(1));
        assert_eq!(known, Admission::Work);
    }

    #[test]
    fn a_flood_from_one_source_leaves_the_others_alone() {
        let mut load = load();
        let worked = (0..100_000)
            .filter(|_| load.admit(source(1), || false, Duration::ZERO) == Admission::Work)
            .count();
        assert_eq!(worked, 250);
        assert!(!load.is_loaded(Duration::ZERO));
        assert_eq!(load.admit(source(2), || false, Duration::ZERO), Admission::Work);
    }

    #[test]
    fn a_cookie_does_not_open_the_door_for_ever() {
        let mut load = load();
        let worked = (0..100_000)
            .filter(|_| load.admit(source(1), || true, Duration::ZERO) == Admission::Work)
            .count();
        assert_eq!(worked, 250 + 1000);
    }

    #[test]
    fn the_addresses_of_one_ipv6_customer_count_as_one() {
        let mut load = load();
        let worked = (0..1000u128)
            .filter(|host| {
                let source = IpAddr::V6((0x2001_0db8_u128 << 96 | *host).into());
                load.admit(source, || false, Duration::ZERO) == Admission::Work
            })
            .count();
        assert_eq!(worked, 250);
    }

    #[test]
    fn a_flood_that_goes_on_is_held_off_all_the_while() {
        let mut load = load();
        let worked = (0..20_000u32)
            .filter(|number| {
                let now = Duration::from_micros(500) * *number;
                load.admit(source(*number), || false, now) == Admission::Work
            })
            .count();
        assert!(worked <= 2001, "{worked} in 10 s");
    }

    #[test]
    fn load_passes() {
        let mut load = load();
        for number in 0..5000 {
            load.admit(source(number), || false, Duration::ZERO);
        }
        let later = Duration::from_secs(3);
        assert_eq!(load.admit(source(9), || false, later), Admission::Work);
    }
}
