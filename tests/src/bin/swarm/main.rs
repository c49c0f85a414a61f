//! Many connections, or many threads, at once; every byte checked at both ends.

mod ask;
mod machine;
mod serve;
mod threads;

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use serde::Serialize;
use tracewire_tests::swarm::{Asked, Served, Work};

/// Mishaps that are told in words.
const TOLD: usize = 10;

fn main() -> ExitCode {
    let work = std::env::args().nth(1).unwrap_or_default();
    let result = match serde_json::from_str(&work) {
        Ok(work) => raise_limit().and_then(|()| run(work)),
        Err(error) => Err(format!("give it one argument, its work as JSON: {error}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("swarm: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(work: Work) -> Result<(), String> {
    let held_up = machine::watch();
    let machine_ms = || held_up.load(Ordering::Relaxed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    match work {
        Work::Serve => {
            let served = runtime.block_on(serve::run())?;
            report(&Served { machine_ms: machine_ms(), ..served })
        }
        Work::Ask(ask) => {
            let asked =
                if ask.threads { threads::run(&ask)? } else { runtime.block_on(ask::run(ask))? };
            report(&Asked { machine_ms: machine_ms(), ..asked })
        }
    }
}

fn report(what: &impl Serialize) -> Result<(), String> {
    println!("done {}", serde_json::to_string(what).map_err(|error| error.to_string())?);
    Ok(())
}

/// As many descriptors as this process may have.
fn raise_limit() -> Result<(), String> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: one `rlimit`, which outlives both calls.
    let result = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
    };
    if result != 0 {
        let error = std::io::Error::last_os_error();
        return Err(format!("cannot have {} descriptors: {error}", limit.rlim_max));
    }
    Ok(())
}

/// Completes when a line comes on standard input; with an error if that ends without one.
fn line_on_stdin() -> tokio::sync::oneshot::Receiver<()> {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        if std::io::stdin().read_line(&mut line).is_ok_and(|count| count == 0) {
            return;
        }
        let _nobody_waits_any_more = tell.send(());
    });
    told
}
