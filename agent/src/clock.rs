//! From the kernel's clock to the calendar.
//!
//! Records carry `CLOCK_MONOTONIC` (the clock of `bpf_ktime_get_ns`), OTLP wants
//! nanoseconds since the Unix epoch. The offset between the two changes whenever
//! somebody sets the wall clock, so it is measured again now and then; a span
//! takes one offset for both its ends and can never get a negative duration.

/// How often the offset is measured, in ns of `CLOCK_MONOTONIC`.
const REMEASURE_NS: u64 = 1_000_000_000;

/// Converts monotonic times to Unix times.
#[derive(Debug)]
pub(crate) struct Clock {
    /// Unix time minus monotonic time, in ns.
    offset_ns: i64,
    /// Monotonic time of the last measurement.
    measured_ns: u64,
}

impl Clock {
    /// A clock with a fresh offset.
    pub(crate) fn new() -> Self {
        let mut clock = Self { offset_ns: 0, measured_ns: 0 };
        clock.measure();
        clock
    }

    /// A clock with a given offset that is never measured, for tests.
    #[cfg(test)]
    pub(crate) fn with_offset(offset_ns: i64) -> Self {
        Self { offset_ns, measured_ns: u64::MAX - REMEASURE_NS }
    }

    /// Measures the offset again if it is older than a second.
    pub(crate) fn refresh(&mut self, now_ns: u64) {
        if now_ns >= self.measured_ns + REMEASURE_NS {
            self.measure();
        }
    }

    /// The Unix times of a span's ends, in ns. The end is never before the start.
    pub(crate) fn interval(&self, started_ns: u64, ended_ns: u64) -> (u64, u64) {
        let start = started_ns.saturating_add_signed(self.offset_ns);
        (start, start + ended_ns.saturating_sub(started_ns))
    }

    fn measure(&mut self) {
        // The thread may lose the processor between two readings; of three
        // tries the narrowest bracket is the truest.
        let mut best = u64::MAX;
        for _ in 0..3 {
            let before = monotonic_ns();
            let wall = read_clock(libc::CLOCK_REALTIME);
            let after = monotonic_ns();
            let width = after.saturating_sub(before);
            if width < best {
                best = width;
                self.offset_ns = (wall as i64).wrapping_sub((before + width / 2) as i64);
                self.measured_ns = after;
            }
        }
    }
}

/// `CLOCK_MONOTONIC`, in ns: the time base of all records.
pub(crate) fn monotonic_ns() -> u64 {
    read_clock(libc::CLOCK_MONOTONIC)
}

fn read_clock(id: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the call to fill in. The call cannot
    // fail for these two clocks; if it did, `time` would stay zero.
    unsafe { libc::clock_gettime(id, &mut time) };
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    #[test]
    fn monotonic_time_becomes_wall_time() {
        let clock = Clock::new();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
        let (start, _) = clock.interval(monotonic_ns(), 0);
        assert!(start.abs_diff(wall) < 50_000_000, "{start} against {wall}");
    }

    #[test]
    fn an_end_before_its_start_gives_a_span_of_no_length() {
        let clock = Clock::with_offset(1_000);
        assert_eq!(clock.interval(500, 400), (1_500, 1_500));
        assert_eq!(clock.interval(500, 700), (1_500, 1_700));
    }

    #[test]
    fn a_fresh_offset_is_kept_for_a_second() {
        let mut clock = Clock::new();
        let measured = clock.measured_ns;
        clock.refresh(measured + REMEASURE_NS - 1);
        assert_eq!(clock.measured_ns, measured);
        clock.refresh(measured + REMEASURE_NS);
        assert!(clock.measured_ns > measured);
    }
}
