//! What is known of the path to a peer, from probes in the tunnel: round-trip time, jitter, loss and
//! path MTU. The search for the path MTU follows RFC 8899: sizes are tried, and what was found is
//! confirmed for as long as there is traffic, so that a path that shrinks makes no black hole.
//!
//! All sizes are those of IP packets in bytes.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::earliest;

/// Every path carries packets of this size (RFC 8200; for IPv4 it is RFC 8899's advice).
pub const BASE_MTU: usize = 1280;

/// A path is probed while there was traffic not longer ago than this.
pub(crate) const ACTIVE_FOR: Duration = Duration::from_secs(10);
/// Between two probes of a path that works. With three losses behind it, a black hole is found in
/// less than a second on a path of 100 ms.
const INTERVAL: Duration = Duration::from_millis(500);
const PATIENCE_MIN: Duration = Duration::from_millis(100);
const PATIENCE_MAX: Duration = Duration::from_secs(3);
/// Before the first answer.
const PATIENCE_FIRST: Duration = Duration::from_secs(1);
/// RFC 8899, `MAX_PROBES`.
const TRIES: u32 = 3;
/// The search ends when the answer is known this well.
const GRAIN: usize = 8;
/// RFC 8899, `PMTU_RAISE_TIMER`.
const RAISE_AFTER: Duration = Duration::from_mins(10);
/// Probes under way; the oldest is given up for one more.
const OUTSTANDING_MAX: usize = 32;
const WINDOW: u32 = 100;

/// What the probes of a path have shown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PathStatus {
    /// Smoothed as by RFC 6298.
    pub rtt: Option<Duration>,
    /// How much the round-trip time changes, smoothed as by RFC 3550, 6.4.1.
    pub jitter: Option<Duration>,
    /// The part of the last 100 probes that was not answered in time, 0 to 1.
    pub loss: Option<f64>,
    /// The largest IP packet that was seen to arrive.
    pub mtu: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// The path still carries its MTU.
    Confirm,
    /// It carries more.
    Search,
    /// It carries anything at all.
    Small,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    id: u64,
    at: Duration,
    bytes: usize,
    purpose: Purpose,
}

#[derive(Clone, Copy, Debug)]
enum Search {
    /// `high` is the largest size that is not known to be lost.
    Trying {
        high: usize,
        size: usize,
        tries: u32,
        is_under_way: bool,
    },
    Done {
        raise_at: Duration,
    },
}

/// One probe to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) id: u64,
    /// Size of the IP packet.
    pub(crate) bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Path {
    link_mtu: usize,
    mtu: usize,
    is_confirmed: bool,
    /// Whether a search has ended, or a black hole was found.
    is_settled: bool,
    search: Search,
    sent: VecDeque<Sent>,
    due: VecDeque<Purpose>,
    next_id: u64,
    next_at: Duration,
    active_until: Duration,
    rtt: Option<Duration>,
    last_rtt: Duration,
    jitter: Duration,
    losses_in_row: u32,
    did_small_pass: bool,
    outcomes: u128,
    outcomes_count: u32,
}

impl Path {
    pub(crate) fn new(link_mtu: usize) -> Self {
        let link_mtu = link_mtu.max(BASE_MTU);
        Self {
            link_mtu,
            mtu: BASE_MTU,
            is_confirmed: false,
            is_settled: false,
            search: Search::from(BASE_MTU, link_mtu),
            sent: VecDeque::new(),
            due: VecDeque::new(),
            next_id: 0,
            next_at: Duration::ZERO,
            active_until: Duration::ZERO,
            rtt: None,
            last_rtt: Duration::ZERO,
            jitter: Duration::ZERO,
            losses_in_row: 0,
            did_small_pass: false,
            outcomes: 0,
            outcomes_count: 0,
        }
    }

    pub(crate) fn status(&self) -> PathStatus {
        let count = self.outcomes_count;
        PathStatus {
            rtt: self.rtt,
            jitter: self.rtt.map(|_| self.jitter),
            loss: (count > 0).then(|| f64::from(self.outcomes.count_ones()) / f64::from(count)),
            mtu: self.is_confirmed.then_some(self.mtu),
        }
    }

    /// Starts anew for another path; answers along the old one count no more.
    pub(crate) fn reset(&mut self, link_mtu: usize, now: Duration) {
        let next_id = self.next_id;
        *self = Self { next_id, ..Self::new(link_mtu) };
        self.touch(now);
    }

    /// Takes what another process found. Whether that is more than the least.
    pub(crate) fn resume(&mut self, mtu: usize) -> bool {
        self.mtu = mtu.clamp(BASE_MTU, self.link_mtu);
        self.search = Search::from(self.mtu, self.link_mtu);
        self.is_settled = true;
        self.mtu > BASE_MTU
    }

    pub(crate) fn mtu(&self) -> usize {
        self.mtu
    }

    /// What to send: as much as the link takes until a search has said otherwise. Paths that carry less are
    /// few, and endpoints remember for minutes that they were told to send less.
    pub(crate) fn usable(&self) -> usize {
        if self.is_settled { self.mtu } else { self.link_mtu }
    }

    fn settle(&mut self) {
        self.is_settled |= matches!(self.search, Search::Done { .. });
    }

    /// There is traffic.
    pub(crate) fn touch(&mut self, now: Duration) {
        if self.active_until <= now {
            self.next_at = now;
        }
        self.active_until = now + ACTIVE_FOR;
    }

    /// Somebody says that a packet was too big. That may be a lie, so it is tried out at once.
    pub(crate) fn suspect(&mut self, now: Duration) {
        self.next_at = self.next_at.min(now);
    }

    /// When [`Self::handle_timeout`] has something to do. It is also to be called after a reply.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let next = (self.next_at < self.active_until).then_some(self.next_at);
        let raise = match self.search {
            Search::Done { raise_at } if raise_at < self.active_until => Some(raise_at),
            _ => None,
        };
        let patience = self.patience();
        let lost = self.sent.iter().map(|sent| sent.at + patience).min();
        earliest(earliest(next, raise), lost)
    }

    /// Gives up on what was lost and decides what to send. Whether the MTU changed.
    pub(crate) fn handle_timeout(&mut self, now: Duration) -> bool {
        let usable = self.usable();
        let patience = self.patience();
        let (lost, waiting): (VecDeque<Sent>, VecDeque<Sent>) =
            self.sent.drain(..).partition(|sent| sent.at + patience <= now);
        self.sent = waiting;
        for sent in lost {
            self.lose(sent, now);
        }
        if now < self.active_until {
            self.plan(now);
        } else {
            self.active_until = Duration::ZERO;
        }
        self.settle();
        self.usable() != usable
    }

    fn plan(&mut self, now: Duration) {
        if self.next_at <= now {
            self.next_at = now + INTERVAL;
            self.due.push_back(Purpose::Confirm);
            if self.losses_in_row > 0 {
                self.due.push_back(Purpose::Small);
            }
        }
        match &mut self.search {
            Search::Done { raise_at } if *raise_at <= now && self.mtu < self.link_mtu => {
                self.search = Search::from(self.mtu, self.link_mtu);
            }
            Search::Done { raise_at } if *raise_at <= now => *raise_at = now + RAISE_AFTER,
            Search::Trying { is_under_way, .. } if !*is_under_way => {
                *is_under_way = true;
                self.due.push_back(Purpose::Search);
            }
            Search::Trying { .. } | Search::Done { .. } => {}
        }
    }

    /// A probe that is to be sent now.
    pub(crate) fn poll_probe(&mut self, now: Duration) -> Option<Probe> {
        let purpose = self.due.pop_front()?;
        let bytes = match (purpose, self.search) {
            (Purpose::Search, Search::Trying { size, .. }) => size,
            (Purpose::Confirm, _) => self.mtu,
            _ => BASE_MTU.min(self.mtu) / 2,
        };
        self.next_id += 1;
        let sent = Sent { id: self.next_id, at: now, bytes, purpose };
        if self.sent.len() >= OUTSTANDING_MAX
            && let Some(oldest) = self.sent.pop_front()
        {
            self.lose(oldest, now);
        }
        self.sent.push_back(sent);
        Some(Probe { id: sent.id, bytes })
    }

    /// An answer came. Whether the MTU changed.
    pub(crate) fn handle_reply(&mut self, id: u64, now: Duration) -> bool {
        let Some(at) = self.sent.iter().position(|sent| sent.id == id) else { return false };
        let Some(sent) = self.sent.remove(at) else { return false };
        let (usable, was_confirmed) = (self.usable(), self.is_confirmed);
        self.measure(now.saturating_sub(sent.at));
        match sent.purpose {
            Purpose::Search => self.found(sent.bytes, now),
            Purpose::Confirm => {
                self.count(false);
                self.is_confirmed |= sent.bytes == self.mtu;
                self.losses_in_row = 0;
                self.did_small_pass = false;
            }
            Purpose::Small => {
                self.did_small_pass = true;
                self.check_black_hole();
            }
        }
        self.settle();
        self.usable() != usable || self.is_confirmed != was_confirmed
    }

    fn lose(&mut self, sent: Sent, now: Duration) {
        match sent.purpose {
            Purpose::Search => self.missed(sent.bytes, now),
            Purpose::Small => {}
            Purpose::Confirm => {
                self.count(true);
                self.losses_in_row += 1;
                if self.losses_in_row < TRIES {
                    self.next_at = now;
                }
                self.check_black_hole();
            }
        }
    }

    /// Small packets arrive and large ones do not.
    fn check_black_hole(&mut self) {
        if self.losses_in_row >= TRIES && self.did_small_pass && self.mtu > BASE_MTU {
            // Chance may have had a hand in it, so the old size is tried first.
            self.search = Search::from(BASE_MTU, self.mtu);
            self.mtu = BASE_MTU;
            self.is_settled = true;
            self.losses_in_row = 0;
            self.did_small_pass = false;
        }
    }

    fn found(&mut self, bytes: usize, now: Duration) {
        let Search::Trying { high, .. } = self.search else { return };
        self.mtu = self.mtu.max(bytes);
        self.is_confirmed = true;
        self.search = Search::between(self.mtu, high, now);
    }

    fn missed(&mut self, bytes: usize, now: Duration) {
        match &mut self.search {
            Search::Trying { size, tries, is_under_way, .. }
                if *size == bytes && *tries + 1 < TRIES =>
            {
                *tries += 1;
                *is_under_way = false;
            }
            Search::Trying { size, .. } if *size == bytes => {
                self.search = Search::between(self.mtu, bytes - 1, now);
            }
            _ => {}
        }
    }

    fn measure(&mut self, rtt: Duration) {
        let Some(smoothed) = self.rtt else {
            self.rtt = Some(rtt);
            self.last_rtt = rtt;
            return;
        };
        self.rtt = Some((smoothed * 7 + rtt) / 8);
        let change = rtt.abs_diff(self.last_rtt);
        self.jitter = (self.jitter * 15 + change) / 16;
        self.last_rtt = rtt;
    }

    fn count(&mut self, is_lost: bool) {
        let kept = (1 << WINDOW) - 1;
        self.outcomes = (self.outcomes << 1 | u128::from(is_lost)) & kept;
        self.outcomes_count = (self.outcomes_count + 1).min(WINDOW);
    }

    fn patience(&self) -> Duration {
        self.rtt.map_or(PATIENCE_FIRST, |rtt| {
            (rtt + rtt / 4 + 4 * self.jitter).clamp(PATIENCE_MIN, PATIENCE_MAX)
        })
    }
}

impl Search {
    /// The link's own size is what most paths carry, so it is tried first.
    fn from(low: usize, high: usize) -> Self {
        if high <= low {
            return Self::Done { raise_at: Duration::MAX };
        }
        Self::Trying { high, size: high, tries: 0, is_under_way: false }
    }

    fn between(low: usize, high: usize, now: Duration) -> Self {
        if high < low + GRAIN {
            return Self::Done { raise_at: now + RAISE_AFTER };
        }
        let size = usize::midpoint(low, high + 1);
        Self::Trying { high, size, tries: 0, is_under_way: false }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RTT: Duration = Duration::from_millis(20);

    /// Runs a path for some time, with traffic; `carries` says which probes are answered.
    fn run(
        path: &mut Path,
        from: Duration,
        seconds: u64,
        mut carries: impl FnMut(usize) -> bool,
    ) -> Duration {
        let end = from + Duration::from_secs(seconds);
        let mut now = from;
        let mut replies = VecDeque::new();
        while now < end {
            path.touch(now);
            path.handle_timeout(now);
            while let Some(probe) = path.poll_probe(now) {
                if carries(probe.bytes) {
                    replies.push_back((now + RTT, probe.id));
                }
            }
            while let Some((_, id)) = replies.pop_front_if(|(at, _)| *at <= now) {
                path.handle_reply(id, now);
            }
            now += Duration::from_millis(5);
        }
        now
    }

    #[test]
    fn a_path_as_wide_as_the_link_is_known_after_one_round_trip() {
        let mut path = Path::new(1500);
        let mut probes = 0;
        run(&mut path, Duration::ZERO, 1, |_| {
            probes += 1;
            true
        });
        let status = path.status();
        assert_eq!(status.mtu, Some(1500));
        assert_eq!(status.loss, Some(0.0));
        assert_eq!(status.rtt, Some(RTT));
        assert!(probes <= 4, "{probes}");
    }

    #[test]
    fn until_a_search_has_ended_as_much_is_sent_as_the_link_takes() {
        let mut path = Path::new(1500);
        assert_eq!(path.usable(), 1500);
        run(&mut path, Duration::ZERO, 10, |bytes| bytes <= 1400);
        assert!((1393..=1400).contains(&path.usable()), "{}", path.usable());
    }

    #[test]
    fn a_path_that_shrinks_is_no_black_hole_for_long() {
        let mut path = Path::new(1500);
        let now = run(&mut path, Duration::ZERO, 5, |_| true);
        run(&mut path, now, 1, |bytes| bytes <= 1300);
        assert_eq!(path.mtu(), BASE_MTU);
        run(&mut path, now, 10, |bytes| bytes <= 1300);
        assert!((1293..=1300).contains(&path.mtu()), "{}", path.mtu());
    }

    #[test]
    fn a_dead_path_keeps_its_mtu() {
        let mut path = Path::new(1500);
        let now = run(&mut path, Duration::ZERO, 5, |_| true);
        run(&mut path, now, 60, |_| false);
        assert_eq!(path.mtu(), 1500);
        assert_eq!(path.status().loss, Some(1.0));
    }

    #[test]
    fn a_wider_path_is_noticed_in_time() {
        let mut path = Path::new(1500);
        let now = run(&mut path, Duration::ZERO, 20, |bytes| bytes <= 1400);
        assert!(path.mtu() < 1401);
        run(&mut path, now, 700, |_| true);
        assert_eq!(path.mtu(), 1500);
    }

    #[test]
    fn an_idle_path_is_left_alone() {
        let mut path = Path::new(1500);
        let now = run(&mut path, Duration::ZERO, 5, |_| true);
        path.handle_timeout(now + ACTIVE_FOR);
        path.handle_timeout(now + 2 * ACTIVE_FOR);
        assert_eq!(path.poll_probe(now + 2 * ACTIVE_FOR), None);
        assert_eq!(path.deadline(), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn the_search_finds_what_the_path_carries(carried in 1280usize..1600, link in 1280usize..1600) {
            let mut path = Path::new(link);
            run(&mut path, Duration::ZERO, 20, |bytes| bytes <= carried);
            let best = carried.min(link);
            prop_assert!(path.mtu() <= best && path.mtu() + GRAIN > best, "{} of {}", path.mtu(), best);
        }

        #[test]
        fn loss_is_measured(lost_of_ten in 0u32..6) {
            let mut path = Path::new(1280);
            let mut at = 0;
            run(&mut path, Duration::ZERO, 90, |bytes| {
                if bytes == 1280 {
                    at += 7;
                }
                bytes < 1280 || at % 10 >= lost_of_ten
            });
            let loss = path.status().loss.unwrap();
            prop_assert!((loss - f64::from(lost_of_ten) / 10.0).abs() < 0.11, "{loss}");
        }
    }
}
