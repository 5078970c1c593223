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
    peers: Map<Arc<Peer>>,
    inbound: Map<Arc<Inbound>>,
}

/// Host ids and session indices are given by our own side: nobody can choose them so that they collide.
type Map<V> = HashMap<u32, V, BuildHasherDefault<Mix>>;

impl Table {
    pub(crate) fn new(family: Family) -> Self {
        Self { family, peers: Map::default(), inbound: Map::default() }
    }

    /// Puts in a peer or replaces what is known of it; its counters go on. Tells whether its address
    /// can be reached: an IPv6 one cannot where the host has no IPv6.
    pub fn set_peer(&mut self, host_id: u32, entry: PeerEntry) -> bool {
        let Some(target) = RawAddress::new(entry.target, self.family) else { return false };
        let marks = self.peers.get(&host_id).map(|peer| Arc::clone(&peer.marks));
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
        self.peers.insert(host_id, Arc::new(peer));
        true
    }

    /// Removes a peer and all its sessions.
    pub fn remove_peer(&mut self, host_id: u32) {
        self.peers.remove(&host_id);
        self.inbound.retain(|_, inbound| inbound.host_id != host_id);
    }

    /// Accepts data messages of a session from a peer.
    pub fn add_session(&mut self, host_id: u32, session: Arc<ReceiveSession>) {
        let index = session.local_index();
        let inbound = Inbound { session, host_id, confirmed: AtomicBool::new(false) };
        self.inbound.insert(index, Arc::new(inbound));
    }

    /// Accepts no data messages of a session any more.
    pub fn remove_session(&mut self, local_index: u32) {
        self.inbound.remove(&local_index);
    }

    /// What was counted for a peer.
    pub fn traffic(&self, host_id: u32) -> Option<PeerTraffic> {
        self.peers.get(&host_id).map(|peer| peer.marks.traffic.read())
    }

    /// What was counted for all peers.
    pub fn traffics(&self) -> impl Iterator<Item = (u32, PeerTraffic)> {
        self.peers.iter().map(|(host_id, peer)| (*host_id, peer.marks.traffic.read()))
    }

    pub(crate) fn peer(&self, host_id: u32) -> Option<&Arc<Peer>> {
        self.peers.get(&host_id)
    }

    pub(crate) fn inbound(&self, index: u32) -> Option<&Arc<Inbound>> {
        self.inbound.get(&index)
    }
}

/// Spreads a 32-bit number over a word (Fibonacci hashing: Knuth, TAOCP 3, 6.4).
#[derive(Default)]
struct Mix(u64);

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
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}
