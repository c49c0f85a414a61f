//! What a guest is given: the agent, the tests, and this machine's own programs with all
//! that they need to run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Exactness;
use super::fetch::Kernel;
use super::image::Image;
use super::tests::TestBinary;
use crate::packages::{Need, find_program};
use crate::process;
use crate::scratch::ScratchDir;

/// The guest's first process.
const INIT: &str = include_str!("guest/init.sh");

/// The programs that tests start, besides those that busybox has.
const PROGRAMS: [&str; 5] = ["nginx", "node", "curl", "wrk", "ip"];

/// Debian's Python; a version manager's would need its own tree.
const PYTHON: &str = "/usr/bin/python3";

/// Kernel modules that tests need: pairs of virtual interfaces.
const MODULES: [&str; 1] = ["veth"];

/// How much slower than a real machine the guest is, for the tests' patience.
const SLOW: u32 = 6;

/// How long the agent may take in a guest until it is attached.
const READY: Duration = Duration::from_secs(150);

/// What the machine needs to make an image.
pub(crate) fn needs() -> Vec<Need> {
    vec![
        Need::program("busybox", "busybox-static"),
        Need::program("ldd", "libc-bin"),
        Need::program("strip", "binutils"),
        crate::nginx::need(),
        Need::program("node", "nodejs"),
        Need::package("python3"),
        Need::program("curl", "curl"),
        Need::program("wrk", "wrk"),
        Need::program("ip", "iproute2"),
    ]
}

/// What changes from run to run.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// The agent's binary.
    pub(crate) agent: &'a Path,
    /// The probe's binary.
    pub(crate) probe: &'a Path,
    /// Test programs; none if only loading is tried.
    pub(crate) tests: &'a [TestBinary],
    /// The longest that one of them may take.
    pub(crate) binary_limit: Duration,
    /// The generator of traffic, if it runs.
    pub(crate) exactness: Option<&'a Exactness>,
}

/// The longest that the generator may take, if it runs for `time` with the agent. Before that it runs as
/// long without: a guest is emulated, and how often something waits for seconds in it is compared. Starting
/// and stopping come on top, and up to forty connections that stalled, twice a quarter of a minute each.
pub(crate) fn with_control(time: Duration) -> Duration {
    if time.is_zero() { time } else { 2 * time + Duration::from_secs(1500) }
}

/// Makes the image in `scratch`; returns its path.
///
/// # Errors
///
/// If something that belongs into it is missing.
pub(crate) fn assemble(kernel: &Kernel, plan: &Plan<'_>, scratch: &ScratchDir) -> Result<PathBuf> {
    let mut image = Image::default();
    for path in ["/proc", "/sys", "/dev", "/run", "/root", "/tmp", "/var/log/nginx", "/etc"] {
        image.directory(path);
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        // As on the host, whose programs name their loader by such a path.
        image.link(format!("/{name}"), format!("usr/{name}"));
        image.directory(format!("/usr/{name}"));
    }
    image.bytes("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n".to_vec(), 0o644);
    image.bytes("/etc/group", b"root:x:0:\nnogroup:x:65534:\n".to_vec(), 0o644);
    image.bytes("/etc/hosts", b"127.0.0.1 localhost guest\n::1 localhost\n".to_vec(), 0o644);
    image.bytes(
        "/etc/nsswitch.conf",
        b"passwd: files\ngroup: files\nhosts: files\n".to_vec(),
        0o644,
    );
    let settings = format!(
        "READY_SECONDS={}\nBINARY_SECONDS={}\nSLOW={SLOW}\n",
        READY.as_secs(),
        plan.binary_limit.as_secs()
    );
    let (first, rest) = INIT.split_once('\n').context("the guest's init is empty")?;
    image.bytes("/init", format!("{first}\n{settings}{rest}").into_bytes(), 0o755);

    let mut guest = Guest { image, scratch, wanted: BTreeSet::new() };
    let busybox = find_program("busybox").context("busybox is not installed")?;
    guest.program("/vm/bin/busybox", &busybox)?;
    guest.image.link("/usr/bin/sh", "/vm/bin/busybox");
    guest.program("/vm/tracewire", plan.agent)?;
    guest.program("/vm/probe", plan.probe)?;
    guest.modules(kernel)?;
    guest.tests(plan)?;
    if !plan.tests.is_empty() {
        for name in PROGRAMS {
            let path = find_program(name).with_context(|| format!("{name} is not installed"))?;
            guest.program(Path::new("/usr/bin").join(name), &path)?;
        }
        guest.python()?;
    }
    guest.libraries()?;
    let path = scratch.path().join("initramfs");
    guest.image.write(&path)?;
    Ok(path)
}

struct Guest<'a> {
    image: Image,
    scratch: &'a ScratchDir,
    /// Programs and libraries whose own libraries are to be found.
    wanted: BTreeSet<PathBuf>,
}

impl Guest<'_> {
    fn program(&mut self, path: impl Into<PathBuf>, from: &Path) -> Result<()> {
        let from = from
            .canonicalize()
            .with_context(|| format!("cannot put {} into a guest", from.display()))?;
        self.image.host_file(path, &from);
        self.wanted.insert(from);
        Ok(())
    }

    /// A program of this checkout, without its debug information, which is most of it.
    fn stripped(&mut self, path: &Path) -> Result<()> {
        let name = path.file_name().context("a program without a name")?;
        let to = self.scratch.path().join(name);
        process::run(Command::new("strip").arg("-o").arg(&to).arg(path))?;
        self.program(path, &to)
    }

    fn modules(&mut self, kernel: &Kernel) -> Result<()> {
        for name in MODULES {
            let file = kernel.module(name)?;
            let plain = self.scratch.path().join(format!("{name}.ko"));
            if file.extension().is_some_and(|end| end == "xz") {
                // busybox's insmod takes no compressed modules.
                let packed = self.scratch.path().join(format!("{name}.ko.xz"));
                std::fs::copy(&file, &packed)
                    .with_context(|| format!("cannot copy {}", file.display()))?;
                process::run(Command::new("xz").args(["--decompress", "--force"]).arg(&packed))?;
            } else {
                std::fs::copy(&file, &plain)
                    .with_context(|| format!("cannot copy {}", file.display()))?;
            }
            self.image.host_file(format!("/vm/modules/{name}.ko"), &plain);
        }
        Ok(())
    }

    fn tests(&mut self, plan: &Plan<'_>) -> Result<()> {
        let mut script = String::new();
        let mut programs = BTreeSet::new();
        for test in plan.tests {
            script += &format!("cd '{}'\n", test.directory.display());
            script += &format!("binary {} '{}'", test.name, test.program.display());
            for filter in &test.filters {
                script += &format!(" {filter}");
            }
            script.push('\n');
            programs.insert(test.program.as_path());
            programs.extend(test.beside.iter().map(PathBuf::as_path));
            self.image.host_tree(&test.directory.join("services"), &|_| false)?;
        }
        programs.extend(plan.exactness.map(|exactness| exactness.program.as_path()));
        for program in programs {
            self.stripped(program)?;
        }
        if let Some(Exactness { program, time, options }) = plan.exactness {
            let seconds = time.as_secs();
            script += &format!(
                "BINARY_SECONDS={}\nprogram exactness '{}' judge --seconds {seconds}",
                with_control(*time).as_secs(),
                program.display(),
            );
            // What is told counts, and not these.
            let defaults =
                [("--seed", "$(date +%s)".to_owned()), ("--control-seconds", seconds.to_string())];
            for (name, value) in defaults {
                if !options.iter().any(|option| option.starts_with(name)) {
                    script += &format!(" {name} {value}");
                }
            }
            for option in options {
                script += &format!(" '{option}'");
            }
            script.push('\n');
        }
        self.image.bytes("/vm/tests", script.into_bytes(), 0o644);
        Ok(())
    }

    /// Python and its standard library, which is most of it.
    fn python(&mut self) -> Result<()> {
        self.program(PYTHON, Path::new(PYTHON))?;
        let paths = process::output(Command::new(PYTHON).args([
            "-I",
            "-c",
            "import sysconfig; print(sysconfig.get_path('stdlib')); print(sysconfig.get_path('platstdlib'))",
        ]))?;
        let skip = |name: &str| {
            ["test", "idlelib", "ensurepip", "lib2to3", "dist-packages", "pydoc_data", "tkinter"]
                .contains(&name)
                || name.starts_with("config-")
        };
        for path in paths.lines().collect::<BTreeSet<_>>() {
            self.image.host_tree(Path::new(path), &skip)?;
            let dynamic = Path::new(path).join("lib-dynload");
            for entry in std::fs::read_dir(&dynamic).into_iter().flatten().flatten() {
                self.wanted.insert(entry.path());
            }
        }
        Ok(())
    }

    /// What `ldd` finds for all programs so far.
    fn libraries(&mut self) -> Result<()> {
        for program in &self.wanted {
            let output = Command::new("ldd")
                .arg(program)
                .output()
                .with_context(|| format!("cannot run ldd on {}", program.display()))?;
            // It fails for a static program, which needs nothing.
            let text = String::from_utf8_lossy(&output.stdout);
            for line in text.lines() {
                if line.contains("not found") {
                    bail!("{} needs a library that is missing: {}", program.display(), line.trim());
                }
                let Some(path) = library(line) else { continue };
                // A link to it in its own directory would need the directory's links too.
                let path = resolved_parent(path);
                if !self.image.has(&path) {
                    self.image.host_file(path.clone(), &path);
                }
            }
        }
        Ok(())
    }
}

/// The path in a line of `ldd`: `name => /path (address)` or `/path (address)`.
fn library(line: &str) -> Option<&Path> {
    line.split_whitespace().find(|word| word.starts_with('/')).map(Path::new)
}

/// The path with its directory's links followed, but under its own name.
fn resolved_parent(path: &Path) -> PathBuf {
    match (path.parent().and_then(|parent| parent.canonicalize().ok()), path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_what_ldd_says() {
        let named = "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007fedbf41e000)";
        assert_eq!(library(named), Some(Path::new("/lib/x86_64-linux-gnu/libc.so.6")));
        let loader = "\t/lib64/ld-linux-x86-64.so.2 (0x00007fedbfca8000)";
        assert_eq!(library(loader), Some(Path::new("/lib64/ld-linux-x86-64.so.2")));
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007fedbfca6000)"), None);
        assert_eq!(library("\tstatically linked"), None);
    }
}
