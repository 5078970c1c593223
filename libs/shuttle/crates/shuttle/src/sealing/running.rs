//! The sealed carrier once it has a key: what the engine says is done here, and what the packet
//! threads say is told to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use weft_abi::client_endpoint;
use weft_lane::{
    CipherSpeeds, Event, Events, Kind, Lanes, Offload, PeerEntry, PeerTraffic, Probes, State,
    Table, Tap, UdpSocket,
};
use weft_seal::{Cipher, OVERHEAD_BYTES, ReceiveSession, SendSession};
use weft_tunnel::{
    Endpoint, Engine, EngineConfig, Features, Now, OsRandom, Output, PeerConfig, PeerId, PeerKind,
    PeerState, REJECT_AFTER_TIME, Refusals, Traffic,
};
use zeroize::Zeroizing;

use super::clients::Places;
use super::clock::{now, unix_time};
use super::keys::{KeyLog, Used};
use super::memory::Memory;
use super::parse::Settings;
use super::recall::{Findings, Recall, RecalledPeer};
use super::recent::Recent;
use super::revocations::Revocations;
use super::warm::{self, Nat, Own};
use super::{Member, SealedPeer};
use crate::failure::Failure;
use crate::log;

/// How long both ciphers together are measured.
const CIPHER_MEASUREMENT: Duration = Duration::from_millis(20);
/// IP and UDP headers of a datagram.
const IPV4_UDP_BYTES: usize = 20 + 8;
const IPV6_UDP_BYTES: usize = 40 + 8;
/// Before and after the IP packet in a datagram to a client: header and tag.
const CLIENT_OVERHEAD_BYTES: usize = 16 + 16;
/// What every client takes on every way: 1,500 bytes less IPv6, UDP, header and tag.
const CLIENT_MTU_MAX: usize = 1_420;
/// Of a device of which nothing else is known.
const LINK_MTU_DEFAULT: usize = 1_500;
/// How often it is decided which sessions are kept.
const WARM_INTERVAL: Duration = Duration::from_secs(1);
/// Ten looks a second: 640 frames of a kilobyte.
const REVOCATIONS_PER_LOOK_MAX: usize = 64;
/// What the next process has to know is written down at most this often, as all peers are; peers that
/// go are taken out at once.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// What stands in the table before an address is known; nothing is sent there.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Engine and packet threads.
pub(super) struct Running {
    pub(super) settings: Settings,
    pub(super) speeds: CipherSpeeds,
    probes: Probes,
    pub(super) engine: Engine,
    pub(super) lanes: Lanes,
    pub(super) views: HashMap<u32, View>,
    /// Hosts that there is a session with.
    active: BTreeSet<u32>,
    recent: Recent,
    places: Places,
    used: Used,
    key_log: Option<KeyLog>,
    /// What the programs have not been told yet.
    mtus: BTreeMap<PeerId, u16>,
    /// When the counters of the packet threads are read again, on the engine's clock.
    look_at: Duration,
    /// Sessions of another key before, by the time at which they end.
    retired: Vec<(Duration, u32)>,
    /// Where this host is seen from outside.
    own: Own,
    /// When it is decided again which sessions are kept.
    warm_at: Duration,
    /// Where a peer sees this host since lately: others may see it elsewhere too by now.
    moved_to: Option<SocketAddr>,
    /// When peers may be asked again where they see this host.
    ask_at: Duration,
    pub(super) revocations: Revocations,
    /// A peer passed something on.
    pub(super) has_news: bool,
    /// For the next process, where somebody keeps it.
    memory: Option<Memory>,
    /// It does not have everything.
    is_unsaved: bool,
    save_at: Duration,
}

/// What the carrier works with.
pub(super) struct Means {
    pub(super) tap: Tap,
    pub(super) socket: UdpSocket,
    pub(super) memory: Option<Memory>,
    /// Found out here where no process before did.
    pub(super) findings: Option<Findings>,
}

/// A peer as the packet threads have it.
pub(super) struct View {
    kind: Kind,
    send: Option<Sending>,
    endpoint: Option<Endpoint>,
    /// The sessions that open what it sends, by index.
    receive: BTreeSet<u32>,
    /// The one of them that it used last.
    heard: Option<u32>,
    mtu: usize,
    seen: PeerTraffic,
    pub(super) open_since: Option<Duration>,
    /// What the engine was told of it.
    config: Option<PeerConfig>,
    nat: Nat,
    state: PeerState,
    sent_at: Option<Duration>,
    recent_until: Duration,
    /// It may be elsewhere, and is initiated to if it falls silent before this time.
    doubted_until: Duration,
}

struct Sending {
    index: u32,
    session: Arc<SendSession>,
    features: Features,
}

impl Running {
    /// Has no peers, and packets wait until [`Self::begin`]. The receiver gives what threads tell.
    pub(super) fn prepare(
        settings: Settings,
        means: Means,
        state_folder: &Path,
    ) -> Result<(Self, Events), Failure> {
        let used = Used::load(state_folder)?;
        let key_log = open_key_log(&settings)?;
        let Means { tap, socket, memory, findings } = means;
        let Findings { probes, speeds } = findings.unwrap_or_else(|| Findings {
            probes: Probes::run(&tap),
            speeds: CipherSpeeds::measure(CIPHER_MEASUREMENT),
        });
        let (lanes, events) = Lanes::prepare(tap, socket);
        probes.apply(&lanes);
        let engine = engine(&settings, speeds, &used, Refusals::default());
        let running = Self {
            settings,
            speeds,
            probes,
            engine,
            lanes,
            views: HashMap::new(),
            active: BTreeSet::new(),
            recent: Recent::load(state_folder),
            places: Places::load(state_folder),
            used,
            key_log,
            mtus: BTreeMap::new(),
            look_at: Duration::ZERO,
            retired: Vec::new(),
            own: Own::default(),
            warm_at: Duration::ZERO,
            moved_to: None,
            ask_at: Duration::ZERO,
            revocations: Revocations::default(),
            has_news: false,
            memory,
            is_unsaved: true,
            save_at: Duration::ZERO,
        };
        running.switch_offloads();
        Ok((running, events))
    }

    /// Lets packets flow, and tells hosts that the process before was connected with that it is gone.
    pub(super) fn begin(&mut self) -> Result<(), Failure> {
        self.places.retain(|number| self.views.contains_key(&number));
        self.revive();
        Ok(self.lanes.run()?)
    }

    /// Initiates, paced, to peers that the process before had sessions with, and that have none yet:
    /// they send by sessions that are gone, and would find out late.
    pub(super) fn revive(&mut self) {
        let now = now();
        let Self { views, recent, .. } = self;
        let known = views.iter().filter(|(host_id, _)| recent.take(**host_id));
        let known = known.filter(|(_, view)| view.state != PeerState::Connected);
        let known: Vec<u32> = known.map(|(host_id, _)| *host_id).collect();
        self.active.extend(&known);
        self.engine.initiate_to(now, known.into_iter().map(PeerId));
        self.engine.handle_timeout(now);
        self.act();
    }

    pub(super) fn port(&self) -> u16 {
        self.settings.port
    }

    /// Goes over to other settings. With another key, sessions in force stay. Where other ciphers may be
    /// used, or keys are to be logged, they are used until new ones take their place.
    pub(super) fn reconfigure(
        &mut self,
        settings: Settings,
        peers: &BTreeMap<u32, Member>,
    ) -> Result<(), Failure> {
        let is_same_engine = settings.key_log == self.settings.key_log
            && settings.chacha_only == self.settings.chacha_only;
        let before = std::mem::replace(&mut self.settings, settings);
        self.is_unsaved = true;
        self.switch_offloads();
        if is_same_engine {
            self.change_keys(&before);
            return Ok(());
        }
        self.key_log = open_key_log(&self.settings)?;
        let refusals = self.engine.engine_status(now()).refusals;
        self.engine = engine(&self.settings, self.speeds, &self.used, refusals);
        let ends_at = now().monotonic + REJECT_AFTER_TIME;
        for view in self.views.values_mut() {
            self.retired.extend(view.receive.iter().map(|index| (ends_at, *index)));
            view.receive.clear();
            view.heard = None;
        }
        let known = std::mem::take(&mut self.active);
        for (host_id, member) in peers {
            self.put(*host_id, member);
        }
        let now = now();
        for host_id in known {
            self.engine.want_session(now, PeerId(host_id));
        }
        self.act();
        Ok(())
    }

    fn change_keys(&mut self, before: &Settings) {
        let Settings { key, previous_key, .. } = &self.settings;
        let is_same = key.public() == before.key.public();
        let is_known =
            is_same || previous_key.as_ref().is_some_and(|key| key.public() == before.key.public());
        self.engine.set_keys(key.clone(), previous_key.clone());
        if !is_known {
            // Peers may have ended their sessions with a host that has nothing of the former key left.
            let active: Vec<PeerId> = self.active.iter().copied().map(PeerId).collect();
            self.engine.initiate_to(now(), active);
        }
        self.act();
    }

    fn switch_offloads(&self) {
        for offload in Offload::ALL {
            let wanted = !self.settings.offloads_off.contains(&offload);
            match (wanted, self.lanes.offload(offload)) {
                (false, _) => self.lanes.set_offload(offload, State::Off),
                (true, State::Off) => self.lanes.set_offload(offload, State::On),
                (true, _) => {}
            }
        }
    }

    pub(super) fn stop(self) {
        let Self { mut engine, lanes, .. } = self;
        engine.leave(now());
        while let Some(output) = engine.poll_output() {
            if let Output::Transmit(transmit) = output {
                let _ = lanes.send(transmit.target, transmit.source, &transmit.bytes);
            }
        }
        stop(lanes);
    }

    // The process after this one.

    /// Takes over what is known of a peer beyond what the tables say of it.
    pub(super) fn recall(&mut self, peer: &RecalledPeer) {
        if let Ok(remote) = peer.endpoint.parse() {
            self.engine.recall_endpoint(now(), PeerId(peer.host_id), remote);
        }
        if let Some(view) =
            self.views.get_mut(&peer.host_id).filter(|_| peer.open_since_unix_ms > 0)
        {
            view.open_since = Some(Duration::from_millis(peer.open_since_unix_ms));
        }
    }

    /// Takes over sessions. The peers are there already; returns how many sessions it were.
    pub(super) fn import(&mut self, bytes: &[u8]) -> Result<usize, Failure> {
        self.act();
        let count = self
            .engine
            .import(now(), bytes)
            .map_err(|error| Failure::internal(format!("no session was taken over: {error}")))?;
        // From when on they may not be taken over once more is on disk before any of them is used.
        let is_used_up = match self.engine.poll_output() {
            Some(Output::KeepHandover(number)) => {
                self.used.handover = number;
                self.used.save()
            }
            _ => Err(std::io::ErrorKind::InvalidData.into()),
        };
        if let Err(error) = is_used_up {
            self.begin_anew();
            return Err(Failure::internal(format!("no session was taken over: {error}")));
        }
        self.act();
        Ok(count)
    }

    /// An engine without sessions in the place of this one, of whose outputs none was followed.
    fn begin_anew(&mut self) {
        self.engine = engine(&self.settings, self.speeds, &self.used, Refusals::default());
        let configs = self.views.iter().filter_map(|(id, view)| Some((*id, view.config.clone()?)));
        for (host_id, config) in configs.collect::<Vec<_>>() {
            self.tell_engine(now(), host_id, config);
        }
        self.act();
    }

    /// Writes down what the next process has to know.
    pub(super) fn save(&mut self) {
        self.is_unsaved = false;
        if self.memory.is_none() {
            return;
        }
        let now = now();
        self.save_at = now.monotonic + SAVE_INTERVAL;
        let findings = Findings { probes: self.probes, speeds: self.speeds };
        let peers = self.views.iter().filter_map(|(id, view)| self.recalled(now, *id, view));
        let recall = Recall::of(&self.settings, findings, peers.collect());
        let Some(memory) = &mut self.memory else { return };
        if let Err(error) = memory.write(&recall.to_bytes()) {
            // What is out of date is not gone on from.
            let _ = memory.clear();
            log::warn(
                "the next process will not know the peers at once",
                json!({ "error": error.to_string() }),
            );
        }
    }

    fn recalled(&self, now: Now, host_id: u32, view: &View) -> Option<RecalledPeer> {
        let vnis: &[u32] = match &view.kind {
            Kind::Node { vnis, .. } => vnis,
            Kind::Stock { vni, .. } => &[*vni],
        };
        let mut peer = RecalledPeer::of(host_id, view.config.as_ref()?, view.nat, vnis);
        let status = self.engine.status(now, PeerId(host_id));
        peer.note_stamp(status.and_then(|status| status.greatest_stamp));
        let endpoint = status.and_then(|status| status.endpoint);
        peer.endpoint = endpoint.map(|endpoint| endpoint.remote.to_string()).unwrap_or_default();
        let since = view.open_since.map_or(0, |since| since.as_millis());
        peer.open_since_unix_ms = u64::try_from(since).unwrap_or(u64::MAX);
        Some(peer)
    }

    /// The next process has come through its start.
    pub(super) fn note_success(&self) {
        if let Some(Err(error)) = self.memory.as_ref().map(Memory::note_success) {
            log::warn("the memory cannot be written", json!({ "error": error.to_string() }));
        }
    }

    /// As if the process were killed.
    #[cfg(test)]
    pub(super) fn crash(self) {
        stop(self.lanes);
    }

    /// Stops and gives all sessions away. What the next process has to know of peers is written down.
    pub(super) fn hand_over(mut self) -> Zeroizing<Vec<u8>> {
        self.recent.keep(&self.active);
        self.save();
        let Self { engine, lanes, .. } = self;
        stop(lanes);
        engine.export()
    }

    // Peers.

    /// Takes a peer as the tables or its port have it.
    pub(super) fn put(&mut self, host_id: u32, member: &Member) {
        let Member { peer: SealedPeer { config, nat }, vnis } = member;
        let mut config = config.clone();
        config.candidates.extend(self.places.get(host_id));
        config.link_mtu = link_mtu(&config.candidates);
        let kind = match config.kind {
            PeerKind::Node => Kind::Node { vnis: vnis.clone(), segments: false },
            // The programs take network and MACs from the client's port.
            PeerKind::Stock => Kind::Stock { vni: 0, macs: [0; 12] },
        };
        let view = self.views.entry(host_id).or_insert_with(|| View::new(kind.clone()));
        view.kind = kind;
        view.nat = *nat;
        let before = view.config.take();
        if before.as_ref().is_none_or(|before| before.link_mtu != config.link_mtu) {
            view.mtu = config.link_mtu;
        }
        config.persistent_keepalive =
            before.as_ref().and_then(|before| before.persistent_keepalive);
        let now = now();
        if before.is_some_and(|before| before.candidates != config.candidates) {
            view.doubted_until = now.monotonic + warm::DOUBTED_FOR;
        }
        self.tell_engine(now, host_id, config);
        self.publish(host_id);
        self.is_unsaved = true;
        self.act();
    }

    fn tell_engine(&mut self, now: Now, host_id: u32, config: PeerConfig) {
        let id = PeerId(host_id);
        if let Some(view) = self.views.get_mut(&host_id) {
            view.config = Some(config.clone());
        }
        let result = match self.engine.status(now, id) {
            Some(_) => self.engine.update_peer(now, id, config),
            None => self.engine.add_peer(now, id, config),
        };
        if let Err(error) = result {
            log::warn(
                "a peer was not taken",
                json!({ "peer": name(host_id), "error": error.to_string() }),
            );
        }
    }

    /// Ends all sessions with a peer and forgets it.
    pub(super) fn remove(&mut self, host_id: u32) {
        self.engine.remove_peer(PeerId(host_id));
        self.views.remove(&host_id);
        self.revocations.forget(host_id);
        self.active.remove(&host_id);
        self.mtus.remove(&PeerId(host_id));
        self.places.forget(host_id);
        self.lanes.update(|table| table.remove_peer(host_id));
        self.lanes.discard(host_id);
        self.is_unsaved = true;
        self.act();
    }

    /// Puts a peer into the table of the packet threads as it is known now.
    fn publish(&mut self, host_id: u32) {
        let Some(view) = self.views.get(&host_id) else { return };
        let entry = view.entry();
        self.mtus.insert(PeerId(host_id), view.inner_mtu());
        self.lanes.update(|table| put_peer(table, host_id, entry));
    }

    /// What the programs have to be told of the ways to hosts.
    pub(super) fn take_mtus(&mut self) -> Vec<(PeerId, u16)> {
        std::mem::take(&mut self.mtus).into_iter().collect()
    }

    // What packet threads tell.

    pub(super) fn handle(&mut self, event: Event) {
        let now = now();
        match event {
            Event::Handshake { source, bytes, .. } => {
                // Anybody can send what is refused: that is counted and nothing to act on.
                let _ = self.engine.handle_datagram(now, from(source), &bytes);
            }
            Event::Control { index, source, bytes, .. } => {
                let _ = self.engine.handle_opened(now, index, from(source), &bytes);
            }
            Event::Wanted { host_id } if self.is_nowhere(host_id) => {
                self.lanes.discard(host_id);
            }
            Event::Wanted { host_id } => {
                self.engine.want_session(now, PeerId(host_id));
                self.active.insert(host_id);
                if let Some(view) = self.views.get_mut(&host_id) {
                    view.note_data(now.monotonic);
                }
            }
            Event::Confirmed { host_id, index, source } => {
                if let Some(view) = self.views.get_mut(&host_id) {
                    view.heard = Some(index);
                }
                let _ = self.engine.note_received(now, index, from(source), Traffic::default());
            }
            Event::Moved { host_id, index, source } => {
                if self.views.contains_key(&host_id) {
                    let _ = self.engine.note_received(now, index, from(source), Traffic::default());
                }
            }
            Event::TooLarge { host_id } if client_endpoint(host_id).is_some() => {
                if let Some(view) = self.views.get_mut(&host_id) {
                    view.measure();
                }
                self.publish(host_id);
            }
            Event::TooLarge { host_id } => self.engine.suspect_mtu(now, PeerId(host_id)),
        }
        self.act();
    }

    /// A client that has not come yet has to come by itself.
    fn is_nowhere(&self, host_id: u32) -> bool {
        let view = self.views.get(&host_id).filter(|_| client_endpoint(host_id).is_some());
        view.is_some_and(|view| {
            let has_candidates = view.config.as_ref().is_some_and(|it| !it.candidates.is_empty());
            view.endpoint.is_none() && !has_candidates
        })
    }

    /// Does what is due, and reads what packet threads counted now and then.
    pub(super) fn look(&mut self) {
        let now = now();
        if now.monotonic >= self.look_at {
            self.note_traffic(now);
            self.retire(now);
            self.recent.keep(&self.active);
            self.places.keep();
            self.tell_revocations(now);
        }
        if self.is_unsaved && now.monotonic >= self.save_at {
            self.save();
        }
        if now.monotonic >= self.warm_at {
            self.warm_at = now.monotonic + WARM_INTERVAL;
            self.keep_warm(now);
        }
        if self.engine.poll_timeout().is_some_and(|deadline| deadline <= now.monotonic) {
            self.engine.handle_timeout(now);
        }
        self.act();
    }

    /// How long nothing is due: no longer than `busy` with a session, and than `idle` without.
    pub(super) fn patience(&mut self, busy: Duration, idle: Duration) -> Duration {
        let now = now().monotonic;
        let interval = if self.active.is_empty() { idle } else { busy };
        if self.look_at <= now {
            self.look_at = now + interval;
        }
        let due = self.engine.poll_timeout().map_or(interval, |at| at.saturating_sub(now));
        due.min(interval)
    }

    fn note_traffic(&mut self, now: Now) {
        let table = self.lanes.table();
        for host_id in &self.active {
            let Some(view) = self.views.get_mut(host_id) else { continue };
            let Some(traffic) = table.traffic(*host_id) else { continue };
            let before = std::mem::replace(&mut view.seen, traffic);
            let received_data = traffic.received_payloads - before.received_payloads;
            if received_data > 0 || traffic.sent_datagrams > before.sent_datagrams {
                view.note_data(now.monotonic);
            }
            if traffic.sent_datagrams > before.sent_datagrams {
                view.sent_at = Some(now.monotonic);
            }
            if let Some(sending) = &view.send
                && traffic.sent_datagrams > before.sent_datagrams
            {
                let sent = Traffic {
                    packets: traffic.sent_datagrams - before.sent_datagrams,
                    bytes: traffic.sent_bytes - before.sent_bytes,
                };
                let _ = self.engine.note_sent(now, sending.index, sent);
            }
            if let (Some(index), Some(endpoint)) = (view.heard, view.endpoint)
                && (received_data > 0 || traffic.received_datagrams > before.received_datagrams)
            {
                let received = Traffic {
                    packets: received_data,
                    bytes: traffic.received_bytes - before.received_bytes,
                };
                let _ = self.engine.note_received(now, index, endpoint, received);
            }
        }
    }

    // Word about void keys, and the time.

    pub(super) fn take_revocations(&mut self, statements: Vec<Arc<[u8]>>) {
        let connected = self.views.iter().filter(|(_, view)| view.send.is_some());
        let connected: Vec<u32> = connected.map(|(host_id, _)| *host_id).collect();
        self.revocations.replace(statements, &connected);
        self.tell_revocations(now());
        self.act();
    }

    /// Who cannot be told now is told in the next session.
    fn tell_revocations(&mut self, now: Now) {
        for _ in 0..REVOCATIONS_PER_LOOK_MAX {
            let Some((host_id, statement)) = self.revocations.take_due() else { return };
            self.engine.send_revoked(now, PeerId(host_id), &statement);
        }
    }

    pub(super) fn trust_time(&mut self, unix: Duration) {
        self.engine.trust_time(now(), unix);
        self.act();
    }

    // Sessions that are kept though nobody talks.

    fn keep_warm(&mut self, now: Now) {
        self.own.note(&self.observed(now), now.monotonic);
        let own = self.own.nat(now.monotonic);
        let peers: Vec<warm::Peer> = self
            .views
            .iter()
            .filter(|(_, view)| matches!(view.kind, Kind::Node { .. }))
            .map(|(host_id, view)| view.to_choose_from(*host_id, now.monotonic))
            .collect();
        let kept = warm::kept(own, &peers, &self.settings.key.public());
        for peer in &peers {
            self.keep_alive(now, peer.host_id, kept.contains(&peer.host_id));
        }
        if own.is_some_and(|nat| nat != Nat::None) && now.monotonic >= self.ask_at {
            self.ask(now, &peers);
        }
        self.look_for_doubted(now);
        self.discard_for_unreachable();
    }

    /// Frames would wait without end, and nobody would be asked for a session again while some do.
    fn discard_for_unreachable(&self) {
        for host_id in self.lanes.waiting_hosts() {
            let state = self.views.get(&host_id).map(|view| view.state);
            if matches!(state, Some(PeerState::NoAnswer | PeerState::NoEndpoint)) {
                self.lanes.discard(host_id);
            }
        }
    }

    /// Where connected peers see this host.
    pub(super) fn observed(&self, now: Now) -> Vec<SocketAddr> {
        let connected = self.views.iter().filter(|(_, view)| view.state == PeerState::Connected);
        let statuses = connected.filter_map(|(id, _)| self.engine.status(now, PeerId(*id)));
        statuses.filter_map(|status| status.observed).collect()
    }

    fn keep_alive(&mut self, now: Now, host_id: u32, is_kept: bool) {
        let wanted = is_kept.then_some(warm::KEEPALIVE);
        let Some(config) = self.views.get(&host_id).and_then(|view| view.config.as_ref()) else {
            return;
        };
        if config.persistent_keepalive == wanted {
            return;
        }
        let config = PeerConfig { persistent_keepalive: wanted, ..config.clone() };
        self.tell_engine(now, host_id, config);
        if is_kept {
            self.active.insert(host_id);
        }
    }

    /// This host's NAT may have given it another port, so that a peer hears nothing and is silent. Those
    /// that anybody reaches see which port it is. A handshake with them makes them tell, and what they
    /// tell is handed on to the others.
    fn ask(&mut self, now: Now, peers: &[warm::Peer]) {
        let connected = || peers.iter().filter(|peer| peer.is_connected);
        let is_any_silent = connected().any(|peer| self.is_silent(now, peer.host_id));
        let moved_to = self.moved_to.take();
        let sees_another = |host_id: u32| {
            let status = self.engine.status(now, PeerId(host_id));
            moved_to.is_some_and(|to| status.and_then(|status| status.observed) != Some(to))
        };
        let asked: Vec<PeerId> = connected()
            .filter(|peer| peer.nat == Nat::None && (is_any_silent || sees_another(peer.host_id)))
            .take(warm::ASKED_AGAIN)
            .map(|peer| PeerId(peer.host_id))
            .collect();
        if !asked.is_empty() {
            self.ask_at = now.monotonic + warm::ASK_INTERVAL;
            self.engine.initiate_to(now, asked);
        }
    }

    /// Initiates to peers that are silent and of which other candidates came to be known.
    fn look_for_doubted(&mut self, now: Now) {
        let doubted = self.views.iter().filter(|(_, view)| now.monotonic < view.doubted_until);
        let silent: Vec<u32> =
            doubted.map(|(id, _)| *id).filter(|id| self.is_silent(now, *id)).collect();
        for host_id in &silent {
            if let Some(view) = self.views.get_mut(host_id) {
                view.doubted_until = Duration::ZERO;
            }
        }
        self.engine.initiate_to(now, silent.into_iter().map(PeerId));
    }

    /// Whether a peer with a session does not answer.
    fn is_silent(&self, now: Now, host_id: u32) -> bool {
        let Some(view) = self.views.get(&host_id) else { return false };
        let after = warm::SILENT_AFTER;
        let is_sent_to = view.sent_at.is_some_and(|at| now.monotonic < at + 2 * after);
        let heard_ago = self.engine.status(now, PeerId(host_id)).and_then(|peer| peer.heard_ago);
        view.state == PeerState::Connected && is_sent_to && heard_ago.is_none_or(|ago| ago > after)
    }

    fn retire(&mut self, now: Now) {
        if self.retired.is_empty() {
            return;
        }
        let (over, kept) = self.retired.drain(..).partition(|(at, _)| *at <= now.monotonic);
        self.retired = kept;
        let over: Vec<(Duration, u32)> = over;
        self.lanes.update(|table| {
            for (_, index) in over {
                table.remove_session(index);
            }
        });
    }

    // What the engine says.

    /// Does what the engine says, in its order: what a message asks for is in the table before the
    /// message goes out.
    fn act(&mut self) {
        let mut edits = Edits::default();
        let mut ready = Vec::new();
        while let Some(output) = self.engine.poll_output() {
            self.follow(output, &mut edits, &mut ready);
        }
        self.edit(&mut edits);
        for host_id in ready {
            self.lanes.flush(host_id);
        }
    }

    fn follow(&mut self, output: Output, edits: &mut Edits, ready: &mut Vec<u32>) {
        match output {
            Output::Transmit(transmit) => {
                self.edit(edits);
                // A probe that is too long for the device is an answer too: none comes.
                let _ = self.lanes.send(transmit.target, transmit.source, &transmit.bytes);
            }
            Output::ReceiveWith { peer: PeerId(host_id), index, session, .. } => {
                if let Some(view) = self.views.get_mut(&host_id) {
                    view.receive.insert(index);
                    self.active.insert(host_id);
                    edits.sessions.push((host_id, session));
                }
            }
            Output::SendWith {
                peer: PeerId(host_id), index, session, features, endpoint, ..
            } => {
                if let Some(view) = self.views.get_mut(&host_id) {
                    view.send = Some(Sending { index, session, features });
                    view.place(endpoint);
                    self.places.note(host_id, endpoint.remote);
                    self.active.insert(host_id);
                    edits.peers.insert(host_id);
                    ready.push(host_id);
                    // What a peer takes it says in its hello, and it takes nothing of ours before.
                    if features != Features::NONE {
                        self.revocations.note_session(host_id, index);
                    }
                }
            }
            Output::SessionEnded { peer: PeerId(host_id), index } => {
                edits.ended.push(index);
                if let Some(view) = self.views.get_mut(&host_id)
                    && view.forget(index)
                {
                    edits.peers.insert(host_id);
                }
            }
            Output::EndpointChanged { peer: PeerId(host_id), endpoint } => {
                if let Some(view) = self.views.get_mut(&host_id) {
                    view.place(endpoint);
                    self.places.note(host_id, endpoint.remote);
                    edits.peers.insert(host_id);
                    self.is_unsaved = true;
                }
            }
            Output::PathMtu { peer: PeerId(host_id), mtu } => {
                if let Some(view) = self.views.get_mut(&host_id)
                    && !view.is_client()
                {
                    view.mtu = mtu;
                    edits.peers.insert(host_id);
                }
            }
            Output::StateChanged { peer, state } => self.note_state(peer, state),
            Output::KeepStamp(stamp) => {
                self.used.stamp = Some(stamp);
                self.keep();
            }
            Output::KeepHandover(number) => {
                self.used.handover = number;
                self.keep();
            }
            Output::KeyLog(lines) => {
                if let Some(Err(error)) = self.key_log.as_mut().map(|log| log.append(&lines)) {
                    log::warn("keys were not logged", json!({ "error": error.to_string() }));
                }
            }
            Output::Observed { address, .. } => self.moved_to = Some(address),
            Output::Revoked { peer: PeerId(host_id), statement } => {
                self.has_news |= self.revocations.hear(host_id, statement, now().monotonic);
            }
        }
    }

    fn note_state(&mut self, peer: PeerId, state: PeerState) {
        let PeerId(host_id) = peer;
        let Some(view) = self.views.get_mut(&host_id) else { return };
        view.state = state;
        match state {
            PeerState::Connected => {
                view.open_since.get_or_insert_with(unix_time);
            }
            PeerState::Idle => {
                view.open_since = None;
                self.active.remove(&host_id);
            }
            PeerState::Connecting => view.open_since = None,
            PeerState::NoEndpoint | PeerState::NoAnswer => {
                view.open_since = None;
                let dropped = self.lanes.discard(host_id);
                log::info(
                    "a peer is unreachable",
                    json!({ "peer": name(host_id), "why": format!("{state:?}"), "frames_dropped": dropped }),
                );
            }
        }
    }

    fn keep(&self) {
        if let Err(error) = self.used.save() {
            log::error(
                "it is not on disk which handshakes were begun: after a restart peers may refuse new ones",
                json!({ "error": error.to_string() }),
            );
        }
    }

    fn edit(&mut self, edits: &mut Edits) {
        if edits.is_empty() {
            return;
        }
        let Edits { peers, sessions, ended } = std::mem::take(edits);
        let mut entries = Vec::new();
        for host_id in peers {
            let Some(view) = self.views.get(&host_id) else { continue };
            entries.push((host_id, view.entry()));
            self.mtus.insert(PeerId(host_id), view.inner_mtu());
        }
        self.lanes.update(|table| {
            for (host_id, session) in sessions {
                table.add_session(host_id, session);
            }
            for (host_id, entry) in entries {
                put_peer(table, host_id, entry);
            }
            for index in ended {
                table.remove_session(index);
            }
        });
    }
}

/// Changes of the table that take effect together.
#[derive(Default)]
struct Edits {
    peers: BTreeSet<u32>,
    sessions: Vec<(u32, Arc<ReceiveSession>)>,
    ended: Vec<u32>,
}

impl Edits {
    fn is_empty(&self) -> bool {
        self.peers.is_empty() && self.sessions.is_empty() && self.ended.is_empty()
    }
}

impl View {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            send: None,
            endpoint: None,
            receive: BTreeSet::new(),
            heard: None,
            mtu: LINK_MTU_DEFAULT,
            seen: PeerTraffic::default(),
            open_since: None,
            config: None,
            nat: Nat::None,
            state: PeerState::Idle,
            sent_at: None,
            recent_until: Duration::ZERO,
            doubted_until: Duration::ZERO,
        }
    }

    fn is_client(&self) -> bool {
        matches!(self.kind, Kind::Stock { .. })
    }

    /// The peer is there from now on.
    fn place(&mut self, endpoint: Endpoint) {
        let before = self.endpoint.replace(endpoint);
        if self.is_client() && before.map(|before| before.remote) != Some(endpoint.remote) {
            self.measure();
        }
    }

    /// Nothing probes the way to a client: the kernel knows as much of it as anybody.
    fn measure(&mut self) {
        self.mtu = self.endpoint.map_or(LINK_MTU_DEFAULT, |at| link_mtu(&[at.remote]));
    }

    fn note_data(&mut self, now: Duration) {
        self.recent_until = now + warm::RECENT_FOR;
    }

    fn to_choose_from(&self, host_id: u32, now: Duration) -> warm::Peer {
        warm::Peer {
            host_id,
            nat: self.nat,
            is_connected: self.state == PeerState::Connected,
            is_unreachable: matches!(self.state, PeerState::NoAnswer | PeerState::NoEndpoint),
            is_recent: now < self.recent_until,
        }
    }

    fn entry(&self) -> PeerEntry {
        let kind = match (&self.kind, &self.send) {
            (Kind::Node { vnis, .. }, Some(sending)) => {
                Kind::Node { vnis: vnis.clone(), segments: sending.features.contains(features()) }
            }
            (kind, _) => kind.clone(),
        };
        PeerEntry {
            send: self.send.as_ref().map(|sending| Arc::clone(&sending.session)),
            target: self.endpoint.map_or(NOWHERE, |endpoint| endpoint.remote),
            source: self.endpoint.and_then(|endpoint| endpoint.local),
            datagram_bytes_max: self.datagram_bytes_max(),
            kind,
        }
    }

    fn datagram_bytes_max(&self) -> usize {
        let is_ipv6 = self.endpoint.is_none_or(|endpoint| match endpoint.remote.ip() {
            IpAddr::V4(_) => false,
            IpAddr::V6(address) => address.to_ipv4_mapped().is_none(),
        });
        self.mtu - if is_ipv6 { IPV6_UDP_BYTES } else { IPV4_UDP_BYTES }
    }

    /// Largest inner IP packet.
    fn inner_mtu(&self) -> u16 {
        let bytes = if self.is_client() {
            (self.datagram_bytes_max() - CLIENT_OVERHEAD_BYTES).min(CLIENT_MTU_MAX)
        } else {
            self.datagram_bytes_max() - OVERHEAD_BYTES
        };
        u16::try_from(bytes).unwrap_or(u16::MAX)
    }

    /// Whether the session that ended was the one to send by.
    fn forget(&mut self, index: u32) -> bool {
        self.receive.remove(&index);
        self.heard = self.heard.filter(|heard| *heard != index);
        self.send.take_if(|sending| sending.index == index).is_some()
    }
}

fn stop(lanes: Lanes) {
    if let Err(error) = lanes.stop() {
        log::warn("a packet thread ended with an error", json!({ "error": error.to_string() }));
    }
}

fn put_peer(table: &mut Table, host_id: u32, entry: PeerEntry) {
    let nowhere = PeerEntry { send: None, target: NOWHERE, source: None, ..entry.clone() };
    if !table.set_peer(host_id, entry) {
        table.set_peer(host_id, nowhere);
    }
}

fn engine(settings: &Settings, speeds: CipherSpeeds, used: &Used, refusals: Refusals) -> Engine {
    let mut config = EngineConfig::new(settings.key.clone());
    config.features = features();
    let choice = speeds.choice();
    if !settings.chacha_only && choice != Cipher::ChaCha20Poly1305 {
        config.sub_session_ciphers = vec![choice];
    }
    config.previous_key.clone_from(&settings.previous_key);
    config.is_key_logged = settings.key_log.is_some();
    config.persisted_stamp = used.stamp;
    config.consumed_handover = used.handover;
    config.refusals = refusals;
    Engine::new(config, Box::new(OsRandom), now())
}

/// What this host takes, and what it sends to those that take it.
fn features() -> Features {
    Features::SEGMENTS.or(Features::PARTIAL_CHECKSUM)
}

fn open_key_log(settings: &Settings) -> Result<Option<KeyLog>, Failure> {
    let Some(path) = &settings.key_log else { return Ok(None) };
    let log = KeyLog::open(path)?;
    log::warn(
        "KEYS ARE LOGGED: whoever reads this file reads all traffic between hosts and can pass for this one",
        json!({ "file": log.path.display().to_string() }),
    );
    Ok(Some(log))
}

fn name(host_id: u32) -> String {
    client_endpoint(host_id)
        .map_or_else(|| format!("host {host_id}"), |id| format!("client of endpoint {id}"))
}

fn from(source: SocketAddr) -> Endpoint {
    Endpoint { remote: source, local: None }
}

/// Of the ways to the candidates the smallest MTU that the kernel's routes and devices tell.
fn link_mtu(candidates: &[SocketAddr]) -> usize {
    let mtus = candidates.iter().filter_map(|candidate| weft_io::path_mtu(*candidate).ok());
    mtus.min().unwrap_or(LINK_MTU_DEFAULT)
}
