//! When a refused request is tried again (OTLP specification, "Failures" of OTLP/gRPC).

use std::error::Error as _;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// The wait before the first retry; doubled for each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
/// The longest wait that is not asked for by the collector.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// What a failure allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// The request will never be taken.
    Never,
    /// It may be taken later; after this time, if the collector said so.
    After(Option<Duration>),
}

/// Whether a failed request may be tried again.
pub(crate) fn classify(status: &Status) -> Retry {
    let wait = || status.get_details_retry_info().and_then(|info| info.retry_delay);
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Retry::After(wait()),
        // Only if the collector says that it can recover.
        Code::ResourceExhausted => match status.get_details_retry_info() {
            Some(info) => Retry::After(info.retry_delay),
            None => Retry::Never,
        },
        // Not the collector's word, but what befell the connection: a status that was
        // received has no cause. A reset in mid-request comes as `Unknown`.
        _ if status.source().is_some() => Retry::After(None),
        _ => Retry::Never,
    }
}

/// The waits between the tries of one request.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    random: RandomState,
    tries: u32,
}

impl Backoff {
    /// Waits from the shortest one on.
    pub(crate) fn new() -> Self {
        Self { next: FIRST_BACKOFF, random: RandomState::new(), tries: 0 }
    }

    /// The next wait: doubled each time, spread by half around its value so that
    /// agents which failed together do not come back together. A wait that the
    /// collector asked for is never shortened.
    pub(crate) fn wait(&mut self, asked: Option<Duration>) -> Duration {
        self.tries += 1;
        let base = self.next;
        self.next = (base * 2).min(MAX_BACKOFF);
        // A keyed hash with a random key is random enough to spread waits.
        let random = f64::from(self.random.hash_one(self.tries) as u32) / f64::from(u32::MAX);
        let wait = base.mul_f64(0.5 + random);
        asked.map_or(wait, |asked| asked.max(wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn codes_are_retried_as_the_specification_says() {
        use Code::*;
        let retryable = [Cancelled, DeadlineExceeded, Aborted, OutOfRange, Unavailable, DataLoss];
        for code in retryable {
            assert_eq!(classify(&Status::new(code, "")), Retry::After(None), "{code:?}");
        }
        let permanent = [
            Unknown,
            InvalidArgument,
            NotFound,
            AlreadyExists,
            PermissionDenied,
            FailedPrecondition,
            Unimplemented,
            Internal,
            Unauthenticated,
            ResourceExhausted,
        ];
        for code in permanent {
            assert_eq!(classify(&Status::new(code, "")), Retry::Never, "{code:?}");
        }
    }

    #[test]
    fn exhaustion_is_retried_only_with_the_collectors_word_for_it() {
        let delay = Some(Duration::from_secs(7));
        let details = ErrorDetails::with_retry_info(delay);
        let status = Status::with_error_details(Code::ResourceExhausted, "slow down", details);
        assert_eq!(classify(&status), Retry::After(delay));
    }

    #[test]
    fn waits_grow_and_stay_bounded() {
        let mut backoff = Backoff::new();
        let mut expected = FIRST_BACKOFF;
        for _ in 0..10 {
            let wait = backoff.wait(None);
            assert!(wait >= expected.mul_f64(0.5) && wait <= expected.mul_f64(1.5), "{wait:?}");
            expected = (expected * 2).min(MAX_BACKOFF);
        }
        assert_eq!(backoff.wait(Some(Duration::from_secs(60))), Duration::from_secs(60));
    }
}
