//! The client: calls on a few connections, many at once, each answer checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tracewire_tests::grpc::Asked;

use crate::Outcome;
use crate::raw::Raw;

/// What is asked, and how much of it.
#[derive(Debug, clap::Args)]
pub(crate) struct Ask {
    /// The server's port on the loopback interface
    #[arg(long)]
    port: u16,
    /// Connections
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Calls at once on each connection
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Calls in all
    #[arg(long, default_value_t = u64::MAX)]
    calls: u64,
    /// The longest time, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Bytes in each request's message
    #[arg(long, default_value_t = 0)]
    bytes: usize,
}

/// One unary call.
pub(crate) async fn call(
    channel: Channel,
    path: &str,
    message: Vec<u8>,
) -> Result<Vec<u8>, Status> {
    let path = PathAndQuery::try_from(path).map_err(|error| Status::internal(error.to_string()))?;
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(client.unary(Request::new(message), path, Raw).await?.into_inner())
}

impl Ask {
    /// Asks, and prints `done` with an [`Asked`] as JSON.
    ///
    /// # Errors
    ///
    /// If it cannot connect.
    pub(crate) async fn run(self) -> Outcome<()> {
        let ask = Arc::new(self);
        let next = Arc::new(AtomicU64::new(0));
        let start = Instant::now();
        let deadline = start + Duration::from_secs(ask.seconds);
        let mut tasks = Vec::new();
        for _ in 0..ask.connections {
            let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", ask.port))?;
            let channel = endpoint.connect().await?;
            for _ in 0..ask.streams {
                let (ask, next) = (Arc::clone(&ask), Arc::clone(&next));
                tasks.push(tokio::spawn(ask.one_after_another(channel.clone(), next, deadline)));
            }
        }
        let mut asked = Asked::default();
        let mut times = Vec::new();
        for task in tasks {
            let part = task.await?;
            times.extend(part.times_us);
            asked.failed += part.failures.len() as u64;
            asked.failures.extend(part.failures);
        }
        asked.failures.truncate(10);
        asked.elapsed_ms = u64::try_from(start.elapsed().as_millis())?;
        times.sort_unstable();
        let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
        (asked.calls, asked.p50_us, asked.p99_us) = (times.len() as u64, at(50), at(99));
        println!("done {}", serde_json::to_string(&asked)?);
        Ok(())
    }

    async fn one_after_another(
        self: Arc<Self>,
        channel: Channel,
        next: Arc<AtomicU64>,
        deadline: Instant,
    ) -> Part {
        let mut part = Part::default();
        while Instant::now() < deadline {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= self.calls {
                break;
            }
            let path = format!("/shop.Item/N{number}");
            let start = Instant::now();
            let answer = call(channel.clone(), &path, vec![b'x'; self.bytes]).await;
            let wanted = format!(" {path} {} bytes\n", self.bytes);
            match answer {
                Ok(answer) if String::from_utf8_lossy(&answer).contains(&wanted) => {
                    let time = start.elapsed().as_micros();
                    part.times_us.push(u64::try_from(time).unwrap_or(u64::MAX));
                }
                Ok(answer) => part.failures.push(format!("{path}: {}", answer.escape_ascii())),
                Err(status) => part.failures.push(format!("{path}: {status}")),
            }
        }
        part
    }
}

/// What one after another came to.
#[derive(Debug, Default)]
struct Part {
    times_us: Vec<u64>,
    failures: Vec<String>,
}
