//! Programs that xtask starts: each is ended by its own pid, whatever happens.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::signals;

/// How long a program may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(8);

/// A started program. It is ended when the guard goes.
pub(crate) struct ChildGuard {
    child: Child,
    what: String,
}

impl ChildGuard {
    /// Starts `command`; `what` names it in messages.
    ///
    /// # Errors
    ///
    /// If the program cannot be started.
    pub(crate) fn spawn(command: &mut Command, what: impl Into<String>) -> Result<Self> {
        let what = what.into();
        end_with_parent(command);
        // A group of its own, so that a signal reaches what the program started too:
        // cargo does not pass one on to its compilers.
        command.process_group(0);
        let child = command.spawn().with_context(|| {
            format!("cannot start {what} ({})", command.get_program().display())
        })?;
        Ok(Self { child, what })
    }

    /// The program's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child itself, for its pipes.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Fails if the program has ended of itself.
    ///
    /// # Errors
    ///
    /// With the exit status.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended at once: {status}", self.what);
        }
        Ok(())
    }

    /// Sends a signal to the program and its group, if the program has not ended.
    pub(crate) fn signal(&mut self, signal: libc::c_int) {
        if let Ok(None) = self.child.try_wait() {
            self.signal_unreaped(signal);
        }
    }

    /// The same without waiting for the program: `/proc` knows it until then.
    pub(crate) fn signal_unreaped(&self, signal: libc::c_int) {
        if let Ok(pid) = libc::pid_t::try_from(self.child.id()) {
            // SAFETY: plain system call. Only `&mut self` methods reap the child, and the
            // caller has not seen it end, so the group that it leads is still its own.
            unsafe { libc::kill(-pid, signal) };
        }
    }

    /// Whether the program has ended, leaving it for a later wait.
    pub(crate) fn has_ended(&self) -> bool {
        // SAFETY: an all-zero `siginfo_t` is a valid value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: `info` lives through the call.
        let result = unsafe { libc::waitid(libc::P_PID, self.child.id(), &raw mut info, options) };
        // SAFETY: the kernel filled `info` in, or it is still zero: "no child has ended".
        result != 0 || unsafe { info.si_pid() } != 0
    }

    /// Waits for the program's own end.
    ///
    /// # Errors
    ///
    /// If a signal asks xtask to end, or `limit` passes.
    pub(crate) fn wait(&mut self, limit: Option<Duration>) -> Result<ExitStatus> {
        let end = limit.map(|limit| Instant::now() + limit);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if end.is_some_and(|end| Instant::now() > end) {
                bail!("{} did not end within its time", self.what);
            }
            signals::sleep(Duration::from_millis(10))?;
        }
    }

    /// Asks the program to end, and makes it end after [`GRACE`].
    pub(crate) fn stop(&mut self) -> Option<ExitStatus> {
        self.signal(libc::SIGTERM);
        let end = Instant::now() + GRACE;
        while Instant::now() < end {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                Ok(Some(status)) => return Some(status),
                Err(_) => return None,
            }
        }
        self.signal(libc::SIGKILL);
        self.child.wait().ok()
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Has the kernel end the program if xtask is killed without a chance to clean up.
fn end_with_parent(command: &mut Command) {
    // SAFETY: the closure makes one system call, which is async-signal-safe, and
    // touches no memory that another thread may hold.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
}

/// The command line, for messages.
pub(crate) fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

/// Runs a command to its end. Its standard output goes to standard error, which is xtask's
/// place for progress.
///
/// # Errors
///
/// If it cannot be started, fails, or a signal asks xtask to end.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = describe(command);
    command.stdin(Stdio::null()).stdout(std::io::stderr());
    let status = ChildGuard::spawn(command, line.clone())?.wait(None)?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
///
/// As [`run`]; the message has what the command wrote to standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = describe(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut guard = ChildGuard::spawn(command, line.clone())?;
    let (stdout, stderr) = (guard.child().stdout.take(), guard.child().stderr.take());
    // The pipes are emptied by a thread each: a full pipe would stop the command.
    let stdout = std::thread::spawn(move || read_all(stdout));
    let stderr = std::thread::spawn(move || read_all(stderr));
    let status = guard.wait(None)?;
    let stdout = stdout.join().unwrap_or_default();
    let stderr = stderr.join().unwrap_or_default();
    if !status.success() {
        bail!("`{line}` failed: {status}\n{}", stderr.trim_end());
    }
    Ok(stdout)
}

fn read_all(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // A pipe that breaks has told what it had to tell.
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_read_past_the_size_of_a_pipe() {
        let text = output(Command::new("sh").args(["-c", "head -c 300000 /dev/zero | tr '\\0' x"]));
        assert_eq!(text.map(|t| t.len()).ok(), Some(300_000));
    }

    #[test]
    fn a_failing_command_says_what_it_wrote_to_standard_error() {
        let error = output(Command::new("sh").args(["-c", "echo broken >&2; exit 3"]))
            .expect_err("the command exits with 3");
        assert!(error.to_string().contains("broken"), "{error}");
    }

    #[test]
    fn a_program_ends_with_its_guard() {
        let guard = ChildGuard::spawn(Command::new("sleep").arg("60"), "sleep")
            .expect("sleep is on every machine");
        let stat = std::path::PathBuf::from(format!("/proc/{}/stat", guard.pid()));
        assert!(stat.exists());
        drop(guard);
        assert!(!stat.exists());
    }
}
