//! Many requests with unique ids, each answer checked.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tracewire_tests::http1::{Message, Reader, find};
use tracewire_tests::process::patience;
use tracewire_tests::script::{Load, LoadReport};

/// Failures that are reported in words.
const FAILURES_TOLD: usize = 10;

pub(crate) fn run(script: &Load) -> Result<(), String> {
    let next = AtomicUsize::new(0);
    let report =
        Mutex::new(LoadReport { requests: 0, failures: Vec::new(), longest_ms: 0, digest: 0 });
    let end = Instant::now() + Duration::from_millis(script.limit_ms);
    std::thread::scope(|scope| {
        for _ in 0..script.threads {
            scope.spawn(|| {
                if let Err(error) = client(script, &next, end, &report) {
                    let mut report = report.lock().unwrap_or_else(|lock| lock.into_inner());
                    if report.failures.len() < FAILURES_TOLD {
                        report.failures.push(error);
                    }
                }
            });
        }
    });
    let report = report.into_inner().unwrap_or_else(|lock| lock.into_inner());
    println!("done {}", serde_json::to_string(&report).map_err(|error| error.to_string())?);
    Ok(())
}

fn client(
    script: &Load,
    next: &AtomicUsize,
    end: Instant,
    report: &Mutex<LoadReport>,
) -> Result<(), String> {
    let mut stream = TcpStream::connect_timeout(&script.to, patience())
        .and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(patience()))?;
            Ok(stream)
        })
        .map_err(|error| format!("connect: {error}"))?;
    let answers = stream.try_clone().map_err(|error| error.to_string())?;
    let mut answers = Reader::new(answers);
    loop {
        let id = next.fetch_add(1, Ordering::Relaxed);
        if id >= script.requests || Instant::now() > end {
            return Ok(());
        }
        let path = format!("{}/{id}", script.path);
        let started = Instant::now();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: load\r\n\r\n").as_bytes())
            .map_err(|error| format!("{path}: send: {error}"))?;
        let answer = answers
            .next(true)
            .map_err(|error| format!("{path}: {error} after {:?}", started.elapsed()))?
            .ok_or_else(|| format!("{path}: closed without an answer"))?;
        let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if answer.start(1) != "200" || find(&answer.body, path.as_bytes()).is_none() {
            let head = answer.head.escape_ascii();
            return Err(format!("{path}: wrong answer {head}{}", answer.body.escape_ascii()));
        }
        let mut report = report.lock().unwrap_or_else(|lock| lock.into_inner());
        report.requests += 1;
        report.longest_ms = report.longest_ms.max(took);
        // A sum, so that the order of the requests does not matter.
        report.digest = report.digest.wrapping_add(digest(&path, &answer));
    }
}

fn digest(path: &str, answer: &Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    answer.start(1).hash(&mut hasher);
    answer.headers().filter(|(name, _)| name != "Date").for_each(|header| header.hash(&mut hasher));
    answer.body.hash(&mut hasher);
    hasher.finish()
}
