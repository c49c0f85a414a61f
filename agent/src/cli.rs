//! The command line, as it is typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracewire_common::outcome::Correlation;

/// Distributed traces for services whose code nobody touches.
#[derive(Debug, Parser)]
#[command(name = "tracewire", version, propagate_version = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Trace the services of a cgroup until told to stop.
    Run(Box<RunArgs>),
    /// Say what this machine offers, what is missing, and what to do about it.
    Check(CheckArgs),
}

/// Which requests are given a trace context, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Propagate {
    /// All, where the kernel does no harm to the connections.
    Auto,
    /// All, also where it does.
    #[value(alias = "http1")]
    Always,
    /// None: nothing is ever written into traffic.
    Off,
    /// Besides, those over TLS to hosts with an agent that does so too: in a TCP option.
    TcpOption,
}

/// A rule that finds the parent of a request which a process sends or receives, as
/// `tracewire.correlation` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rule {
    /// The task received the parent's request.
    Receive,
    /// The task received the response to a request of the same parent.
    Reply,
    /// The parent's task opened the connection.
    Connect,
    /// The task was started by one that worked for the parent.
    Birth,
    /// The client's end of the connection is on this host, and said so.
    Local,
    /// The task is a prompt event loop, and received something of the parent's last.
    Turn,
    /// The goroutine that makes the call received the parent's request. Without it, Go programs
    /// are looked at by their threads.
    Goroutine,
    /// The Python context (asyncio task, callback) that makes the call is at work for the parent's
    /// request. Without it, Python is looked at by its threads, and "queue" is off as well.
    PythonContext,
    /// The thread of a pool took a job that was put in a queue for the parent.
    Queue,
    /// The tokio task that makes the call received the parent's request. Without it, programs on tokio
    /// are looked at by their threads.
    TokioTask,
    /// The request carries the context with which the parent's request came.
    PassedOn,
    /// The thread was seen to take the parent's request up, whoever received it.
    TakenUp,
}

impl From<Rule> for Correlation {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::Receive => Self::Receive,
            Rule::Reply => Self::Reply,
            Rule::Connect => Self::Connect,
            Rule::Birth => Self::Birth,
            Rule::Local => Self::Local,
            Rule::Turn => Self::Turn,
            Rule::Goroutine => Self::Goroutine,
            Rule::PythonContext => Self::PythonContext,
            Rule::Queue => Self::Queue,
            Rule::TokioTask => Self::TokioTask,
            Rule::PassedOn => Self::PassedOn,
            Rule::TakenUp => Self::TakenUp,
        }
    }
}

/// Whether plaintext is read in TLS libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tls {
    /// Where the kernel has the probes that it takes.
    Auto,
    /// No.
    Off,
}

/// Where spans go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Exporter {
    /// To standard output, each trace as a waterfall.
    Console,
    /// To a collector, by OTLP over gRPC.
    Otlp,
}

/// When the console uses colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The least important messages that are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    /// What failed.
    Error,
    /// What may hurt.
    Warn,
    /// What happens.
    Info,
    /// What helps to find a fault.
    Debug,
    /// Everything.
    Trace,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Arguments of `run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Trace the processes of this cgroup (v2) and those below it [default: all].
    #[arg(long, env = "TRACEWIRE_CGROUP", value_name = "PATH")]
    pub(crate) cgroup: Option<PathBuf>,

    /// Trace only processes whose executable matches; a glob, on the name or, with a
    /// slash in it, on the path. May be given several times, or as a list with commas.
    #[arg(long, env = "TRACEWIRE_INCLUDE_EXE", value_name = "GLOB", value_delimiter = ',')]
    pub(crate) include_exe: Vec<String>,

    /// Leave processes alone whose executable matches.
    #[arg(long, env = "TRACEWIRE_EXCLUDE_EXE", value_name = "GLOB", value_delimiter = ',')]
    pub(crate) exclude_exe: Vec<String>,

    /// Trace only connections to this service port.
    #[arg(long, env = "TRACEWIRE_INCLUDE_PORT", value_name = "PORT", value_delimiter = ',')]
    pub(crate) include_port: Vec<String>,

    /// Leave connections to this service port alone.
    #[arg(long, env = "TRACEWIRE_EXCLUDE_PORT", value_name = "PORT", value_delimiter = ',')]
    pub(crate) exclude_port: Vec<String>,

    /// Which requests are given a trace context, and how. Requests between services on one host are
    /// joined in any case. May be a list with commas, as `auto,tcp-option`.
    #[arg(
        long,
        env = "TRACEWIRE_PROPAGATE",
        value_enum,
        value_name = "HOW",
        value_delimiter = ',',
        default_value = "auto"
    )]
    pub(crate) propagate: Vec<Propagate>,

    /// Find no parents by this rule. May be given several times, or as a list with commas.
    #[arg(
        long,
        env = "TRACEWIRE_WITHOUT_RULE",
        value_enum,
        value_name = "RULE",
        value_delimiter = ','
    )]
    pub(crate) without_rule: Vec<Rule>,

    /// Whether requests over TLS are read, in the processes' TLS libraries.
    #[arg(long, env = "TRACEWIRE_TLS", value_enum, default_value = "auto")]
    pub(crate) tls: Tls,

    /// Where spans go [default: console, or otlp if an endpoint is given].
    #[arg(long, env = "OTEL_TRACES_EXPORTER", value_enum)]
    pub(crate) exporter: Option<Exporter>,

    /// The collector, as http://HOST:PORT or https://HOST:PORT [default: http://localhost:4317].
    /// OTEL_EXPORTER_OTLP_ENDPOINT is used if the variable for traces is not set.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", value_name = "URL")]
    pub(crate) otlp_endpoint: Option<String>,

    /// Headers for the collector, as NAME=VALUE,… (values percent-encoded).
    /// OTEL_EXPORTER_OTLP_HEADERS is used if the variable for traces is not set.
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        value_name = "LIST",
        hide_env_values = true
    )]
    pub(crate) otlp_headers: Option<String>,

    /// The longest that one export may take, in milliseconds.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TIMEOUT", value_name = "MS", default_value_t = 10_000)]
    pub(crate) otlp_timeout: u64,

    /// The share of new traces that is sampled, 0 to 1. What a caller decided is respected.
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", value_name = "RATIO", default_value_t = 1.0)]
    pub(crate) sample_ratio: f64,

    /// When the console uses colours.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) color: Color,

    /// The least important messages that are logged.
    #[arg(long, env = "TRACEWIRE_LOG", value_enum, default_value = "info")]
    pub(crate) log_level: LogLevel,

    /// How logs are written.
    #[arg(long, env = "TRACEWIRE_LOG_FORMAT", value_enum, default_value = "text")]
    pub(crate) log_format: LogFormat,

    /// The ring buffer between the kernel and the agent, in bytes; a power of two.
    #[arg(long, env = "TRACEWIRE_RING_BYTES", value_name = "BYTES", default_value_t = 8 << 20)]
    pub(crate) ring_bytes: u32,

    /// Client connections that can be given headers at once.
    #[arg(long, env = "TRACEWIRE_MAX_CONNECTIONS", value_name = "N", default_value_t = 65_536)]
    pub(crate) max_connections: u32,

    /// Requests and tasks that can be followed at once.
    #[arg(long, env = "TRACEWIRE_MAX_ACTIVITIES", value_name = "N", default_value_t = 65_536)]
    pub(crate) max_activities: u32,

    /// Count and time the runs of the kernel half's programs, and log them with the
    /// counters. The kernel then times every BPF program of the host, which costs.
    #[arg(
        long,
        env = "TRACEWIRE_PROGRAM_TIMES",
        value_parser = clap::builder::BoolishValueParser::new()
    )]
    pub(crate) program_times: bool,

    /// How far the agent stands back behind the workload once it is attached, as in nice(1).
    #[arg(
        long,
        env = "TRACEWIRE_NICE",
        value_name = "N",
        default_value_t = 19,
        allow_negative_numbers = true
    )]
    pub(crate) nice: i32,
}

/// Arguments of `check`.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// The cgroup (v2) that `run` is to trace [default: all].
    #[arg(long, env = "TRACEWIRE_CGROUP", value_name = "PATH")]
    pub(crate) cgroup: Option<PathBuf>,

    /// Say instead what can be read of this process, and what of it is read now.
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pid: Option<u32>,
}
