//! The service.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::to_bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use crate::Outcome;
use crate::ask::call;
use crate::raw::Raw;

/// The longest answer of an HTTP/1.1 server.
const LONGEST: usize = 1 << 20;

type Pending<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// Who is asked for each request.
#[derive(Clone, Debug)]
enum Next {
    Grpc(Channel),
    Http(Arc<Client<HttpConnector, axum::body::Body>>, String),
    Nobody,
}

impl Next {
    fn from_environment() -> Outcome<Self> {
        if let Ok(port) = std::env::var("NEXT") {
            let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?;
            return Ok(Self::Grpc(endpoint.connect_lazy()));
        }
        let Ok(port) = std::env::var("NEXT_HTTP") else { return Ok(Self::Nobody) };
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self::Http(Arc::new(client), format!("http://127.0.0.1:{port}")))
    }

    async fn ask(&self, path: &str) -> Outcome<Vec<u8>> {
        match self {
            Self::Grpc(channel) => Ok(call(channel.clone(), path, Vec::new()).await?),
            Self::Http(client, base) => {
                let answer = client.get(format!("{base}{path}").parse()?).await?;
                let content = to_bytes(axum::body::Body::new(answer.into_body()), LONGEST).await?;
                Ok(content.to_vec())
            }
            Self::Nobody => Ok(Vec::new()),
        }
    }
}

/// Any method of `shop.Item`.
#[derive(Clone, Debug)]
struct Item {
    seen: Option<Arc<File>>,
    next: Next,
}

impl NamedService for Item {
    const NAME: &'static str = "shop.Item";
}

impl Service<http::Request<Body>> for Item {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pending<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let values = request.headers().get_all("traceparent").into_iter();
        let values: Vec<_> =
            values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        if let Some(seen) = &self.seen {
            let line = format!("{path} {}\n", values.join(","));
            if let Err(error) = (&**seen).write_all(line.as_bytes()) {
                eprintln!("grpc: the headers seen are lost: {error}");
            }
        }
        let method = Method { path, next: self.next.clone() };
        Box::pin(async move { Ok(Grpc::new(Raw).unary(method, request).await) })
    }
}

struct Method {
    path: String,
    next: Next,
}

impl UnaryService<Vec<u8>> for Method {
    type Response = Vec<u8>;
    type Future = Pending<Response<Vec<u8>>, Status>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        let (path, next) = (self.path.clone(), self.next.clone());
        Box::pin(async move {
            let mut answer =
                format!("rust {path} {} bytes\n", request.get_ref().len()).into_bytes();
            let after =
                next.ask(&path).await.map_err(|error| Status::internal(error.to_string()))?;
            answer.extend_from_slice(&after);
            Ok(Response::new(answer))
        })
    }
}

/// Serves until it is killed.
///
/// # Errors
///
/// If it cannot listen, or is not told where.
pub(crate) async fn run() -> Outcome<()> {
    let port = std::env::var("PORT")?.parse()?;
    let seen = match std::env::var_os("SEEN") {
        Some(path) => Some(Arc::new(OpenOptions::new().create(true).append(true).open(path)?)),
        None => None,
    };
    let item = Item { seen, next: Next::from_environment()? };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Ok(Server::builder().add_service(item).serve(address).await?)
}
