//! Judges byte exactness: clients and servers of many protocols, in all ways to send and
//! to receive, with and without the agent. `cargo xtask exactness --help`.

mod dialogue;
mod digest;
mod endpoint;
mod inbound;
mod judge;
mod matcher;
mod oracle;
mod plan;
mod protocols;
mod receiver;
mod report;
mod sender;
mod socket;
mod summary;
mod sys;
mod uring;
mod wakeups;
mod ways;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use protocols::Protocol;

/// Judges that the agent changes no byte that it should not.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make connections with and without the agent, and compare
    Judge(judge::Settings),
    /// Be one end of the connections (started by `judge`)
    End(worker::Settings),
    /// Call one end of the connections (started by that)
    Call(inbound::Settings),
    /// Count how a client is woken (started by the wake-up tests)
    Wake(wakeups::Settings),
    /// Show the plan of a connection
    Show(Choice),
}

/// Which connections are made.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Choice {
    /// What all connections are derived from
    #[arg(long)]
    seed: u64,
    /// Only this protocol; several times for several
    #[arg(long, value_enum)]
    only: Vec<Protocol>,
    /// Only this connection, over and over
    #[arg(long)]
    connection: Option<u64>,
    /// Connections at once
    #[arg(long, default_value_t = 12)]
    workers: u64,
    /// Leave out what a verdict program on client sockets is known to break: splice(2) from
    /// a socket, MSG_WAITALL, urgent bytes out of line. `judge` asks the agent's `check`
    /// whether there will be one, unless this is given
    #[arg(long, action = clap::ArgAction::Set)]
    spare_verdict: Option<bool>,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Judge(settings) => judge::run(&settings),
        Command::End(settings) => worker::run(&settings),
        Command::Call(settings) => inbound::run(&settings),
        Command::Wake(settings) => wakeups::run(&settings),
        Command::Show(choice) => {
            let number = choice.connection.unwrap_or(0);
            let spare = choice.spare_verdict.unwrap_or(false);
            println!("{}", plan::Plan::new(choice.seed, number, &choice.only, spare));
            ExitCode::SUCCESS
        }
    }
}
