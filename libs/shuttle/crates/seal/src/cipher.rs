//! Authenticated ciphers with the nonces of `WireGuard`.

use aws_lc_rs::aead::{
    AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use aws_lc_rs::error::Unspecified;

/// Length of the authentication tag behind a ciphertext.
pub const TAG_BYTES: usize = 16;

/// What a session is sealed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// RFC 8439; the only one that a stock `WireGuard` peer knows.
    ChaCha20Poly1305,
    /// NIST SP 800-38D; between own hosts that agreed on it.
    Aes256Gcm,
}

impl Cipher {
    /// Every cipher, the one that all peers know first.
    pub const ALL: [Self; 2] = [Self::ChaCha20Poly1305, Self::Aes256Gcm];

    /// The name for logs and status.
    pub fn name(self) -> &'static str {
        match self {
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
            Self::Aes256Gcm => "aes-256-gcm",
        }
    }

    fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Self::Aes256Gcm => &AES_256_GCM,
        }
    }
}

/// A key set up for one cipher. The library wipes its memory when it is dropped.
pub(crate) struct Key {
    key: LessSafeKey,
    cipher: Cipher,
}

impl Key {
    pub(crate) fn new(cipher: Cipher, key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(cipher.algorithm(), key)
            .expect("both ciphers take a key of exactly 32 bytes");
        Self { key: LessSafeKey::new(key), cipher }
    }

    pub(crate) fn cipher(&self) -> Cipher {
        self.cipher
    }

    pub(crate) fn seal_in_place(&self, counter: u64, payload: &mut [u8]) -> [u8; TAG_BYTES] {
        let mut tag = [0; TAG_BYTES];
        let sealed = self
            .key
            .seal_in_place_separate_tag(nonce(counter), Aad::empty(), payload)
            .expect("a payload is far below the 64 GiB that a cipher takes");
        tag.copy_from_slice(sealed.as_ref());
        tag
    }

    /// Seals `payload` into `out`, which is longer by the tag.
    pub(crate) fn seal_to(&self, counter: u64, payload: &[u8], out: &mut [u8]) {
        let (ciphertext, tag) = out.split_at_mut(payload.len());
        self.key
            .seal_out_of_place_scatter(
                nonce(counter),
                Aad::empty(),
                payload,
                ciphertext,
                &[],
                &mut tag[..TAG_BYTES],
            )
            .expect("the parts have the lengths that the cipher asks for");
    }

    pub(crate) fn open_in_place<'a>(
        &self,
        counter: u64,
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], Unspecified> {
        let at = sealed.len().checked_sub(TAG_BYTES).ok_or(Unspecified)?;
        let (payload, tag) = sealed.split_at_mut(at);
        self.key.open_in_place_separate_tag(nonce(counter), Aad::empty(), tag, payload)
    }
}

/// Four zero bytes, then the counter in little-endian order (`WireGuard` whitepaper, 5.4.6).
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nonce_is_four_zeros_and_the_counter_in_little_endian() {
        let wanted = [0, 0, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11];
        assert_eq!(nonce(0x1122_3344_5566_7788).as_ref(), &wanted);
    }

    #[test]
    fn sealing_in_place_and_into_another_buffer_give_the_same() {
        for cipher in Cipher::ALL {
            let key = Key::new(cipher, &[7; 32]);
            let payload: Vec<u8> = (0..=255).cycle().take(1500).collect();
            let mut apart = vec![0; payload.len() + TAG_BYTES];
            key.seal_to(9, &payload, &mut apart);
            let mut in_place = payload.clone();
            let tag = key.seal_in_place(9, &mut in_place);
            in_place.extend_from_slice(&tag);
            assert_eq!(apart, in_place);
            assert_ne!(apart[..1500], payload[..]);
            assert_eq!(key.open_in_place(9, &mut apart).unwrap(), &payload[..]);
        }
    }

    #[test]
    fn another_cipher_counter_or_key_does_not_open() {
        let key = Key::new(Cipher::ChaCha20Poly1305, &[7; 32]);
        let mut sealed = [0; 20 + TAG_BYTES];
        key.seal_to(9, &[1; 20], &mut sealed);
        for (cipher, byte, counter) in [
            (Cipher::Aes256Gcm, 7, 9),
            (Cipher::ChaCha20Poly1305, 8, 9),
            (Cipher::ChaCha20Poly1305, 7, 10),
        ] {
            let other = Key::new(cipher, &[byte; 32]);
            assert!(other.open_in_place(counter, &mut sealed.clone()).is_err());
        }
    }
}
