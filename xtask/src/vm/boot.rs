//! A guest started, followed over its serial port, and ended by its process id.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::packages::{Need, find_program};
use crate::process::ChildGuard;
use crate::progress::say;
use crate::signals;

/// The emulator.
const EMULATOR: &str = "qemu-system-x86_64";

/// The guest's memory; the image is in it twice while it is unpacked.
const MEMORY: &str = "3072M";

/// From when on it is said that nothing ran here for a while.
const STANDSTILL: Duration = Duration::from_secs(5);

/// What the guest's kernel is told.
const KERNEL_ARGUMENTS: [&str; 6] = [
    "console=ttyS0",
    "loglevel=5",
    // A panic ends the guest at once.
    "panic=-1",
    // The root file system is not to be held to half of the memory.
    "rootfstype=ramfs",
    // Where the host is busy, an emulated processor stands still for seconds; a watchdog
    // would take that for a lockup of the guest's kernel.
    "nowatchdog",
    "rcupdate.rcu_cpu_stall_suppress=1",
];

/// What the machine needs to boot guests.
pub(crate) fn needs() -> Vec<Need> {
    vec![Need::program(EMULATOR, "qemu-system-x86")]
}

/// A guest's two serial ports, as files.
#[derive(Debug)]
pub(crate) struct Ports {
    /// What the kernel says.
    pub(crate) console: PathBuf,
    /// What the guest's first process says.
    pub(crate) transcript: PathBuf,
}

/// Boots and follows a guest until it powers off. `line` is called with each line of the
/// transcript.
///
/// Plain emulation, without a hypervisor's help: the same everywhere.
///
/// # Errors
///
/// If the emulator is missing or fails, or the guest is not done within `limit`; in any
/// case it is not running any more afterwards.
pub(crate) fn boot(
    image: &Path,
    initramfs: &Path,
    ports: &Ports,
    limit: Duration,
    mut line: impl FnMut(&str),
) -> Result<()> {
    let program = find_program(EMULATOR).with_context(|| format!("{EMULATOR} is not installed"))?;
    let serial = |path: &Path| format!("file:{}", path.display());
    // Made here, so that they can be read before the emulator opens them.
    for path in [&ports.console, &ports.transcript] {
        File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut transcript = Follower::open(&ports.transcript)?;
    let mut command = Command::new(program);
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", MEMORY])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", &KERNEL_ARGUMENTS.join(" ")])
        .args(["-serial", &serial(&ports.console), "-serial", &serial(&ports.transcript)])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut guard = ChildGuard::spawn(&mut command, EMULATOR)?;
    let end = Instant::now() + limit;
    let mut looked = Instant::now();
    loop {
        let since = looked.elapsed();
        if since > STANDSTILL {
            say(format!(
                "this machine stood still for {:.0} s; tests in the guest may take that for a stall",
                since.as_secs_f64()
            ));
        }
        looked = Instant::now();
        let ended = guard.has_ended();
        transcript.lines(&mut line)?;
        if ended {
            break;
        }
        if Instant::now() > end {
            bail!("the guest was not done within {} s and was ended", limit.as_secs());
        }
        signals::sleep(Duration::from_millis(200))?;
    }
    let status = guard.wait(Some(Duration::from_secs(1)))?;
    if !status.success() {
        bail!("{EMULATOR} failed: {status}");
    }
    Ok(())
}

/// Reads a file that grows, by lines.
struct Follower {
    file: File,
    position: u64,
    rest: Vec<u8>,
}

impl Follower {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { file, position: 0, rest: Vec::new() })
    }

    /// Hands over the lines that are complete.
    fn lines(&mut self, take: &mut impl FnMut(&str)) -> Result<()> {
        self.file.seek(SeekFrom::Start(self.position)).context("the transcript cannot be read")?;
        let read =
            self.file.read_to_end(&mut self.rest).context("the transcript cannot be read")?;
        self.position += read as u64;
        let Some(last) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        let complete: Vec<u8> = self.rest.drain(..=last).collect();
        for line in String::from_utf8_lossy(&complete).lines() {
            take(line.trim_end_matches('\r'));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::scratch::ScratchDir;

    #[test]
    fn a_growing_file_is_read_by_whole_lines() {
        let scratch = ScratchDir::create("follower").expect("a temporary directory");
        let path = scratch.write("log", "one\r\ntw").expect("the directory is ours");
        let mut follower = Follower::open(&path).expect("it was just written");
        let mut seen = Vec::new();
        follower.lines(&mut |line| seen.push(line.to_owned())).expect("it can be read");
        let mut file = File::options().append(true).open(&path).expect("it is ours");
        file.write_all(b"o\nthree\n").expect("it is ours");
        follower.lines(&mut |line| seen.push(line.to_owned())).expect("it can be read");
        assert_eq!(seen, ["one", "two", "three"]);
    }
}
