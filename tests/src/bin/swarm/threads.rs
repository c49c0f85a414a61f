//! The asking end, with a thread for each connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracewire_tests::swarm::{Ask, Asked, answer, head};

/// Enough for what a thread does here; ten thousand of them are in one process.
const STACK: usize = 128 * 1024;
/// As for the other swarm.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(ask: &Ask) -> Result<Asked, String> {
    let asked = Arc::new(Mutex::new(Asked::default()));
    // All threads, and this one: after the first requests, and when the line has come.
    let gates = Arc::new([Barrier::new(ask.connections + 1), Barrier::new(ask.connections + 1)]);
    let started = Instant::now();
    let until = started + Duration::from_millis(ask.limit_ms);
    let mut threads = Vec::with_capacity(ask.connections);
    for number in 0..ask.connections {
        let (ask, asked, gates) = (ask.clone(), Arc::clone(&asked), Arc::clone(&gates));
        let thread = std::thread::Builder::new().stack_size(STACK).spawn(move || {
            let mut stream = connect(&ask, number);
            if let Ok(stream) = &mut stream {
                note(&asked, requests(&ask, stream, number, until, &asked));
            }
            gates[0].wait();
            gates[1].wait();
            let last = match &mut stream {
                Ok(stream) if ask.hold => requests(&ask, stream, number, until, &asked),
                Ok(_) => Ok(()),
                Err(error) => Err(error.clone()),
            };
            if last.is_ok() {
                asked.lock().unwrap_or_else(PoisonError::into_inner).connections += 1;
            }
            note(&asked, last);
        });
        threads.push(thread.map_err(|error| format!("thread {number}: {error}"))?);
    }
    gates[0].wait();
    println!("held");
    let since = Instant::now();
    if ask.hold {
        let mut line = String::new();
        // The end of the input says the same as a line.
        drop(std::io::stdin().read_line(&mut line));
    }
    let waited = since.elapsed();
    gates[1].wait();
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked")?;
    }
    let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let elapsed = started.elapsed().saturating_sub(waited);
    asked.elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    Ok(asked)
}

fn note(asked: &Mutex<Asked>, result: Result<(), String>) {
    let Err(error) = result else { return };
    let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
    asked.failed += 1;
    if asked.failures.len() < super::TOLD {
        asked.failures.push(error);
    }
}

fn connect(ask: &Ask, number: usize) -> Result<TcpStream, String> {
    let to = ask.to.get(number % ask.to.len().max(1)).ok_or("nobody to ask")?;
    TcpStream::connect_timeout(to, PATIENCE)
        .and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        })
        .map_err(|error| format!("connection {number}: connect: {error}"))
}

fn requests(
    ask: &Ask,
    stream: &mut TcpStream,
    number: usize,
    until: Instant,
    asked: &Mutex<Asked>,
) -> Result<(), String> {
    for request in 0..ask.requests {
        if Instant::now() > until {
            return Ok(());
        }
        let path = format!("/{number}/{request}");
        let started = Instant::now();
        exchange(stream, &path)
            .map_err(|error| format!("{path}: {error} after {:?}", started.elapsed()))?;
        let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        {
            let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.requests += 1;
            asked.longest_ms = asked.longest_ms.max(took);
        }
        if ask.pause_us > 0 {
            std::thread::sleep(Duration::from_micros(ask.pause_us));
        }
    }
    Ok(())
}

fn exchange(stream: &mut TcpStream, path: &str) -> Result<(), String> {
    let request = format!("{}\r\n", head(path));
    stream.write_all(request.as_bytes()).map_err(|error| format!("send: {error}"))?;
    let expected = answer(path);
    let mut received = vec![0; expected.len()];
    stream.read_exact(&mut received).map_err(|error| format!("receive: {error}"))?;
    if received != expected.as_bytes() {
        return Err(format!("wrong answer {}", received.escape_ascii()));
    }
    Ok(())
}
