//! Real programs: nginx, a Python service, a Node service.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::{Process, patient};
use crate::script::Load;
use crate::world::World;

/// How long a service may take to listen.
const LISTEN_LIMIT: Duration = Duration::from_secs(15);

/// A running service.
#[derive(Debug)]
pub struct Service {
    /// The address at which it listens.
    pub host: IpAddr,
    /// The port there.
    pub port: u16,
    /// Where the service writes the trace headers that it received, a request a line.
    pub seen: PathBuf,
    process: Process,
}

impl Service {
    /// The path and the number of `traceparent` headers of each request that the service received.
    ///
    /// # Panics
    ///
    /// If the service has written nothing.
    pub fn headers_seen(&self) -> Vec<(String, usize)> {
        let text = std::fs::read_to_string(&self.seen)
            .unwrap_or_else(|error| panic!("{}: {error}", self.seen.display()));
        let split = |line: &str| {
            let (path, values) = line.split_once(' ').unwrap_or((line, ""));
            let count = values.split(',').filter(|value| !value.trim().is_empty()).count();
            (path.to_owned(), count)
        };
        text.lines().map(split).collect()
    }

    /// Asks for `/KIND/N` so often, by as many threads at once.
    ///
    /// # Panics
    ///
    /// If a request fails.
    pub fn ask(&self, world: &World, kind: &str, at_once: usize, requests: usize) {
        let report = world.load(Load {
            to: self.address(),
            path: format!("/{kind}"),
            threads: at_once,
            requests,
            limit_ms: 60_000,
        });
        assert_eq!(report.failures, Vec::<String>::new(), "{report:?}\n{}", self.output());
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (self.host, self.port).into()
    }

    /// The process that was started.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// As [`Process::wait_line_for`].
    ///
    /// # Panics
    ///
    /// As there.
    pub fn wait_line_for(&self, word: &str, limit: Duration) -> String {
        self.process.wait_line_for(word, limit)
    }

    /// As [`Process::wait_stderr`].
    pub fn wait_stderr(&self, limit: Duration, matches: impl Fn(&str) -> bool) -> Option<String> {
        self.process.wait_stderr(limit, matches)
    }

    /// What the service has said so far.
    pub fn output(&self) -> String {
        self.process.output()
    }
}

/// What services speak with one another over.
#[derive(Clone, Debug)]
pub enum Wire {
    /// TCP.
    Plain,
    /// TLS, with the certificate and the key in the directory.
    Tls(PathBuf),
}

impl Wire {
    /// TLS, with the tests' own certificate for the loopback address.
    pub fn tls() -> Self {
        Self::Tls(source("tls"))
    }

    /// Tells a service, by its environment.
    pub fn tell(&self, command: &mut Command) {
        if let Self::Tls(directory) = self {
            command.env("TLS", directory);
        }
    }
}

/// A port of the loopback address that is free now.
///
/// # Panics
///
/// If there is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let address = listener.and_then(|listener| listener.local_addr());
    address.unwrap_or_else(|error| panic!("no free port: {error}")).port()
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("services").join(name)
}

/// Starts `command` in the world's cgroup and waits until it listens on `port`. It is told that
/// as `PORT`, and as `SEEN` where to write what it sees of headers.
///
/// # Panics
///
/// If it does not listen in time.
pub fn start(world: &World, mut command: Command, port: u16, seen: PathBuf) -> Service {
    command.env("SEEN", &seen).env("PORT", port.to_string());
    let mut process = world.start(command);
    let deadline = Instant::now() + patient(LISTEN_LIMIT);
    while !is_listening(process.id(), port) {
        let ended = process.wait_exit(Duration::ZERO);
        assert!(
            ended.is_none() && Instant::now() < deadline,
            "the service on port {port} does not listen ({ended:?})\n{}",
            process.output()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    Service { host: world.host(), port, seen, process }
}

/// Whether something listens on a port, of IPv4 or of both, where a process is: asked of the kernel,
/// not by connecting, since a connection would be traffic that the agent sees.
fn is_listening(process: u32, port: u16) -> bool {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    ["tcp", "tcp6"].iter().any(|table| {
        let table = std::fs::read_to_string(format!("/proc/{process}/net/{table}"));
        let table = table.unwrap_or_default();
        table.lines().skip(1).any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            matches!(fields.as_slice(), [_, local, _, state, ..]
                if local.ends_with(&suffix) && *state == LISTEN)
        })
    })
}

/// nginx with one worker. `server` is what stands in its `server` block;
/// `@upstream@` there is a kept-alive upstream at `upstream`.
///
/// # Panics
///
/// If nginx is missing (Debian: nginx-light) or does not start.
pub fn nginx(world: &World, upstream: Option<SocketAddr>, server: &str) -> Service {
    let directory = world.scratch();
    let at = directory.display();
    let port = free_port();
    let host = world.host();
    let upstream = upstream.map_or_else(String::new, |next| {
        format!("upstream next {{ server {next}; keepalive 64; keepalive_requests 100000; }}")
    });
    let config = format!(
        "daemon off;\nworker_processes 1;\nuser root;\npid {at}/pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
         log_format seen '$request_uri $http_traceparent';\naccess_log {at}/seen seen;\n\
         client_body_temp_path {at}/body;\nproxy_temp_path {at}/proxy;\n\
         fastcgi_temp_path {at}/fastcgi;\nuwsgi_temp_path {at}/uwsgi;\nscgi_temp_path {at}/scgi;\n\
         sendfile on;\nkeepalive_requests 100000;\n{upstream}\n\
         server {{ listen {host}:{port};\n{server}\n}}\n}}\n"
    );
    let file = directory.join("nginx.conf");
    std::fs::write(&file, config).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&file).arg("-e").arg("stderr").arg("-p").arg(&directory);
    start(world, command, port, directory.join("seen"))
}

/// The `server` block of a reverse proxy to the upstream, with kept-alive connections.
pub const PROXY: &str = "location / { proxy_pass http://next; proxy_http_version 1.1; \
                         proxy_set_header Connection \"\"; }";

/// Python, with one of the programs in `services`.
pub fn interpreter(name: &str) -> Command {
    // A version manager's shim would run a shell first; the system's own is plain.
    let system = Path::new("/usr/bin/python3");
    let mut command = Command::new(if system.exists() { system } else { Path::new("python3") });
    command.arg("-u").arg(source(name));
    command
}

/// The Python service `middle.py`: asks the next service, one thread a connection.
///
/// # Panics
///
/// If Python is missing or does not start.
pub fn python(world: &World, next: SocketAddr, wire: &Wire) -> Service {
    let mut command = interpreter("middle.py");
    command.env("NEXT_HOST", next.ip().to_string()).env("NEXT", next.port().to_string());
    wire.tell(&mut command);
    start(world, command, free_port(), world.scratch().join("seen"))
}

/// The service `loops.py`: so many event loops, whose jobs make so many calls at once.
///
/// # Panics
///
/// If Python is missing or does not start.
pub fn loops(world: &World, threads: usize, jobs: usize) -> Service {
    let mut command = interpreter("loops.py");
    command.env("THREADS", threads.to_string()).env("JOBS", jobs.to_string());
    start(world, command, free_port(), world.scratch().join("seen"))
}

/// The service `handing.py`: threads, or with `is_loop` the tasks of an event loop.
///
/// # Panics
///
/// If Python is missing or does not start.
pub fn handing(world: &World, is_loop: bool) -> Service {
    let mut command = interpreter("handing.py");
    if is_loop {
        command.env("LOOP", "1");
    }
    start(world, command, free_port(), world.scratch().join("seen"))
}

/// The service `greenlets.py`, which asks the server at the port `next`.
///
/// # Panics
///
/// If Python or gevent is missing, or it does not start.
pub fn greenlets(world: &World, next: u16) -> Service {
    let mut command = interpreter("greenlets.py");
    command.env("NEXT", next.to_string());
    start(world, command, free_port(), world.scratch().join("seen"))
}

/// The proxy `batching.py`, which takes so many requests at once and asks the server at the port `next`.
///
/// # Panics
///
/// If Python is missing or does not start.
pub fn batching(world: &World, at_once: usize, next: u16) -> Service {
    let mut command = interpreter("batching.py");
    command.env("AT_ONCE", at_once.to_string()).env("NEXT", next.to_string());
    start(world, command, free_port(), world.scratch().join("seen"))
}

/// The server `late.py`, which asks the server at the port `next`.
///
/// # Panics
///
/// If Python is missing or does not start.
pub fn late(world: &World, next: u16) -> Service {
    let mut command = interpreter("late.py");
    command.env("NEXT", next.to_string());
    start(world, command, free_port(), world.scratch().join("seen"))
}

/// The server `streaming.py`, which asks the server at the port `next`.
///
/// # Panics
///
/// If Python is missing or does not start.
pub fn streaming(world: &World, next: u16) -> Service {
    let mut command = interpreter("streaming.py");
    command.env("NEXT", next.to_string());
    start(world, command, free_port(), world.scratch().join("seen"))
}

/// The service with that name of the program `tasks`, or of a copy of it; it asks the server at the port
/// `next`.
///
/// # Panics
///
/// If it was not built or does not start.
pub fn tasks(world: &World, program: Option<&Path>, name: &str, next: u16) -> Service {
    let built = crate::peer::program().with_file_name("tasks");
    let mut command = Command::new(program.unwrap_or(&built));
    command.arg(name).env("NEXT", next.to_string());
    start(world, command, free_port(), world.scratch().join("seen"))
}

/// The server of `uploads.py`: reads bodies slowly.
///
/// # Panics
///
/// If Python is missing or does not start.
pub fn uploads(world: &World) -> Service {
    start(world, interpreter("uploads.py"), free_port(), world.scratch().join("seen"))
}

/// The client of `uploads.py`: so many uploads of so many bytes by blocking sockets, with a send buffer of
/// so many, or the kernel's if that is 0. Gives what it says.
///
/// # Panics
///
/// If Python is missing or fails.
pub fn upload(world: &World, to: &Service, count: usize, bytes: usize, buffer: usize) -> String {
    let mut command = interpreter("uploads.py");
    command.env("TO", to.port.to_string());
    command.env("COUNT", count.to_string()).env("SIZE", bytes.to_string());
    command.env("BUFFER", buffer.to_string());
    world.start(command).succeed()
}

/// The Node service `leaf.js`: answers by itself.
///
/// # Panics
///
/// If Node is missing or does not start.
pub fn node(world: &World, wire: &Wire) -> Service {
    let mut command = Command::new("node");
    command.arg(source("leaf.js"));
    wire.tell(&mut command);
    start(world, command, free_port(), world.scratch().join("seen"))
}

/// The Node service `timers.js`: asks the server at the port `next`, by itself too.
///
/// # Panics
///
/// If Node is missing or does not start.
pub fn timers(world: &World, next: u16) -> Service {
    let mut command = Command::new("node");
    command.arg(source("timers.js")).env("NEXT", next.to_string());
    command.env("HOST", world.host().to_string());
    start(world, command, free_port(), world.scratch().join("seen"))
}

/// Runs curl in the world's cgroup; gives its standard output.
///
/// # Panics
///
/// If curl is missing or fails.
pub fn curl(world: &World, arguments: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--max-time", "20", "--noproxy", "*"]);
    command.args(arguments);
    world.start(command).succeed()
}
