//! What is said when the agent panics: where, and no more of what than is its own.
//!
//! The message of a panic may hold what the agent was working on. A string that is cut
//! inside a character, for one, is quoted as a whole.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::Write as _;

use crate::cli::LogFormat;

/// Stands for a message that was made at run time.
const WITHHELD: &str = "its message is withheld, since it may hold traffic";

/// From now on panics are reported on standard error, in the format of the log.
pub(crate) fn report_briefly(format: LogFormat) {
    std::panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let place = info.location().map_or_else(String::new, |place| format!(" at {place}"));
        let text = format!(
            "thread {thread} panicked{place}: {}; this is a fault of Tracewire's, please report it",
            message(info.payload())
        );
        // Only if RUST_BACKTRACE asks for it; names of functions, and no values.
        let trace = Backtrace::capture();
        let trace = (trace.status() == BacktraceStatus::Captured).then(|| trace.to_string());
        match format {
            LogFormat::Json => {
                let line =
                    serde_json::json!({"level": "ERROR", "message": text, "backtrace": trace});
                say(&line.to_string());
            }
            LogFormat::Text => {
                say(&format!("error: {text}"));
                if let Some(trace) = trace {
                    say(&trace);
                }
            }
        }
    }));
}

/// Writes a line to standard error. That it may be closed must not be a second panic.
fn say(line: &str) {
    let _nobody_listens = writeln!(std::io::stderr(), "{line}");
}

/// The message, if it stands in the source as it is.
fn message(payload: &(dyn Any + Send)) -> &'static str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or(WITHHELD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_from_the_source_is_said() {
        let payload = std::panic::catch_unwind(|| panic!("the invariant is gone"));
        assert_eq!(message(&*payload.expect_err("it panics")), "the invariant is gone");
    }

    #[test]
    fn a_message_that_quotes_what_was_worked_on_is_withheld() {
        let head = String::from("GET /é?token=secret HTTP/1.1");
        let payload = std::panic::catch_unwind(|| head[..6].len());
        let payload = payload.expect_err("the cut is inside a character");
        let said = payload.downcast_ref::<String>().expect("it is made at run time");
        assert!(said.contains("secret"), "the standard library quotes no more: {said}");
        assert_eq!(message(&*payload), WITHHELD);
    }
}
