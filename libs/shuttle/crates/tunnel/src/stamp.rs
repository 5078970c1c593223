//! Stamps of handshake initiations (whitepaper, 5.1): each must be later than the one before, or it
//! is taken for a replay. So a stamp must never go back, whatever the wall clock does, and must never
//! run ahead so far that the clock does not catch up.

use std::fmt;
use std::time::Duration;

use crate::time::Now;

pub(crate) const STAMP_BYTES: usize = 12;

/// TAI seconds count from here (<https://cr.yp.to/libtai/tai64.html>), ten ahead of 1970's UTC.
const TAI64_BASE: u64 = (1 << 62) + 10;
/// A stamp tells the time no more exactly than to 2^24 ns, so that it tells little of the clock.
const STEP_NANOSECONDS: u32 = 1 << 24;
/// Stamps up to this far ahead are made durable at once, which spares a write per handshake.
const RESERVE: Duration = Duration::from_mins(1);
/// How far a clock may be ahead of what the control server signed.
const AHEAD_MAX: Duration = Duration::from_hours(48);

/// A TAI64N label. Ordered by time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp([u8; STAMP_BYTES]);

impl Stamp {
    /// The label of a time since 1970, whitened.
    pub fn from_unix(unix: Duration) -> Self {
        let nanoseconds = unix.subsec_nanos() & !(STEP_NANOSECONDS - 1);
        let mut bytes = [0; STAMP_BYTES];
        bytes[..8].copy_from_slice(&TAI64_BASE.saturating_add(unix.as_secs()).to_be_bytes());
        bytes[8..].copy_from_slice(&nanoseconds.to_be_bytes());
        Self(bytes)
    }

    /// The label with these bytes, whatever they say.
    pub const fn from_bytes(bytes: [u8; STAMP_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes on the wire.
    pub const fn to_bytes(self) -> [u8; STAMP_BYTES] {
        self.0
    }

    /// The time since 1970 that the label names; zero for what lies before.
    fn to_unix(self) -> Duration {
        let mut seconds = [0; 8];
        seconds.copy_from_slice(&self.0[..8]);
        let mut nanoseconds = [0; 4];
        nanoseconds.copy_from_slice(&self.0[8..]);
        let seconds = u64::from_be_bytes(seconds).saturating_sub(TAI64_BASE);
        let nanoseconds = u32::from_be_bytes(nanoseconds).min(999_999_999);
        Duration::new(seconds, nanoseconds)
    }

    /// The label one step later.
    fn next(self) -> Self {
        Self::from_unix(
            self.to_unix().saturating_add(Duration::from_nanos(STEP_NANOSECONDS.into())),
        )
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stamp").field(&self.to_unix()).finish()
    }
}

/// Gives every initiation of a host its stamp.
#[derive(Debug)]
pub(crate) struct Stamps {
    /// No stamp up to this one may be given any more.
    last: Option<Stamp>,
    /// What is durable: a successor starts after it.
    reserved: Option<Stamp>,
    trusted: Option<Now>,
}

impl Stamps {
    /// `persisted` is the last stamp that was said to be made durable.
    pub(crate) fn new(persisted: Option<Stamp>) -> Self {
        Self { last: persisted, reserved: persisted, trusted: None }
    }

    /// Tells the time that the control server signed, read at `now.monotonic`. Stamps that were given
    /// absurdly far ahead of it before are forgotten: peers who know the time refused them.
    pub(crate) fn trust(&mut self, now: Now) {
        self.trusted = Some(now);
        if self.last.is_some_and(|last| self.is_absurd(last, now)) {
            self.last = None;
            self.reserved = None;
        }
    }

    /// What a peer's greatest stamp is worth now: one that is absurd would lock the peer out.
    pub(crate) fn without_absurdity(&self, greatest: Stamp, now: Now) -> Stamp {
        match self.trusted_unix(now) {
            Some(unix) if self.is_absurd(greatest, now) => Stamp::from_unix(unix),
            _ => greatest,
        }
    }

    /// The next stamp, and what must be durable before it is sent.
    pub(crate) fn next(&mut self, now: Now) -> (Stamp, Option<Stamp>) {
        let wall = Stamp::from_unix(self.sane_unix(now));
        let stamp = self.last.map_or(wall, |last| wall.max(last.next()));
        self.last = Some(stamp);
        let is_reserved = self.reserved.is_some_and(|reserved| stamp <= reserved);
        if is_reserved {
            return (stamp, None);
        }
        let reserve = Stamp::from_unix(stamp.to_unix().saturating_add(RESERVE));
        self.reserved = Some(reserve);
        (stamp, Some(reserve))
    }

    /// Whether a peer's stamp lies so far ahead that taking it would lock the peer out once its clock
    /// is right again.
    pub(crate) fn is_absurd(&self, stamp: Stamp, now: Now) -> bool {
        self.trusted_unix(now).is_some_and(|unix| stamp.to_unix() > unix + AHEAD_MAX)
    }

    fn trusted_unix(&self, now: Now) -> Option<Duration> {
        let trusted = self.trusted?;
        Some(trusted.unix + now.monotonic.saturating_sub(trusted.monotonic))
    }

    /// The wall clock, or what was signed where the wall clock is absurdly ahead of it.
    fn sane_unix(&self, now: Now) -> Duration {
        match self.trusted_unix(now) {
            Some(trusted) if now.unix > trusted + AHEAD_MAX => trusted,
            _ => now.unix,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(monotonic: u64, unix: u64) -> Now {
        Now { monotonic: Duration::from_secs(monotonic), unix: Duration::from_secs(unix) }
    }

    #[test]
    fn a_label_is_ten_seconds_ahead_of_utc_and_whitened() {
        let stamp = Stamp::from_unix(Duration::new(1, 0x0123_4567));
        assert_eq!(stamp.to_bytes(), [0x40, 0, 0, 0, 0, 0, 0, 11, 1, 0, 0, 0]);
    }

    #[test]
    fn a_wall_clock_ten_years_ahead_does_not_outlive_its_correction() {
        const DECADE: u64 = 315_360_000;
        let mut stamps = Stamps::new(None);
        stamps.trust(at(0, 1_000_000));
        let (wrong, _) = stamps.next(at(1, 1_000_000 + DECADE));
        let (right, _) = stamps.next(at(30, 1_000_030));
        assert!(wrong < right);
        assert!(right <= Stamp::from_unix(Duration::from_secs(1_000_030)));
        let absurd = Stamp::from_unix(Duration::from_secs(1_000_000 + DECADE));
        assert!(stamps.is_absurd(absurd, at(30, 0)));
        assert!(!stamps.is_absurd(right, at(30, 0)));
        assert!(!Stamps::new(None).is_absurd(absurd, at(30, 0)), "nothing is known of the time");
    }

    #[test]
    fn stamps_that_were_absurd_are_forgotten_when_the_time_is_known() {
        let mut stamps = Stamps::new(None);
        let (absurd, _) = stamps.next(at(0, 2_000_000_000));
        let now = at(5, 1_000_000_000);
        stamps.trust(now);
        let (stamp, reserve) = stamps.next(now);
        assert_eq!(stamp, Stamp::from_unix(now.unix));
        assert!(reserve.is_some_and(|reserve| reserve < absurd));
        assert_eq!(stamps.without_absurdity(absurd, now), stamp);
        assert_eq!(stamps.without_absurdity(stamp, now), stamp);
    }

    #[test]
    fn many_stamps_cost_few_writes() {
        let mut stamps = Stamps::new(None);
        let writes = (0..1000).filter(|_| stamps.next(at(0, 500)).1.is_some()).count();
        assert_eq!(writes, 1, "a thousand steps are 17 s");
    }

    proptest! {
        #[test]
        fn stamps_rise_over_clock_jumps_and_crashes(
            walls in prop::collection::vec((0u64..4_000_000_000, any::<bool>()), 1..200),
        ) {
            let (mut stamps, mut durable, mut last) = (Stamps::new(None), None, None);
            for (unix, crashes) in walls {
                let (stamp, reserve) = stamps.next(at(0, unix));
                durable = reserve.or(durable);
                prop_assert!(last < Some(stamp));
                last = Some(stamp);
                if crashes {
                    stamps = Stamps::new(durable);
                }
            }
        }
    }
}
