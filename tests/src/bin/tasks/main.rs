//! Services on tokio that do not do all of their work in the tasks that receive requests. A request to
//! `/KIND/N` leads to a call to `/KIND/N/0` of the backend.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::routing::get;
use clap::Parser;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What the program is. It listens at the port that `PORT` names, and asks the one of `NEXT`.
#[derive(Debug, Parser)]
enum Service {
    /// One thread runs the tasks of its connections (`/calls`), and between them calls of its own (`/own`)
    /// that are in no task
    Own,
    /// One task makes the calls of all requests (`/jobs`). It was made within the first (`/first`), which
    /// goes on for a while
    Worker,
    /// One task serves two connections at once (`/calls`)
    Together,
    /// A thread for each connection (`/calls`), which waits for what the runtime does
    Threads,
}

/// A client with a pool, as each service has one.
#[derive(Clone)]
struct Caller {
    next: Arc<str>,
    client: Client<HttpConnector, Body>,
}

impl Caller {
    fn new() -> Outcome<Self> {
        let next = format!("127.0.0.1:{}", std::env::var("NEXT")?).into();
        Ok(Self { next, client: Client::builder(TokioExecutor::new()).build_http() })
    }

    async fn call(&self, path: String) -> Outcome<String> {
        let uri: Uri = format!("http://{}{path}", self.next).parse()?;
        let answer = self.client.get(uri).await?;
        to_bytes(Body::new(answer.into_body()), 1024).await?;
        Ok(path)
    }
}

fn port() -> Outcome<u16> {
    Ok(std::env::var("PORT")?.parse()?)
}

fn main() -> ExitCode {
    let result = match Service::parse() {
        Service::Own => own(),
        Service::Worker => worker(),
        Service::Together => together(),
        Service::Threads => threads(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tasks: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Answers with what the backend was asked for.
fn answer(outcome: Outcome<String>) -> String {
    outcome.unwrap_or_else(|error| error.to_string())
}

fn own() -> Outcome<()> {
    let caller = Caller::new()?;
    let calls = |State(caller): State<Caller>, Path(number): Path<u64>| async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        answer(caller.call(format!("/calls/{number}/0")).await)
    };
    let routes = Router::new().route("/calls/{number}", get(calls)).with_state(caller.clone());
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port()?)).await?;
        tokio::spawn(async { axum::serve(listener, routes).await });
        for number in 0_u64.. {
            caller.call(format!("/own/{number}/0")).await?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    })
}

/// What the worker is to do, and whom to tell that it is done.
type Job = (String, oneshot::Sender<Outcome<String>>);

#[derive(Clone)]
struct Worker {
    caller: Caller,
    jobs: Arc<OnceLock<mpsc::Sender<Job>>>,
}

impl Worker {
    async fn hand_in(&self, path: String) -> Outcome<String> {
        let (done, outcome) = oneshot::channel();
        let jobs = self.jobs.get_or_init(|| {
            let (sender, mut receiver) = mpsc::channel::<Job>(64);
            let caller = self.caller.clone();
            tokio::spawn(async move {
                while let Some((path, done)) = receiver.recv().await {
                    let _nobody_waits = done.send(caller.call(path).await);
                }
            });
            sender
        });
        jobs.send((path, done)).await?;
        outcome.await?
    }
}

fn worker() -> Outcome<()> {
    let worker = Worker { caller: Caller::new()?, jobs: Arc::default() };
    let first = |State(worker): State<Worker>, Path(number): Path<u64>| async move {
        let outcome = worker.hand_in(format!("/first/{number}/0")).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        answer(outcome)
    };
    let jobs = |State(worker): State<Worker>, Path(number): Path<u64>| async move {
        answer(worker.hand_in(format!("/jobs/{number}/0")).await)
    };
    let routes = Router::new()
        .route("/first/{number}", get(first))
        .route("/jobs/{number}", get(jobs))
        .with_state(worker);
    Builder::new_multi_thread().worker_threads(4).enable_all().build()?.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port()?)).await?;
        Ok(axum::serve(listener, routes).await?)
    })
}

fn response(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Serves one connection after the other.
async fn serve(caller: Caller, listener: Arc<tokio::net::TcpListener>) -> Outcome<()> {
    loop {
        let mut stream = tokio::io::BufReader::new(listener.accept().await?.0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                break;
            }
            let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
            while line.trim() != "" {
                line.clear();
                stream.read_line(&mut line).await?;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
            let body = answer(caller.call(format!("{path}/0")).await);
            stream.write_all(response(&body).as_bytes()).await?;
        }
    }
}

fn together() -> Outcome<()> {
    let caller = Caller::new()?;
    Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port()?)).await?;
        let listener = Arc::new(listener);
        let (one, other) = (serve(caller.clone(), Arc::clone(&listener)), serve(caller, listener));
        tokio::spawn(async { tokio::try_join!(one, other) }).await??;
        Ok(())
    })
}

fn threads() -> Outcome<()> {
    let runtime: Arc<Runtime> =
        Arc::new(Builder::new_multi_thread().worker_threads(2).enable_all().build()?);
    let caller = Caller::new()?;
    for stream in TcpListener::bind((Ipv4Addr::LOCALHOST, port()?))?.incoming() {
        let (stream, runtime, caller) = (stream?, Arc::clone(&runtime), caller.clone());
        std::thread::spawn(move || -> Outcome<()> {
            let mut reader = BufReader::new(stream);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
                while line.trim() != "" {
                    line.clear();
                    reader.read_line(&mut line)?;
                }
                let body = answer(runtime.block_on(caller.call(format!("{path}/0"))));
                reader.get_mut().write_all(response(&body).as_bytes())?;
            }
        });
    }
    Ok(())
}
