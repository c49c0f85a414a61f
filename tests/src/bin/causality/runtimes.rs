//! The services: small but typical ones, each in its runtime.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use tracewire_tests::services::{Service, free_port, nginx, start};
use tracewire_tests::world::World;

use crate::truth::Pattern;

/// What a service runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Runtime {
    /// nginx as a proxy.
    Nginx,
    /// Python's http.server with a thread for each connection, and requests.
    PythonThreads,
    /// gunicorn with gthread workers, and requests.
    Gunicorn,
    /// gevent, and requests.
    Gevent,
    /// aiohttp, both ways.
    Aiohttp,
    /// FastAPI on uvicorn, with async endpoints and httpx.
    FastapiAsync,
    /// FastAPI on uvicorn, with endpoints in its thread pool.
    FastapiDef,
    /// Node's http.
    NodeHttp,
    /// Node's fetch, which is undici.
    NodeFetch,
    /// Go's net/http.
    Go,
    /// A thread pool of the JVM, and its HttpClient.
    Java,
    /// Ruby on puma.
    Puma,
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nginx => "nginx, proxy",
            Self::PythonThreads => "Python threads, requests",
            Self::Gunicorn => "gunicorn gthread, requests",
            Self::Gevent => "gevent, requests",
            Self::Aiohttp => "aiohttp",
            Self::FastapiAsync => "FastAPI async, httpx",
            Self::FastapiDef => "FastAPI def, httpx",
            Self::NodeHttp => "Node http",
            Self::NodeFetch => "Node fetch (undici)",
            Self::Go => "Go net/http",
            Self::Java => "Java thread pool, HttpClient",
            Self::Puma => "puma, Net::HTTP",
        })
    }
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("services/causality").join(name)
}

/// Debian's own: a version manager's shim would run a shell first.
fn python(script: &str) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(source(script));
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
            Self::NodeHttp | Self::NodeFetch => "node",
            Self::Go => "go",
            Self::Java => "javac",
            Self::Puma => "puma",
            Self::Gunicorn => "gunicorn",
            _ => "/usr/bin/python3",
        };
        let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output();
        if !found.is_ok_and(|found| found.status.success()) {
            return Err(format!("there is no {program}"));
        }
        Ok(())
    }

    /// Whether its service has the pattern.
    pub(crate) fn has(self, pattern: &Pattern) -> bool {
        self != Self::Nginx || pattern.name == "one"
    }

    /// Starts its service in the world's cgroup; it asks the backend at that port.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub(crate) fn start(self, world: &World, backend: u16) -> Service {
        if self == Self::Nginx {
            const ONE: &str = "location / { proxy_pass http://next$uri/0; proxy_http_version 1.1; \
                               proxy_set_header Connection \"\"; }";
            return nginx(world, Some(backend), ONE);
        }
        let port = free_port();
        let bind = format!("127.0.0.1:{port}");
        let mut command = match self {
            Self::Nginx | Self::PythonThreads => python("threads.py"),
            Self::Gevent => python("gevent_service.py"),
            Self::Aiohttp => python("aiohttp_service.py"),
            Self::FastapiAsync => python("fastapi_service.py"),
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
            Self::NodeHttp | Self::NodeFetch => {
                let mut command = Command::new("node");
                command.arg(source("node.js"));
                if self == Self::NodeFetch {
                    command.env("CLIENT", "fetch");
                }
                command
            }
            Self::Go => Command::new(built(world)),
            Self::Java => {
                let mut command = Command::new("java");
                command.arg(source("Service.java"));
                command
            }
            Self::Puma => {
                let mut command = Command::new("puma");
                command.args(["--silent", "--threads", "16:160", "--bind"]);
                command.arg(format!("tcp://{bind}")).arg(source("puma.ru"));
                command
            }
        };
        command.env("NEXT", format!("127.0.0.1:{backend}"));
        // Nothing is written beside the sources.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        start(world, command, port, world.scratch().join("seen"))
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
