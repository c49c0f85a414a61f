//! Child processes: their output collected line by line, their end bounded.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cleanup::{self, Made};

/// The longest that any program of a scenario may take, on a machine of ordinary speed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A limit, longer by as much as this machine is slower than others: the factor
/// `TRACEWIRE_TEST_SLOW`. Under emulation the verifier alone takes seconds.
pub fn patient(limit: Duration) -> Duration {
    let factor = std::env::var("TRACEWIRE_TEST_SLOW").ok().and_then(|text| text.parse().ok());
    limit * factor.unwrap_or(1)
}

/// The longest that any program of a scenario may take.
pub fn patience() -> Duration {
    patient(PATIENCE)
}

/// Sends a signal to one process that the tests started.
pub fn kill(pid: u32, signal: i32) {
    let Ok(pid) = libc::pid_t::try_from(pid) else {
        return;
    };
    // SAFETY: `kill` takes two integers and touches no memory.
    unsafe { libc::kill(pid, signal) };
}

/// Ends a process that leads a group, and all of the group. It must not have been waited for: its
/// number is its own until then.
fn kill_group(leader: u32) {
    let Ok(leader) = libc::pid_t::try_from(leader) else {
        return;
    };
    // SAFETY: `killpg` takes two integers and touches no memory.
    unsafe { libc::killpg(leader, libc::SIGKILL) };
}

/// Copies a program, to start it under another name or from another place.
///
/// By `cp`, not by this process: a child that another thread starts meanwhile would
/// inherit the descriptor for writing, and `exec` would find the text file busy.
///
/// # Panics
///
/// If it cannot be copied.
pub fn copy_program(from: &Path, to: &Path) {
    let status = Command::new("cp").arg(from).arg(to).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "cannot copy {} to {}",
        from.display(),
        to.display()
    );
}

/// Lines that a child has written so far, shared with the thread that reads them.
#[derive(Clone, Debug, Default)]
struct Lines(Arc<(Mutex<LinesSoFar>, Condvar)>);

#[derive(Debug, Default)]
struct LinesSoFar {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    fn collect(source: impl Read + Send + 'static) -> Self {
        let shared = Self::default();
        let lines = shared.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
                lines.change(|so_far| so_far.lines.push(String::from_utf8_lossy(&line).into()));
            }
            lines.change(|so_far| so_far.ended = true);
        });
        shared
    }

    fn change(&self, edit: impl FnOnce(&mut LinesSoFar)) {
        edit(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_all();
    }

    /// The first line that `matches`, if it comes before the output ends or time runs out.
    fn wait(&self, limit: Duration, matches: impl Fn(&str) -> bool) -> Option<String> {
        let deadline = Instant::now() + limit;
        let mut so_far = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = 0;
        loop {
            if let Some(line) = so_far.lines.iter().skip(seen).find(|line| matches(line)) {
                return Some(line.clone());
            }
            seen = so_far.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if so_far.ended || left.is_zero() {
                return None;
            }
            so_far = self.0.1.wait_timeout(so_far, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn text(&self) -> String {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).lines.join("\n")
    }

    fn wait_end(&self) {
        self.wait(Duration::from_secs(2), |_| false);
    }
}

/// A running child; killed when dropped, with its own children (nginx's workers outlive it otherwise).
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: Lines,
    stderr: Lines,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with its output collected and its input a pipe.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start(mut command: Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        // SAFETY: `prctl` with integers only. The child ends with the thread that
        // started it, even when the tests are killed and can remove nothing.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        cleanup::list(Made::Process(child.id()));
        let stdout = child.stdout.take().map(Lines::collect).unwrap_or_default();
        let stderr = child.stderr.take().map(Lines::collect).unwrap_or_default();
        Self { name, child, stdout, stderr, status: None }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of standard output that starts with `word`; gives what follows it.
    ///
    /// # Panics
    ///
    /// If no such line comes within [`patience`].
    pub fn wait_line(&self, word: &str) -> String {
        self.wait_line_for(word, patience())
    }

    /// As [`Process::wait_line`], with another limit.
    ///
    /// # Panics
    ///
    /// If no such line comes within `limit`.
    pub fn wait_line_for(&self, word: &str, limit: Duration) -> String {
        let line = self.stdout.wait(limit, |line| line.split(' ').next() == Some(word));
        let line = line
            .unwrap_or_else(|| panic!("{} wrote no line {word:?}\n{}", self.name, self.output()));
        line[word.len()..].trim().to_owned()
    }

    /// Waits for a line of standard error that `matches`. Each line is asked about once, in order.
    pub fn wait_stderr(&self, limit: Duration, matches: impl Fn(&str) -> bool) -> Option<String> {
        self.stderr.wait(limit, matches)
    }

    /// Writes a line to the process's standard input.
    ///
    /// # Panics
    ///
    /// If its input is closed.
    pub fn tell(&mut self, line: &str) {
        use std::io::Write;
        let stdin = self.child.stdin.as_mut();
        let told = stdin.map(|stdin| writeln!(stdin, "{line}").and_then(|()| stdin.flush()));
        assert!(matches!(told, Some(Ok(()))), "{} does not listen\n{}", self.name, self.output());
    }

    /// Lets the process read the end of its standard input.
    pub fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        if self.status.is_none() {
            kill(self.child.id(), signal);
        }
    }

    /// Waits for the process to end, at most `limit`.
    pub fn wait_exit(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        while self.status.is_none() {
            if let Ok(Some(status)) = self.child.try_wait() {
                self.status = Some(status);
                cleanup::unlist(&Made::Process(self.child.id()));
                self.stdout.wait_end();
                self.stderr.wait_end();
            } else if Instant::now() > deadline {
                return None;
            } else {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.status
    }

    /// Waits for the process to end well; gives its standard output.
    ///
    /// # Panics
    ///
    /// If it fails, or does not end within [`patience`].
    pub fn succeed(mut self) -> String {
        match self.wait_exit(patience()) {
            Some(status) if status.success() => self.stdout.text(),
            Some(status) => panic!("{}: {status}\n{}", self.name, self.output()),
            None => panic!("{} did not end within {:?}\n{}", self.name, patience(), self.output()),
        }
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Both outputs so far, for messages.
    pub fn output(&self) -> String {
        format!("--- stdout\n{}\n--- stderr\n{}", self.stdout.text(), self.stderr.text())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() {
            kill_group(self.child.id());
            drop(self.child.wait());
            cleanup::unlist(&Made::Process(self.child.id()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_has_started_ends_with_it() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & echo child $!; wait"]);
        let process = Process::start(command);
        let child = process.wait_line("child");
        let is_running = || {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            // A zombie's new parent may take its time.
            stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
        };
        assert!(is_running());
        drop(process);
        let deadline = Instant::now() + patience();
        while is_running() {
            assert!(Instant::now() < deadline, "process {child} goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
