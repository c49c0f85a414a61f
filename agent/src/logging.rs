//! Logs, to standard error.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cli::{LogFormat, LogLevel};
use crate::config::LogConfig;

/// Sets up logging for the whole process. To be called once.
pub(crate) fn start(config: LogConfig) {
    let level = match config.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // What libraries say at length is about bytes on their way to the collector, and
    // nobody here decides what of those they quote.
    let libraries = level.min(LevelFilter::WARN);
    let targets =
        Targets::new().with_target(env!("CARGO_CRATE_NAME"), level).with_default(libraries);
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false);
    match config.format {
        LogFormat::Text => builder.with_ansi(false).finish().with(targets).init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().with(targets).init(),
    }
}
