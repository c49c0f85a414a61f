//! A running digest of a byte stream (FNV-1a), the same however the stream is cut.

/// A digest so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest {
    state: u64,
    /// Bytes so far.
    pub(crate) len: u64,
}

impl Default for Digest {
    fn default() -> Self {
        Self { state: 0xcbf2_9ce4_8422_2325, len: 0 }
    }
}

impl Digest {
    /// Adds bytes at the end.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.state = (self.state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.len += bytes.len() as u64;
    }

    /// The digest's value.
    pub(crate) fn value(&self) -> u64 {
        self.state
    }

    /// The digest of a whole.
    pub(crate) fn of(bytes: &[u8]) -> u64 {
        let mut digest = Self::default();
        digest.add(bytes);
        digest.value()
    }
}
