//! The end-to-end tests, built for the guests: the same programs as on the host.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::build_agent::cargo;
use crate::{process, workspace};

/// How much of the end-to-end tests is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Extent {
    /// None: the programs are loaded and attached
    None,
    /// A few that touch every program
    Smoke,
    /// All
    All,
}

/// A file of tests.
#[derive(Clone, Debug)]
pub(crate) struct TestBinary {
    /// The name of its target.
    pub(crate) name: String,
    /// The program.
    pub(crate) program: PathBuf,
    /// Where it is started, as cargo would.
    pub(crate) directory: PathBuf,
    /// Programs that it starts and expects beside it.
    pub(crate) beside: Vec<PathBuf>,
    /// Parts of names: only these tests.
    pub(crate) filters: Vec<String>,
}

/// The smoke tests: every program at work, on real programs and on the exact bytes.
const SMOKE: &[(&str, &str)] = &[
    ("joined_trace", "one_request_through_three_services_is_one_trace"),
    ("bytes", "a_head_split_anywhere_over_two_sends_gets_one_header"),
    ("context", "a_head_of_several_windows_in_one_send_is_told_at_both_ends"),
    ("context", "a_header_passed_through_is_rewritten_in_place"),
    ("life_cycle", "a_program_that_sizes_its_reads_by_fionread_gets_everything"),
    ("life_cycle", "connections_older_than_the_agent_are_read_and_given_headers"),
    ("life_cycle", "a_blocking_client_that_sends_much_and_then_waits_gets_its_answer"),
    ("usage", "a_stopped_agent_leaves_nothing"),
    ("tls", "one_request_over_tls_is_one_trace"),
    ("http2", "calls_over_tls_through_a_proxy_are_one_trace_each"),
    ("tcp_option", "requests_to_a_host_that_reads_contexts_are_joined"),
    ("handover", "pipelined_requests_are_joined_each_to_its_own"),
    ("handover", "by_itself_the_agent_writes_only_where_that_harms_no_connection"),
];

/// The tests of HTTP/2 that need none of the peers that a guest does not have: grpcio, Go, nghttpd.
const HTTP2: [&str; 2] = ["foreign::", "frames::"];

/// Builds the tests and picks those of the extent, or those whose names have one of `only` in
/// them. Gives the programs that come with the tests, too.
///
/// # Errors
///
/// If the build fails, or leaves no test.
pub(crate) fn build(extent: Extent, only: &[String]) -> Result<(Vec<TestBinary>, Vec<PathBuf>)> {
    let messages = process::output(cargo("test").args([
        "--package",
        "tracewire-tests",
        "--no-run",
        "--quiet",
        "--message-format=json",
    ]))?;
    let mut tests = Vec::new();
    let mut programs = Vec::new();
    for line in messages.lines() {
        let message: serde_json::Value =
            serde_json::from_str(line).context("cargo's messages are no JSON")?;
        let Some(program) = message["executable"].as_str() else { continue };
        let name = message["target"]["name"].as_str().unwrap_or_default().to_owned();
        match message["target"]["kind"][0].as_str() {
            Some("test") => tests.push((name, PathBuf::from(program))),
            Some("bin") => programs.push(PathBuf::from(program)),
            _ => {}
        }
    }
    let directory = workspace::root().join("tests");
    let picked: Vec<TestBinary> = tests
        .into_iter()
        .filter_map(|(name, program)| {
            let filters = match extent {
                Extent::Smoke if only.is_empty() => smoke(&name),
                Extent::All if only.is_empty() && name == "http2" => {
                    HTTP2.map(str::to_owned).to_vec()
                }
                _ => only.to_vec(),
            };
            let wanted = match extent {
                Extent::None => false,
                Extent::Smoke => !filters.is_empty(),
                Extent::All => true,
            };
            wanted.then(|| TestBinary {
                name,
                program,
                directory: directory.clone(),
                beside: programs.clone(),
                filters,
            })
        })
        .collect();
    if picked.is_empty() && extent != Extent::None {
        bail!("no tests in {}", Path::new("tests").display());
    }
    Ok((picked, programs))
}

/// The smoke tests of a file.
fn smoke(name: &str) -> Vec<String> {
    SMOKE.iter().filter(|(file, _)| *file == name).map(|(_, test)| (*test).to_owned()).collect()
}

/// The names of all smoke tests.
pub(crate) fn smoke_tests() -> impl Iterator<Item = &'static str> {
    SMOKE.iter().map(|(_, test)| *test)
}
