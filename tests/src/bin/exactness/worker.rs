//! The process of one end: as many workers as connections at once. Worker `w` of the
//! client and worker `w` of the server have a port to themselves, so connection after
//! connection both know which one it is.

use std::io::{Error, Result, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::Choice;
use crate::endpoint::{self, Tools};
use crate::inbound::Inbound;
use crate::plan::{Plan, Side};
use crate::sys;

/// What an end is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Settings {
    #[command(flatten)]
    choice: Choice,
    /// Which end
    #[arg(long, value_enum)]
    side: Side,
    /// The server's ports, worker by worker
    #[arg(long, value_delimiter = ',')]
    ports: Vec<u16>,
    /// Where files to send from are made
    #[arg(long)]
    directory: PathBuf,
}

/// Runs one end until standard input ends.
pub(crate) fn run(settings: &Settings) -> ExitCode {
    let result = match settings.side {
        Side::Client => connect(settings),
        Side::Server => serve(settings),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("exactness: {:?}: {error}", settings.side);
            ExitCode::FAILURE
        }
    }
}

fn serve(settings: &Settings) -> Result<()> {
    let mut ports = Vec::new();
    for worker in 0..settings.choice.workers {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        ports.push(listener.local_addr()?.port().to_string());
        start(settings, worker, move |_| listener.accept().map(|(stream, _)| stream));
    }
    println!("listening {}", ports.join(","));
    wait_for_end()
}

fn connect(settings: &Settings) -> Result<()> {
    for (worker, port) in (0..).zip(settings.ports.clone()) {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        start(settings, worker, move |plan| open(to, plan));
    }
    wait_for_end()
}

/// Connects, with the receive buffer set before, since it decides about the window.
fn open(to: SocketAddr, plan: &Plan) -> Result<TcpStream> {
    let Some(bytes) = plan.manners(Side::Client).receive_buffer else {
        return TcpStream::connect(to);
    };
    // SAFETY: integers only; the new descriptor is owned by nobody else.
    let stream = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        TcpStream::from_raw_fd(fd)
    };
    sys::set(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)?;
    let SocketAddr::V4(to) = to else { return Err(Error::other("not IPv4")) };
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET.unsigned_abs().try_into().unwrap_or(0),
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*to.ip()).to_be() },
        sin_zero: [0; 8],
    };
    let len = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or(0);
    // SAFETY: pointer and length describe `address`, which outlives the call.
    match unsafe { libc::connect(stream.as_raw_fd(), (&raw const address).cast(), len) } {
        0 => Ok(stream),
        _ => Err(Error::last_os_error()),
    }
}

/// Starts a worker: connection after connection, until the process ends.
fn start(
    settings: &Settings,
    worker: u64,
    mut next: impl FnMut(&Plan) -> Result<TcpStream> + Send + 'static,
) {
    let Settings { choice, side, directory, .. } = settings.clone();
    std::thread::spawn(move || {
        let mut number = worker;
        let spare_verdict = choice.spare_verdict.unwrap_or(false);
        let ended: Result<()> = (|| {
            let mut tools = Tools::new()?;
            let mut inbound = if side == Side::Client { Some(Inbound::new()?) } else { None };
            let mut previous: Option<Plan>;
            let mut plan = None;
            loop {
                // Bytes that were sent by vmsplice stay the sender's pages until the peer
                // has read them. It opens the next connection after that.
                previous = plan.take();
                let this = choice.connection.unwrap_or(number);
                let plan = plan.insert(Plan::new(choice.seed, this, &choice.only, spare_verdict));
                let mut inbound = inbound.as_mut().filter(|_| plan.has_received);
                if let Some(inbound) = &mut inbound {
                    inbound.receive()?;
                }
                let stream = next(plan)?;
                drop(previous.take());
                report(side, this, plan, stream, &mut tools, &directory)?;
                if let Some(inbound) = inbound {
                    inbound.answer()?;
                }
                number += choice.workers;
            }
        })();
        if let Err(error) = ended {
            eprintln!("exactness: {side:?} of connection {number}: {error}");
            std::process::exit(1);
        }
    });
}

fn report(
    side: Side,
    number: u64,
    plan: &Plan,
    stream: TcpStream,
    tools: &mut Tools,
    directory: &Path,
) -> Result<()> {
    let mut report = endpoint::run(side, plan, stream, tools, directory);
    report.number = number;
    let line = serde_json::to_string(&report)?;
    writeln!(std::io::stdout().lock(), "{line}")
}

/// Waits until the judge lets go.
fn wait_for_end() -> Result<()> {
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).map(drop)
}
