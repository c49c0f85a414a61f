//! The services: small but typical ones, each in its runtime.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use tracewire_tests::php;
use tracewire_tests::services::{Service, free_port, nginx, start};
use tracewire_tests::world::World;

use crate::backend::Backend;
use crate::load::{PATTERNS, Pattern};

/// What a service runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Runtime {
    /// nginx as a proxy.
    Nginx,
    /// PHP-FPM behind nginx, and curl.
    PhpFpm,
    /// Python's http.server with a thread for each connection, and requests.
    PythonThreads,
    /// The same, with calls handed to a ThreadPoolExecutor.
    PythonExecutor,
    /// gunicorn with gthread workers, and requests.
    Gunicorn,
    /// gevent, and requests.
    Gevent,
    /// aiohttp, both ways.
    Aiohttp,
    /// FastAPI on uvicorn, with async endpoints and httpx.
    FastapiAsync,
    /// The same on uvloop.
    FastapiUvloop,
    /// FastAPI on uvicorn, with endpoints in its thread pool.
    FastapiDef,
    /// Node's http.
    NodeHttp,
    /// Express, and Node's http.
    NodeExpress,
    /// Node's fetch, which is undici.
    NodeFetch,
    /// Node's http server, and a Pool of undici.
    NodeUndici,
    /// Go's net/http.
    Go,
    /// axum on tokio's threads and hyper-util's pooled client, awaited in the handler's task.
    Axum,
    /// The same, with calls in tasks that the handler spawns.
    AxumSpawned,
    /// A thread pool of the JVM, and its HttpClient.
    Java,
    /// The same server; the thread that reads the request makes the calls, by a blocking client.
    JavaThreads,
    /// The same server; calls are handed to a second pool, of blocking clients.
    JavaPool,
    /// Ruby on puma.
    Puma,
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nginx => "nginx, proxy",
            Self::PhpFpm => "PHP-FPM behind nginx, curl",
            Self::PythonThreads => "Python threads, requests",
            Self::PythonExecutor => "Python ThreadPoolExecutor",
            Self::Gunicorn => "gunicorn gthread, requests",
            Self::Gevent => "gevent, requests",
            Self::Aiohttp => "aiohttp",
            Self::FastapiAsync => "FastAPI async, httpx",
            Self::FastapiUvloop => "FastAPI async on uvloop, httpx",
            Self::FastapiDef => "FastAPI def, httpx",
            Self::NodeHttp => "Node http",
            Self::NodeExpress => "Node Express, http",
            Self::NodeFetch => "Node http, fetch (undici)",
            Self::NodeUndici => "Node http, undici Pool",
            Self::Go => "Go net/http",
            Self::Axum => "Rust tokio, axum and hyper-util",
            Self::AxumSpawned => "Rust tokio, calls in spawned tasks",
            Self::Java => "Java thread pool, HttpClient",
            Self::JavaThreads => "Java thread pool, HttpURLConnection",
            Self::JavaPool => "Java two pools, HttpURLConnection",
            Self::Puma => "puma, Net::HTTP",
        })
    }
}

/// A running service, with what runs behind it.
#[derive(Debug)]
pub(crate) struct Running {
    front: Service,
    _behind: Option<Service>,
}

impl Running {
    /// Where it is asked.
    pub(crate) fn port(&self) -> u16 {
        self.front.port
    }
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("services/causality").join(name)
}

/// Where Debian has the modules of its packages for Node; a Node from elsewhere does not look there.
const NODE_MODULES: &str = "/usr/share/nodejs";

/// Debian's own: a version manager's shim would run a shell first.
fn python(script: &str) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(source(script));
    command
}

fn node(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new("node");
    command.arg(source("node.js")).env("NODE_PATH", NODE_MODULES).envs(variables.iter().copied());
    command
}

/// The service in Java, with a client of that kind.
fn java(client: &str) -> Command {
    let mut command = Command::new("java");
    command.arg(source("Service.java")).env("CLIENT", client);
    command
}

/// This program as the Rust service.
fn axum(calls: &str) -> Command {
    let program = std::env::current_exe().expect("Linux names a running program in /proc");
    let mut command = Command::new(program);
    command.args(["--serve", calls]);
    command
}

impl Runtime {
    /// All of them.
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    /// Why the machine cannot run it, if it cannot.
    pub(crate) fn is_possible(self) -> Result<(), String> {
        let program = match self {
            Self::Nginx => "nginx",
            Self::PhpFpm => {
                return php::program().map(drop).ok_or_else(|| "there is no php-fpm".to_owned());
            }
            Self::NodeHttp | Self::NodeExpress | Self::NodeFetch | Self::NodeUndici => "node",
            Self::Go => "go",
            Self::Java | Self::JavaThreads | Self::JavaPool => "javac",
            Self::Puma => "puma",
            Self::Gunicorn => "gunicorn",
            Self::Axum | Self::AxumSpawned => return Ok(()),
            _ => "/usr/bin/python3",
        };
        let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output();
        if !found.is_ok_and(|found| found.status.success()) {
            return Err(format!("there is no {program}"));
        }
        let module = match self {
            Self::NodeExpress => "express",
            Self::NodeUndici => "undici",
            _ => return Ok(()),
        };
        if !Path::new(NODE_MODULES).join(module).exists() {
            return Err(format!("there is no {module} in {NODE_MODULES}"));
        }
        Ok(())
    }

    /// Whether its service has the pattern.
    pub(crate) fn has(self, pattern: &Pattern) -> bool {
        self != Self::Nginx || pattern.name == "one"
    }

    /// Whether its row has the column.
    pub(crate) fn has_column(self, column: &str) -> bool {
        match PATTERNS.iter().find(|pattern| pattern.name == column) {
            Some(pattern) => self.has(pattern),
            // There is nothing to mix in one pattern alone.
            None => PATTERNS.iter().filter(|pattern| self.has(pattern)).count() > 1,
        }
    }

    /// Starts its service in the world's cgroup; it asks the backend.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub(crate) fn start(self, world: &World, backend: Backend) -> Running {
        let alone = |front| Running { front, _behind: None };
        let environment = [
            ("NEXT", format!("127.0.0.1:{}", backend.http)),
            ("STORE", format!("127.0.0.1:{}", backend.store)),
            // Nothing is written beside the sources.
            ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
        ];
        let port = free_port();
        let bind = format!("127.0.0.1:{port}");
        let mut command = match self {
            Self::Nginx => {
                const ONE: &str = "location / { proxy_pass http://next$uri/0; \
                                   proxy_http_version 1.1; proxy_set_header Connection \"\"; }";
                return alone(nginx(world, Some(([127, 0, 0, 1], backend.http).into()), ONE));
            }
            Self::PhpFpm => {
                let behind = php::fpm(world, &environment);
                let listen = behind.address().to_string();
                let script = source("service.php");
                let front = nginx(world, None, &php::location(&listen, &script));
                return Running { front, _behind: Some(behind) };
            }
            Self::PythonThreads => python("threads.py"),
            Self::PythonExecutor => python("executor.py"),
            Self::Gevent => python("gevent_service.py"),
            Self::Aiohttp => python("aiohttp_service.py"),
            Self::FastapiAsync => python("fastapi_service.py"),
            Self::FastapiUvloop => {
                let mut command = python("fastapi_service.py");
                command.env("LOOP", "uvloop");
                command
            }
            Self::FastapiDef => {
                let mut command = python("fastapi_service.py");
                command.env("ENDPOINTS", "def");
                command
            }
            Self::Gunicorn => {
                let mut command = Command::new("gunicorn");
                command.args(["--worker-class", "gthread", "--threads", "160", "--workers", "1"]);
                command.args(["--keep-alive", "60", "--log-level", "error", "--bind", &bind]);
                command.arg("gunicorn_app:app").current_dir(source(""));
                command
            }
            Self::NodeHttp => node(&[]),
            Self::NodeExpress => node(&[("FRAMEWORK", "express"), ("NODE_ENV", "production")]),
            Self::NodeFetch => node(&[("CLIENT", "fetch")]),
            Self::NodeUndici => node(&[("CLIENT", "pool")]),
            Self::Go => Command::new(built(world)),
            Self::Axum => axum("awaited"),
            Self::AxumSpawned => axum("spawned"),
            Self::Java => java("async"),
            Self::JavaThreads => java("thread"),
            Self::JavaPool => java("pool"),
            Self::Puma => {
                let mut command = Command::new("puma");
                command.args(["--silent", "--threads", "16:160", "--bind"]);
                command.arg(format!("tcp://{bind}")).arg(source("puma.ru"));
                command
            }
        };
        command.envs(environment);
        alone(start(world, command, port, world.scratch().join("seen")))
    }
}

/// Builds the Go service.
fn built(world: &World) -> PathBuf {
    let program = world.scratch().join("service");
    let status = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(source("service.go"))
        .env("GO111MODULE", "off")
        .env("GOCACHE", std::env::temp_dir().join("tracewire-go-cache"))
        .status();
    assert!(status.is_ok_and(|status| status.success()), "go build failed");
    program
}
