//! From the kernel's clock to the calendar.
//!
//! Records carry `CLOCK_MONOTONIC` (the clock of `bpf_ktime_get_ns`), OTLP wants
//! nanoseconds since the Unix epoch. The offset between the two changes whenever
//! somebody sets the wall clock, so it is measured again now and then; a span
//! takes one offset for both its ends and can never get a negative duration.

use std::sync::LazyLock;

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
        (start, start.saturating_add(ended_ns.saturating_sub(started_ns)))
    }

    fn measure(&mut self) {
        self.measure_by(|id| match id {
            libc::CLOCK_MONOTONIC => monotonic_ns(),
            other => read_clock(other),
        });
    }

    fn measure_by(&mut self, mut read: impl FnMut(libc::clockid_t) -> u64) {
        // The thread may lose the processor between two readings; of three
        // tries the narrowest bracket is the truest.
        let mut best = u64::MAX;
        for _ in 0..3 {
            let before = read(libc::CLOCK_MONOTONIC);
            let wall = read(libc::CLOCK_REALTIME);
            let after = read(libc::CLOCK_MONOTONIC);
            let width = after.saturating_sub(before);
            if width < best {
                best = width;
                self.offset_ns = (wall as i64).wrapping_sub((before + width / 2) as i64);
                self.measured_ns = after;
            }
        }
    }
}

/// `CLOCK_MONOTONIC` of the host, in ns: the time base of all records.
pub(crate) fn monotonic_ns() -> u64 {
    read_clock(libc::CLOCK_MONOTONIC).wrapping_sub(*NAMESPACE_OFFSET as u64)
}

/// How far this process's monotonic clock is ahead of the host's, in ns: a container may
/// have a time namespace, of which the kernel half knows nothing.
static NAMESPACE_OFFSET: LazyLock<i64> = LazyLock::new(|| {
    let text = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    // Kernels before 5.6 have neither the file nor such namespaces.
    monotonic_offset(&text).unwrap_or(0)
});

/// `time_namespaces(7)`: a line for each clock, of its name, seconds and nanoseconds.
fn monotonic_offset(text: &str) -> Option<i64> {
    text.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        (fields.next() == Some("monotonic")).then_some(())?;
        let (seconds, ns): (i64, i64) =
            (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        seconds.checked_mul(1_000_000_000)?.checked_add(ns)
    })
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

    /// A machine whose wall clock was set so much later, or earlier, than at the start.
    fn read_after_a_step(monotonic: u64, wall: i64) -> impl FnMut(libc::clockid_t) -> u64 {
        let mut monotonic = monotonic;
        move |id| {
            monotonic += 10;
            let step = if id == libc::CLOCK_REALTIME { wall } else { 0 };
            monotonic.wrapping_add_signed(step)
        }
    }

    #[test]
    fn a_step_of_the_wall_clock_moves_later_spans_and_stretches_none() {
        const HOUR: i64 = 3600 * 1_000_000_000;
        let mut clock = Clock::with_offset(0);
        for wall in [50 * HOUR, 51 * HOUR, 2 * HOUR, 0] {
            clock.measure_by(read_after_a_step(1_000, wall));
            let (start, end) = clock.interval(5_000, 7_000);
            assert!(start.abs_diff(wall as u64 + 5_000) <= 20, "{start} after a step to {wall}");
            assert_eq!(end - start, 2_000);
        }
    }

    #[test]
    fn a_wall_clock_before_1970_gives_times_that_can_be_written() {
        let mut clock = Clock::with_offset(0);
        clock.measure_by(read_after_a_step(1_000_000, -900_000_000));
        assert_eq!(clock.interval(5_000, 7_000), (0, 2_000));
        clock.measure_by(read_after_a_step(1_000_000, i64::MAX));
        let (start, end) = clock.interval(u64::MAX - 5, u64::MAX);
        assert!(start <= end);
    }

    #[test]
    fn a_step_is_noticed_within_a_second() {
        let mut clock = Clock::new();
        let (right, measured) = (clock.offset_ns, clock.measured_ns);
        // As if the wall clock had stood an hour earlier when it was measured.
        clock.offset_ns -= 3600 * 1_000_000_000;
        clock.refresh(measured + REMEASURE_NS);
        assert!(clock.offset_ns.abs_diff(right) < 50_000_000, "{}", clock.offset_ns);
    }

    #[test]
    fn the_offset_of_a_time_namespace_is_read() {
        let text = "monotonic           3600         5\nboottime      7         0\n";
        assert_eq!(monotonic_offset(text), Some(3_600_000_000_005));
        assert_eq!(monotonic_offset("monotonic -1 999999999\n"), Some(-1));
        assert_eq!(monotonic_offset(""), None);
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
