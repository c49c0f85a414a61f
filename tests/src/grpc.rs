//! Real peers over HTTP/2: gRPC in Python, Go, Rust and Node, and plain HTTP/2.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::golang::built;
use crate::needs::{Package, lacks};
use crate::probes::can_probe;
use crate::process::Process;
use crate::services::{Service, Wire, free_port, start};
use crate::world::World;

/// What a client of the `grpc` program saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Calls that were answered as they have to be.
    pub calls: u64,
    /// Other calls.
    pub failed: u64,
    /// What went wrong, the first ten.
    pub failures: Vec<String>,
    /// The time from the first call to the last answer, in milliseconds.
    pub elapsed_ms: u64,
    /// The median latency, in microseconds.
    pub p50_us: u64,
    /// The 99th percentile of the latency, in microseconds.
    pub p99_us: u64,
}

/// Who a service asks for each of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nobody.
    Nobody,
    /// A gRPC server at this port.
    Grpc(u16),
    /// An HTTP/1.1 server at this port.
    Http(u16),
}

impl Next {
    fn tell(self, command: &mut Command) {
        match self {
            Self::Nobody => {}
            Self::Grpc(port) => drop(command.env("NEXT", port.to_string())),
            Self::Http(port) => drop(command.env("NEXT_HTTP", port.to_string())),
        }
    }
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("services/http2").join(name)
}

fn python(name: &str) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    // Nothing is written beside the sources.
    command.arg("-u").arg(source(name)).env("PYTHONDONTWRITEBYTECODE", "1");
    // A fork in a process of gRPC is not what is tested.
    command.env("GRPC_ENABLE_FORK_SUPPORT", "0");
    command
}

fn started(world: &World, mut command: Command, next: Next) -> Service {
    next.tell(&mut command);
    start(world, command, free_port(), world.scratch().join("seen"))
}

/// grpcio's server (Debian: python3-grpcio), with a pool of threads.
///
/// # Panics
///
/// If it does not start; so with all services here.
pub fn python_server(world: &World, next: Next) -> Service {
    started(world, python("grpc_server.py"), next)
}

/// grpcio's server in an event loop.
///
/// # Panics
///
/// If it does not start.
pub fn python_aio_server(world: &World) -> Service {
    let mut command = python("grpc_server.py");
    command.env("AIO", "1");
    started(world, command, Next::Nobody)
}

/// An HTTP/1.1 server in Python that asks the gRPC server at a port for each request.
///
/// # Panics
///
/// If it does not start.
pub fn python_front(world: &World, next: u16) -> Service {
    started(world, python("front.py"), Next::Grpc(next))
}

/// The server of Node's module http2: gRPC and other requests. It asks the next for each call.
///
/// # Panics
///
/// If it does not start.
pub fn node_server(world: &World, next: Next, table_size: Option<u32>) -> Service {
    let mut command = Command::new("node");
    command.arg(source("server.js"));
    if let Some(size) = table_size {
        command.env("TABLE_SIZE", size.to_string());
    }
    started(world, command, next)
}

/// As [`node_server`], over TLS.
///
/// # Panics
///
/// If it does not start.
pub fn node_tls_server(world: &World, next: Next) -> Service {
    let mut command = Command::new("node");
    command.arg(source("server.js"));
    Wire::tls().tell(&mut command);
    started(world, command, next)
}

/// The service of this workspace on tonic.
///
/// # Panics
///
/// If it does not start.
pub fn rust_server(world: &World, next: Next) -> Service {
    let mut command = Command::new(rust_program());
    command.arg("serve");
    started(world, command, next)
}

fn rust_program() -> PathBuf {
    crate::peer::program().with_file_name("grpc")
}

/// The Go program, built; `None` where there is no Go, or not its libraries, if that may be.
///
/// # Panics
///
/// If it does not compile, and as [`lacks`].
pub fn go_program(world: &World) -> Option<PathBuf> {
    if lacks(&[Package::Go, Package::GoGrpc, Package::GoNet]) {
        return None;
    }
    built(world, "http2/service.go", &[])
}

/// What the Go program speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// gRPC, by grpc-go.
    Grpc,
    /// Plain HTTP/2, by net/http.
    H2c,
}

impl Go {
    fn command(self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if self == Self::H2c {
            command.env("H2C", "1");
        }
        command
    }

    /// Starts its server.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn server(self, world: &World, program: &Path, next: Option<u16>) -> Service {
        started(world, self.command(program), next.map_or(Next::Nobody, Next::Grpc))
    }

    /// Has its client ask so often, sixteen at once.
    ///
    /// # Panics
    ///
    /// If it fails, or an answer is not what it has to be.
    pub fn ask(self, world: &World, program: &Path, port: u16, count: usize) {
        let mut command = self.command(program);
        command.env("NEXT", port.to_string()).env("ASK", count.to_string());
        world.start(command).succeed();
    }
}

/// nghttpd (Debian: nghttp2-server), which serves the files of a directory.
///
/// # Panics
///
/// If it does not start.
pub fn nghttpd(world: &World, options: &[&str], directory: &Path) -> Service {
    let port = free_port();
    let mut command = Command::new("nghttpd");
    command.args(["--no-tls", "--verbose", "--address=127.0.0.1"]).args(options);
    command.arg("--htdocs").arg(directory).arg(port.to_string());
    start(world, command, port, world.scratch().join("seen"))
}

/// What one call of a Python client came to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Called {
    /// The status code's name.
    pub code: String,
    /// The messages.
    pub messages: Vec<String>,
}

impl Called {
    /// The pairs that an `Echo` says were received with a name.
    ///
    /// # Panics
    ///
    /// If it is no answer of an `Echo`.
    pub fn received(&self, name: &str) -> Vec<String> {
        let [message] = self.messages.as_slice() else { panic!("not one message: {self:?}") };
        pairs(message).into_iter().filter(|(key, _)| key == name).map(|(_, value)| value).collect()
    }
}

/// A call for the Python client: with metadata.
pub fn call(method: &str, metadata: &[(&str, &str)]) -> Value {
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| json!([key, value])).collect();
    json!({ "method": method, "metadata": metadata })
}

/// Makes calls by grpcio on one channel, one after the other or, by grpc.aio, all at once.
///
/// # Panics
///
/// If the client fails, or says other than one line for each.
pub fn python_calls(world: &World, port: u16, aio: bool, calls: &[Value]) -> Vec<Called> {
    let mut command = python("grpc_client.py");
    if aio {
        command.env("AIO", "1");
    }
    command.arg(port.to_string()).arg(Value::from(calls).to_string());
    answers(&world.start(command).succeed(), calls.len())
}

/// What one request of the Node client came to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Requested {
    /// The path.
    pub path: String,
    /// The response's status, or 0.
    pub status: u16,
    /// What Node says went wrong with the stream, or nothing.
    pub error: String,
    /// Bytes of the response's content.
    pub length: usize,
    /// The content, if it is not long.
    pub body: String,
}

impl Requested {
    /// The headers that the Node server says it received with a name.
    ///
    /// # Panics
    ///
    /// If the content is not such an answer.
    pub fn received(&self, name: &str) -> Vec<String> {
        let all: Value = serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{self:?} is no answer of the Node server: {error}"));
        let all = pairs(&all["headers"].to_string());
        all.into_iter().filter(|(key, _)| key == name).map(|(_, value)| value).collect()
    }
}

/// Makes requests by Node's http2 on one connection. `work` is what `client.js` takes.
///
/// # Panics
///
/// If the client fails, its session has an error, or it says other than one line for each.
pub fn node_requests(world: &World, port: u16, work: &Value) -> Vec<Requested> {
    answers(&world.start(node_client(world, port, work)).succeed(), count(work))
}

/// As [`node_requests`], over TLS, and once all `libraries` in the processes of the world are probed.
///
/// # Panics
///
/// As there, or if they are not.
pub fn node_tls_requests(
    world: &mut World,
    port: u16,
    work: &Value,
    libraries: usize,
) -> Vec<Requested> {
    let mut command = node_client(world, port, work);
    Wire::tls().tell(&mut command);
    let mut client = world.start(command);
    let is_there = client.wait_stderr(crate::process::patience(), |line| line == "gate");
    assert!(is_there.is_some(), "{}", client.output());
    if let Some(agent) = world.agent()
        && can_probe()
    {
        agent.wait_probed(libraries);
    }
    client.tell("");
    answers(&client.succeed(), count(work))
}

fn count(work: &Value) -> usize {
    work["requests"].as_array().map_or(0, Vec::len)
}

fn node_client(world: &World, port: u16, work: &Value) -> Command {
    // Too long for an argument.
    let file = world.scratch().join("work.json");
    std::fs::write(&file, work.to_string())
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut command = Command::new("node");
    command.arg(source("client.js")).arg(port.to_string()).arg(&file);
    command
}

/// Has the client of the `grpc` program ask, with its own arguments.
///
/// # Panics
///
/// If it fails, or a call did.
pub fn rust_calls(world: &World, port: u16, arguments: &[&str]) -> Asked {
    let mut command = Command::new(rust_program());
    command.args(["ask", "--port", &port.to_string()]).args(arguments);
    let process: Process = world.start(command);
    let line =
        process.wait_line_for("done", crate::process::patient(std::time::Duration::from_secs(90)));
    let asked: Asked =
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("grpc says {line:?}: {error}"));
    assert_eq!((asked.failed, asked.failures.as_slice()), (0, [].as_slice()), "{asked:?}");
    asked
}

fn answers<T: serde::de::DeserializeOwned>(text: &str, count: usize) -> Vec<T> {
    let parse = |line: &str| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("no answer: {error}: {line}"))
    };
    let answers: Vec<T> = text.lines().map(parse).collect();
    assert_eq!(answers.len(), count, "answers: {text}");
    answers
}

fn pairs(json: &str) -> Vec<(String, String)> {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("no pairs: {error}: {json}"))
}
