//! `cargo xtask demo`: three services that know nothing of tracing, one joined trace.

mod services;
mod verdict;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::agent::Agent;
use crate::cgroup::Cgroup;
use crate::progress::say;
use crate::scratch::ScratchDir;
use crate::{build_agent, packages, signals, toolchain};
use services::Services;

/// What `cargo xtask demo` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Requests to send through the services
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    requests: u32,
    /// Leave everything running until Ctrl-C, for requests of your own
    #[arg(long)]
    keep_running: bool,
}

/// Shows the joined trace of nginx, a Python and a Node service.
///
/// # Errors
///
/// If something cannot be had or started, or if the traces are not joined.
pub(crate) fn run(arguments: &Arguments, source: toolchain::Source) -> Result<()> {
    packages::require_root("the demo")?;
    services::provide()?;
    build_agent::build(source)?;

    // Guards go in reverse order: the agent, the services, the cgroup, the directory.
    let scratch = ScratchDir::create("demo")?;
    let cgroup = Cgroup::create("demo")?;
    let services = Services::start(&cgroup, &scratch)?;
    say(format!(
        "services: curl -> nginx (port {}) -> storefront.py -> inventory.js, in {}",
        services.port(),
        cgroup.path().display()
    ));
    let color = if std::io::stdout().is_terminal() { "always" } else { "never" };
    let options = ["--exporter", "console", "--color", color].map(str::to_owned);
    let mut agent = Agent::start(cgroup.path(), &options, true)?;
    say(format!("the agent is attached; sending {} request(s)", arguments.requests));
    for number in 1..=arguments.requests {
        services.request(&cgroup, number)?;
    }
    if arguments.keep_running {
        say(format!(
            "running until Ctrl-C; try `curl http://127.0.0.1:{}/products/7`",
            services.port()
        ));
        while !signals::interrupted() {
            agent.check_alive()?;
            std::thread::sleep(Duration::from_millis(100));
        }
        agent.stop(drop)?;
        return Ok(());
    }
    // A trace is printed when it is complete; at the latest, the agent's end prints it.
    let end = Instant::now() + Duration::from_secs(5);
    while verdict::judge(&agent.output()).traces < arguments.requests as usize
        && Instant::now() < end
    {
        signals::sleep(Duration::from_millis(50))?;
    }
    let stopped = agent.stop(drop)?;
    let verdict = verdict::judge(&stopped.output);
    println!("{verdict}");
    if let Err(reason) = verdict.expect(arguments.requests as usize) {
        let log = stopped.log.join("\n  ");
        bail!("{reason}; the agent's log:\n  {log}");
    }
    Ok(())
}
