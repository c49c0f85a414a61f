//! SIGINT and SIGTERM: noted, not obeyed at once, so that every guard still runs.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The signal that arrived, or 0.
static RECEIVED: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: libc::c_int) {
    RECEIVED.store(signal, Ordering::Relaxed);
}

/// Takes SIGINT, SIGTERM and SIGHUP over. Call once, before anything is started.
pub(crate) fn install() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: an all-zero `sigaction` is a valid value (empty mask, no flags).
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = note as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: `action` is initialised, and the handler only stores to an
        // atomic, which is async-signal-safe.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
}

/// Whether someone asked for an end.
pub(crate) fn interrupted() -> bool {
    RECEIVED.load(Ordering::Relaxed) != 0
}

/// The exit code that shells expect after the signal: 128 and its number.
pub(crate) fn exit_code() -> Option<u8> {
    match RECEIVED.load(Ordering::Relaxed) {
        0 => None,
        signal => u8::try_from(128 + signal).ok(),
    }
}

/// Fails if someone asked for an end.
///
/// # Errors
///
/// After SIGINT, SIGTERM or SIGHUP.
pub(crate) fn check() -> Result<()> {
    if interrupted() {
        bail!("interrupted; what was started has been ended and removed");
    }
    Ok(())
}

/// Sleeps, but not through a signal.
///
/// # Errors
///
/// As [`check`].
pub(crate) fn sleep(span: Duration) -> Result<()> {
    let end = Instant::now() + span;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(20)));
    }
}
