//! One session: what a handshake ended with.

use std::sync::Arc;
use std::time::Duration;

use blake2::Blake2s256;
use hkdf::SimpleHkdf;
use weft_seal::{Cipher, ReceiveSession, SendSession};

use crate::control::{Features, Offer, cipher_number};
use crate::limits::{REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME};
use crate::message;
use crate::noise::{Secret, TransportKeys};

const SUB_SESSION_LABEL: &[u8] = b"weft sub-session";

/// How far the exchange of hellos of a session is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HelloExchange {
    /// The peer's hello was heard.
    pub(crate) is_heard: bool,
    /// The peer heard ours.
    pub(crate) is_acknowledged: bool,
    /// One is to be sent.
    pub(crate) is_due: bool,
    /// Hellos sent so far.
    pub(crate) tries: u32,
    pub(crate) retry_at: Option<Duration>,
}

/// A sub-session that the peer may send on.
pub(crate) struct OwnOffer {
    pub(crate) offer: Offer,
    pub(crate) receive: Arc<ReceiveSession>,
}

pub(crate) struct Session {
    /// Later sessions have greater ones.
    pub(crate) serial: u64,
    pub(crate) index: u32,
    pub(crate) is_initiator: bool,
    pub(crate) started: Duration,
    /// The peer has proved that it has the session too.
    pub(crate) is_confirmed: bool,
    pub(crate) send: Arc<SendSession>,
    pub(crate) receive: Arc<ReceiveSession>,
    pub(crate) keys: TransportKeys,
    pub(crate) own_offer: Option<OwnOffer>,
    /// The sub-session of the peer's offers that was taken.
    pub(crate) sub_send: Option<Arc<SendSession>>,
    pub(crate) hello: HelloExchange,
    pub(crate) features: Features,
}

impl Session {
    pub(crate) fn new(
        serial: u64,
        index: u32,
        remote_index: u32,
        keys: TransportKeys,
        is_initiator: bool,
        now: Duration,
    ) -> Self {
        let cipher = Cipher::ChaCha20Poly1305;
        Self {
            serial,
            index,
            is_initiator,
            started: now,
            is_confirmed: is_initiator,
            send: Arc::new(SendSession::new(cipher, &keys.send, remote_index, 0)),
            receive: Arc::new(ReceiveSession::new(cipher, &keys.receive, index)),
            keys,
            own_offer: None,
            sub_send: None,
            hello: HelloExchange::default(),
            features: Features::NONE,
        }
    }

    pub(crate) fn ends_at(&self) -> Duration {
        self.started + REJECT_AFTER_TIME
    }

    pub(crate) fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.started)
    }

    /// Whether messages with this receiver index belong to it.
    pub(crate) fn has_index(&self, index: u32) -> bool {
        self.index == index || self.own_offer.as_ref().is_some_and(|own| own.offer.index == index)
    }

    /// Whether a message sent now should bring a new handshake about. The side that initiated is the
    /// one to do it again, or both would.
    pub(crate) fn is_worn_for_sending(&self, now: Duration) -> bool {
        let is_old = self.is_initiator && self.age(now) >= REKEY_AFTER_TIME;
        is_old || self.messages_sent() >= REKEY_AFTER_MESSAGES
    }

    fn messages_sent(&self) -> u64 {
        let sub = self.sub_send.as_ref().map_or(0, |session| session.next_counter());
        self.send.next_counter().max(sub)
    }

    /// What data is sent on.
    pub(crate) fn preferred_send(&self) -> &Arc<SendSession> {
        self.sub_send.as_ref().unwrap_or(&self.send)
    }

    /// A data message of this session, or `None` where its counters are used up.
    pub(crate) fn seal(&self, payload: &[u8]) -> Option<Vec<u8>> {
        let counter = self.send.claim(1)?;
        let mut bytes = message::data(self.send.receiver_index(), counter, payload);
        let tag = self.send.seal_in_place(counter, &mut bytes[message::DATA_HEADER_BYTES..]);
        bytes.extend_from_slice(&tag);
        Some(bytes)
    }

    /// Offers the peer a sub-session.
    pub(crate) fn offer(&mut self, offer: Offer) -> &Arc<ReceiveSession> {
        let key = sub_session_key(&self.keys.receive, offer);
        let receive = Arc::new(ReceiveSession::new(offer.cipher, &key, offer.index));
        &self.own_offer.insert(OwnOffer { offer, receive }).receive
    }

    /// Takes an offer of the peer.
    pub(crate) fn take(&mut self, offer: Offer) {
        let key = sub_session_key(&self.keys.send, offer);
        self.sub_send = Some(Arc::new(SendSession::new(offer.cipher, &key, offer.index, 0)));
    }
}

/// The key of a sub-session in one direction: HKDF (RFC 5869) with BLAKE2s, from the key of the
/// session in that direction, for one cipher and one receiver index.
pub(crate) fn sub_session_key(transport: &Secret, offer: Offer) -> Secret {
    let mut key = Secret::default();
    let index = offer.index.to_be_bytes();
    SimpleHkdf::<Blake2s256>::new(Some(SUB_SESSION_LABEL), &transport[..])
        .expand_multi_info(&[&[cipher_number(offer.cipher)], &index], &mut key[..])
        .expect("one block of BLAKE2s is as long as a key");
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cipher_index_and_transport_key_gives_another_sub_session_key() {
        let transport = Secret::from([1; 32]);
        let offer = Offer { cipher: Cipher::Aes256Gcm, index: 7 };
        let others = [
            sub_session_key(&transport, Offer { index: 8, ..offer }),
            sub_session_key(&transport, Offer { cipher: Cipher::ChaCha20Poly1305, ..offer }),
            sub_session_key(&Secret::from([2; 32]), offer),
            transport.clone(),
        ];
        let key = sub_session_key(&transport, offer);
        assert!(others.iter().all(|other| *other != key));
    }
}
