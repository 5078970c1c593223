//! Which sessions are in force. The control thread publishes whole tables; a packet thread sees a new
//! one by one load of a pointer, and keeps the old one for no longer than the packets at hand.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use weft_seal::{Form, ReceiveSession, Route, SendSession};

use crate::address::{Family, RawAddress};
use crate::counters::{PeerTraffic, Traffic};

/// What kind of peer it is, and what comes with that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A host of ours: Ethernet frames of the networks that it is part of.
    Node {
        /// The networks, in any order.
        vnis: Vec<u32>,
        /// Whether it announced that it understands option SEG.
        segments: bool,
    },
    /// A stock client: IP packets of one network.
    Stock {
        /// The network.
        vni: u32,
        /// Target and source MAC of the Ethernet header that its packets get.
        macs: [u8; 12],
    },
}

/// How to reach a peer and what it may send, as the control thread knows it.
#[derive(Clone, Debug)]
pub struct PeerEntry {
    /// The session that frames are sealed with; without one they wait.
    pub send: Option<Arc<SendSession>>,
    /// Where datagrams go.
    pub target: SocketAddr,
    /// The address that they come from, where the kernel shall not choose.
    pub source: Option<IpAddr>,
    /// The longest datagram that the way takes, without IP and UDP headers.
    pub datagram_bytes_max: usize,
    /// What kind of peer it is.
    pub kind: Kind,
}

/// A peer as packet threads use it.
pub(crate) struct Peer {
    pub(crate) host_id: u32,
    pub(crate) send: Option<Arc<SendSession>>,
    pub(crate) target: RawAddress,
    pub(crate) source: Option<IpAddr>,
    pub(crate) form: Form,
    pub(crate) datagram_bytes_max: usize,
    pub(crate) allows: Allows,
    pub(crate) marks: Arc<Marks>,
    /// Whether the control thread was told that `datagram_bytes_max` is too much.
    pub(crate) reported_size: AtomicBool,
}

/// What a peer may send.
#[derive(Clone, Debug)]
pub(crate) enum Allows {
    /// Frames of these networks, in ascending order.
    Networks(Box<[u32]>),
    /// IP packets, which get these addresses and go to this network.
    Ip { vni: u32, macs: [u8; 12] },
}

impl Peer {
    /// How frames go to the peer now; `None` without a session.
    pub(crate) fn route(&self) -> Option<Route<'_>> {
        let session = self.send.as_deref()?;
        let Self { form, datagram_bytes_max, .. } = *self;
        Some(Route { session, form, datagram_bytes_max })
    }
}

/// What outlives a change of a peer's entry.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    pub(crate) traffic: Traffic,
    /// Mixed bits of the last source address that was reported as a new one.
    pub(crate) reported_source: AtomicU64,
}

/// A session from a peer.
pub(crate) struct Inbound {
    pub(crate) session: Arc<ReceiveSession>,
    pub(crate) host_id: u32,
    /// Whether the peer was told of as having used the session.
    pub(crate) confirmed: AtomicBool,
}

/// The sessions of a moment.
#[derive(Clone)]
pub struct Table {
    family: Family,
    peers: Parts<Peer>,
    inbound: Parts<Inbound>,
    /// How many peers are reached at an address, by its mixed bits.
    targets: Parts<usize>,
}

impl Table {
    pub(crate) fn new(family: Family) -> Self {
        let (peers, inbound, targets) = Default::default();
        Self { family, peers, inbound, targets }
    }

    /// Puts in a peer or replaces what is known of it; its counters go on. Tells whether its address
    /// can be reached: an IPv6 one cannot where the host has no IPv6.
    pub fn set_peer(&mut self, host_id: u32, entry: PeerEntry) -> bool {
        let Some(target) = RawAddress::new(entry.target, self.family) else { return false };
        let known = self.peers.get(host_id);
        let (marks, last) = (known.map(|peer| Arc::clone(&peer.marks)), known.map(|p| p.target));
        if last != Some(target) {
            self.count_target(&target, 1);
            if let Some(last) = last {
                self.count_target(&last, -1);
            }
        }
        let (form, allows) = match entry.kind {
            Kind::Node { mut vnis, segments } => {
                vnis.sort_unstable();
                (Form::Ethernet { segments }, Allows::Networks(vnis.into()))
            }
            Kind::Stock { vni, macs } => (Form::Ip, Allows::Ip { vni, macs }),
        };
        let peer = Peer {
            host_id,
            send: entry.send,
            target,
            source: entry.source,
            form,
            datagram_bytes_max: entry.datagram_bytes_max,
            allows,
            marks: marks.unwrap_or_default(),
            reported_size: AtomicBool::new(false),
        };
        self.peers.insert(host_id, peer);
        true
    }

    /// Removes a peer and all its sessions.
    pub fn remove_peer(&mut self, host_id: u32) {
        if let Some(peer) = self.peers.remove(host_id) {
            self.count_target(&peer.target, -1);
        }
        let sessions = self.inbound.iter().filter(|(_, inbound)| inbound.host_id == host_id);
        let indices: Vec<u32> = sessions.map(|(index, _)| index).collect();
        for index in indices {
            self.inbound.remove(index);
        }
    }

    /// Accepts data messages of a session from a peer.
    pub fn add_session(&mut self, host_id: u32, session: Arc<ReceiveSession>) {
        let index = session.local_index();
        let inbound = Inbound { session, host_id, confirmed: AtomicBool::new(false) };
        self.inbound.insert(index, inbound);
    }

    /// Accepts no data messages of a session any more.
    pub fn remove_session(&mut self, local_index: u32) {
        self.inbound.remove(local_index);
    }

    /// What was counted for a peer.
    pub fn traffic(&self, host_id: u32) -> Option<PeerTraffic> {
        self.peers.get(host_id).map(|peer| peer.marks.traffic.read())
    }

    /// What was counted for all peers.
    pub fn traffics(&self) -> impl Iterator<Item = (u32, PeerTraffic)> {
        self.peers.iter().map(|(host_id, peer)| (host_id, peer.marks.traffic.read()))
    }

    /// Whether a peer is reached at this address, or hardly ever at another one with the same bits: not more than a hint.
    pub(crate) fn is_target(&self, address: &RawAddress) -> bool {
        self.targets.get(address.folded()).is_some()
    }

    fn count_target(&mut self, address: &RawAddress, more: isize) {
        let number = address.folded();
        let count = self.targets.get(number).map_or(0, |count| **count);
        match count.saturating_add_signed(more) {
            0 => drop(self.targets.remove(number)),
            count => self.targets.insert(number, count),
        }
    }

    pub(crate) fn peer(&self, host_id: u32) -> Option<&Arc<Peer>> {
        self.peers.get(host_id)
    }

    pub(crate) fn inbound(&self, index: u32) -> Option<&Arc<Inbound>> {
        self.inbound.get(index)
    }
}

const PARTS_BITS: u32 = 6;
const PARTS: usize = 1 << PARTS_BITS;

/// Rows by number, in parts of which a copy shares those that it does not change: a table of many peers costs a change about
/// as little as one of few.
struct Parts<V>(Box<[Arc<Map<V>>; PARTS]>);

/// Host ids and session indices are given by our own side: nobody can choose them so that they collide. Addresses a peer can
/// choose, one of them at a time.
type Map<V> = HashMap<u32, Arc<V>, BuildHasherDefault<Mix>>;

impl<V> Parts<V> {
    fn get(&self, number: u32) -> Option<&Arc<V>> {
        self.0[part(number)].get(&number)
    }

    fn insert(&mut self, number: u32, row: V) {
        Arc::make_mut(&mut self.0[part(number)]).insert(number, Arc::new(row));
    }

    fn remove(&mut self, number: u32) -> Option<Arc<V>> {
        self.get(number)?;
        Arc::make_mut(&mut self.0[part(number)]).remove(&number)
    }

    fn iter(&self) -> impl Iterator<Item = (u32, &Arc<V>)> {
        self.0.iter().flat_map(|part| part.iter()).map(|(number, row)| (*number, row))
    }
}

impl<V> Clone for Parts<V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<V> Default for Parts<V> {
    fn default() -> Self {
        Self(Box::new(std::array::from_fn(|_| Arc::default())))
    }
}

/// By the uppermost bits, which no map of less than 2^26 rows looks at.
#[allow(clippy::cast_possible_truncation, reason = "fewer bits are left than any usize has")]
fn part(number: u32) -> usize {
    (mix(u64::from(number)) >> (u64::BITS - PARTS_BITS)) as usize
}

/// Spreads a 32-bit number over a word (Fibonacci hashing: Knuth, TAOCP 3, 6.4).
#[derive(Default)]
struct Mix(u64);

fn mix(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = mix(self.0 ^ u64::from(number)).rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use weft_seal::Cipher;

    use super::*;

    const MANY: u32 = 1000;

    fn entry() -> PeerEntry {
        PeerEntry {
            send: None,
            target: "192.0.2.1:61820".parse().expect("an address"),
            source: None,
            datagram_bytes_max: 1472,
            kind: Kind::Node { vnis: vec![5], segments: false },
        }
    }

    /// Hosts of which each has a session, whose index is 7 times its number.
    fn table_of(hosts: u32) -> Table {
        let mut table = Table::new(Family::V4);
        for host_id in 1..=hosts {
            assert!(table.set_peer(host_id, entry()));
            let session = ReceiveSession::new(Cipher::Aes256Gcm, &[1; 32], 7 * host_id);
            table.add_session(host_id, Arc::new(session));
        }
        table
    }

    #[test]
    fn a_change_is_seen_in_the_copy_alone_and_leaves_all_other_rows() {
        let table = table_of(MANY);
        let mut copy = table.clone();
        copy.remove_session(7 * 500);
        copy.set_peer(MANY + 1, entry());
        assert!(table.inbound(7 * 500).is_some() && copy.inbound(7 * 500).is_none());
        assert!(table.peer(MANY + 1).is_none() && copy.peer(MANY + 1).is_some());
        assert!((1..=MANY).all(|host| copy.peer(host).is_some_and(|peer| peer.host_id == host)));
        assert_eq!(copy.traffics().count(), MANY as usize + 1);
        assert_eq!(copy.inbound.iter().count(), MANY as usize - 1);
    }

    #[test]
    fn an_address_is_a_target_as_long_as_a_peer_is_reached_there() {
        let raw = |text: &str| {
            RawAddress::new(text.parse().expect("an address"), Family::V4).expect("of IPv4")
        };
        let (home, elsewhere) = (raw("192.0.2.1:61820"), raw("192.0.2.1:61821"));
        let mut table = table_of(2);
        assert!(table.is_target(&home) && !table.is_target(&elsewhere));
        table.set_peer(1, PeerEntry { target: elsewhere.get(), ..entry() });
        table.set_peer(1, PeerEntry { target: elsewhere.get(), ..entry() });
        assert!(table.is_target(&home) && table.is_target(&elsewhere));
        table.remove_peer(2);
        assert!(!table.is_target(&home) && table.is_target(&elsewhere));
        table.set_peer(1, entry());
        assert!(table.is_target(&home) && !table.is_target(&elsewhere));
    }

    #[test]
    fn a_change_copies_a_small_share_of_the_rows() {
        let table = table_of(MANY);
        let mut copy = table.clone();
        copy.set_peer(500, entry());
        let parts = table.peers.0.iter().zip(&copy.peers.0[..]);
        let copied: Vec<usize> =
            parts.filter(|(old, new)| !Arc::ptr_eq(old, new)).map(|(_, new)| new.len()).collect();
        assert!(copied.len() == 1 && copied[0] < MANY as usize / 20, "{copied:?}");
    }

    #[test]
    fn with_a_peer_go_all_its_sessions_and_no_other_s() {
        let mut table = table_of(MANY);
        let second = ReceiveSession::new(Cipher::Aes256Gcm, &[1; 32], 3);
        table.add_session(500, Arc::new(second));
        table.remove_peer(500);
        assert!(table.peer(500).is_none());
        assert!(table.inbound(3).is_none() && table.inbound(7 * 500).is_none());
        assert_eq!(table.inbound.iter().count(), MANY as usize - 1);
    }
}
