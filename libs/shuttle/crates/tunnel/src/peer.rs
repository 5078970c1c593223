//! One peer: its sessions, timers and path.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_seal::Cipher;

use crate::control::{ControlFrame, Features, Hello, Offer, WIRE_VERSION, WIRE_VERSION_MIN};
use crate::cookie::{Cookie, MacKeys};
use crate::handshake::Handshake;
use crate::limits::{
    CONTROL_BUDGET, HEIR_PATIENCE, HELLO_RETRY, HELLO_TRIES, KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME,
    REKEY_TIMEOUT, REKEY_TIMEOUT_JITTER, SUPERSEDED_MAX, UNCONFIRMED_MAX,
};
use crate::message::DATA_HEADER_BYTES;
use crate::noise::Secret;
use crate::output::{Endpoint, Output, PeerId, PeerState, Transmit};
use crate::path::Path;
use crate::random;
use crate::refusal::Refusal;
use crate::session::Session;
use crate::shared::Shared;
use crate::stamp::Stamp;
use crate::time::{Bucket, Now, earliest, is_due};

/// What a peer understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerKind {
    /// Another shuttle: Geneve and control frames.
    Node,
    /// Any other `WireGuard`: IP packets alone.
    Stock,
}

/// What the engine is told of a peer.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Its static X25519 key.
    pub public_key: [u8; 32],
    /// The one that it had before, from which its initiations are taken as well.
    pub previous_public_key: Option<[u8; 32]>,
    /// A secret of both beside their keys.
    pub preshared_key: Option<Secret>,
    /// What it understands.
    pub kind: PeerKind,
    /// Where it may be, best first; at most [`crate::CANDIDATES_MAX`].
    pub candidates: Vec<SocketAddr>,
    /// It is at the first candidate and nowhere else, wherever its messages come from.
    pub is_endpoint_pinned: bool,
    /// How often something is sent even if there is nothing to say, to keep a NAT open; a second or
    /// more.
    pub persistent_keepalive: Option<Duration>,
    /// IP packets larger than this are not tried.
    pub link_mtu: usize,
    /// Initiations with stamps up to this one are replays: the [`PeerStatus::greatest_stamp`] of a
    /// process before.
    ///
    /// [`PeerStatus::greatest_stamp`]: crate::PeerStatus::greatest_stamp
    pub greatest_stamp: Option<Stamp>,
}

impl PeerConfig {
    /// No preshared key, no candidates, no keepalive, a link of 1,500 bytes.
    pub fn new(public_key: [u8; 32], kind: PeerKind) -> Self {
        Self {
            public_key,
            previous_public_key: None,
            preshared_key: None,
            kind,
            candidates: Vec::new(),
            is_endpoint_pinned: false,
            persistent_keepalive: None,
            link_mtu: 1500,
            greatest_stamp: None,
        }
    }

    /// Its key, and the one before.
    pub(crate) fn public_keys(&self) -> impl Iterator<Item = [u8; 32]> + use<> {
        [self.public_key].into_iter().chain(self.previous_public_key)
    }

    /// Whether the other is the same peer with other keys, or with the same.
    fn is_same_peer(&self, other: &Self) -> bool {
        self.public_keys().any(|key| key == other.public_key)
            || other.public_keys().any(|key| key == self.public_key)
    }
}

/// What the packet threads did with a session, in one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages with a payload.
    pub packets: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
}

pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) config: PeerConfig,
    pub(crate) mac_keys: MacKeys,
    pub(crate) previous_mac_keys: Option<MacKeys>,
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) greatest_stamp: Option<Stamp>,
    /// When an initiation of it was accepted last.
    pub(crate) responded_at: Option<Duration>,
    /// Index, first MAC and target of the last response to it.
    pub(crate) last_response: Option<(u32, [u8; 16], SocketAddr)>,
    pub(crate) handshake: Option<Handshake>,
    /// When an initiation was sent to it last.
    pub(crate) initiated_at: Option<Duration>,
    /// A handshake is to begin then.
    pub(crate) initiate_at: Option<Duration>,
    pub(crate) cookie: Option<Cookie>,
    /// Oldest first.
    pub(crate) sessions: Vec<Session>,
    /// The serial of the session that is sent on.
    pub(crate) current: Option<u64>,
    /// The one that takes its place once the peer has said hello, or at this time.
    pub(crate) heir: Option<(u64, Duration)>,
    pub(crate) heard_at: Option<Duration>,
    /// An empty message is due: data was received, and nothing sent since.
    pub(crate) keepalive_at: Option<Duration>,
    /// The peer is taken for lost: data was sent, and nothing received since.
    pub(crate) silence_at: Option<Duration>,
    pub(crate) persistent_at: Option<Duration>,
    pub(crate) has_no_target: bool,
    pub(crate) did_give_up: bool,
    pub(crate) path: Path,
    control: Bucket,
    pub(crate) state: PeerState,
    pub(crate) sent: Traffic,
    pub(crate) received: Traffic,
    /// Where the peer sees this host's packets come from.
    pub(crate) observed: Option<SocketAddr>,
}

impl Peer {
    pub(crate) fn new(id: PeerId, config: PeerConfig, now: Duration) -> Self {
        let mut peer = Self {
            id,
            mac_keys: MacKeys::of(&config.public_key),
            previous_mac_keys: config.previous_public_key.as_ref().map(MacKeys::of),
            endpoint: None,
            greatest_stamp: config.greatest_stamp,
            responded_at: None,
            last_response: None,
            handshake: None,
            initiated_at: None,
            initiate_at: None,
            cookie: None,
            sessions: Vec::new(),
            current: None,
            heir: None,
            heard_at: None,
            keepalive_at: None,
            silence_at: None,
            persistent_at: config.persistent_keepalive.map(|_| now),
            has_no_target: false,
            did_give_up: false,
            path: Path::new(config.link_mtu),
            control: Bucket::full(CONTROL_BUDGET, now),
            state: PeerState::Idle,
            sent: Traffic::default(),
            received: Traffic::default(),
            observed: None,
            config,
        };
        peer.pin();
        peer
    }

    /// Takes what the caller knows now. Another secret or kind ends all sessions at once.
    pub(crate) fn update(&mut self, shared: &mut Shared, config: PeerConfig, now: Now) {
        let old = std::mem::replace(&mut self.config, config);
        let new = &self.config;
        let is_same_peer = old.is_same_peer(new);
        let is_other =
            !is_same_peer || old.preshared_key != new.preshared_key || old.kind != new.kind;
        let has_other_key = old.public_key != new.public_key;
        self.mac_keys = MacKeys::of(&new.public_key);
        self.previous_mac_keys = new.previous_public_key.as_ref().map(MacKeys::of);
        if is_other || has_other_key {
            self.cookie = None;
        }
        if !is_same_peer {
            self.greatest_stamp = None;
        }
        if is_other {
            self.disconnect(shared);
        } else if has_other_key && self.handshake.is_some() {
            // It was begun with a key that the peer gives up.
            self.end_handshake(shared);
            self.initiated_at = None;
            self.initiate(shared, now);
        }
        self.greatest_stamp = self.greatest_stamp.max(self.config.greatest_stamp);
        if old.persistent_keepalive != self.config.persistent_keepalive {
            self.persistent_at = self.config.persistent_keepalive.map(|_| now.monotonic);
        }
        if old.link_mtu != self.config.link_mtu {
            self.path.reset(self.config.link_mtu, now.monotonic);
        }
        if old.candidates != self.config.candidates
            || old.is_endpoint_pinned != self.config.is_endpoint_pinned
        {
            self.take_candidates(shared, now);
        }
    }

    fn take_candidates(&mut self, shared: &mut Shared, now: Now) {
        let before = self.endpoint;
        self.pin();
        if let Some(endpoint) = self.endpoint.filter(|_| self.endpoint != before) {
            shared.push(Output::EndpointChanged { peer: self.id, endpoint });
        }
        if self.handshake.is_some() || self.has_no_target {
            // The new ones are tried at once.
            self.end_handshake(shared);
            self.initiated_at = None;
            self.initiate(shared, now);
        }
    }

    fn pin(&mut self) {
        if self.config.is_endpoint_pinned {
            self.endpoint = self
                .config
                .candidates
                .first()
                .map(|remote| Endpoint { remote: *remote, local: None });
        }
    }

    /// The keys of the MACs on messages to the owner of one of the peer's static keys.
    pub(crate) fn mac_keys_of(&self, public_key: &[u8; 32]) -> &MacKeys {
        let previous = self.previous_mac_keys.as_ref();
        previous.filter(|_| *public_key != self.config.public_key).unwrap_or(&self.mac_keys)
    }

    // Sessions.

    pub(crate) fn current_session(&self) -> Option<&Session> {
        let current = self.current?;
        self.sessions.iter().find(|session| session.serial == current)
    }

    fn by_index(&mut self, index: u32) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| session.has_index(index))
    }

    /// Takes a session into the table and lets the packet threads open its messages.
    pub(crate) fn adopt(&mut self, shared: &mut Shared, session: Session) {
        if !session.is_confirmed {
            shared.half_open += 1;
        }
        let ends_at = session.ends_at();
        let own = session.own_offer.as_ref().map(|own| &own.receive);
        for receive in [Some(&session.receive), own].into_iter().flatten() {
            shared.push(Output::ReceiveWith {
                peer: self.id,
                index: receive.local_index(),
                session: Arc::clone(receive),
                ends_at,
            });
        }
        self.sessions.push(session);
    }

    /// Keeps the number of sessions within its limits; the oldest go.
    pub(crate) fn prune(&mut self, shared: &mut Shared) {
        let kept = [self.current, self.heir.map(|(serial, _)| serial)];
        for (is_confirmed, limit) in [(false, UNCONFIRMED_MAX), (true, SUPERSEDED_MAX)] {
            let others: Vec<u64> = self
                .sessions
                .iter()
                .filter(|session| session.is_confirmed == is_confirmed)
                .map(|session| session.serial)
                .filter(|serial| !kept.contains(&Some(*serial)))
                .collect();
            for serial in &others[..others.len().saturating_sub(limit)] {
                self.end(shared, *serial);
            }
        }
    }

    fn end(&mut self, shared: &mut Shared, serial: u64) {
        let Some(at) = self.sessions.iter().position(|session| session.serial == serial) else {
            return;
        };
        let session = self.sessions.remove(at);
        if !session.is_confirmed {
            shared.half_open -= 1;
        }
        let own = session.own_offer.as_ref().map(|own| own.offer.index);
        for index in [Some(session.index), own].into_iter().flatten() {
            shared.indices.release(index);
            shared.push(Output::SessionEnded { peer: self.id, index });
        }
        self.current = self.current.filter(|current| *current != serial);
        self.heir = self.heir.filter(|(heir, _)| *heir != serial);
    }

    /// Ends everything with this peer, at once.
    pub(crate) fn disconnect(&mut self, shared: &mut Shared) {
        self.end_handshake(shared);
        let serials: Vec<u64> = self.sessions.iter().map(|session| session.serial).collect();
        for serial in serials {
            self.end(shared, serial);
        }
        self.keepalive_at = None;
        self.silence_at = None;
        self.initiate_at = None;
        self.has_no_target = false;
        self.did_give_up = false;
    }

    /// The handshake that this host began is complete: the peer learns so from the first message.
    pub(crate) fn confirm_to_peer(&mut self, shared: &mut Shared, index: u32, now: Duration) {
        self.open_for_use(shared, index, now);
        if self.config.kind == PeerKind::Stock {
            self.send_payload(shared, index, &[], false, now);
        }
    }

    /// The first message of a session of the peer's making arrived.
    fn confirm(&mut self, shared: &mut Shared, index: u32, now: Duration) {
        let Some(session) = self.by_index(index) else { return };
        session.is_confirmed = true;
        let (serial, index) = (session.serial, session.index);
        shared.half_open -= 1;
        // What the peer initiated along other paths it does not use.
        let unused: Vec<u64> = self
            .sessions
            .iter()
            .filter(|session| !session.is_confirmed && session.serial < serial)
            .map(|session| session.serial)
            .collect();
        for serial in unused {
            self.end(shared, serial);
        }
        self.end_handshake(shared);
        self.open_for_use(shared, index, now);
    }

    fn open_for_use(&mut self, shared: &mut Shared, index: u32, now: Duration) {
        self.did_give_up = false;
        self.has_no_target = false;
        self.path.touch(now);
        if self.config.kind == PeerKind::Node {
            self.offer_sub_session(shared, index);
        }
        let is_node = self.config.kind == PeerKind::Node;
        let Some(session) = self.by_index(index) else { return };
        session.hello.is_due = is_node;
        let serial = session.serial;
        if self.loses_to_current(shared, serial) {
            return;
        }
        // A session that says nothing of features yet does not take the place of one that does.
        let has_features = self.current_session().is_some_and(|current| {
            current.hello.is_heard && now + 2 * HEIR_PATIENCE < current.ends_at()
        });
        if has_features {
            self.heir = Some((serial, now + HEIR_PATIENCE));
        } else {
            self.promote(shared, serial);
        }
    }

    /// Where both hosts initiated at once there are two sessions, and both hosts are to prefer the
    /// same one: that of the smaller key. An initiation that came after our handshake had ended is no
    /// such case: the peer then wants a new session, perhaps because it lost the other one.
    fn loses_to_current(&self, shared: &Shared, serial: u64) -> bool {
        let newer = self.sessions.iter().find(|session| session.serial == serial);
        let rival = self.heir.map(|(heir, _)| heir).or(self.current);
        let rival = self.sessions.iter().find(|session| Some(session.serial) == rival);
        let (Some(newer), Some(rival)) = (newer, rival) else { return false };
        let did_cross = !newer.is_initiator && rival.is_initiator && newer.serial < rival.serial;
        did_cross && shared.config.key.public() < self.config.public_key
    }

    /// Sends on this session from now on.
    fn promote(&mut self, shared: &mut Shared, serial: u64) {
        self.heir = None;
        self.current = Some(serial);
        self.prune(shared);
        self.announce_current(shared);
    }

    pub(crate) fn announce_current(&self, shared: &mut Shared) {
        let (Some(session), Some(endpoint)) = (self.current_session(), self.endpoint) else {
            return;
        };
        shared.push(Output::SendWith {
            peer: self.id,
            index: session.index,
            session: Arc::clone(session.preferred_send()),
            features: session.features,
            endpoint,
            ends_at: session.ends_at(),
        });
    }

    // What was sent and received.

    /// An authentic message came by this index. `None` where the session is no more.
    pub(crate) fn note_heard(
        &mut self,
        shared: &mut Shared,
        index: u32,
        from: Endpoint,
        now: Now,
    ) -> Option<()> {
        let is_confirmed = self.by_index(index)?.is_confirmed;
        self.heard(shared, from, now.monotonic);
        if !is_confirmed {
            self.confirm(shared, index, now.monotonic);
        }
        let is_ending = self.current_session().is_some_and(|session| {
            let soon = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT;
            session.is_initiator && session.age(now.monotonic) + soon >= REJECT_AFTER_TIME
        });
        if is_ending && self.heir.is_none() {
            self.initiate(shared, now);
        }
        Some(())
    }

    /// The peer is alive, and there.
    pub(crate) fn heard(&mut self, shared: &mut Shared, from: Endpoint, now: Duration) {
        self.heard_at = Some(now);
        self.silence_at = None;
        if self.config.is_endpoint_pinned {
            return;
        }
        let before = self.endpoint;
        let local = from.local.or(before.and_then(|before| before.local));
        let endpoint = Endpoint { remote: from.remote, local };
        if before == Some(endpoint) {
            return;
        }
        self.endpoint = Some(endpoint);
        if before.map(|before| before.remote) != Some(endpoint.remote) {
            let usable = self.path.usable();
            self.path.reset(self.config.link_mtu, now);
            if self.path.usable() != usable {
                shared.push(Output::PathMtu { peer: self.id, mtu: self.path.usable() });
            }
        }
        shared.push(Output::EndpointChanged { peer: self.id, endpoint });
    }

    pub(crate) fn note_data_received(&mut self, now: Duration) {
        self.path.touch(now);
        self.keepalive_at.get_or_insert(now + KEEPALIVE_TIMEOUT);
    }

    pub(crate) fn note_data_sent(&mut self, shared: &mut Shared, now: Now) {
        self.path.touch(now.monotonic);
        self.sent_something(shared, true, now.monotonic);
        self.rekey_if_worn(shared, now);
    }

    pub(crate) fn rekey_if_worn(&mut self, shared: &mut Shared, now: Now) {
        let is_worn = self
            .current_session()
            .is_some_and(|session| session.is_worn_for_sending(now.monotonic));
        if is_worn && self.heir.is_none() {
            self.initiate(shared, now);
        }
    }

    fn sent_something(&mut self, shared: &mut Shared, wants_answer: bool, now: Duration) {
        self.keepalive_at = None;
        self.persistent_at = self.persistent_after(now);
        if wants_answer && self.silence_at.is_none() {
            let jitter = random::jitter(&mut *shared.random, REKEY_TIMEOUT_JITTER);
            self.silence_at = Some(now + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + jitter);
        }
    }

    /// Seals a payload of the engine's own by the session of this index.
    /// Where it wants an answer and nothing comes, the peer is taken for lost.
    fn send_payload(
        &mut self,
        shared: &mut Shared,
        index: u32,
        payload: &[u8],
        wants_answer: bool,
        now: Duration,
    ) {
        let Some(endpoint) = self.endpoint else { return };
        let Some(session) = self.by_index(index) else { return };
        let serial = session.serial;
        let Some(bytes) = session.seal(payload) else {
            self.end(shared, serial);
            return;
        };
        self.sent_something(shared, wants_answer, now);
        let transmit = Transmit { source: endpoint.local, target: endpoint.remote, bytes };
        shared.push(Output::Transmit(transmit));
    }

    /// Sends a control frame on the current session; `false` where there is none that may carry it.
    pub(crate) fn send_control(
        &mut self,
        shared: &mut Shared,
        frame: &ControlFrame,
        now: Duration,
    ) -> bool {
        let Some(session) = self.current_session().filter(|session| session.hello.is_heard) else {
            return false;
        };
        let index = session.index;
        let wants_answer = matches!(frame, ControlFrame::Probe { .. });
        self.send_payload(shared, index, &frame.encode(), wants_answer, now);
        true
    }

    // Control frames.

    /// Acts on a frame that came by the session of this index.
    pub(crate) fn handle_control(
        &mut self,
        shared: &mut Shared,
        index: u32,
        from: Endpoint,
        frame: &ControlFrame,
        now: Duration,
    ) {
        match frame {
            ControlFrame::Hello(hello) => self.hear_hello(shared, index, hello),
            ControlFrame::Probe { id, .. } => {
                let observed = Some(from.remote);
                self.answer(shared, index, &ControlFrame::ProbeReply { id: *id, observed }, now);
            }
            ControlFrame::ProbeReply { id, observed } => {
                self.hear_reply(shared, *id, *observed, now);
            }
            ControlFrame::Revoked { statement } => {
                if self.may_ask(shared, now) {
                    let statement = statement.clone();
                    shared.push(Output::Revoked { peer: self.id, statement });
                }
            }
            ControlFrame::Bye => self.disconnect(shared),
        }
    }

    fn answer(&mut self, shared: &mut Shared, index: u32, frame: &ControlFrame, now: Duration) {
        if self.may_ask(shared, now) {
            self.send_payload(shared, index, &frame.encode(), false, now);
        }
    }

    /// Whether the peer is within its budget of control frames.
    fn may_ask(&mut self, shared: &mut Shared, now: Duration) -> bool {
        let is_within = self.control.take(CONTROL_BUDGET, now);
        if !is_within {
            shared.refusals.add(Refusal::ControlOften);
        }
        is_within
    }

    fn hear_reply(
        &mut self,
        shared: &mut Shared,
        id: u64,
        observed: Option<SocketAddr>,
        now: Duration,
    ) {
        if self.path.handle_reply(id, now) {
            shared.push(Output::PathMtu { peer: self.id, mtu: self.path.usable() });
        }
        if let Some(address) = observed.filter(|_| observed != self.observed) {
            self.observed = observed;
            shared.push(Output::Observed { peer: self.id, address });
        }
    }

    fn hear_hello(&mut self, shared: &mut Shared, index: u32, hello: &Hello) {
        if hello.wire_version < WIRE_VERSION_MIN {
            shared.refusals.add(Refusal::VersionUnknown);
            return;
        }
        let ciphers = shared.config.sub_session_ciphers.clone();
        let may_take = !shared.config.is_key_logged && self.config.kind == PeerKind::Node;
        let Some(session) = self.by_index(index) else { return };
        let is_first = !session.hello.is_heard;
        session.hello.is_heard = true;
        session.hello.is_due |= hello.wants_answer;
        if hello.answers {
            session.hello.is_acknowledged = true;
            session.hello.retry_at = None;
        }
        if !is_first {
            return;
        }
        session.features = hello.features;
        let offer = hello.offers.iter().find(|offer| ciphers.contains(&offer.cipher));
        if let Some(offer) = offer.filter(|_| may_take) {
            session.take(*offer);
        }
        let serial = session.serial;
        if self.heir.is_some_and(|(heir, _)| heir == serial) {
            self.promote(shared, serial);
        } else if self.current == Some(serial) {
            self.announce_current(shared);
        }
    }

    fn offer_sub_session(&mut self, shared: &mut Shared, index: u32) {
        let Some(cipher) = shared.config.sub_session_ciphers.first().copied() else { return };
        if shared.config.is_key_logged {
            return;
        }
        let peer = self.id;
        let offer = Offer { cipher, index: shared.index(peer) };
        let Some(session) = self.by_index(index) else {
            shared.indices.release(offer.index);
            return;
        };
        let ends_at = session.ends_at();
        let session = Arc::clone(session.offer(offer));
        shared.push(Output::ReceiveWith { peer, index: offer.index, session, ends_at });
    }

    /// Sends the hellos that are due, old sessions' too.
    pub(crate) fn send_hellos(&mut self, shared: &mut Shared, now: Duration) {
        let due: Vec<u32> = self
            .sessions
            .iter()
            .filter(|session| session.hello.is_due || is_due(session.hello.retry_at, now))
            .map(|session| session.index)
            .collect();
        for index in due {
            self.send_hello(shared, index, now);
        }
    }

    fn send_hello(&mut self, shared: &mut Shared, index: u32, now: Duration) {
        if !self.control.take(CONTROL_BUDGET, now) {
            if let Some(session) = self.by_index(index) {
                session.hello.is_due = false;
                session.hello.retry_at = Some(now + HELLO_RETRY);
            }
            return;
        }
        let features = shared.config.features;
        let Some(session) = self.by_index(index) else { return };
        let hello = &mut session.hello;
        let wants_answer = !hello.is_acknowledged;
        let frame = ControlFrame::Hello(Hello {
            answers: hello.is_heard,
            wants_answer,
            wire_version: WIRE_VERSION,
            features,
            offers: session.own_offer.iter().map(|own| own.offer).collect(),
        });
        hello.is_due = false;
        let may_repeat = !hello.is_acknowledged && hello.tries + 1 < HELLO_TRIES;
        hello.retry_at = may_repeat.then(|| now + HELLO_RETRY * 2u32.pow(hello.tries));
        hello.tries = (hello.tries + 1).min(HELLO_TRIES);
        self.send_payload(shared, index, &frame.encode(), wants_answer, now);
    }

    // Timers.

    /// Does what is due, in the order in which the parts depend on each other.
    pub(crate) fn handle_timeout(&mut self, shared: &mut Shared, now: Now) {
        let ended: Vec<u64> = self
            .sessions
            .iter()
            .filter(|session| session.ends_at() <= now.monotonic)
            .map(|session| session.serial)
            .collect();
        for serial in ended {
            self.end(shared, serial);
        }
        if let Some((serial, _)) = self.heir.filter(|(_, at)| *at <= now.monotonic) {
            self.promote(shared, serial);
        }
        if is_due(self.silence_at, now.monotonic) {
            self.silence_at = None;
            self.initiate(shared, now);
        }
        if is_due(self.initiate_at, now.monotonic) {
            self.initiate(shared, now);
        }
        self.pursue(shared, now);
        self.keep_alive(shared, now);
    }

    fn keep_alive(&mut self, shared: &mut Shared, now: Now) {
        let is_wanted = is_due(self.keepalive_at, now.monotonic);
        let is_persistent = is_due(self.persistent_at, now.monotonic);
        if !is_wanted && !is_persistent {
            return;
        }
        self.keepalive_at = None;
        self.persistent_at = self.persistent_after(now.monotonic);
        match self.current_session().map(|session| session.index) {
            Some(index) => {
                self.send_payload(shared, index, &[], false, now.monotonic);
                self.rekey_if_worn(shared, now);
            }
            None if is_persistent => self.initiate(shared, now),
            None => {}
        }
    }

    fn persistent_after(&self, now: Duration) -> Option<Duration> {
        let interval = self.config.persistent_keepalive?;
        Some(now + interval.max(Duration::from_secs(1)))
    }

    /// Sends what became due by whatever happened, and tells how things stand.
    pub(crate) fn settle(&mut self, shared: &mut Shared, now: Now) {
        self.send_hellos(shared, now.monotonic);
        self.probe(shared, now.monotonic);
        let state = self.find_state(now.monotonic);
        if state != self.state {
            self.state = state;
            shared.push(Output::StateChanged { peer: self.id, state });
        }
    }

    fn probe(&mut self, shared: &mut Shared, now: Duration) {
        if !self.is_probed() {
            return;
        }
        if self.path.handle_timeout(now) {
            shared.push(Output::PathMtu { peer: self.id, mtu: self.path.usable() });
        }
        let Some(endpoint) = self.endpoint else { return };
        while let Some(probe) = self.path.poll_probe(now) {
            let bytes = probe.bytes - overhead(endpoint.remote);
            self.send_control(shared, &ControlFrame::Probe { id: probe.id, bytes }, now);
        }
    }

    fn is_probed(&self) -> bool {
        self.config.kind == PeerKind::Node
            && self.current_session().is_some_and(|session| session.hello.is_heard)
    }

    fn find_state(&self, now: Duration) -> PeerState {
        match &self.handshake {
            _ if self.current.is_some() => PeerState::Connected,
            Some(handshake) if handshake.is_unanswered(now) => PeerState::NoAnswer,
            Some(_) => PeerState::Connecting,
            None if self.has_no_target => PeerState::NoEndpoint,
            None if self.did_give_up => PeerState::NoAnswer,
            None => PeerState::Idle,
        }
    }

    /// When [`Self::handle_timeout`] or [`Self::settle`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let handshake = self.handshake.as_ref().map(|handshake| handshake.next_at);
        let answer = self
            .handshake
            .as_ref()
            .filter(|_| self.state == PeerState::Connecting)
            .map(|handshake| handshake.since + crate::limits::NO_ANSWER_AFTER);
        let ends = self.sessions.iter().map(Session::ends_at).min();
        let hellos = self.sessions.iter().filter_map(|session| session.hello.retry_at).min();
        let path = self.is_probed().then(|| self.path.deadline()).flatten();
        let heir = self.heir.map(|(_, at)| at);
        [
            handshake,
            answer,
            ends,
            hellos,
            path,
            heir,
            self.keepalive_at,
            self.silence_at,
            self.persistent_at,
            self.initiate_at,
        ]
        .into_iter()
        .fold(None, earliest)
    }

    /// What data to this peer is sealed with.
    pub(crate) fn cipher(&self) -> Option<Cipher> {
        self.current_session().map(|session| session.preferred_send().cipher())
    }

    /// What the peer said that it takes.
    pub(crate) fn features(&self) -> Features {
        self.current_session().map_or(Features::NONE, |session| session.features)
    }
}

/// What the payload of a data message needs around it in an IP packet.
fn overhead(remote: SocketAddr) -> usize {
    let ip = if remote.ip().to_canonical().is_ipv4() { 20 } else { 40 };
    ip + 8 + DATA_HEADER_BYTES + weft_seal::TAG_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preshared_key_is_never_printed() {
        let mut config = PeerConfig::new([1; 32], PeerKind::Node);
        config.preshared_key = Some([0xab; 32].into());
        let printed = format!("{config:?}");
        assert!(!printed.contains("171") && !printed.contains("ab, ab"), "{printed}");
    }
}
