//! The engine: datagrams, notes and time in; datagrams, sessions and states out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use crate::control::{ControlError, ControlFrame, STATEMENT_BYTES_MAX};
use crate::cookie::MacKeys;
use crate::limits::{CANDIDATES_MAX, OUTPUTS_FOR_STRANGERS, PEERS_MAX, RESTART_PACE};
use crate::load::Admission;
use crate::message::{CookieReply, Initiation, Message, Response};
use crate::noise::{LocalKey, OpenedInitiation, Secret};
use crate::output::{Endpoint, Output, PeerId, Transmit};
use crate::peer::{Peer, PeerConfig, PeerKind, Traffic};
use crate::random::{self, Random};
use crate::refusal::Refusal;
use crate::shared::{EngineConfig, Shared};
use crate::time::Now;

/// Why a peer was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PeerError {
    /// There are [`PEERS_MAX`] already.
    #[error("there are {PEERS_MAX} peers, and no more are possible; remove one")]
    TooMany,
    /// More than [`CANDIDATES_MAX`].
    #[error("more than {CANDIDATES_MAX} candidate endpoints; name the best ones")]
    TooManyCandidates,
    /// The number is another peer's.
    #[error("there is a peer of this number; update it")]
    NumberInUse,
    /// The public key is another peer's.
    #[error("another peer has this public key; remove that one first")]
    KeyInUse,
    /// The public key is this host's own.
    #[error("the public key is this host's own")]
    OwnKey,
    /// There is no peer of this number.
    #[error("there is no peer of this number; add it")]
    Unknown,
}

/// All peers of one host.
///
/// Every call may leave outputs; poll them, and the next timeout, after each.
pub struct Engine {
    pub(crate) shared: Shared,
    pub(crate) peers: BTreeMap<PeerId, Peer>,
    by_key: HashMap<[u8; 32], PeerId>,
    /// One row for each peer that waits for a time.
    deadlines: BTreeSet<(Duration, PeerId)>,
    deadline_of: HashMap<PeerId, Duration>,
}

impl Engine {
    /// An engine without peers.
    pub fn new(config: EngineConfig, random: Box<dyn Random>, now: Now) -> Self {
        Self {
            shared: Shared::new(config, random, now),
            peers: BTreeMap::new(),
            by_key: HashMap::new(),
            deadlines: BTreeSet::new(),
            deadline_of: HashMap::new(),
        }
    }

    /// Tells the time that the control server signed. From then on stamps days ahead of it are
    /// neither given nor taken.
    pub fn trust_time(&mut self, now: Now, signed_unix: Duration) {
        let stamps = &mut self.shared.stamps;
        stamps.trust(Now { unix: signed_unix, ..now });
        for peer in self.peers.values_mut() {
            peer.greatest_stamp =
                peer.greatest_stamp.map(|greatest| stamps.without_absurdity(greatest, now));
        }
    }

    /// Goes over to another static key. Handshakes that peers begin with `previous` are answered as
    /// well; sessions in force stay, and so do handshakes under way where `previous` is the key that they
    /// were begun with.
    pub fn set_keys(&mut self, key: LocalKey, previous: Option<LocalKey>) {
        self.shared.set_keys(key, previous);
    }

    // Peers.

    /// Takes one more peer. Nothing is sent to it until somebody wants a session or its keepalive is
    /// due.
    pub fn add_peer(&mut self, now: Now, id: PeerId, config: PeerConfig) -> Result<(), PeerError> {
        if self.peers.contains_key(&id) {
            return Err(PeerError::NumberInUse);
        }
        if self.peers.len() >= PEERS_MAX {
            return Err(PeerError::TooMany);
        }
        self.check(id, &config)?;
        self.by_key.extend(config.public_keys().map(|key| (key, id)));
        self.peers.insert(id, Peer::new(id, config, now.monotonic));
        self.touch(id, now, |_, _| ());
        Ok(())
    }

    /// Takes what is known of a peer now. With another secret or kind its sessions end at once, and with
    /// another key unless one of the two is said to be the one before the other.
    pub fn update_peer(
        &mut self,
        now: Now,
        id: PeerId,
        config: PeerConfig,
    ) -> Result<(), PeerError> {
        let old = self.peers.get(&id).ok_or(PeerError::Unknown)?.config.public_keys();
        self.check(id, &config)?;
        for key in old {
            self.by_key.remove(&key);
        }
        self.by_key.extend(config.public_keys().map(|key| (key, id)));
        self.touch(id, now, |peer, shared| peer.update(shared, config, now));
        Ok(())
    }

    fn check(&self, id: PeerId, config: &PeerConfig) -> Result<(), PeerError> {
        if config.candidates.len() > CANDIDATES_MAX {
            return Err(PeerError::TooManyCandidates);
        }
        let EngineConfig { key, previous_key, .. } = &self.shared.config;
        let mut own = previous_key.iter().chain([key]).map(LocalKey::public);
        if own.any(|own| config.public_keys().any(|key| key == own)) {
            return Err(PeerError::OwnKey);
        }
        let mut others = config.public_keys().filter_map(|key| self.by_key.get(&key));
        if others.any(|other| *other != id) { Err(PeerError::KeyInUse) } else { Ok(()) }
    }

    /// Ends all sessions of a peer and forgets it; `false` where there is none of this number.
    pub fn remove_peer(&mut self, id: PeerId) -> bool {
        let Some(mut peer) = self.peers.remove(&id) else { return false };
        peer.disconnect(&mut self.shared);
        for key in peer.config.public_keys() {
            self.by_key.remove(&key);
        }
        if let Some(deadline) = self.deadline_of.remove(&id) {
            self.deadlines.remove(&(deadline, id));
        }
        true
    }

    /// Tells where a process before this one heard a peer last: it is tried there first.
    pub fn recall_endpoint(&mut self, now: Now, id: PeerId, remote: SocketAddr) {
        self.touch(id, now, |peer, _| {
            if !peer.config.is_endpoint_pinned {
                peer.endpoint.get_or_insert(Endpoint { remote, local: None });
            }
        });
    }

    pub(crate) fn peer_of(&self, public_key: &[u8; 32]) -> Option<PeerId> {
        self.by_key.get(public_key).copied()
    }

    // Input.

    /// Takes a datagram that is no data message.
    ///
    /// # Errors
    /// Tells why it led to nothing; that is counted.
    pub fn handle_datagram(
        &mut self,
        now: Now,
        from: Endpoint,
        datagram: &[u8],
    ) -> Result<(), Refusal> {
        let result = self.handle_handshake(now, from, datagram);
        self.count(result)
    }

    fn count(&mut self, result: Result<(), Refusal>) -> Result<(), Refusal> {
        result.inspect_err(|refusal| self.shared.refusals.add(*refusal))
    }

    fn handle_handshake(
        &mut self,
        now: Now,
        from: Endpoint,
        datagram: &[u8],
    ) -> Result<(), Refusal> {
        match Message::parse(datagram).ok_or(Refusal::NotHandshake)? {
            Message::Initiation(initiation) => self.handle_initiation(now, from, &initiation),
            Message::Response(response) => self.handle_response(now, from, &response),
            Message::CookieReply(reply) => self.handle_cookie_reply(now, &reply),
        }
    }

    fn handle_initiation(
        &mut self,
        now: Now,
        from: Endpoint,
        message: &Initiation<'_>,
    ) -> Result<(), Refusal> {
        let (key, mac_keys) = self.shared.key_of(message.0).ok_or(Refusal::WrongMac)?;
        self.admit(now, from, message.0, &mac_keys)?;
        let ephemeral: Secret = random::array(&mut *self.shared.random).into();
        let opened = OpenedInitiation::open(&key, message.noise(), &ephemeral);
        let opened = opened.ok_or(Refusal::Forged)?;
        let id = self.by_key.get(&opened.remote_public).copied().ok_or(Refusal::UnknownPeer)?;
        self.touch(id, now, |peer, shared| {
            peer.respond(shared, message, opened, (&key, &ephemeral), from, now)
        })
        .unwrap_or(Err(Refusal::UnknownPeer))
    }

    fn admit(
        &mut self,
        now: Now,
        from: Endpoint,
        message: &[u8],
        mac_keys: &MacKeys,
    ) -> Result<(), Refusal> {
        let shared = &mut self.shared;
        shared.cookies.turn(&mut *shared.random, now.monotonic);
        let cookies = &shared.cookies;
        let is_proven = || cookies.is_mac2_valid(message, from.remote);
        match shared.load.admit(from.remote.ip(), is_proven, now.monotonic) {
            Admission::Work => Ok(()),
            Admission::Drop => Err(Refusal::OverBudget),
            Admission::AskForCookie if shared.outputs() >= OUTPUTS_FOR_STRANGERS => {
                Err(Refusal::OverBudget)
            }
            Admission::AskForCookie => {
                let bytes = shared.cookies.reply(mac_keys, message, from.remote);
                let transmit = Transmit { source: from.local, target: from.remote, bytes };
                shared.push(Output::Transmit(transmit));
                Err(Refusal::CookieAsked)
            }
        }
    }

    /// A response needs no cookie: it names an index that only who saw the initiation can know.
    fn handle_response(
        &mut self,
        now: Now,
        from: Endpoint,
        message: &Response<'_>,
    ) -> Result<(), Refusal> {
        if self.shared.key_of(message.0).is_none() {
            return Err(Refusal::WrongMac);
        }
        self.by_index(now, message.receiver_index(), |peer, shared| {
            peer.complete(shared, message, from, now)
        })
    }

    fn handle_cookie_reply(&mut self, now: Now, reply: &CookieReply<'_>) -> Result<(), Refusal> {
        self.by_index(now, reply.receiver_index(), |peer, shared| {
            peer.take_cookie(shared, reply, now)
        })
    }

    fn by_index(
        &mut self,
        now: Now,
        index: u32,
        act: impl FnOnce(&mut Peer, &mut Shared) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let id = self.shared.indices.peer(index).ok_or(Refusal::UnknownIndex)?;
        self.touch(id, now, act).unwrap_or(Err(Refusal::UnknownIndex))
    }

    /// Takes a control frame that the packet threads opened by the session of this index.
    ///
    /// # Errors
    /// Where it cannot be read, the session is no more, or belongs to a peer that must not send control
    /// frames; that is counted.
    pub fn handle_opened(
        &mut self,
        now: Now,
        index: u32,
        from: Endpoint,
        payload: &[u8],
    ) -> Result<(), Refusal> {
        let result = match ControlFrame::parse(payload) {
            Ok(frame) => self.handle_control(now, index, from, &frame),
            Err(ControlError::Unknown) => Err(Refusal::ControlUnknown),
            Err(ControlError::NotControl | ControlError::Malformed) => {
                Err(Refusal::ControlMalformed)
            }
        };
        self.count(result)
    }

    fn handle_control(
        &mut self,
        now: Now,
        index: u32,
        from: Endpoint,
        frame: &ControlFrame,
    ) -> Result<(), Refusal> {
        self.by_index(now, index, |peer, shared| {
            peer.note_heard(shared, index, from, now).ok_or(Refusal::UnknownIndex)?;
            if peer.config.kind == PeerKind::Stock {
                return Err(Refusal::Forged);
            }
            peer.handle_control(shared, index, from, frame, now.monotonic);
            Ok(())
        })
    }

    /// Takes note that messages of this index were opened, control frames aside. An empty message
    /// is noted too, as no traffic. `from` is where the last one came from.
    ///
    /// # Errors
    /// Where the session is no more.
    pub fn note_received(
        &mut self,
        now: Now,
        index: u32,
        from: Endpoint,
        traffic: Traffic,
    ) -> Result<(), Refusal> {
        self.by_index(now, index, |peer, shared| {
            peer.note_heard(shared, index, from, now).ok_or(Refusal::UnknownIndex)?;
            peer.received.packets += traffic.packets;
            peer.received.bytes += traffic.bytes;
            if traffic.packets > 0 {
                peer.note_data_received(now.monotonic);
            }
            Ok(())
        })
    }

    /// Takes note that messages were sealed by the session of this index ([`Output::SendWith`]).
    ///
    /// # Errors
    /// Where the session is no more.
    pub fn note_sent(&mut self, now: Now, index: u32, traffic: Traffic) -> Result<(), Refusal> {
        self.by_index(now, index, |peer, shared| {
            peer.sent.packets += traffic.packets;
            peer.sent.bytes += traffic.bytes;
            if traffic.packets > 0 {
                peer.note_data_sent(shared, now);
            }
            Ok(())
        })
    }

    /// Something waits to be sent to the peer. Where there is no session a handshake begins.
    pub fn want_session(&mut self, now: Now, id: PeerId) {
        self.touch(id, now, |peer, shared| {
            if peer.current.is_some() {
                peer.rekey_if_worn(shared, now);
            } else {
                peer.initiate(shared, now);
            }
        });
    }

    /// Initiates to peers that were active before an unclean start, 1,000 in a second: their own
    /// sessions would eat traffic until their timers tell them.
    pub fn initiate_to(&mut self, now: Now, ids: impl IntoIterator<Item = PeerId>) {
        let mut at = now.monotonic;
        for id in ids {
            self.touch(id, now, |peer, _| peer.initiate_at = Some(at));
            at += RESTART_PACE;
        }
    }

    /// A local send to the peer was too big for the path (`EMSGSIZE`), or a router says so. It is
    /// tried out rather than believed.
    pub fn suspect_mtu(&mut self, now: Now, id: PeerId) {
        self.touch(id, now, |peer, _| peer.path.suspect(now.monotonic));
    }

    /// Passes a signed revocation on. `false` where the peer cannot be told now, or the statement is
    /// longer than [`STATEMENT_BYTES_MAX`].
    pub fn send_revoked(&mut self, now: Now, id: PeerId, statement: &[u8]) -> bool {
        if statement.len() > STATEMENT_BYTES_MAX {
            return false;
        }
        let frame = ControlFrame::Revoked { statement: statement.to_vec() };
        self.touch(id, now, |peer, shared| peer.send_control(shared, &frame, now.monotonic))
            .unwrap_or(false)
    }

    /// Tells all connected nodes that this host leaves, and ends all sessions.
    pub fn leave(&mut self, now: Now) {
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            self.touch(id, now, |peer, shared| {
                peer.send_control(shared, &ControlFrame::Bye, now.monotonic);
                peer.disconnect(shared);
            });
        }
    }

    // Time and output.

    /// When [`Self::handle_timeout`] is to be called, on [`Now::monotonic`].
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        let due: Vec<PeerId> = self
            .deadlines
            .iter()
            .take_while(|(deadline, _)| *deadline <= now.monotonic)
            .map(|(_, id)| *id)
            .collect();
        for id in due {
            self.touch(id, now, |peer, shared| peer.handle_timeout(shared, now));
        }
    }

    /// What the caller is to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.shared.pop()
    }

    /// Acts on a peer, then does what follows from it.
    pub(crate) fn touch<T>(
        &mut self,
        id: PeerId,
        now: Now,
        act: impl FnOnce(&mut Peer, &mut Shared) -> T,
    ) -> Option<T> {
        let peer = self.peers.get_mut(&id)?;
        let result = act(peer, &mut self.shared);
        peer.settle(&mut self.shared, now);
        let deadline = peer.deadline();
        self.reschedule(id, deadline);
        Some(result)
    }

    fn reschedule(&mut self, id: PeerId, deadline: Option<Duration>) {
        let old = match deadline {
            Some(deadline) => self.deadline_of.insert(id, deadline),
            None => self.deadline_of.remove(&id),
        };
        if old == deadline {
            return;
        }
        if let Some(old) = old {
            self.deadlines.remove(&(old, id));
        }
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id));
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("shared", &self.shared)
            .field("peers", &self.peers.len())
            .finish_non_exhaustive()
    }
}
