//! The handshake: `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` by the `snow` library, with key agreement
//! of our own that wipes its keys.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, LazyLock};

use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types;
use snow::{Builder, HandshakeState};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::message::{NOISE_INITIATION_BYTES, NOISE_RESPONSE_BYTES};
use crate::stamp::{STAMP_BYTES, Stamp};

const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
const KEY_BYTES: usize = 32;

static PARAMS: LazyLock<NoiseParams> = LazyLock::new(|| {
    "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s".parse().expect("the name is one that Noise knows")
});

/// A secret of 32 bytes that is wiped when it is dropped, and never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Zeroizing<[u8; KEY_BYTES]>);

impl From<[u8; KEY_BYTES]> for Secret {
    fn from(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl Deref for Secret {
    type Target = [u8; KEY_BYTES];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Secret {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A host's own static key.
#[derive(Clone)]
pub struct LocalKey(Arc<KeyPair>);

struct KeyPair {
    private: Secret,
    public: [u8; KEY_BYTES],
}

impl LocalKey {
    /// Takes the X25519 private key (RFC 7748), clamped or not.
    pub fn new(private: &[u8; KEY_BYTES]) -> Self {
        Self(Arc::new(KeyPair { private: Secret::from(*private), public: public_key(private) }))
    }

    /// What peers know this host by.
    pub fn public(&self) -> [u8; KEY_BYTES] {
        self.0.public
    }

    /// For the next process of this host. It belongs into memory and nowhere else.
    pub fn private(&self) -> &Secret {
        &self.0.private
    }
}

impl fmt::Debug for LocalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LocalKey").field(&self.public()).finish()
    }
}

/// The two keys that a handshake ends with.
pub(crate) struct TransportKeys {
    pub(crate) send: Secret,
    pub(crate) receive: Secret,
}

/// An initiation that waits for its response.
pub(crate) struct Initiator(HandshakeState);

impl Initiator {
    /// `None` where the peer's key is none that an agreement can be made with.
    pub(crate) fn start(
        local: &LocalKey,
        remote_public: &[u8; KEY_BYTES],
        psk: &[u8; KEY_BYTES],
        ephemeral: &Secret,
        stamp: Stamp,
    ) -> Option<(Self, [u8; NOISE_INITIATION_BYTES])> {
        let builder = builder(local, ephemeral).remote_public_key(remote_public).ok()?;
        let mut state = builder.psk(2, psk).ok()?.build_initiator().ok()?;
        let mut message = [0; NOISE_INITIATION_BYTES];
        let length = state.write_message(&stamp.to_bytes(), &mut message).ok()?;
        (length == message.len()).then_some((Self(state), message))
    }

    /// `None` where the response is forged; a true one may still follow.
    pub(crate) fn complete(&mut self, response: &[u8]) -> Option<TransportKeys> {
        self.0.read_message(response, &mut []).ok()?;
        let (send, receive) = split(&mut self.0);
        Some(TransportKeys { send, receive })
    }
}

/// An initiation from the owner of `remote_public`, not answered yet.
pub(crate) struct OpenedInitiation {
    state: HandshakeState,
    pub(crate) remote_public: [u8; KEY_BYTES],
    pub(crate) stamp: Stamp,
}

impl OpenedInitiation {
    /// `None` where it is forged. `ephemeral` is the key of the response, should there be one.
    pub(crate) fn open(local: &LocalKey, message: &[u8], ephemeral: &Secret) -> Option<Self> {
        let mut state = builder(local, ephemeral).build_responder().ok()?;
        let mut stamp = [0; STAMP_BYTES];
        let length = state.read_message(message, &mut stamp).ok()?;
        let remote_public = state.get_remote_static()?.try_into().ok()?;
        let is_whole = length == STAMP_BYTES;
        is_whole.then(|| Self { state, remote_public, stamp: Stamp::from_bytes(stamp) })
    }

    pub(crate) fn respond(
        mut self,
        psk: &[u8; KEY_BYTES],
    ) -> Option<(TransportKeys, [u8; NOISE_RESPONSE_BYTES])> {
        self.state.set_psk(2, psk).ok()?;
        let mut message = [0; NOISE_RESPONSE_BYTES];
        let length = self.state.write_message(&[], &mut message).ok()?;
        let (receive, send) = split(&mut self.state);
        (length == message.len()).then_some((TransportKeys { send, receive }, message))
    }
}

/// The keys from initiator to responder and back.
fn split(state: &mut HandshakeState) -> (Secret, Secret) {
    let (forward, back) = state.dangerously_get_raw_split();
    (Secret::from(forward), Secret::from(back))
}

fn builder<'a>(local: &'a LocalKey, ephemeral: &Secret) -> Builder<'a> {
    let resolver = Resolver { local: local.clone(), ephemeral: ephemeral.clone() };
    Builder::with_resolver(PARAMS.clone(), Box::new(resolver))
        .prologue(PROLOGUE)
        .and_then(|builder| builder.local_private_key(&local.0.private[..]))
        .expect("prologue and key are set once")
}

/// Whether a secret can be agreed on with the owner of this key: with the few keys of small order the
/// outcome is known to everybody (RFC 7748, 6.1).
pub fn is_public_key(bytes: &[u8; KEY_BYTES]) -> bool {
    let any = StaticSecret::from([1; KEY_BYTES]);
    any.diffie_hellman(&PublicKey::from(*bytes)).was_contributory()
}

fn public_key(private: &[u8; KEY_BYTES]) -> [u8; KEY_BYTES] {
    PublicKey::from(&StaticSecret::from(*private)).to_bytes()
}

/// Gives `snow` the one ephemeral key that the engine drew, so that the key log can name it.
struct Resolver {
    local: LocalKey,
    ephemeral: Secret,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn types::Random>> {
        Some(Box::new(OneKey(Some(self.ephemeral.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn types::Dh>> {
        let agreement =
            Agreement { local: self.local.clone(), secret: None, public: [0; KEY_BYTES] };
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(agreement) as Box<dyn types::Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn types::Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn types::Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct OneKey(Option<Secret>);

impl types::Random for OneKey {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        let key = self.0.take().filter(|key| key.len() == dest.len()).ok_or(snow::Error::Rng)?;
        dest.copy_from_slice(&key[..]);
        Ok(())
    }
}

/// X25519 with the static key or with an ephemeral one.
struct Agreement {
    local: LocalKey,
    secret: Option<StaticSecret>,
    public: [u8; KEY_BYTES],
}

impl types::Dh for Agreement {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY_BYTES
    }

    fn priv_len(&self) -> usize {
        KEY_BYTES
    }

    /// `snow` sets the static key alone, whose public half is known.
    fn set(&mut self, _private: &[u8]) {
        self.secret = Some(StaticSecret::from(**self.local.private()));
        self.public = self.local.public();
    }

    fn generate(&mut self, rng: &mut dyn types::Random) -> Result<(), snow::Error> {
        let mut private = Zeroizing::new([0; KEY_BYTES]);
        rng.try_fill_bytes(&mut private[..])?;
        self.public = public_key(&private);
        self.secret = Some(StaticSecret::from(*private));
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.secret.as_ref().map_or(&[], |secret| secret.as_bytes())
    }

    /// Refuses keys of small order, as every `WireGuard` does: their agreement holds no secret.
    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let public = pubkey.first_chunk::<KEY_BYTES>().ok_or(snow::Error::Dh)?;
        let secret = self.secret.as_ref().ok_or(snow::Error::Dh)?;
        let shared = secret.diffie_hellman(&PublicKey::from(*public));
        if !shared.was_contributory() {
            return Err(snow::Error::Dh);
        }
        out[..KEY_BYTES].copy_from_slice(shared.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(byte: u8) -> Secret {
        Secret::from([byte; 32])
    }

    #[test]
    fn a_key_of_small_order_is_no_public_key() {
        assert!(is_public_key(&public_key(&[9; 32])));
        let order_two = std::array::from_fn(|at| match at {
            0 => 0xec,
            31 => 0x7f,
            _ => 0xff,
        });
        for bytes in [[0; 32], std::array::from_fn(|at| u8::from(at == 0)), order_two] {
            assert!(!is_public_key(&bytes), "{bytes:02x?}");
        }
    }

    fn stamp() -> Stamp {
        Stamp::from_unix(Duration::from_secs(1_700_000_000))
    }

    fn shake(
        initiators_psk: &[u8; 32],
        own_psk: &[u8; 32],
    ) -> Option<(TransportKeys, TransportKeys)> {
        let (alice, bob) = (LocalKey::new(&key(1)), LocalKey::new(&key(2)));
        let (mut initiator, message) =
            Initiator::start(&alice, &bob.public(), initiators_psk, &key(3), stamp()).unwrap();
        let opened = OpenedInitiation::open(&bob, &message, &key(4)).unwrap();
        assert_eq!(opened.remote_public, alice.public());
        assert_eq!(opened.stamp, stamp());
        let (bobs, response) = opened.respond(own_psk).unwrap();
        let mut forged = response;
        forged[40] ^= 1;
        assert!(initiator.complete(&forged).is_none());
        initiator.complete(&response).map(|alices| (alices, bobs))
    }

    #[test]
    fn both_sides_end_with_each_others_keys_even_after_a_forged_response() {
        let (alices, bobs) = shake(&[7; 32], &[7; 32]).unwrap();
        assert_eq!(alices.send, bobs.receive);
        assert_eq!(alices.receive, bobs.send);
        assert_ne!(alices.send, alices.receive);
    }

    #[test]
    fn another_preshared_key_does_not_complete() {
        assert!(shake(&[7; 32], &[8; 32]).is_none());
    }

    #[test]
    fn an_initiation_with_any_flipped_bit_is_refused() {
        let (alice, bob) = (LocalKey::new(&key(1)), LocalKey::new(&key(2)));
        let (_, message) =
            Initiator::start(&alice, &bob.public(), &[0; 32], &key(3), stamp()).unwrap();
        for at in 0..message.len() {
            let mut flipped = message;
            flipped[at] ^= 0x40;
            assert!(OpenedInitiation::open(&bob, &flipped, &key(4)).is_none(), "{at}");
        }
    }

    #[test]
    fn a_key_of_small_order_is_refused() {
        let alice = LocalKey::new(&key(1));
        let order_one = [0; 32];
        assert!(Initiator::start(&alice, &order_one, &[0; 32], &key(3), stamp()).is_none());
    }
}
