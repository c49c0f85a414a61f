//! The demo's services and their client, all in its cgroup.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cgroup::Cgroup;
use crate::packages::{self, Need};
use crate::process::{self, ChildGuard};
use crate::scratch::ScratchDir;
use crate::{network, nginx, workspace};

/// Installs what the services run on, if it is missing.
///
/// # Errors
///
/// If something is missing and cannot be installed.
pub(super) fn provide() -> Result<()> {
    let needs = [
        nginx::need(),
        Need::program("python3", "python3"),
        Need::program("node", "nodejs"),
        Need::program("curl", "curl"),
    ];
    packages::ensure(&needs, "the demo")
}

/// nginx, then storefront.py, then inventory.js.
pub(super) struct Services {
    port: u16,
    _running: [ChildGuard; 3],
}

impl Services {
    /// Starts all three, last first.
    ///
    /// # Errors
    ///
    /// If one does not start.
    pub(super) fn start(cgroup: &Cgroup, scratch: &ScratchDir) -> Result<Self> {
        let [port, storefront_port, inventory_port] = network::free_ports()?;
        let inventory = script(cgroup, "node", "inventory.js", &[inventory_port], inventory_port)?;
        let storefront = script(
            cgroup,
            "python3",
            "storefront.py",
            &[storefront_port, inventory_port],
            storefront_port,
        )?;
        let http = format!(
            "  upstream storefront {{ server 127.0.0.1:{storefront_port}; keepalive 8; }}\n  \
             server {{\n    listen 127.0.0.1:{port};\n    location / {{\n      \
             proxy_pass http://storefront;\n      proxy_http_version 1.1;\n      \
             proxy_set_header Connection \"\";\n    }}\n  }}\n"
        );
        let proxy = nginx::start("proxy", &http, port, cgroup, scratch)?;
        Ok(Self { port, _running: [proxy, storefront, inventory] })
    }

    /// nginx's port.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Sends one request through all of them.
    ///
    /// # Errors
    ///
    /// If the answer is not what the services give without an agent.
    pub(super) fn request(&self, cgroup: &Cgroup, number: u32) -> Result<()> {
        let url = format!("http://127.0.0.1:{}/products/{number}", self.port);
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--max-time", "15", &url]);
        cgroup.join(&mut command);
        let answer =
            process::output(&mut command).context("a request through the services failed")?;
        if answer != format!("{{\"product\": \"/products/{number}\", \"stock\": 42}}") {
            bail!("the services gave a wrong answer: {answer}");
        }
        Ok(())
    }
}

/// Starts a script of the demo.
fn script(
    cgroup: &Cgroup,
    interpreter: &'static str,
    file: &str,
    arguments: &[u16],
    port: u16,
) -> Result<ChildGuard> {
    let program = packages::find_program(interpreter)
        .with_context(|| format!("{interpreter} is not installed"))?;
    let mut command = Command::new(program);
    command
        .arg(workspace::root().join("xtask/demo").join(file))
        .args(arguments.iter().map(u16::to_string))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    cgroup.join(&mut command);
    let mut guard = ChildGuard::spawn(&mut command, file)?;
    network::wait_listening(&mut guard, file, port)?;
    Ok(guard)
}
