//! Says, inside a virtual machine, what its kernel offers and what a running agent uses of it.
//!
//! It shares no code with the agent, so that both are two opinions on one kernel. What is
//! offered comes from the kernel's symbols and from a trial of its socket map; what is
//! used, from the descriptors that the agent holds. Each answer is a line
//! `offers NAME VALUE` or `uses NAME VALUE` on standard output.

mod fionread;

use std::collections::BTreeSet;
use std::process::ExitCode;

/// Features, and the symbol that a kernel has if it has the feature (`/proc/kallsyms`).
const SYMBOLS: &[(&str, &str)] = &[
    ("ring-buffer", "ringbuf_map_alloc"),
    ("bpf-loop", "bpf_loop"),
    ("socket-storage", "bpf_sk_storage_get"),
    ("socket-storage-in-tracing", "bpf_sk_storage_get_tracing"),
    ("socket-hash", "sock_hash_alloc"),
    ("sock_recv_length", "__traceiter_sock_recv_length"),
    ("tcp_rcv_space_adjust", "__traceiter_tcp_rcv_space_adjust"),
    ("uprobe-multi", "bpf_uprobe_multi_link_attach"),
];

/// Map types by number (`enum bpf_map_type`), as `map_type` in a descriptor's `fdinfo`.
const MAPS: &[(&str, &str)] =
    &[("ring-buffer", "27"), ("socket-storage", "24"), ("socket-hash", "18")];

/// Tracepoints, as `tp_name` in the `fdinfo` of a link.
const TRACEPOINTS: &[&str] = &["sock_recv_length", "tcp_rcv_space_adjust"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["kernel"] => kernel(),
        ["agent", pid] => agent(pid),
        _ => Err("usage: vm-probe kernel | vm-probe agent PID".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vm-probe: {error}");
            ExitCode::FAILURE
        }
    }
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn kernel() -> Result<(), String> {
    let table = std::fs::read_to_string("/proc/kallsyms")
        .map_err(|error| format!("cannot read /proc/kallsyms: {error}"))?;
    let symbols: BTreeSet<&str> =
        table.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    for (feature, symbol) in SYMBOLS {
        println!("offers {feature} {}", yes_no(symbols.contains(symbol)));
    }
    println!("offers fionread {}", fionread::behaviour()?);
    Ok(())
}

fn agent(pid: &str) -> Result<(), String> {
    let directory = format!("/proc/{pid}/fdinfo");
    let entries = std::fs::read_dir(&directory)
        .map_err(|error| format!("cannot read {directory}: {error}"))?;
    let mut facts = BTreeSet::new();
    for entry in entries.flatten() {
        // A descriptor may be closed meanwhile; then it is not used.
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        for line in text.lines() {
            if let Some((key @ ("map_type" | "tp_name"), value)) = line.split_once(':') {
                facts.insert((key.to_owned(), value.trim().to_owned()));
            }
        }
    }
    let has = |key: &str, value: &str| facts.contains(&(key.to_owned(), value.to_owned()));
    for (feature, kind) in MAPS {
        println!("uses {feature} {}", yes_no(has("map_type", kind)));
    }
    for tracepoint in TRACEPOINTS {
        println!("uses {tracepoint} {}", yes_no(has("tp_name", tracepoint)));
    }
    Ok(())
}
