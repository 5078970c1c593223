//! The two MACs of a handshake message and the cookies that the second is made of (whitepaper, 5.3
//! and 5.4.7).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac};
use blake2::{Blake2s256, Blake2sMac, Digest};
use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{Aead, Payload};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::message::{self, CookieReply};
use crate::random::{self, Random};

/// How long a cookie is good for, and how often the secret behind all cookies changes.
pub(crate) const COOKIE_LIFETIME: Duration = Duration::from_mins(2);
/// A cookie older than this might arrive behind its end.
const COOKIE_SHOWN_FOR: Duration = Duration::from_secs(115);

const LABEL_MAC1: &[u8] = b"mac1----";
const LABEL_COOKIE: &[u8] = b"cookie--";

type MacBytes = [u8; 16];

/// The keys of the MACs on messages to the owner of a static key.
#[derive(Clone, Debug)]
pub(crate) struct MacKeys {
    mac1: [u8; 32],
    cookie: [u8; 32],
}

impl MacKeys {
    pub(crate) fn of(public_key: &[u8; 32]) -> Self {
        let key = |label: &[u8]| Blake2s256::new().chain_update(label).chain_update(public_key);
        Self {
            mac1: key(LABEL_MAC1).finalize().into(),
            cookie: key(LABEL_COOKIE).finalize().into(),
        }
    }

    /// Whether the sender knew the public key that these keys belong to.
    pub(crate) fn is_mac1_valid(&self, message: &[u8]) -> bool {
        let (covered, mac1, _) = message::macs(message);
        mac(&self.mac1, &[covered]).ct_eq(mac1).into()
    }

    /// Puts both MACs at the end of a message and returns the first.
    pub(crate) fn write(&self, message: &mut [u8], cookie: Option<&MacBytes>) -> MacBytes {
        let at = message.len() - 32;
        let mac1 = mac(&self.mac1, &[&message[..at]]);
        message[at..at + 16].copy_from_slice(&mac1);
        if let Some(cookie) = cookie {
            let mac2 = mac(cookie, &[&message[..at + 16]]);
            message[at + 16..].copy_from_slice(&mac2);
        }
        mac1
    }
}

/// Makes the cookies that strangers must show while there are too many of them.
pub(crate) struct CookieIssuer {
    secret: Zeroizing<[u8; 32]>,
    /// Until the next change, so that no cookie ends before its time.
    last_secret: Zeroizing<[u8; 32]>,
    changed: Duration,
    /// The first half of all nonces; the rest counts. Random ones would cost a system call each.
    nonce_prefix: [u8; 16],
    replies: u64,
}

impl CookieIssuer {
    pub(crate) fn new(random: &mut dyn Random, now: Duration) -> Self {
        Self {
            secret: Zeroizing::new(random::array(random)),
            last_secret: Zeroizing::new(random::array(random)),
            changed: now,
            nonce_prefix: random::array(random),
            replies: 0,
        }
    }

    /// Changes the secret where that is due.
    pub(crate) fn turn(&mut self, random: &mut dyn Random, now: Duration) {
        let age = now.saturating_sub(self.changed);
        if age < COOKIE_LIFETIME {
            return;
        }
        let fresh = Zeroizing::new(random::array(random));
        let last = std::mem::replace(&mut self.secret, fresh);
        // After a longer silence no cookie of the last secret can be alive.
        self.last_secret =
            if age < 2 * COOKIE_LIFETIME { last } else { Zeroizing::new(random::array(random)) };
        self.changed = now;
    }

    /// Whether the sender of a message was sent a cookie at this very address and port.
    pub(crate) fn is_mac2_valid(&self, message: &[u8], source: SocketAddr) -> bool {
        let (_, _, mac2) = message::macs(message);
        if mac2 == [0; 16] {
            // Nearly every message of a flood.
            return false;
        }
        let covered = &message[..message.len() - 16];
        [&self.secret, &self.last_secret].into_iter().any(|secret| {
            let cookie = cookie(secret, source);
            mac(&cookie, &[covered]).ct_eq(mac2).into()
        })
    }

    /// A cookie reply to an initiation or response to the owner of `keys`.
    pub(crate) fn reply(&mut self, keys: &MacKeys, message: &[u8], source: SocketAddr) -> Vec<u8> {
        let (_, mac1, _) = message::macs(message);
        let mut nonce = [0; 24];
        nonce[..16].copy_from_slice(&self.nonce_prefix);
        nonce[16..].copy_from_slice(&self.replies.to_be_bytes());
        self.replies += 1;
        let payload = Payload { msg: &cookie(&self.secret, source), aad: mac1 };
        let sealed = XChaCha20Poly1305::new(&keys.cookie.into())
            .encrypt(&nonce.into(), payload)
            .expect("sixteen bytes are never too many");
        message::cookie_reply(message::sender_index(message), &nonce, &sealed)
    }
}

/// A cookie from a peer, to be shown to it.
#[derive(Debug)]
pub(crate) struct Cookie {
    value: Zeroizing<MacBytes>,
    received: Duration,
    endpoint: SocketAddr,
}

impl Cookie {
    /// `None` where the reply does not answer the message with this first MAC.
    pub(crate) fn open(
        keys: &MacKeys,
        reply: &CookieReply<'_>,
        mac1: &MacBytes,
        endpoint: SocketAddr,
        now: Duration,
    ) -> Option<Self> {
        let payload = Payload { msg: reply.sealed_cookie(), aad: mac1 };
        let opened = XChaCha20Poly1305::new(&keys.cookie.into())
            .decrypt(reply.nonce().into(), payload)
            .ok()?;
        let value = Zeroizing::new(opened.as_slice().try_into().ok()?);
        Some(Self { value, received: now, endpoint })
    }

    /// What to show to `target` now. A cookie is good only where it came from.
    pub(crate) fn for_target(&self, target: SocketAddr, now: Duration) -> Option<&MacBytes> {
        let is_fresh = now.saturating_sub(self.received) < COOKIE_SHOWN_FOR;
        (is_fresh && self.endpoint == target).then_some(&self.value)
    }
}

fn cookie(secret: &[u8; 32], source: SocketAddr) -> MacBytes {
    let port = source.port().to_be_bytes();
    match source.ip() {
        IpAddr::V4(ip) => mac(secret, &[&ip.octets(), &port]),
        IpAddr::V6(ip) => mac(secret, &[&ip.octets(), &port]),
    }
}

fn mac(key: &[u8], parts: &[&[u8]]) -> MacBytes {
    let mut mac = <Blake2sMac<U16> as KeyInit>::new_from_slice(key)
        .expect("keys have 16 or 32 bytes, which BLAKE2s takes");
    for part in parts {
        Mac::update(&mut mac, part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{SeededRandom, address};

    fn signed(keys: &MacKeys, cookie: Option<&MacBytes>) -> (Vec<u8>, MacBytes) {
        let mut message = message::initiation(3, &[5; 108]);
        let mac1 = keys.write(&mut message, cookie);
        (message, mac1)
    }

    fn issue(issuer: &mut CookieIssuer, keys: &MacKeys, source: SocketAddr) -> Cookie {
        let (message, mac1) = signed(keys, None);
        let reply = issuer.reply(keys, &message, source);
        let reply = CookieReply(reply.as_slice().try_into().unwrap());
        Cookie::open(keys, &reply, &mac1, address(9), Duration::ZERO).unwrap()
    }

    #[test]
    fn a_flipped_bit_makes_the_first_mac_wrong() {
        let keys = MacKeys::of(&[1; 32]);
        let (message, _) = signed(&keys, None);
        assert!(keys.is_mac1_valid(&message));
        for at in 0..message.len() - 16 {
            let mut flipped = message.clone();
            flipped[at] ^= 0x10;
            assert!(!keys.is_mac1_valid(&flipped), "{at}");
        }
        assert!(!MacKeys::of(&[2; 32]).is_mac1_valid(&message));
    }

    #[test]
    fn a_cookie_proves_address_and_port_for_some_minutes() {
        let keys = MacKeys::of(&[1; 32]);
        let mut random = SeededRandom::new(1);
        let mut issuer = CookieIssuer::new(&mut random, Duration::ZERO);
        let cookie = issue(&mut issuer, &keys, address(1));
        let shown = cookie.for_target(address(9), Duration::from_secs(100)).unwrap();
        let (message, _) = signed(&keys, Some(shown));
        assert!(issuer.is_mac2_valid(&message, address(1)));
        let mut other_port = address(1);
        other_port.set_port(1);
        assert!(!issuer.is_mac2_valid(&message, other_port));
        assert!(!issuer.is_mac2_valid(&message, address(2)));

        issuer.turn(&mut random, COOKIE_LIFETIME);
        assert!(issuer.is_mac2_valid(&message, address(1)), "one change later it still is");
        issuer.turn(&mut random, 2 * COOKIE_LIFETIME);
        assert!(!issuer.is_mac2_valid(&message, address(1)));
    }

    #[test]
    fn a_cookie_is_shown_only_where_it_came_from_and_while_it_lives() {
        let keys = MacKeys::of(&[1; 32]);
        let mut issuer = CookieIssuer::new(&mut SeededRandom::new(1), Duration::ZERO);
        let cookie = issue(&mut issuer, &keys, address(1));
        assert!(cookie.for_target(address(8), Duration::ZERO).is_none());
        assert!(cookie.for_target(address(9), Duration::from_secs(116)).is_none());
    }

    #[test]
    fn a_cookie_reply_to_another_message_is_refused() {
        let keys = MacKeys::of(&[1; 32]);
        let mut issuer = CookieIssuer::new(&mut SeededRandom::new(1), Duration::ZERO);
        let (message, mut mac1) = signed(&keys, None);
        let reply = issuer.reply(&keys, &message, address(1));
        let reply = CookieReply(reply.as_slice().try_into().unwrap());
        mac1[0] ^= 1;
        assert!(Cookie::open(&keys, &reply, &mac1, address(9), Duration::ZERO).is_none());
    }
}
