//! Sessions for the next process of this host. The bytes hold keys: they belong into a sealed memfd
//! and nowhere else.
//!
//! No counter is used twice, whenever a process dies: an export ends the sessions of its engine, its
//! counters jump, and an import is refused from the moment on that its number is durable.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use blake2::{Blake2s256, Digest};
use weft_seal::{Cipher, REJECT_AFTER_MESSAGES, ReceiveSession, SendSession};
use zeroize::{Zeroize, Zeroizing};

use crate::control::{Features, Offer, cipher_number, cipher_of};
use crate::engine::Engine;
use crate::noise::{Secret, TransportKeys};
use crate::output::{Endpoint, Output, PeerId};
use crate::peer::Peer;
use crate::session::{HelloExchange, OwnOffer, Session, sub_session_key};
use crate::shared::Shared;
use crate::stamp::{STAMP_BYTES, Stamp};
use crate::time::Now;

const MAGIC: &[u8; 8] = b"weft-tun";
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 32;
/// Packet threads that did not stop in time cannot have come so far.
const COUNTER_JUMP: u64 = 1 << 20;
/// More than any peer has.
const SESSIONS_MAX: u8 = 16;

const IS_INITIATOR: u8 = 1;
const IS_CONFIRMED: u8 = 2;
const IS_HELLO_HEARD: u8 = 4;
const IS_HELLO_ACKNOWLEDGED: u8 = 8;

/// Why nothing was taken over. Sessions then begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HandoverError {
    /// The checksum is not that of the content.
    #[error("the hand-over is damaged")]
    Damaged,
    /// Whole, but of another version or not as this version writes it.
    #[error("the hand-over is of another version")]
    OtherVersion,
    /// It belongs to another static key.
    #[error("the hand-over is another host's")]
    OtherHost,
    /// It was taken over before: its counters may be used up.
    #[error("the hand-over was taken over before")]
    Consumed,
}

impl Engine {
    /// Ends all sessions here and gives them to the next process. Stop the packet threads before: what
    /// they receive afterwards could be received again.
    pub fn export(self) -> Zeroizing<Vec<u8>> {
        let Self { shared, peers, .. } = self;
        let mut writer = Writer(Zeroizing::new(Vec::new()));
        writer.bytes(MAGIC);
        writer.bytes(&[VERSION]);
        writer.bytes(&shared.config.key.public());
        writer.bytes(&(shared.config.consumed_handover + 1).to_be_bytes());
        writer.bytes(&u32::try_from(peers.len()).unwrap_or(u32::MAX).to_be_bytes());
        for peer in peers.values() {
            writer.peer(peer);
        }
        let checksum = Blake2s256::digest(&writer.0[..]);
        writer.bytes(&checksum);
        writer.0
    }

    /// Takes over what the process before exported. The peers are there already; sessions of others
    /// are left out. Returns the number of sessions.
    pub fn import(&mut self, now: Now, bytes: &[u8]) -> Result<usize, HandoverError> {
        let at = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(HandoverError::Damaged)?;
        let (content, checksum) = bytes.split_at(at);
        if Blake2s256::digest(content).as_slice() != checksum {
            return Err(HandoverError::Damaged);
        }
        let mut reader = Reader(content);
        let (serial, rows) = self.read(&mut reader)?;
        // From here on the bytes are of no use to anybody else.
        self.shared.config.consumed_handover = serial;
        self.shared.push(Output::KeepHandover(serial));
        Ok(rows.into_iter().map(|row| self.adopt(row, now)).sum())
    }

    fn read(&self, reader: &mut Reader<'_>) -> Result<(u64, Vec<PeerRow>), HandoverError> {
        if reader.array::<8>()? != *MAGIC || reader.byte()? != VERSION {
            return Err(HandoverError::OtherVersion);
        }
        if reader.array()? != self.shared.config.key.public() {
            return Err(HandoverError::OtherHost);
        }
        let serial = reader.number()?;
        if serial <= self.shared.config.consumed_handover {
            return Err(HandoverError::Consumed);
        }
        let count = u32::from_be_bytes(reader.array()?);
        let rows = (0..count).map(|_| reader.peer()).collect::<Result<_, _>>()?;
        if reader.0.is_empty() { Ok((serial, rows)) } else { Err(HandoverError::OtherVersion) }
    }

    fn adopt(&mut self, row: PeerRow, now: Now) -> usize {
        let Some(id) = self.peer_of(&row.public_key) else { return 0 };
        self.touch(id, now, |peer, shared| row.restore(peer, shared, now)).unwrap_or(0)
    }
}

struct PeerRow {
    public_key: [u8; 32],
    endpoint: Option<SocketAddr>,
    greatest_stamp: Option<Stamp>,
    path_mtu: usize,
    sessions: Vec<SessionRow>,
}

struct SessionRow {
    index: u32,
    remote_index: u32,
    flags: u8,
    is_current: bool,
    started: Duration,
    keys: TransportKeys,
    send_counter: u64,
    receive_counter: u64,
    features: Features,
    own_offer: Option<(Offer, u64)>,
    sub_send: Option<(Offer, u64)>,
}

impl PeerRow {
    fn restore(self, peer: &mut Peer, shared: &mut Shared, now: Now) -> usize {
        peer.greatest_stamp = peer.greatest_stamp.max(self.greatest_stamp);
        if !peer.config.is_endpoint_pinned {
            peer.endpoint = self.endpoint.map(|remote| Endpoint { remote, local: None });
        }
        let mut count = 0;
        for row in self.sessions {
            let is_current = row.is_current;
            let Some(session) = row.restore(peer.id, shared, now) else { continue };
            count += 1;
            if is_current {
                peer.current = Some(session.serial);
            }
            peer.adopt(shared, session);
        }
        if peer.path.resume(self.path_mtu) {
            shared.push(Output::PathMtu { peer: peer.id, mtu: peer.path.usable() });
        }
        peer.announce_current(shared);
        count
    }
}

impl SessionRow {
    /// `None` where it is over, or its indices or counters are not to be had.
    fn restore(self, peer: PeerId, shared: &mut Shared, now: Now) -> Option<Session> {
        let cipher = Cipher::ChaCha20Poly1305;
        let send = self.send_counter.checked_add(COUNTER_JUMP)?;
        let send = Arc::new(SendSession::new(cipher, &self.keys.send, self.remote_index, send));
        let sub_send = match self.sub_send {
            None => None,
            Some((offer, counter)) => {
                let counter = counter.checked_add(COUNTER_JUMP)?;
                let key = sub_session_key(&self.keys.send, offer);
                Some(Arc::new(SendSession::new(offer.cipher, &key, offer.index, counter)))
            }
        };
        let next = self.receive_counter;
        let receive =
            Arc::new(ReceiveSession::resume(cipher, &self.keys.receive, self.index, next));
        let own_offer = self.own_offer.map(|(offer, next)| {
            let key = sub_session_key(&self.keys.receive, offer);
            let receive = ReceiveSession::resume(offer.cipher, &key, offer.index, next);
            OwnOffer { offer, receive: Arc::new(receive) }
        });
        let session = Session {
            serial: shared.serial(),
            index: self.index,
            is_initiator: self.flags & IS_INITIATOR != 0,
            started: self.started,
            is_confirmed: self.flags & IS_CONFIRMED != 0,
            send,
            receive,
            keys: self.keys,
            own_offer,
            sub_send,
            hello: HelloExchange {
                is_heard: self.flags & IS_HELLO_HEARD != 0,
                is_acknowledged: self.flags & IS_HELLO_ACKNOWLEDGED != 0,
                ..HelloExchange::default()
            },
            features: self.features,
        };
        if session.ends_at() <= now.monotonic || session.started > now.monotonic {
            return None;
        }
        session.claim_indices(peer, shared).then_some(session)
    }
}

impl Session {
    fn claim_indices(&self, peer: PeerId, shared: &mut Shared) -> bool {
        if !shared.indices.claim(self.index, peer) {
            return false;
        }
        let own = self.own_offer.as_ref().map(|own| own.offer.index);
        let is_claimed = own.is_none_or(|index| shared.indices.claim(index, peer));
        if !is_claimed {
            shared.indices.release(self.index);
        }
        is_claimed
    }
}

/// Lets nobody send by a session any more and returns the first counter that nobody has.
fn retire(session: &SendSession) -> u64 {
    loop {
        let next = session.next_counter();
        // Another thread may have claimed in between; then its counters are behind us.
        if let Some(first) = session.claim(REJECT_AFTER_MESSAGES.saturating_sub(next)) {
            return first;
        }
    }
}

struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    /// The buffer is wiped when it has to grow, so that no copy of a key stays behind.
    fn bytes(&mut self, bytes: &[u8]) {
        if self.0.capacity() - self.0.len() < bytes.len() {
            let mut grown = Vec::with_capacity((self.0.capacity() * 2).max(4096));
            grown.extend_from_slice(&self.0);
            std::mem::replace(&mut *self.0, grown).zeroize();
        }
        self.0.extend_from_slice(bytes);
    }

    fn number(&mut self, number: u64) {
        self.bytes(&number.to_be_bytes());
    }

    fn peer(&mut self, peer: &Peer) {
        self.bytes(&peer.config.public_key);
        self.address(peer.endpoint.map(|endpoint| endpoint.remote));
        self.bytes(&[u8::from(peer.greatest_stamp.is_some())]);
        self.bytes(&peer.greatest_stamp.map_or([0; STAMP_BYTES], Stamp::to_bytes));
        self.number(peer.path.mtu() as u64);
        self.bytes(&[u8::try_from(peer.sessions.len()).unwrap_or(u8::MAX)]);
        for session in &peer.sessions {
            self.session(session, peer.current == Some(session.serial));
        }
    }

    fn address(&mut self, address: Option<SocketAddr>) {
        let (ip, port) =
            address.map_or((IpAddr::from([0; 16]), 0), |address| (address.ip(), address.port()));
        let (kind, octets) = match (address, ip) {
            (None, _) => (0, [0; 16]),
            (_, IpAddr::V4(ip)) => (4, ip.to_ipv6_mapped().octets()),
            (_, IpAddr::V6(ip)) => (6, ip.octets()),
        };
        self.bytes(&[kind]);
        self.bytes(&octets);
        self.bytes(&port.to_be_bytes());
    }

    fn session(&mut self, session: &Session, is_current: bool) {
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let flags = flag(session.is_initiator, IS_INITIATOR)
            | flag(session.is_confirmed, IS_CONFIRMED)
            | flag(session.hello.is_heard, IS_HELLO_HEARD)
            | flag(session.hello.is_acknowledged, IS_HELLO_ACKNOWLEDGED);
        self.bytes(&session.index.to_be_bytes());
        self.bytes(&session.send.receiver_index().to_be_bytes());
        self.bytes(&[flags, u8::from(is_current)]);
        self.number(u64::try_from(session.started.as_nanos()).unwrap_or(u64::MAX));
        self.bytes(&session.keys.send[..]);
        self.bytes(&session.keys.receive[..]);
        self.number(retire(&session.send));
        self.number(session.receive.next_counter());
        self.bytes(&session.features.bits().to_be_bytes());
        let own = session.own_offer.as_ref();
        self.offer(own.map(|own| (own.offer, own.receive.next_counter())));
        let sub = session.sub_send.as_ref();
        self.offer(sub.map(|sub| {
            let offer = Offer { cipher: sub.cipher(), index: sub.receiver_index() };
            (offer, retire(sub))
        }));
    }

    fn offer(&mut self, offer: Option<(Offer, u64)>) {
        let (cipher, index, counter) = offer.map_or((0, 0, 0), |(offer, counter)| {
            (cipher_number(offer.cipher), offer.index, counter)
        });
        self.bytes(&[cipher]);
        self.bytes(&index.to_be_bytes());
        self.number(counter);
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], HandoverError> {
        let (value, rest) = self.0.split_first_chunk().ok_or(HandoverError::OtherVersion)?;
        self.0 = rest;
        Ok(*value)
    }

    fn byte(&mut self) -> Result<u8, HandoverError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn number(&mut self) -> Result<u64, HandoverError> {
        self.array().map(u64::from_be_bytes)
    }

    fn secret(&mut self) -> Result<Secret, HandoverError> {
        self.array().map(Secret::from)
    }

    fn peer(&mut self) -> Result<PeerRow, HandoverError> {
        let public_key = self.array()?;
        let endpoint = self.address()?;
        let has_stamp = self.byte()? != 0;
        let stamp = Stamp::from_bytes(self.array()?);
        let path_mtu = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        let count = self.byte()?;
        if count > SESSIONS_MAX {
            return Err(HandoverError::OtherVersion);
        }
        let sessions = (0..count).map(|_| self.session()).collect::<Result<_, _>>()?;
        let greatest_stamp = has_stamp.then_some(stamp);
        Ok(PeerRow { public_key, endpoint, greatest_stamp, path_mtu, sessions })
    }

    fn address(&mut self) -> Result<Option<SocketAddr>, HandoverError> {
        let kind = self.byte()?;
        let ip = IpAddr::from(self.array::<16>()?);
        let port = u16::from_be_bytes(self.array()?);
        match kind {
            0 => Ok(None),
            4 => Ok(Some(SocketAddr::new(ip.to_canonical(), port))),
            6 => Ok(Some(SocketAddr::new(ip, port))),
            _ => Err(HandoverError::OtherVersion),
        }
    }

    fn session(&mut self) -> Result<SessionRow, HandoverError> {
        Ok(SessionRow {
            index: u32::from_be_bytes(self.array()?),
            remote_index: u32::from_be_bytes(self.array()?),
            flags: self.byte()?,
            is_current: self.byte()? != 0,
            started: Duration::from_nanos(self.number()?),
            keys: TransportKeys { send: self.secret()?, receive: self.secret()? },
            send_counter: self.number()?,
            receive_counter: self.number()?,
            features: Features::from_bits(u32::from_be_bytes(self.array()?)),
            own_offer: self.offer()?,
            sub_send: self.offer()?,
        })
    }

    fn offer(&mut self) -> Result<Option<(Offer, u64)>, HandoverError> {
        let number = self.byte()?;
        let index = u32::from_be_bytes(self.array()?);
        let counter = self.number()?;
        if number == 0 {
            return Ok(None);
        }
        let cipher = cipher_of(number).ok_or(HandoverError::OtherVersion)?;
        Ok(Some((Offer { cipher, index }, counter)))
    }
}
