//! Which peers a session is kept with though nobody talks, and what is known of NATs.
//!
//! A NAT lets in only what answers what went out. So a host behind one keeps a session with each peer
//! that it may hear from: nobody could begin one with it. Which hosts those are is told by peers, who
//! see where this host's packets come from; as long as nobody has, some are asked.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

/// Between two empty messages on a session that is kept: NATs keep a UDP mapping for 30 s or more.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(25);
/// After the last data a session is kept this long.
pub(super) const RECENT_FOR: Duration = Duration::from_mins(10);
/// A peer that was sent data and has said nothing for so long may be reached otherwise by now. It is
/// probed twice a second.
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(2);
/// Where peers see this host is asked at most this often.
pub(super) const ASK_INTERVAL: Duration = Duration::from_secs(5);
/// A peer of which other candidates came to be known is looked for there if it falls silent within
/// this time: its own host may know of its move before this one has missed it.
pub(super) const DOUBTED_FOR: Duration = Duration::from_secs(15);
/// A host that is behind no NAT asks whether that is still so.
const ASK_AGAIN: Duration = Duration::from_hours(1);
/// More than one, because one does not tell whether another one sees the same port.
const ASKED: usize = 2;
/// Connected peers that are asked at once whether they see this host elsewhere than before.
pub(super) const ASKED_AGAIN: usize = 16;
/// Peers that a host behind a NAT keeps a session with: ten empty messages a second, and two
/// handshakes.
const KEPT_MAX: usize = 256;

/// What stands between a host and others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nat {
    /// Nothing.
    None,
    /// One that gives every peer the same port.
    Stable,
    /// One that does not (RFC 4787: address or address and port-dependent mapping).
    Symmetric,
}

impl Nat {
    /// Of a host with these own addresses that is seen at those.
    pub(super) fn of(is_own: impl Fn(IpAddr) -> bool, seen: &[SocketAddr]) -> Self {
        let outside: Vec<SocketAddr> = seen.iter().copied().filter(|at| !is_own(at.ip())).collect();
        let differs = |one: &SocketAddr| {
            outside.iter().any(|other| other.ip() == one.ip() && other.port() != one.port())
        };
        match outside.as_slice() {
            [] => Self::None,
            all if all.iter().any(differs) => Self::Symmetric,
            _ => Self::Stable,
        }
    }

    /// Whether two hosts behind these cannot begin a session, whoever tries.
    fn parts(self, other: Self) -> bool {
        self != Self::None
            && other != Self::None
            && (self == Self::Symmetric || other == Self::Symmetric)
    }
}

/// A host's knowledge of its own NAT.
#[derive(Debug, Default)]
pub(super) struct Own {
    nat: Option<(Nat, Duration)>,
}

impl Own {
    /// Takes where connected peers see this host now.
    pub(super) fn note(&mut self, seen: &[SocketAddr], now: Duration) {
        if !seen.is_empty() {
            self.nat = Some((Nat::of(is_local, seen), now));
        }
    }

    /// Undefined where nobody said so, or not lately.
    pub(super) fn nat(&self, now: Duration) -> Option<Nat> {
        self.nat.filter(|(nat, at)| *nat != Nat::None || now < *at + ASK_AGAIN).map(|(nat, _)| nat)
    }
}

/// Whether an address is one of this machine's: only such a one can be sent from.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address.to_canonical(), 0)).is_ok()
}

/// A peer as far as this choice goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) host_id: u32,
    pub(super) nat: Nat,
    pub(super) is_connected: bool,
    pub(super) is_unreachable: bool,
    /// There was data lately.
    pub(super) is_recent: bool,
}

/// The peers to keep a session with. `seed` is another one on each host, so that not all ask the same.
pub(super) fn kept(own: Option<Nat>, peers: &[Peer], seed: &[u8; 32]) -> BTreeSet<u32> {
    let recent = peers.iter().filter(|peer| peer.is_recent && peer.is_connected);
    let mut kept: BTreeSet<u32> = recent.map(|peer| peer.host_id).collect();
    match own {
        None => kept.extend(asked(peers, seed)),
        Some(Nat::None) => {}
        Some(nat) => {
            let meets = |peer: &&Peer| !nat.parts(peer.nat);
            let hosts = ranked(peers.iter().filter(meets), seed).take(KEPT_MAX);
            kept.extend(hosts.map(|peer| peer.host_id));
        }
    }
    kept
}

/// Those that are asked where they see this host: all that are connected know already.
fn asked(peers: &[Peer], seed: &[u8; 32]) -> impl Iterator<Item = u32> {
    ranked(peers.iter(), seed).take(ASKED).map(|peer| peer.host_id)
}

/// Those that are the likeliest to answer first.
fn ranked<'p>(
    peers: impl Iterator<Item = &'p Peer>,
    seed: &[u8; 32],
) -> impl Iterator<Item = &'p Peer> {
    let mut peers: Vec<&Peer> = peers.collect();
    peers.sort_by_cached_key(|peer| {
        let mut hasher = DefaultHasher::new();
        (seed, peer.host_id).hash(&mut hasher);
        (peer.is_unreachable, Reverse(peer.is_connected), peer.nat != Nat::None, hasher.finish())
    });
    peers.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: [u8; 32] = [7; 32];

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn peer(host_id: u32, nat: Nat) -> Peer {
        Peer { host_id, nat, is_connected: false, is_unreachable: false, is_recent: false }
    }

    fn nat_of(seen: &[&str]) -> Nat {
        let seen: Vec<SocketAddr> = seen.iter().map(|text| at(text)).collect();
        Nat::of(|address| address == at("192.168.1.2:1").ip(), &seen)
    }

    #[test]
    fn a_host_that_is_seen_at_its_own_address_is_behind_no_nat() {
        assert_eq!(nat_of(&["192.168.1.2:61820"]), Nat::None);
        assert_eq!(nat_of(&["203.0.113.2:61820", "192.168.1.2:61820"]), Nat::Stable);
    }

    #[test]
    fn a_nat_that_shows_two_ports_of_one_address_gives_every_peer_another_one() {
        assert_eq!(nat_of(&["203.0.113.2:61820", "203.0.113.2:61820"]), Nat::Stable);
        assert_eq!(nat_of(&["203.0.113.2:61820", "203.0.113.9:4000"]), Nat::Stable);
        assert_eq!(nat_of(&["203.0.113.2:61820", "203.0.113.2:4000"]), Nat::Symmetric);
    }

    #[test]
    fn a_host_that_does_not_know_asks_two_and_another_one_for_each_that_is_unreachable() {
        let mut peers: Vec<Peer> = (1..=9).map(|host_id| peer(host_id, Nat::None)).collect();
        let asked = kept(None, &peers, &SEED);
        assert_eq!(asked.len(), 2);
        for peer in &mut peers {
            peer.is_unreachable = asked.contains(&peer.host_id);
        }
        let others = kept(None, &peers, &SEED);
        assert!(others.len() == 2 && others.is_disjoint(&asked));
    }

    #[test]
    fn hosts_behind_nats_are_asked_last() {
        let peers =
            [peer(1, Nat::Stable), peer(2, Nat::None), peer(3, Nat::Stable), peer(4, Nat::None)];
        assert_eq!(kept(None, &peers, &SEED), BTreeSet::from([2, 4]));
    }

    #[test]
    fn not_every_host_asks_the_same() {
        let peers: Vec<Peer> = (1..=100).map(|host_id| peer(host_id, Nat::None)).collect();
        assert_ne!(kept(None, &peers, &SEED), kept(None, &peers, &[8; 32]));
    }

    #[test]
    fn behind_no_nat_only_recent_sessions_are_kept() {
        let mut peers = [peer(1, Nat::Stable), peer(2, Nat::None), peer(3, Nat::None)];
        peers[1] = Peer { is_recent: true, is_connected: true, ..peers[1] };
        peers[2] = Peer { is_recent: true, is_unreachable: true, ..peers[2] };
        assert_eq!(kept(Some(Nat::None), &peers, &SEED), BTreeSet::from([2]));
    }

    #[test]
    fn behind_a_nat_everybody_is_kept_that_can_be_met_and_no_more_than_the_limit() {
        let peers = [peer(1, Nat::Stable), peer(2, Nat::None), peer(3, Nat::Symmetric)];
        assert_eq!(kept(Some(Nat::Stable), &peers, &SEED), BTreeSet::from([1, 2]));
        assert_eq!(kept(Some(Nat::Symmetric), &peers, &SEED), BTreeSet::from([2]));
        let many: Vec<Peer> = (1..=1000).map(|host_id| peer(host_id, Nat::None)).collect();
        assert_eq!(kept(Some(Nat::Stable), &many, &SEED).len(), KEPT_MAX);
    }

    #[test]
    fn what_is_known_of_a_nat_stays_and_that_there_is_none_is_asked_again() {
        let mut own = Own::default();
        assert_eq!(own.nat(Duration::ZERO), None);
        own.note(&[at("203.0.113.2:61820")], Duration::ZERO);
        own.note(&[], Duration::from_secs(1));
        assert_eq!(own.nat(ASK_AGAIN), Some(Nat::Stable));
        own.note(&[at("127.0.0.1:61820")], Duration::ZERO);
        assert_eq!(own.nat(Duration::from_secs(1)), Some(Nat::None));
        assert_eq!(own.nat(ASK_AGAIN), None);
    }
}
