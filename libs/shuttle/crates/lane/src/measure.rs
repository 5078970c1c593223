//! Which cipher this machine seals with faster.

use std::time::{Duration, Instant};

use weft_seal::{Cipher, SendSession, TAG_BYTES};

/// A record as bulk traffic has it at an underlay MTU of 1,500.
const RECORD_BYTES: usize = 1424;
const RECORDS_PER_LOOK: u16 = 32;
/// AES must be faster by this much to be worth a session of its own.
const GAIN_MIN: f64 = 1.15;

/// How fast one core seals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CipherSpeeds {
    /// Bytes per second with ChaCha20-Poly1305.
    pub chacha_bytes_per_second: f64,
    /// Bytes per second with AES-256-GCM.
    pub aes_bytes_per_second: f64,
}

impl CipherSpeeds {
    /// Measures each cipher for half of the time.
    pub fn measure(time: Duration) -> Self {
        let speed = |cipher| measure(cipher, time / 2);
        Self {
            chacha_bytes_per_second: speed(Cipher::ChaCha20Poly1305),
            aes_bytes_per_second: speed(Cipher::Aes256Gcm),
        }
    }

    /// The cipher to offer to other hosts.
    pub fn choice(self) -> Cipher {
        if self.aes_bytes_per_second > self.chacha_bytes_per_second * GAIN_MIN {
            Cipher::Aes256Gcm
        } else {
            Cipher::ChaCha20Poly1305
        }
    }
}

/// The best of many short looks: other work on the machine makes single ones slow.
fn measure(cipher: Cipher, time: Duration) -> f64 {
    let session = SendSession::new(cipher, &[1; 32], 0, 0);
    let payload = [0; RECORD_BYTES];
    let mut out = [0; RECORD_BYTES + TAG_BYTES];
    let start = Instant::now();
    let mut best = f64::INFINITY;
    let mut counter = 0;
    while start.elapsed() < time || counter == 0 {
        let look = Instant::now();
        for _ in 0..RECORDS_PER_LOOK {
            session.seal_to(counter, &payload, std::hint::black_box(&mut out));
            counter += 1;
        }
        best = best.min(look.elapsed().as_secs_f64());
    }
    #[allow(clippy::cast_precision_loss, reason = "the length is small")]
    let bytes = f64::from(RECORDS_PER_LOOK) * RECORD_BYTES as f64;
    bytes / best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aes_is_chosen_only_where_it_is_clearly_faster() {
        let choice = |chacha_bytes_per_second, aes_bytes_per_second| {
            CipherSpeeds { chacha_bytes_per_second, aes_bytes_per_second }.choice()
        };
        assert_eq!(choice(2e9, 8e9), Cipher::Aes256Gcm);
        assert_eq!(choice(2e9, 2.1e9), Cipher::ChaCha20Poly1305);
        assert_eq!(choice(2e9, 5e8), Cipher::ChaCha20Poly1305);
    }

    #[test]
    fn a_measurement_gives_speeds() {
        let speeds = CipherSpeeds::measure(Duration::from_millis(2));
        assert!(speeds.chacha_bytes_per_second > 0.0 && speeds.aes_bytes_per_second > 0.0);
    }
}
