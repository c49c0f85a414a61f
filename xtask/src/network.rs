//! Ports on loopback.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::ChildGuard;
use crate::signals;

/// `N` different ports that nobody listened on a moment ago.
///
/// # Errors
///
/// If loopback gives none.
pub(crate) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    // All are held until the last is known: else the same port may come twice.
    let listeners = (0..N)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<Vec<_>, _>>()
        .context("cannot find a free port on 127.0.0.1")?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// Waits until `server` listens on `port` of 127.0.0.1.
///
/// # Errors
///
/// If the program ends or takes longer than ten seconds.
pub(crate) fn wait_listening(server: &mut ChildGuard, what: &str, port: u16) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        server.check_alive()?;
        if Instant::now() > end {
            bail!("{what} does not listen on 127.0.0.1:{port} after ten seconds");
        }
        signals::sleep(Duration::from_millis(20))?;
    }
    Ok(())
}
