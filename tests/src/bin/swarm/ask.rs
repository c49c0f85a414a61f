//! The asking end, with all connections on one thread.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Barrier, Semaphore};
use tokio::time::{sleep, timeout};
use tracewire_tests::swarm::{Ask, Asked, answer, head};

/// How long connecting, or an answer, may take: longer than any stall that is a failure.
const PATIENCE: Duration = Duration::from_secs(30);
/// Until local ports are free again that were all in use.
const PORTS_BACK: Duration = Duration::from_millis(20);

/// What the connections share.
struct All {
    ask: Ask,
    until: Cell<Instant>,
    next: Cell<usize>,
    asked: RefCell<Asked>,
    busy: Semaphore,
    /// Where connections wait that are held: those, and who waits for the line.
    gates: [Barrier; 2],
}

pub(crate) async fn run(ask: Ask) -> Result<Asked, String> {
    let workers = if ask.hold { ask.connections } else { ask.at_once };
    let all = Rc::new(All {
        until: Cell::new(Instant::now() + Duration::from_millis(ask.limit_ms)),
        next: Cell::new(0),
        asked: RefCell::default(),
        busy: Semaphore::new(ask.at_once),
        gates: [Barrier::new(workers + 1), Barrier::new(workers + 1)],
        ask,
    });
    let started = Instant::now();
    let mut waited = Duration::ZERO;
    let told = super::line_on_stdin();
    tokio::task::LocalSet::new()
        .run_until(async {
            let tasks: Vec<_> =
                (0..workers).map(|_| tokio::task::spawn_local(work(Rc::clone(&all)))).collect();
            if all.ask.hold {
                all.gates[0].wait().await;
                println!("held");
                let since = Instant::now();
                // An end without a line says the same.
                drop(told.await);
                waited = since.elapsed();
                all.gates[1].wait().await;
            } else {
                let until = Rc::clone(&all);
                tokio::task::spawn_local(async move {
                    if told.await.is_ok() {
                        until.until.set(Instant::now());
                    }
                });
            }
            for task in tasks {
                task.await.map_err(|error| error.to_string())?;
            }
            Ok::<(), String>(())
        })
        .await?;
    let mut asked = all.asked.borrow().clone();
    let elapsed = started.elapsed().saturating_sub(waited);
    asked.elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    Ok(asked)
}

/// Connections one after the other, or one that is held.
async fn work(all: Rc<All>) {
    loop {
        let number = all.next.get();
        if number >= all.ask.connections || (!all.ask.hold && Instant::now() > all.until.get()) {
            return;
        }
        all.next.set(number + 1);
        let done = one_connection(&all, number).await;
        let mut asked = all.asked.borrow_mut();
        match done {
            Ok(()) => asked.connections += 1,
            Err(error) => {
                asked.failed += 1;
                if asked.failures.len() < super::TOLD {
                    asked.failures.push(format!("connection {number}: {error}"));
                }
            }
        }
        drop(asked);
        if all.ask.hold {
            return;
        }
    }
}

async fn one_connection(all: &All, number: usize) -> Result<(), String> {
    let mut opened = first_requests(all, number).await;
    if all.ask.hold {
        // Also one that failed is waited for.
        all.gates[0].wait().await;
        all.gates[1].wait().await;
        if let Ok(stream) = &mut opened {
            let _busy = all.busy.acquire().await.map_err(|error| error.to_string())?;
            requests(all, stream, number).await?;
        }
    }
    opened.map(drop)
}

async fn first_requests(all: &All, number: usize) -> Result<TcpStream, String> {
    let _busy = all.busy.acquire().await.map_err(|error| error.to_string())?;
    let to = all.ask.to.get(number % all.ask.to.len().max(1)).ok_or("nobody to ask")?;
    let mut stream = connect(*to).await.map_err(|error| format!("connect: {error}"))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    requests(all, &mut stream, number).await?;
    Ok(stream)
}

async fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    loop {
        match timeout(PATIENCE, TcpStream::connect(to)).await {
            Ok(Err(error)) if error.kind() == ErrorKind::AddrNotAvailable => {
                sleep(PORTS_BACK).await;
            }
            Ok(result) => return result,
            Err(_) => return Err(ErrorKind::TimedOut.into()),
        }
    }
}

async fn requests(all: &All, stream: &mut TcpStream, number: usize) -> Result<(), String> {
    for request in 0..all.ask.requests {
        if Instant::now() > all.until.get() {
            return Ok(());
        }
        let path = format!("/{number}/{request}");
        let started = Instant::now();
        let exchange = timeout(PATIENCE, exchange(stream, &path)).await;
        exchange
            .unwrap_or_else(|_| Err("no answer".into()))
            .map_err(|error| format!("{path}: {error} after {:?}", started.elapsed()))?;
        let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        {
            let mut asked = all.asked.borrow_mut();
            asked.requests += 1;
            asked.longest_ms = asked.longest_ms.max(took);
        }
        if all.ask.pause_us > 0 {
            sleep(Duration::from_micros(all.ask.pause_us)).await;
        }
    }
    Ok(())
}

async fn exchange(stream: &mut TcpStream, path: &str) -> Result<(), String> {
    let request = format!("{}\r\n", head(path));
    stream.write_all(request.as_bytes()).await.map_err(|error| format!("send: {error}"))?;
    let expected = answer(path);
    let mut received = vec![0; expected.len()];
    stream.read_exact(&mut received).await.map_err(|error| format!("receive: {error}"))?;
    if received != expected.as_bytes() {
        return Err(format!("wrong answer {}", received.escape_ascii()));
    }
    Ok(())
}
