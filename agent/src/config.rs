//! The command line and the environment, made into a validated configuration once.

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::{Color, Exporter, LogFormat, LogLevel, Propagate, RunArgs, Tls};
use crate::executables::Executables;
use crate::export::{OtlpConfig, parse_headers};
use crate::kernel::{KernelSettings, Propagation};

/// The smallest ring buffer, in bytes: one burst of a busy host.
const MIN_RING: u32 = 1 << 18;
/// The largest: the kernel's limit for one allocation lies not far above.
const MAX_RING: u32 = 1 << 30;
/// Bounds of the map sizes, in entries.
const ENTRIES: std::ops::RangeInclusive<u32> = 64..=16_777_216;

/// What `run` does.
#[derive(Debug)]
pub(crate) struct RunConfig {
    /// The cgroup in scope; all if `None`.
    pub(crate) cgroup: Option<PathBuf>,
    /// The processes in scope.
    pub(crate) executables: Executables,
    /// What the kernel half is told.
    pub(crate) kernel: KernelSettings,
    /// Where spans go.
    pub(crate) output: Output,
    /// How far the agent stands back.
    pub(crate) nice: i32,
}

/// Where spans go.
#[derive(Debug)]
pub(crate) enum Output {
    /// To standard output.
    Console {
        /// With colours.
        colour: bool,
    },
    /// To a collector.
    Otlp(OtlpConfig),
}

/// How logs are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogConfig {
    /// The least important level.
    pub(crate) level: LogLevel,
    /// The format.
    pub(crate) format: LogFormat,
}

/// What cannot be run, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConfigError(String);

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// Reads an environment variable; an empty one counts as not set, as OpenTelemetry's
/// specification of environment variables says.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl RunConfig {
    /// Validates the arguments.
    ///
    /// # Errors
    ///
    /// If one is out of its range or makes no sense; the message names it.
    pub(crate) fn new(args: &RunArgs) -> Result<Self, ConfigError> {
        let error = |text: String| Err(ConfigError(text));
        if !(0.0..=1.0).contains(&args.sample_ratio) {
            return error(format!(
                "--sample-ratio is {}, it must be from 0 to 1",
                args.sample_ratio
            ));
        }
        if !args.ring_bytes.is_power_of_two() || !(MIN_RING..=MAX_RING).contains(&args.ring_bytes) {
            return error(format!(
                "--ring-bytes is {}, it must be a power of two from {MIN_RING} to {MAX_RING}",
                args.ring_bytes
            ));
        }
        for (flag, value) in
            [("--max-connections", args.max_connections), ("--max-activities", args.max_activities)]
        {
            if !ENTRIES.contains(&value) {
                return error(format!(
                    "{flag} is {value}, it must be from {} to {}",
                    ENTRIES.start(),
                    ENTRIES.end()
                ));
            }
        }
        if !(-20..=19).contains(&args.nice) {
            return error(format!("--nice is {}, it must be from -20 to 19", args.nice));
        }
        let executables =
            Executables::new(&present(&args.include_exe), &present(&args.exclude_exe)).map_err(
                |e| ConfigError(format!("--include-exe or --exclude-exe is no glob: {e}")),
            )?;
        Ok(Self {
            cgroup: args.cgroup.clone(),
            kernel: KernelSettings {
                propagation: propagation(&args.propagate)?,
                tcp_option: tcp_option(args)?,
                sample_ratio: args.sample_ratio,
                include_ports: ports("--include-port", &args.include_port)?,
                exclude_ports: ports("--exclude-port", &args.exclude_port)?,
                processes_listed: executables.are_listed(),
                ring_bytes: args.ring_bytes,
                max_connections: args.max_connections,
                max_activities: args.max_activities,
                tls: args.tls == Tls::Auto,
                rules_off: args.without_rule.iter().map(|&rule| rule.into()).collect(),
                program_times: args.program_times,
            },
            executables,
            output: output(args)?,
            nice: args.nice,
        })
    }
}

/// Which requests get a header.
fn propagation(asked: &[Propagate]) -> Result<Propagation, ConfigError> {
    let headers: Vec<_> = asked.iter().filter(|&&how| how != Propagate::TcpOption).collect();
    match headers[..] {
        [] | [Propagate::Auto] => Ok(Propagation::WhereHarmless),
        [Propagate::Always] => Ok(Propagation::Always),
        [Propagate::Off] => Ok(Propagation::Never),
        _ => Err(ConfigError(
            "--propagate is given more than one of auto, always and off, which exclude each other"
                .to_owned(),
        )),
    }
}

/// Whether contexts go in a TCP option.
fn tcp_option(args: &RunArgs) -> Result<bool, ConfigError> {
    let is_asked = args.propagate.contains(&Propagate::TcpOption);
    if is_asked && args.tls == Tls::Off {
        return Err(ConfigError(
            "--propagate tcp-option is for requests over TLS, which --tls off leaves unread: leave out one of them"
                .to_owned(),
        ));
    }
    if is_asked && args.propagate.contains(&Propagate::Off) {
        return Err(ConfigError(
            "--propagate off writes nothing into traffic, and tcp-option does: leave out one of them"
                .to_owned(),
        ));
    }
    Ok(is_asked)
}

/// An environment variable that is set to nothing gives one empty pattern.
fn present(patterns: &[String]) -> Vec<String> {
    patterns.iter().filter(|p| !p.is_empty()).cloned().collect()
}

fn ports(flag: &str, texts: &[String]) -> Result<Vec<u16>, ConfigError> {
    present(texts)
        .iter()
        .map(|text| match text.trim().parse() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(ConfigError(format!("{flag} is {text:?}, it must be a port from 1 to 65535"))),
        })
        .collect()
}

fn output(args: &RunArgs) -> Result<Output, ConfigError> {
    let endpoint = args
        .otlp_endpoint
        .clone()
        .filter(|e| !e.is_empty())
        .or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT"));
    let headers = args
        .otlp_headers
        .clone()
        .filter(|h| !h.is_empty())
        .or_else(|| variable("OTEL_EXPORTER_OTLP_HEADERS"))
        .map(|text| parse_headers(&text).map_err(|e| ConfigError(format!("--otlp-headers: {e}"))))
        .transpose()?;
    if args.otlp_timeout == 0 {
        return Err(ConfigError(
            "--otlp-timeout is 0, it must be at least 1 (milliseconds)".to_owned(),
        ));
    }
    let exporter = args.exporter.unwrap_or(if endpoint.is_some() {
        Exporter::Otlp
    } else {
        Exporter::Console
    });
    if exporter == Exporter::Console {
        return Ok(Output::Console { colour: wants_colour(args.color) });
    }
    let protocol = variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        .or_else(|| variable("OTEL_EXPORTER_OTLP_PROTOCOL"));
    if let Some(other) = protocol.filter(|p| p != "grpc") {
        return Err(ConfigError(format!(
            "OTEL_EXPORTER_OTLP_PROTOCOL is {other:?}, but Tracewire exports by grpc only: unset it, and give the collector's gRPC endpoint (port 4317)"
        )));
    }
    let mut config =
        OtlpConfig::new(endpoint.unwrap_or_else(|| "http://localhost:4317".to_owned()));
    config.headers = headers.unwrap_or_default();
    config.timeout = Duration::from_millis(args.otlp_timeout);
    Ok(Output::Otlp(config))
}

fn wants_colour(color: Color) -> bool {
    use std::io::IsTerminal;
    match color {
        Color::Always => true,
        Color::Never => false,
        // https://no-color.org
        Color::Auto => variable("NO_COLOR").is_none() && std::io::stdout().is_terminal(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn config(flags: &[&str]) -> Result<RunConfig, ConfigError> {
        let args = ["tracewire", "run"].iter().chain(flags);
        match Cli::try_parse_from(args).expect("the flags exist").command {
            Command::Run(args) => RunConfig::new(&args),
            Command::Check(_) => unreachable!("the arguments say run"),
        }
    }

    #[test]
    fn the_console_is_the_default_and_an_endpoint_means_otlp() {
        assert!(matches!(config(&[]).expect("valid").output, Output::Console { .. }));
        let otlp = config(&["--otlp-endpoint", "http://collector:4317"]).expect("valid");
        assert!(matches!(otlp.output, Output::Otlp(_)));
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        for (flags, name) in [
            (["--sample-ratio", "1.5"], "--sample-ratio"),
            (["--sample-ratio", "NaN"], "--sample-ratio"),
            (["--ring-bytes", "1000000"], "--ring-bytes"),
            (["--ring-bytes", "4096"], "--ring-bytes"),
            (["--max-connections", "0"], "--max-connections"),
            (["--nice", "20"], "--nice"),
            (["--include-port", "0"], "--include-port"),
            (["--exclude-port", "http"], "--exclude-port"),
            (["--include-exe", "[a"], "--include-exe"),
        ] {
            let error = config(&flags).expect_err("out of range");
            assert!(error.0.contains(name), "{error}");
        }
    }

    #[test]
    fn lists_may_be_given_with_commas() {
        let config =
            config(&["--exclude-port", "22,5432", "--exclude-port", "6379"]).expect("valid");
        assert_eq!(config.kernel.exclude_ports, [22, 5432, 6379]);
    }
}
