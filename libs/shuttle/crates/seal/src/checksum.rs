//! The Internet checksum (RFC 1071).

/// A sum of 16-bit words that was not folded yet, in the machine's byte order: the sum does not
/// depend on it, only the last step does (RFC 1071, 2 B).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum(u64);

impl Sum {
    /// Adds bytes that begin at an even offset of what is summed.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        let total: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        Self(self.0 + total + u64::from(u32::from_ne_bytes(last)))
    }

    /// Adds a number that stands in the packet in network order.
    pub(crate) fn number(self, number: u16) -> Self {
        Self(self.0 + u64::from(number.to_be()))
    }

    /// The sum as it stands in a field, not complemented: what a pseudo header leaves.
    pub(crate) fn folded(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let [low, high, ..] = sum.to_le_bytes();
        u16::from_le_bytes([low, high]).to_ne_bytes()
    }

    /// The checksum.
    pub(crate) fn complement(self) -> [u8; 2] {
        self.folded().map(|byte| !byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071, 3: the numerical example.
    #[test]
    fn the_example_of_the_rfc_comes_out() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().bytes(&bytes).folded(), [0xdd, 0xf2]);
    }

    #[test]
    fn an_odd_byte_is_padded_with_zero() {
        let odd = Sum::default().bytes(&[1, 2, 3, 4, 5]).folded();
        assert_eq!(odd, Sum::default().bytes(&[1, 2, 3, 4, 5, 0]).folded());
    }

    #[test]
    fn a_number_counts_like_its_bytes() {
        let number = Sum::default().number(0xabcd).folded();
        assert_eq!(number, Sum::default().bytes(&[0xab, 0xcd]).folded());
    }
}
