//! What a guest said, line by line.

use std::collections::BTreeMap;

/// How a line of `tracewire check` starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It works here.
    There,
    /// It does not work here, and the agent goes without.
    Off,
    /// It does not work here, and the agent cannot go without.
    Missing,
}

/// How a test went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It held.
    Passed,
    /// It ended well, and said that it left something out for want of a package that no guest has.
    Without,
    /// As before, for what the kernel lacks.
    Skipped,
    /// It did not.
    Failed,
    /// It was not run.
    Ignored,
}

/// What was seen in one guest.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The kernel's release.
    pub(crate) release: String,
    /// What the kernel offers, by the probe's names.
    pub(crate) offers: BTreeMap<String, String>,
    /// What the running agent uses, by the probe's names.
    pub(crate) uses: BTreeMap<String, String>,
    /// What `check` says of each thing, with its words.
    pub(crate) claims: BTreeMap<String, (Claim, String)>,
    /// How `check` ended, and after how many seconds.
    pub(crate) check: Option<(i32, u32)>,
    /// Whether `run` became ready, and after how many seconds.
    pub(crate) ready: Option<(bool, u32)>,
    /// How `run` ended.
    pub(crate) run_exit: Option<i32>,
    /// What `run` logged.
    pub(crate) log: Vec<String>,
    /// The tests, in their order: file, name, result.
    pub(crate) tests: Vec<(String, String, Verdict)>,
    /// How the test programs ended.
    pub(crate) binaries: Vec<(String, i32)>,
    /// What the kernel complained of.
    pub(crate) complaints: Vec<String>,
    /// What the guest itself could not do.
    pub(crate) failures: Vec<String>,
    /// Whether the guest got to its end.
    pub(crate) ended: bool,
    binary: String,
    test: Option<String>,
    /// What the test that runs says that it leaves out.
    skipped: Option<Verdict>,
    /// How many more lines are told of why a test failed, while those come.
    telling: usize,
}

/// How many lines are told of why one test failed; all are in the transcript.
const TOLD: usize = 40;

/// What a test says that leaves something out (`tests/src/needs.rs`), and how it goes on if that is for want
/// of a package.
const SKIPPED: &str = "skipped: ";
const NOT_INSTALLED: &str = "not installed: ";

impl Seen {
    /// Takes a line; answers with what is worth telling a person at once.
    pub(crate) fn line(&mut self, line: &str) -> Option<String> {
        match line.strip_prefix("@vm ") {
            Some(fact) => self.fact(fact),
            None => self.harness(line),
        }
    }

    fn fact(&mut self, fact: &str) -> Option<String> {
        let (word, rest) = fact.split_once(' ').unwrap_or((fact, ""));
        let two = || {
            let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
            (first, second.parse::<u32>().unwrap_or(0))
        };
        match word {
            "kernel" => {
                rest.clone_into(&mut self.release);
                return Some(format!("booted {rest}"));
            }
            "probe" => {
                let mut words = rest.split(' ');
                if let (Some(kind), Some(name), Some(value)) =
                    (words.next(), words.next(), words.next())
                {
                    let facts = if kind == "offers" { &mut self.offers } else { &mut self.uses };
                    facts.insert(name.to_owned(), value.to_owned());
                }
            }
            "check" => self.claim(rest),
            "check-exit" => {
                let (code, seconds) = two();
                self.check = Some((code.parse().unwrap_or(-1), seconds));
                return Some(format!("check exits with {code} after {seconds} s"));
            }
            "run" => self.log.push(rest.to_owned()),
            "run-ready" => {
                let (ready, seconds) = two();
                self.ready = Some((ready == "yes", seconds));
                return Some(format!("run is ready: {ready}, after {seconds} s"));
            }
            "run-exit" => self.run_exit = rest.parse().ok(),
            "binary" => {
                rest.clone_into(&mut self.binary);
                self.test = None;
                self.telling = 0;
            }
            "binary-exit" => {
                let (name, code) = rest.split_once(' ').unwrap_or((rest, ""));
                self.binaries.push((name.to_owned(), code.parse().unwrap_or(-1)));
            }
            "kernel-complains" => self.complaints.push(rest.to_owned()),
            "failed" => self.failures.push(rest.to_owned()),
            "end" => self.ended = true,
            other => self.failures.push(format!("said something unknown: {other}")),
        }
        None
    }

    /// A line of `tracewire check`: `ok      name: words`.
    fn claim(&mut self, line: &str) {
        let Some((state, rest)) = line.split_once(' ') else { return };
        let claim = match state {
            "ok" => Claim::There,
            "off" => Claim::Off,
            "MISSING" => Claim::Missing,
            _ => return,
        };
        if let Some((name, words)) = rest.trim_start().split_once(": ") {
            self.claims.insert(name.to_owned(), (claim, words.to_owned()));
        }
    }

    /// A line of the test harness. With one thread it writes `test NAME ... `, then the
    /// result; what a test itself writes may come between.
    fn harness(&mut self, line: &str) -> Option<String> {
        // After all tests of a file: what those that failed wrote, each under such a line.
        if line.starts_with("---- ") && line.ends_with(" stdout ----") {
            self.telling = TOLD;
        } else if line == "failures:" || line.starts_with("test result: ") {
            self.telling = 0;
        }
        if self.telling > 0 {
            self.telling -= 1;
            return (!line.is_empty()).then(|| line.to_owned());
        }
        let mut said = line;
        if let Some((name, rest)) = line.strip_prefix("test ").and_then(|l| l.split_once(" ... ")) {
            self.test = Some(name.to_owned());
            self.skipped = None;
            said = rest;
        }
        let test = self.test.as_ref()?;
        if let Some(why) = said.strip_prefix(SKIPPED) {
            let verdict = match why.starts_with(NOT_INSTALLED) {
                true => Verdict::Without,
                false => Verdict::Skipped,
            };
            self.skipped = Some(verdict);
            return Some(format!("{}: {test}: {said}", self.binary));
        }
        let last = line.rsplit(' ').next().unwrap_or(line);
        let verdict = match last {
            "ok" => self.skipped.take().unwrap_or(Verdict::Passed),
            "FAILED" => Verdict::Failed,
            "ignored" => Verdict::Ignored,
            _ => return None,
        };
        let name = self.test.take()?;
        let said = matches!(verdict, Verdict::Failed | Verdict::Ignored)
            .then(|| format!("{}: {name}: {last}", self.binary));
        self.tests.push((self.binary.clone(), name, verdict));
        said
    }

    /// How many tests left something out, for want of a package or for what the kernel lacks.
    pub(crate) fn skipped(&self) -> usize {
        let left_out = |verdict| matches!(verdict, Verdict::Without | Verdict::Skipped);
        self.tests.iter().filter(|(.., verdict)| left_out(*verdict)).count()
    }

    /// Whether `check` says that something works.
    pub(crate) fn claims(&self, name: &str) -> bool {
        self.claims.get(name).is_some_and(|(claim, _)| *claim == Claim::There)
    }

    /// Whether the probe found that the kernel offers something.
    pub(crate) fn offers(&self, name: &str) -> bool {
        self.offers.get(name).is_some_and(|value| value == "yes")
    }

    /// Whether the probe found that the agent uses something.
    pub(crate) fn uses(&self, name: &str) -> bool {
        self.uses.get(name).is_some_and(|value| value == "yes")
    }

    /// Whether the agent ran and stopped well.
    pub(crate) fn runs(&self) -> bool {
        matches!(self.ready, Some((true, _))) && self.run_exit == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_is_understood() {
        let mut seen = Seen::default();
        for line in [
            "@vm kernel 6.1.0-56-cloud-amd64",
            "@vm probe offers bpf-loop yes",
            "@vm probe offers fionread right",
            "@vm check ok      bpf_loop: there (to follow heads of any length)",
            "@vm check off     associate_receiver: cannot tell",
            "@vm check ",
            "@vm check-exit 0 3",
            "@vm run-ready yes 4",
            "@vm probe uses ring-buffer yes",
            "@vm run-exit 0",
            "@vm binary bytes",
            "running 3 tests",
            "test heads::one ... ok",
            "test heads::two ... something of the test's own",
            "FAILED",
            "ok",
            "test three ... ignored",
            "@vm binary-exit bytes 101",
            "@vm end",
        ] {
            seen.line(line);
        }
        assert_eq!(seen.release, "6.1.0-56-cloud-amd64");
        assert!(seen.offers("bpf-loop") && seen.claims("bpf_loop") && seen.uses("ring-buffer"));
        assert!(!seen.claims("associate_receiver") && seen.runs() && seen.ended);
        assert_eq!(seen.check, Some((0, 3)));
        let verdicts: Vec<Verdict> = seen.tests.iter().map(|(.., verdict)| *verdict).collect();
        assert_eq!(verdicts, [Verdict::Passed, Verdict::Failed, Verdict::Ignored]);
        assert_eq!(seen.binaries, [("bytes".to_owned(), 101)]);
        assert!(seen.failures.is_empty(), "{:?}", seen.failures);
    }

    #[test]
    fn a_test_that_leaves_something_out_does_not_look_like_one_that_passed() {
        let mut seen = Seen::default();
        let transcript = "@vm binary tls\ntest one ... skipped: the kernel is not ok\nok\n\
            test two ... a word\nskipped: not installed: wget\nok\ntest three ... ok\n\
            test four ... skipped: the kernel\nFAILED\nskipped: by nobody\n";
        let told: Vec<String> = transcript.lines().filter_map(|line| seen.line(line)).collect();
        let verdicts: Vec<Verdict> = seen.tests.iter().map(|(.., verdict)| *verdict).collect();
        assert_eq!(
            verdicts,
            [Verdict::Skipped, Verdict::Without, Verdict::Passed, Verdict::Failed]
        );
        assert_eq!(seen.skipped(), 2);
        assert_eq!(
            told,
            [
                "tls: one: skipped: the kernel is not ok",
                "tls: two: skipped: not installed: wget",
                "tls: four: skipped: the kernel",
                "tls: four: FAILED"
            ]
        );
    }

    #[test]
    fn why_a_test_failed_is_told() {
        let mut seen = Seen::default();
        let transcript = "@vm binary bytes\ntest one ... FAILED\n\nfailures:\n\n---- one stdout ----\n\
            thread 'one' panicked at 'why'\n\nfailures:\n    one\n\ntest result: FAILED. 0 passed\n";
        let told: Vec<String> = transcript.lines().filter_map(|line| seen.line(line)).collect();
        assert_eq!(
            told,
            ["bytes: one: FAILED", "---- one stdout ----", "thread 'one' panicked at 'why'"]
        );
    }
}
