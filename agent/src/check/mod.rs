//! `tracewire check`: what every feature needs, whether it is there, what to do if not.

pub(crate) mod process;

use std::cell::Cell;
use std::io::Write as _;
use std::path::Path;

use crate::kernel::{Readability, Scope, requirements, try_all};
use crate::privileges;

/// Prints the report. Answers whether `run` can work.
pub(crate) fn check(cgroup: Option<&Path>) -> bool {
    let works = Cell::new(true);
    let say = |ok: bool, name: &str, text: &str| {
        works.set(works.get() && ok);
        line(&format!("{} {name}: {text}", if ok { "ok     " } else { "MISSING" }));
    };

    let capabilities = privileges::report();
    for one in &capabilities {
        match (one.held, one.optional) {
            (false, true) => line(&format!("off     {}: {}", one.name, one.text)),
            (held, _) => say(held, one.name, &one.text),
        }
    }
    if capabilities.iter().any(|one| !one.held) {
        line(&format!("        To give Tracewire a capability: {}", privileges::HOW));
    }
    for requirement in requirements() {
        match requirement.state {
            Ok(found) => {
                say(true, requirement.name, &format!("{found} (to {})", requirement.purpose));
            }
            Err(problem) => say(false, requirement.name, &problem),
        }
    }
    match Scope::claim(cgroup) {
        Ok(scope) => say(true, "cgroup", &format!("{} is free", scope.path.display())),
        Err(error) => say(false, "cgroup", &error.to_string()),
    }
    if !works.get() {
        // Programs cannot load without what is missing.
        line("\nTracewire cannot run here until what is missing is there.");
        return false;
    }
    let trial = match try_all() {
        Ok(trial) => trial,
        Err(error) => {
            say(false, "programs", &format!("{error:#}"));
            return false;
        }
    };
    let receives = trial
        .programs
        .iter()
        .any(|p| p.name.starts_with("associate_receiver") && p.error.is_none());
    for program in &trial.programs {
        match &program.error {
            None => {
                let walked = program.verified.map_or_else(String::new, |number| {
                    format!("; the verifier walked {number} instructions")
                });
                say(true, program.name, &format!("loads (to {}{walked})", program.purpose));
            }
            Some(error) if program.optional => {
                line(&format!("off     {}: cannot {}: {error}", program.name, program.purpose));
            }
            Some(error) => {
                say(false, program.name, &format!("cannot {}: {error}", program.purpose));
            }
        }
    }
    if !receives {
        say(
            false,
            "receive association",
            "neither tracepoint can be used, so no request can be given a parent",
        );
    }
    let propagates =
        trial.programs.iter().all(|p| !p.name.starts_with("rewrite_") || p.error.is_none());
    let propagation = match trial.readability {
        Ok(Readability::Right) if propagates => Ok("FIONREAD stays right on enrolled sockets"),
        Ok(Readability::Restored) if propagates => {
            Ok("this kernel breaks FIONREAD on enrolled sockets, so by default no request is given a header, and only services on this host are joined; with --propagate always a verdict program restores it, and harms connections (README, Kernels)")
        }
        Ok(_) => Err("this kernel breaks FIONREAD on enrolled sockets, or refuses the program: use --propagate off".to_owned()),
        Err(error) => Err(format!("{error}: use --propagate off")),
    };
    match propagation {
        Ok(text) => say(true, "propagation", text),
        // Reading works all the same, but `run` must be told.
        Err(text) => say(false, "propagation", &text),
    }
    line(&format!("\nTracewire {} run here.", if works.get() { "can" } else { "cannot" }));
    works.get()
}

/// A line of the report. Who stops reading (`check | head`) has read enough.
fn line(text: &str) {
    let _nobody_reads = writeln!(std::io::stdout(), "{text}");
}
