//! Messages of the kernel half, which has few: what it cannot say by a counter.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};

/// Hands the kernel half's messages to the agent's log.
struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        match record.level() {
            Level::Error => tracing::error!("kernel half: {}", record.args()),
            Level::Warn => tracing::warn!("kernel half: {}", record.args()),
            Level::Info => tracing::info!("kernel half: {}", record.args()),
            Level::Debug | Level::Trace => tracing::debug!("kernel half: {}", record.args()),
        }
    }

    fn flush(&self) {}
}

/// The kernel half's messages.
pub(crate) struct Messages(EbpfLogger<ToTracing>);

impl Messages {
    /// Takes them from a loaded object.
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self> {
        let logger = EbpfLogger::init_with_logger(ebpf, ToTracing)
            .context("the object has no map for its messages")?;
        Ok(Self(logger))
    }

    /// Logs those that came since the last time.
    pub(crate) fn log(&mut self) {
        self.0.flush();
    }
}
