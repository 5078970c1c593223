//! The two directions of a session. Many threads may use one at the same time.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::cipher::{Cipher, Key, TAG_BYTES};
use crate::replay::Window;

/// No counter from here on is ever used: `WireGuard`'s Reject-After-Messages.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// The direction from here to a peer.
pub struct SendSession {
    key: Key,
    receiver_index: u32,
    next_counter: AtomicU64,
}

impl SendSession {
    /// A session whose first message has the counter `first_counter`. `receiver_index` is the number
    /// by which the peer knows it.
    pub fn new(cipher: Cipher, key: &[u8; 32], receiver_index: u32, first_counter: u64) -> Self {
        let next_counter = AtomicU64::new(first_counter);
        Self { key: Key::new(cipher, key), receiver_index, next_counter }
    }

    /// The first of `count` consecutive counters that nobody else has. `None` where one of them
    /// would not be below [`REJECT_AFTER_MESSAGES`].
    pub fn claim(&self, count: u64) -> Option<u64> {
        let step = |next: u64| next.checked_add(count).filter(|end| *end <= REJECT_AFTER_MESSAGES);
        self.next_counter.fetch_update(Relaxed, Relaxed, step).ok()
    }

    /// Seals in place and returns the tag. The counter must come from [`Self::claim`] and be used
    /// once.
    pub fn seal_in_place(&self, counter: u64, payload: &mut [u8]) -> [u8; TAG_BYTES] {
        self.key.seal_in_place(counter, payload)
    }

    /// Seals `payload` into `out`, whose length is that of the payload and the tag. The counter must
    /// come from [`Self::claim`] and be used once.
    ///
    /// # Panics
    /// Where `out` has another length.
    pub fn seal_to(&self, counter: u64, payload: &[u8], out: &mut [u8]) {
        assert_eq!(out.len(), payload.len() + TAG_BYTES);
        self.key.seal_to(counter, payload, out);
    }

    /// The number by which the peer knows this session.
    pub fn receiver_index(&self) -> u32 {
        self.receiver_index
    }

    /// The counter of the message that comes next.
    pub fn next_counter(&self) -> u64 {
        self.next_counter.load(Relaxed)
    }

    /// What it is sealed with.
    pub fn cipher(&self) -> Cipher {
        self.key.cipher()
    }
}

impl fmt::Debug for SendSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendSession")
            .field("cipher", &self.cipher())
            .field("receiver_index", &self.receiver_index)
            .field("next_counter", &self.next_counter())
            .finish_non_exhaustive()
    }
}

/// Why a message was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum OpenError {
    /// The counter was accepted before, is too old to tell, or beyond what a session may use.
    #[error("replayed")]
    Replayed,
    /// The tag is not that of the content, or there is none.
    #[error("forged")]
    Forged,
}

/// One message of a batch.
#[derive(Debug)]
pub struct Sealed<'a> {
    /// The counter in its header.
    pub counter: u64,
    /// Ciphertext and tag; once opened, the payload alone.
    pub bytes: &'a mut [u8],
    /// What became of it. Only an `Ok` says that `bytes` is what the peer sent.
    pub outcome: Result<(), OpenError>,
}

impl<'a> Sealed<'a> {
    /// A message that waits to be opened.
    pub fn new(counter: u64, bytes: &'a mut [u8]) -> Self {
        Self { counter, bytes, outcome: Err(OpenError::Forged) }
    }
}

/// The direction from a peer to here.
pub struct ReceiveSession {
    key: Key,
    local_index: u32,
    window: Window,
}

impl ReceiveSession {
    /// A session that the peer's messages name by `local_index`.
    pub fn new(cipher: Cipher, key: &[u8; 32], local_index: u32) -> Self {
        Self::resume(cipher, key, local_index, 0)
    }

    /// A session that another process began: every counter below `next_counter` is refused.
    pub fn resume(cipher: Cipher, key: &[u8; 32], local_index: u32, next_counter: u64) -> Self {
        let window = Window::starting_at(next_counter);
        Self { key: Key::new(cipher, key), local_index, window }
    }

    /// Opens one message in place and returns its payload.
    ///
    /// On an error the content of the buffer is unspecified.
    pub fn open_in_place<'a>(
        &self,
        counter: u64,
        ciphertext_and_tag: &'a mut [u8],
    ) -> Result<&'a mut [u8], OpenError> {
        let mut batch = [Sealed::new(counter, ciphertext_and_tag)];
        self.open_batch(&mut batch);
        let [opened] = batch;
        opened.outcome.map(|()| opened.bytes)
    }

    /// Opens the messages in place; only then their counters are marked, all under one lock.
    pub fn open_batch(&self, batch: &mut [Sealed<'_>]) {
        for sealed in &mut *batch {
            sealed.outcome = self.open_unmarked(sealed);
        }
        self.mark(batch);
    }

    fn open_unmarked(&self, sealed: &mut Sealed<'_>) -> Result<(), OpenError> {
        if sealed.counter >= REJECT_AFTER_MESSAGES || !self.window.admits(sealed.counter) {
            return Err(OpenError::Replayed);
        }
        let bytes = std::mem::take(&mut sealed.bytes);
        sealed.bytes =
            self.key.open_in_place(sealed.counter, bytes).map_err(|_| OpenError::Forged)?;
        Ok(())
    }

    fn mark(&self, batch: &mut [Sealed<'_>]) {
        let marking = self.window.lock();
        for sealed in batch.iter_mut().filter(|sealed| sealed.outcome.is_ok()) {
            if !marking.mark(sealed.counter) {
                sealed.outcome = Err(OpenError::Replayed);
            }
        }
    }

    /// The number by which the peer's messages name this session.
    pub fn local_index(&self) -> u32 {
        self.local_index
    }

    /// One above the highest counter accepted.
    pub fn next_counter(&self) -> u64 {
        self.window.next()
    }

    /// What it is sealed with.
    pub fn cipher(&self) -> Cipher {
        self.key.cipher()
    }
}

impl fmt::Debug for ReceiveSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiveSession")
            .field("cipher", &self.cipher())
            .field("local_index", &self.local_index)
            .field("next_counter", &self.next_counter())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [3; 32];

    fn sealed(counter: u64) -> Vec<u8> {
        let session = SendSession::new(Cipher::Aes256Gcm, &KEY, 1, 0);
        let mut bytes = b"a frame".to_vec();
        let tag = session.seal_in_place(counter, &mut bytes);
        bytes.extend_from_slice(&tag);
        bytes
    }

    fn receiver() -> ReceiveSession {
        ReceiveSession::new(Cipher::Aes256Gcm, &KEY, 1)
    }

    #[test]
    fn what_was_sealed_opens_once() {
        let receiver = receiver();
        assert_eq!(receiver.open_in_place(4, &mut sealed(4)).unwrap(), b"a frame");
        assert_eq!(receiver.open_in_place(4, &mut sealed(4)), Err(OpenError::Replayed));
        assert_eq!(receiver.next_counter(), 5);
    }

    #[test]
    fn a_forged_message_does_not_use_up_its_counter() {
        let receiver = receiver();
        let mut forged = sealed(4);
        forged[0] ^= 1;
        assert_eq!(receiver.open_in_place(4, &mut forged), Err(OpenError::Forged));
        assert_eq!(receiver.open_in_place(4, &mut [0; 15]), Err(OpenError::Forged));
        assert!(receiver.open_in_place(4, &mut sealed(4)).is_ok());
    }

    #[test]
    fn a_message_twice_in_one_batch_is_accepted_once() {
        let receiver = receiver();
        let (mut first, mut second, mut third) = (sealed(4), sealed(4), sealed(3));
        let mut batch =
            [Sealed::new(4, &mut first), Sealed::new(4, &mut second), Sealed::new(3, &mut third)];
        receiver.open_batch(&mut batch);
        let outcomes = batch.map(|sealed| sealed.outcome);
        assert_eq!(outcomes, [Ok(()), Err(OpenError::Replayed), Ok(())]);
    }

    #[test]
    fn a_resumed_session_refuses_what_the_one_before_may_have_seen() {
        let receiver = ReceiveSession::resume(Cipher::Aes256Gcm, &KEY, 1, 10);
        assert_eq!(receiver.open_in_place(9, &mut sealed(9)), Err(OpenError::Replayed));
        assert!(receiver.open_in_place(10, &mut sealed(10)).is_ok());
    }

    #[test]
    fn counters_end_before_they_could_repeat() {
        let session = SendSession::new(Cipher::Aes256Gcm, &KEY, 1, REJECT_AFTER_MESSAGES - 5);
        assert_eq!(session.claim(6), None);
        assert_eq!(session.claim(3), Some(REJECT_AFTER_MESSAGES - 5));
        assert_eq!(session.claim(2), Some(REJECT_AFTER_MESSAGES - 2));
        assert_eq!(session.claim(1), None);
        assert_eq!(session.claim(u64::MAX), None);
        let last = REJECT_AFTER_MESSAGES;
        assert_eq!(receiver().open_in_place(last, &mut sealed(last)), Err(OpenError::Replayed));
    }

    #[test]
    fn threads_claim_different_counters() {
        let session = SendSession::new(Cipher::Aes256Gcm, &KEY, 1, 0);
        let claim = || (0..1000).filter_map(|_| session.claim(3)).collect::<Vec<_>>();
        let mut firsts = std::thread::scope(|scope| {
            let other = scope.spawn(claim);
            let mut firsts = claim();
            firsts.extend(other.join().unwrap());
            firsts
        });
        firsts.sort_unstable();
        assert!(firsts.iter().enumerate().all(|(i, first)| *first == 3 * i as u64));
    }
}
