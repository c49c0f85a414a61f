//! Running steps on a connection.

use std::io::{BufRead, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use tracewire_tests::http1::find;
use tracewire_tests::process::patient;
use tracewire_tests::script::{Bytes, Send, Step, fill};

use crate::socket;

/// The longest that one step may take, on a machine of ordinary speed.
const LIMIT: Duration = Duration::from_secs(45);

/// A connection, and everything received on it.
#[derive(Default)]
pub(crate) struct Connection {
    stream: Option<TcpStream>,
    received: Vec<u8>,
    // Patterns are looked for from here.
    mark: usize,
}

impl Connection {
    pub(crate) fn accepted(stream: TcpStream) -> Result<Self, String> {
        let mut connection = Self::default();
        connection.set(stream).map_err(|error| error.to_string())?;
        Ok(connection)
    }

    fn set(&mut self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patient(LIMIT)))?;
        stream.set_write_timeout(Some(patient(LIMIT)))?;
        self.stream = Some(stream);
        Ok(())
    }

    pub(crate) fn record(&self, directory: &Path, number: usize) -> Result<(), String> {
        std::fs::write(directory.join(number.to_string()), &self.received)
            .map_err(|error| format!("cannot record connection {number}: {error}"))
    }

    pub(crate) fn run(&mut self, step: &Step, gate: &mut dyn FnMut()) -> Result<(), String> {
        self.try_run(step, gate).map_err(|error| {
            let tail = &self.received[self.received.len().saturating_sub(200)..];
            format!(
                "{step:?}: {error}; {} bytes received, the last: {}",
                self.received.len(),
                tail.escape_ascii()
            )
        })
    }

    fn try_run(&mut self, step: &Step, gate: &mut dyn FnMut()) -> std::io::Result<()> {
        match step {
            Step::Connect(to) => return self.set(TcpStream::connect_timeout(to, patient(LIMIT))?),
            Step::Gate => gate(),
            Step::Pause(milliseconds) => std::thread::sleep(Duration::from_millis(*milliseconds)),
            Step::Close => self.stream = None,
            Step::Reset => {
                if let Some(stream) = self.stream.take() {
                    socket::reset_on_close(&stream)?;
                }
            }
            _ => return self.transfer(step),
        }
        Ok(())
    }

    fn transfer(&mut self, step: &Step) -> std::io::Result<()> {
        let Self { stream, received, mark } = self;
        let stream = stream.as_mut().ok_or(ErrorKind::NotConnected)?;
        match step {
            Step::Send(Bytes(bytes)) => stream.write_all(bytes),
            Step::SendMore(Bytes(bytes)) => {
                let sent = socket::send(stream, bytes, libc::MSG_MORE)?;
                stream.write_all(&bytes[sent..])
            }
            Step::SendVector(pieces) => send_vector(stream, pieces),
            Step::SendFill { len, nonblocking } => send_fill(stream, *len, *nonblocking),
            Step::Until { pattern: Bytes(pattern), times } => {
                for _ in 0..*times {
                    loop {
                        if let Some(at) = find(&received[*mark..], pattern) {
                            *mark += at + pattern.len();
                            break;
                        }
                        read(stream, received, 64 * 1024)?;
                    }
                }
                Ok(())
            }
            Step::UntilMore(more) => {
                *mark += more;
                while received.len() < *mark {
                    read(stream, received, 64 * 1024)?;
                }
                Ok(())
            }
            Step::UntilMoreSlowly(more) => {
                *mark += more;
                while received.len() < *mark {
                    std::thread::sleep(Duration::from_millis(1));
                    read(stream, received, 16 * 1024)?;
                }
                Ok(())
            }
            Step::UntilMoreByFionread(more) => {
                *mark += more;
                while received.len() < *mark {
                    let waiting = wait_fionread(stream)?;
                    read(stream, received, waiting)?;
                }
                Ok(())
            }
            Step::UntilClosed => loop {
                match read(stream, received, 64 * 1024) {
                    Ok(()) => {}
                    Err(error) if is_end(&error) => return Ok(()),
                    Err(error) => return Err(error),
                }
            },
            Step::Echo => loop {
                let from = received.len();
                match read(stream, received, 64 * 1024) {
                    Ok(()) => stream.write_all(&received[from..])?,
                    Err(error) if is_end(&error) => return Ok(()),
                    Err(error) => return Err(error),
                }
            },
            Step::HalfClose => stream.shutdown(Shutdown::Write),
            Step::SendBuffer(bytes) => socket::set_send_buffer(stream, *bytes),
            Step::Connect(_) | Step::Gate | Step::Pause(_) | Step::Close | Step::Reset => Ok(()),
        }
    }
}

fn is_end(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset)
}

fn read(stream: &mut TcpStream, received: &mut Vec<u8>, len: usize) -> std::io::Result<()> {
    // As most runtimes do. On kernels that need a verdict program on the socket map, a
    // `recv()` that is blocked when a reset arrives fails with EAGAIN (tcp_bpf.c).
    socket::wait(stream, libc::POLLIN, patient(LIMIT))?;
    let from = received.len();
    received.resize(from + len, 0);
    let result = stream.read(&mut received[from..]);
    received.truncate(from + *result.as_ref().unwrap_or(&0));
    match result {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What a program does that sizes its reads by FIONREAD: zero after "readable" means the end.
fn wait_fionread(stream: &TcpStream) -> std::io::Result<usize> {
    socket::wait(stream, libc::POLLIN, patient(LIMIT))?;
    match socket::fionread(stream)? {
        0 => Err(std::io::Error::other("FIONREAD says 0 on a readable socket")),
        waiting => Ok(waiting),
    }
}

fn send_vector(stream: &mut TcpStream, pieces: &[Bytes]) -> std::io::Result<()> {
    let slices: Vec<IoSlice<'_>> = pieces.iter().map(|Bytes(bytes)| IoSlice::new(bytes)).collect();
    let sent = stream.write_vectored(&slices)?;
    let all: Vec<u8> = pieces.iter().flat_map(|Bytes(bytes)| bytes.iter().copied()).collect();
    stream.write_all(&all[sent..])
}

fn send_fill(stream: &mut TcpStream, len: usize, nonblocking: bool) -> std::io::Result<()> {
    let bytes = fill(len);
    if !nonblocking {
        return bytes.chunks(64 * 1024).try_for_each(|piece| stream.write_all(piece));
    }
    let started = Instant::now();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        if started.elapsed() > patient(LIMIT) {
            return Err(ErrorKind::TimedOut.into());
        }
        match socket::send(stream, &rest[..rest.len().min(64 * 1024)], libc::MSG_DONTWAIT) {
            Ok(sent) => rest = &rest[sent..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                socket::wait(stream, libc::POLLOUT, patient(LIMIT))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Runs the steps of a client, on its numbered connections.
pub(crate) fn run_client(script: &Send) -> Result<(), String> {
    let count = script.steps.iter().map(|(number, _)| number + 1).max().unwrap_or(0);
    let mut connections: Vec<Connection> = (0..count).map(|_| Connection::default()).collect();
    let mut gates = 0;
    let mut gate = || {
        println!("gate{gates}");
        gates += 1;
        // A closed input opens every gate: whoever waited is gone.
        drop(std::io::stdin().lock().read_line(&mut String::new()));
    };
    let result = script.steps.iter().enumerate().try_for_each(|(at, (number, step))| {
        connections[*number]
            .run(step, &mut gate)
            .map_err(|error| format!("step {at}, connection {number}, {error}"))
    });
    for (number, connection) in connections.iter().enumerate() {
        connection.record(&script.record, number)?;
    }
    if result.is_ok() {
        println!("done");
    }
    result
}
