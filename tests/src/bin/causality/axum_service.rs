//! Rust on tokio's threads: axum, and the pooled client of hyper-util.
//!
//! Typical: a task for each connection, which any of the runtime's threads may run next; the
//! client has a task of its own for each of its connections, which writes the requests and
//! reads the answers. Calls are awaited in the handler's task or, in the other row, in tasks
//! that the handler spawns. This program runs itself as the service.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::routing::get;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections to the datastore.
const CONNECTIONS: usize = 10;
/// Threads of the runtime, on any machine: one alone would be another runtime.
const THREADS: usize = 4;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// In which task the calls are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Calls {
    /// In the handler's.
    Awaited,
    /// In ones that it spawns.
    Spawned,
}

/// What the handlers share.
#[derive(Clone)]
struct Service {
    calls: Calls,
    next: Arc<str>,
    client: Client<HttpConnector, Body>,
    store: Arc<Store>,
}

/// Runs the service on the port that `PORT` names; it asks `NEXT` and `STORE`.
///
/// # Errors
///
/// If it cannot listen, or is not told where.
pub(crate) fn run(calls: Calls) -> Outcome<()> {
    let port = std::env::var("PORT")?.parse()?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let service = Service {
        calls,
        next: std::env::var("NEXT")?.into(),
        client: Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .build(connector),
        store: Arc::new(Store::new(std::env::var("STORE")?)),
    };
    let routes = Router::new()
        .route("/one/{id}", get(one))
        .route("/sequence/{id}", get(sequence))
        .route("/parallel/{id}", get(parallel))
        .route("/timer/{id}", get(timer))
        .route("/background/{id}", get(background))
        .route("/retry/{id}", get(retry))
        .route("/datastore/{id}", get(datastore))
        .with_state(service);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(THREADS).enable_all().build()?.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        axum::serve(
            axum::serve::ListenerExt::tap_io(listener, |stream| {
                let _as_it_comes = stream.set_nodelay(true);
            }),
            routes,
        )
        .await?;
        Ok(())
    })
}

impl Service {
    /// Asks the backend; gives the status.
    async fn call(&self, path: String) -> Outcome<u16> {
        let service = self.clone();
        let call = async move {
            let uri: Uri = format!("http://{}{path}", service.next).parse()?;
            let answer = service.client.get(uri).await?;
            let status = answer.status().as_u16();
            to_bytes(Body::new(answer.into_body()), 1024).await?;
            Ok(status)
        };
        match self.calls {
            Calls::Awaited => call.await,
            Calls::Spawned => tokio::spawn(call).await?,
        }
    }
}

type Answer = Result<&'static str, StatusCode>;

fn answer<T>(outcome: Outcome<T>) -> Answer {
    outcome.map(|_| "ok").map_err(|_| StatusCode::BAD_GATEWAY)
}

async fn one(State(service): State<Service>, Path(id): Path<u64>) -> Answer {
    answer(service.call(format!("/one/{id}/0")).await)
}

async fn sequence(State(service): State<Service>, Path(id): Path<u64>) -> Answer {
    for i in 0..3 {
        answer(service.call(format!("/sequence/{id}/{i}")).await)?;
    }
    Ok("ok")
}

async fn parallel(State(service): State<Service>, Path(id): Path<u64>) -> Answer {
    let call = |i| service.call(format!("/parallel/{id}/{i}"));
    answer(tokio::try_join!(call(0), call(1), call(2)))
}

async fn timer(State(service): State<Service>, Path(id): Path<u64>) -> Answer {
    tokio::time::sleep(Duration::from_millis(20)).await;
    answer(service.call(format!("/timer/{id}/0")).await)
}

async fn background(State(service): State<Service>, Path(id): Path<u64>) -> Answer {
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(30)).await;
        service.call(format!("/background/{id}/0")).await
    });
    Ok("ok")
}

async fn retry(State(service): State<Service>, Path(id): Path<u64>) -> Answer {
    let status = service.call(format!("/retry/{id}/0")).await;
    if status.as_ref().is_ok_and(|&status| status == 503) {
        return answer(service.call(format!("/retry/{id}/1")).await);
    }
    answer(status)
}

async fn datastore(State(service): State<Service>, Path(id): Path<u64>) -> Answer {
    answer(service.store.query(id).await)?;
    answer(service.call(format!("/datastore/{id}/0")).await)
}

/// Connections to the datastore, which does not speak HTTP: a line is a query, a line its row.
struct Store {
    address: String,
    free: Semaphore,
    idle: Mutex<Vec<BufReader<TcpStream>>>,
}

impl Store {
    fn new(address: String) -> Self {
        Self { address, free: Semaphore::new(CONNECTIONS), idle: Mutex::new(Vec::new()) }
    }

    async fn query(&self, key: u64) -> Outcome<()> {
        let _turn = self.free.acquire().await?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => BufReader::new(TcpStream::connect(&self.address).await?),
        };
        connection.get_mut().write_all(format!("query {key}\n").as_bytes()).await?;
        let mut row = String::new();
        connection.read_line(&mut row).await?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        if row == format!("row {key}\n") { Ok(()) } else { Err(row.into()) }
    }
}
