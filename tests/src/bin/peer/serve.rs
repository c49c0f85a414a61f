//! A server that runs steps on each connection.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use tracewire_tests::script::{Serve, Step};

use crate::socket;
use crate::steps::Connection;

pub(crate) fn run(script: &Serve) -> Result<(), String> {
    let listener = listen(script).map_err(|error| format!("{}: {error}", script.listen))?;
    let script = Arc::new(script.clone());
    for number in 0.. {
        let (stream, _) = listener.accept().map_err(|error| format!("accept: {error}"))?;
        let script = Arc::clone(&script);
        std::thread::spawn(move || {
            let steps = script.connections.get(number).or(script.connections.last());
            let result = Connection::accepted(stream).and_then(|connection| {
                serve(connection, steps.map_or(&[], Vec::as_slice), &script, number)
            });
            println!("closed{number} {}", result.err().unwrap_or_default());
        });
    }
    Ok(())
}

fn listen(script: &Serve) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(script.listen)?;
    if script.defer_accept {
        socket::defer_accept(listener.as_raw_fd())?;
    }
    println!("listening {}", listener.local_addr()?);
    Ok(listener)
}

fn serve(
    mut connection: Connection,
    steps: &[Step],
    script: &Serve,
    number: usize,
) -> Result<(), String> {
    let result = steps.iter().try_for_each(|step| connection.run(step, &mut || {}));
    connection.record(&script.record, number)?;
    result
}
