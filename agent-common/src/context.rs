//! Trace context: ids and flags (W3C Trace Context, level 1).

/// The sampled bit of the trace flags (W3C Trace Context §3.2.2.5.1).
pub const FLAG_SAMPLED: u8 = 0x01;

/// A trace id, a span id and flags. Ids are big-endian numbers, as written in hex.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TraceContext {
    /// The upper half of the trace id.
    pub trace_id_hi: u64,
    /// The lower half of the trace id.
    pub trace_id_lo: u64,
    /// The span (parent) id.
    pub span_id: u64,
    /// The trace flags; only [`FLAG_SAMPLED`] is ever passed on.
    pub flags: u8,
    /// Explicit padding: no byte of a record is left to chance.
    pub pad: [u8; 7],
}

impl TraceContext {
    /// Whether both ids are present: all-zero ids are invalid (W3C §3.2.2.3, §3.2.2.4).
    pub const fn is_valid(&self) -> bool {
        (self.trace_id_hi | self.trace_id_lo) != 0 && self.span_id != 0
    }

    /// Whether the sampled flag is set.
    pub const fn is_sampled(&self) -> bool {
        self.flags & FLAG_SAMPLED != 0
    }

    /// The trace id as bytes in the order of the wire.
    pub const fn trace_id(&self) -> [u8; 16] {
        (((self.trace_id_hi as u128) << 64) | self.trace_id_lo as u128).to_be_bytes()
    }
}

/// Bits of the trace id that carry randomness for consistent sampling
/// (W3C Trace Context level 2, §3.2.2.3: the rightmost 7 bytes).
const RANDOM_BITS: u32 = 56;

/// A sampling threshold: a trace is sampled if the rightmost 56 bits of its id
/// are not below it. `0` samples everything, `1 << 56` nothing.
pub fn sampling_threshold(ratio: f64) -> u64 {
    let full = (1u64 << RANDOM_BITS) as f64;
    // `as` saturates, so a ratio a little outside 0..=1 still gives a legal threshold.
    ((1.0 - ratio.clamp(0.0, 1.0)) * full) as u64
}

/// Whether a trace with this lower half of its id is sampled at `threshold`.
pub const fn is_sampled_at(trace_id_lo: u64, threshold: u64) -> bool {
    trace_id_lo & ((1 << RANDOM_BITS) - 1) >= threshold
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampling_is_consistent_and_hits_its_ratio() {
        assert!(is_sampled_at(0, sampling_threshold(1.0)));
        assert!(!is_sampled_at(u64::MAX, sampling_threshold(0.0)));
        let threshold = sampling_threshold(0.25);
        let mut id = 0x9e37_79b9_7f4a_7c15u64;
        let sampled = (0..100_000)
            .filter(|_| {
                id = id
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                is_sampled_at(id >> 8, threshold)
            })
            .count();
        assert!((24_000..26_000).contains(&sampled), "{sampled}");
    }
}
