//! Word about void keys on its way from host to host, inside the tunnels. Nothing is verified here: what
//! comes from peers goes up to the forwarder, and only what that gives back goes on.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::Duration;

use weft_tunnel::STATEMENT_BYTES_MAX;

use crate::failure::Failure;

/// Statements that are told: 8 KiB.
const TOLD_MAX: usize = 8;
/// Statements of peers that are kept for the forwarder: 16 KiB.
const PASSED_MAX: usize = 16;
/// Statements of a peer of which it is remembered that it has them.
const OWN_MAX: usize = 16;
/// What one peer may say: a statement a second, and this many at once after a quiet time. A forwarder
/// verifies each, which takes it some 0.2 ms.
const INTERVAL: Duration = Duration::from_secs(1);
const BURST: u32 = 16;

/// Tells statements apart. Nobody outside can find two that share one: the hash has a secret.
type Digest = u64;
type Statement = Arc<[u8]>;

/// What a peer passed on.
#[derive(Clone, Debug)]
pub(super) struct Passed {
    pub(super) host_id: u32,
    pub(super) statement: Statement,
}

#[derive(Debug, Default)]
pub(super) struct Revocations {
    hasher: RandomState,
    /// What peers are told, the newest first.
    told: Vec<(Digest, Statement)>,
    /// Who is to be told what yet: no more than all of it for each peer.
    due: BTreeSet<(u32, Digest)>,
    peers: HashMap<u32, Peer>,
    /// What peers said, the newest last.
    passed: VecDeque<(Digest, Passed)>,
    /// How many there have been.
    passed_count: u64,
    /// How many of them the forwarder has been given.
    given_count: u64,
    pub(super) counters: Counters,
}

/// What a peer passed on and came to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    /// A peer said too much.
    pub(super) too_often: u64,
    /// The forwarder was not there to hear it.
    pub(super) unheard: u64,
}

#[derive(Debug, Default)]
struct Peer {
    /// The session in which it was told last.
    session: Option<u32>,
    /// What it said itself.
    own: VecDeque<Digest>,
    /// When it will have used up nothing of what it may say.
    rested_at: Duration,
}

impl Revocations {
    /// Tells these from now on. Those that are new are due for everybody in `connected`.
    pub(super) fn replace(&mut self, statements: Vec<Statement>, connected: &[u32]) {
        let told: Vec<_> =
            statements.into_iter().map(|bytes| (self.hasher.hash_one(&bytes), bytes)).collect();
        for (digest, _) in &told {
            if !self.told.iter().any(|(known, _)| known == digest) {
                self.due.extend(connected.iter().map(|host_id| (*host_id, *digest)));
            }
        }
        self.told = told;
        let Self { due, told, .. } = self;
        due.retain(|(_, digest)| told.iter().any(|(known, _)| known == digest));
    }

    /// There is a session with the peer in which it can be told. In each it is told everything: what was
    /// told before may have been lost.
    pub(super) fn note_session(&mut self, host_id: u32, index: u32) {
        let peer = self.peers.entry(host_id).or_default();
        if peer.session.replace(index) != Some(index) {
            self.due.extend(self.told.iter().map(|(digest, _)| (host_id, *digest)));
        }
    }

    pub(super) fn forget(&mut self, host_id: u32) {
        self.peers.remove(&host_id);
        self.due.retain(|(other, _)| *other != host_id);
    }

    /// The next one to be told, of one peer the oldest first: who knows a newer one takes no older. What a
    /// peer said itself it is not told.
    pub(super) fn take_due(&mut self) -> Option<(u32, Statement)> {
        loop {
            let (host_id, digest) = *self.due.first()?;
            let is_due = |(known, _): &&(Digest, Statement)| self.due.contains(&(host_id, *known));
            let next = self.told.iter().rev().find(is_due).cloned();
            self.due.remove(&(host_id, next.as_ref().map_or(digest, |(known, _)| *known)));
            let Some((known, statement)) = next else { continue };
            let peer = self.peers.get(&host_id);
            if !peer.is_some_and(|peer| peer.own.contains(&known)) {
                return Some((host_id, statement));
            }
        }
    }

    /// Takes what a peer said, and tells whether it is news for the forwarder.
    pub(super) fn hear(&mut self, host_id: u32, statement: Vec<u8>, now: Duration) -> bool {
        let statement: Statement = statement.into();
        let digest = self.hasher.hash_one(&statement);
        let peer = self.peers.entry(host_id).or_default();
        if !peer.may_speak(now) {
            self.counters.too_often += 1;
            return false;
        }
        peer.note_own(digest);
        let is_told = self.told.iter().any(|(known, _)| *known == digest);
        if is_told || self.passed.iter().any(|(known, _)| *known == digest) {
            return false;
        }
        if self.passed.len() >= PASSED_MAX {
            self.passed.pop_front();
            let first_kept = self.passed_count + 1 - PASSED_MAX as u64;
            self.counters.unheard += u64::from(self.given_count < first_kept);
        }
        self.passed_count += 1;
        self.passed.push_back((digest, Passed { host_id, statement }));
        true
    }

    /// What came after the first `count`, and how many there have been.
    pub(super) fn passed_since(&mut self, count: u64) -> (Vec<Passed>, u64) {
        // A number beyond it is of a transport before.
        let new = self.passed_count.checked_sub(count).unwrap_or(self.passed_count);
        let new = usize::try_from(new).unwrap_or(usize::MAX);
        let known = self.passed.len().saturating_sub(new);
        self.given_count = self.passed_count;
        let passed = self.passed.iter().skip(known).map(|(_, passed)| passed.clone());
        (passed.collect(), self.passed_count)
    }
}

impl Peer {
    /// Generic cell rate (ITU-T I.371): one event an interval, and a burst.
    fn may_speak(&mut self, now: Duration) -> bool {
        if self.rested_at > now + INTERVAL * (BURST - 1) {
            return false;
        }
        self.rested_at = self.rested_at.max(now) + INTERVAL;
        true
    }

    fn note_own(&mut self, digest: Digest) {
        if self.own.contains(&digest) {
            return;
        }
        if self.own.len() >= OWN_MAX {
            self.own.pop_front();
        }
        self.own.push_back(digest);
    }
}

/// What the forwarder has told.
pub(super) fn parse(statements: Vec<Vec<u8>>) -> Result<Vec<Statement>, Failure> {
    if statements.len() > TOLD_MAX {
        return Err(Failure::invalid(format!("more than {TOLD_MAX} statements")));
    }
    if statements.iter().any(|statement| statement.len() > STATEMENT_BYTES_MAX) {
        return Err(Failure::invalid(format!(
            "a statement has more than {STATEMENT_BYTES_MAX} bytes"
        )));
    }
    Ok(statements.into_iter().map(Statement::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(number: usize) -> Statement {
        number.to_be_bytes().as_slice().into()
    }

    fn due(revocations: &mut Revocations) -> Vec<(u32, Statement)> {
        std::iter::from_fn(|| revocations.take_due()).collect()
    }

    #[test]
    fn a_new_statement_is_told_to_all_once_and_again_in_every_new_session() {
        let mut revocations = Revocations::default();
        let (one, two) = (statement(1), statement(2));
        revocations.replace(vec![one.clone()], &[5, 6]);
        assert_eq!(due(&mut revocations), [(5, one.clone()), (6, one.clone())]);
        revocations.replace(vec![two.clone(), one.clone()], &[5]);
        assert_eq!(due(&mut revocations), [(5, two.clone())]);
        revocations.note_session(6, 77);
        revocations.note_session(6, 77);
        assert_eq!(due(&mut revocations), [(6, one.clone()), (6, two.clone())]);
        revocations.note_session(6, 78);
        revocations.replace(vec![two.clone()], &[]);
        assert_eq!(due(&mut revocations), [(6, two.clone())]);
        revocations.note_session(6, 79);
        revocations.forget(6);
        assert_eq!(due(&mut revocations), []);
    }

    #[test]
    fn nobody_is_told_what_came_from_there() {
        let mut revocations = Revocations::default();
        assert!(revocations.hear(5, statement(1).to_vec(), Duration::ZERO));
        revocations.replace(vec![statement(1)], &[5, 6]);
        revocations.note_session(5, 77);
        assert_eq!(due(&mut revocations), [(6, statement(1))]);
    }

    #[test]
    fn what_several_peers_say_goes_up_once_and_a_new_listener_hears_it_again() {
        let mut revocations = Revocations::default();
        assert!(revocations.hear(5, statement(1).to_vec(), Duration::ZERO));
        assert!(!revocations.hear(6, statement(1).to_vec(), Duration::ZERO));
        let (passed, count) = revocations.passed_since(0);
        assert_eq!((passed.len(), passed[0].host_id), (1, 5));
        assert!(revocations.passed_since(count).0.is_empty());
        assert!(revocations.hear(6, statement(2).to_vec(), Duration::ZERO));
        assert_eq!(*revocations.passed_since(count).0[0].statement, *statement(2));
        assert_eq!(revocations.passed_since(0).0.len(), 2);
    }

    #[test]
    fn a_peer_that_says_too_much_is_not_listened_to_and_delays_nobody_else() {
        let mut revocations = Revocations::default();
        let heard =
            (0..100).filter(|n| revocations.hear(5, statement(*n).to_vec(), Duration::ZERO));
        assert_eq!(heard.count(), BURST as usize);
        assert_eq!(revocations.counters.too_often, 100 - u64::from(BURST));
        assert!(revocations.hear(6, statement(100).to_vec(), Duration::ZERO));
        assert!(!revocations.hear(5, statement(101).to_vec(), Duration::from_millis(900)));
        assert!(revocations.hear(5, statement(101).to_vec(), INTERVAL));
    }

    #[test]
    fn without_a_listener_the_newest_are_kept_and_the_rest_is_counted() {
        let mut revocations = Revocations::default();
        for n in 0..40u32 {
            assert!(revocations.hear(n, statement(n as usize).to_vec(), Duration::ZERO));
        }
        assert_eq!(revocations.counters.unheard, 40 - PASSED_MAX as u64);
        let (passed, count) = revocations.passed_since(0);
        assert_eq!((passed.len(), passed[0].host_id, count), (PASSED_MAX, 24, 40));
        assert!(revocations.hear(99, statement(99).to_vec(), Duration::ZERO));
        assert_eq!(revocations.counters.unheard, 40 - PASSED_MAX as u64, "it had been given");
    }

    #[test]
    fn too_many_and_too_long_statements_are_refused() {
        assert!(parse(vec![vec![0; STATEMENT_BYTES_MAX]; TOLD_MAX]).is_ok());
        assert!(parse(vec![vec![]; TOLD_MAX + 1]).is_err());
        assert!(parse(vec![vec![0; STATEMENT_BYTES_MAX + 1]]).is_err());
    }
}
