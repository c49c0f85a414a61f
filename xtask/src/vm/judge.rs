//! Whether what was seen in a guest is as it has to be on its kernel.

use super::kernels::{FEATURES, Feature, OLDEST, Series};
use super::tests::{Extent, smoke_tests};
use super::transcript::{Claim, Seen, Verdict};

/// Everything that is wrong; nothing, if all holds.
pub(crate) fn problems(series: Series, seen: &Seen, extent: Extent, filtered: bool) -> Vec<String> {
    let mut problems = Vec::new();
    if !seen.ended {
        problems.push("the guest did not get to its end".to_owned());
    }
    problems.extend(seen.failures.iter().map(|failure| format!("the guest: {failure}")));
    problems.extend(seen.complaints.iter().map(|line| format!("the kernel complains: {line}")));
    if series.version() < OLDEST {
        refuses(seen, &mut problems);
        return problems;
    }
    works(seen, &mut problems);
    for feature in FEATURES {
        judge_feature(series, seen, feature, &mut problems);
    }
    judge_fionread(seen, &mut problems);
    judge_tests(seen, extent, filtered, &mut problems);
    problems
}

/// `check` and `run` have to agree that the agent cannot run, and name the kernel that can.
fn refuses(seen: &Seen, problems: &mut Vec<String>) {
    let needed = format!("needs {}.{}", OLDEST.0, OLDEST.1);
    if !matches!(seen.check, Some((1, _))) {
        problems.push(format!("check does not refuse an old kernel: {:?}", seen.check));
    }
    let missing = seen.claims.get("bpf_loop");
    if !missing.is_some_and(|(claim, words)| *claim == Claim::Missing && words.contains(&needed)) {
        problems.push(format!("check does not say that Tracewire {needed}: {missing:?}"));
    }
    let says = seen.log.iter().any(|line| line.contains(&needed));
    if seen.ready.is_some_and(|(ready, _)| ready) || !says {
        problems.push(format!("run does not say that Tracewire {needed}: {:?}", seen.log));
    }
    let used = seen.uses.iter().find(|(_, used)| *used == "yes");
    if let Some((name, _)) = used {
        problems.push(format!("{name}: used on a kernel that is refused"));
    }
}

/// `check` and `run` have to agree that the agent works.
fn works(seen: &Seen, problems: &mut Vec<String>) {
    match seen.check {
        Some((0, _)) => {}
        Some((code, _)) => {
            problems.push(format!("check exits with {code}"));
            let missing = seen.claims.iter().filter(|(_, (claim, _))| *claim == Claim::Missing);
            problems
                .extend(missing.map(|(name, (_, words))| format!("check misses {name}: {words}")));
        }
        None => problems.push("check did not end".to_owned()),
    }
    if !seen.runs() {
        problems.push(format!(
            "run did not work (ready: {:?}, exit: {:?}): {}",
            seen.ready,
            seen.run_exit,
            seen.log.last().map_or("", String::as_str)
        ));
    }
}

/// A feature that is there has to be used, and one that is not may not be claimed.
fn judge_feature(series: Series, seen: &Seen, feature: &Feature, problems: &mut Vec<String>) {
    let name = feature.name;
    let offered = seen.offers(name);
    let documented = series.version() >= feature.since;
    if offered != documented {
        problems.push(format!(
            "{name}: by its version the kernel {}, by its symbols it {}",
            has(documented),
            has(offered)
        ));
    }
    let usable = offered && feature.needs.is_none_or(|other| seen.offers(other));
    for line in feature.claims {
        match (usable, seen.claims(line)) {
            (true, false) => problems
                .push(format!("{name}: the kernel has it, and check has no \"ok\" for {line}")),
            (false, true) => {
                problems.push(format!("{name}: the kernel lacks it, and check claims {line}"))
            }
            _ => {}
        }
    }
    if feature.visible && seen.runs() {
        let wanted = usable && feature.superseded_by.is_none_or(|newer| !seen.offers(newer));
        match (wanted, seen.uses(name)) {
            (true, false) => {
                problems.push(format!("{name}: the kernel has it, and the agent does not use it"))
            }
            (false, true) => problems.push(format!("{name}: the agent uses it, and should not")),
            _ => {}
        }
    }
}

fn has(yes: bool) -> &'static str {
    if yes { "has it" } else { "lacks it" }
}

/// How check tells what `FIONREAD` answers on enrolled sockets.
fn judge_fionread(seen: &Seen, problems: &mut Vec<String>) {
    let found = seen.offers.get("fionread").map_or("", String::as_str);
    let claims = seen.claims("propagation");
    let words = seen.claims.get("propagation").map_or("", |(_, words)| words.as_str());
    let agrees = match found {
        "right" => claims && words.contains("stays right"),
        "restored" => claims && words.contains("verdict program restores it"),
        "broken" => !claims,
        _ => false,
    };
    if !agrees {
        problems.push(format!("FIONREAD is {found:?} here, and check says: {words}"));
    }
}

fn judge_tests(seen: &Seen, extent: Extent, filtered: bool, problems: &mut Vec<String>) {
    for (binary, name, verdict) in &seen.tests {
        if *verdict == Verdict::Failed {
            problems.push(format!("the test {name} of {binary} failed"));
        }
    }
    for (binary, code) in &seen.binaries {
        // The harness ends with 101 after a failure, which is listed already.
        let listed = seen.tests.iter().any(|(b, _, v)| b == binary && *v == Verdict::Failed);
        if *code != 0 && !(*code == 101 && listed) {
            problems.push(format!("the tests of {binary} ended with {code} (124: out of time)"));
        }
    }
    // What a kernel lacks is no fault of its own; the smoke tests need no package that guests have not.
    let ran = |test: &str| {
        seen.tests.iter().any(|(_, name, verdict)| {
            !matches!(verdict, Verdict::Ignored | Verdict::Without)
                && name.rsplit("::").next() == Some(test)
        })
    };
    if !matches!(seen.ready, Some((true, _))) {
        // Then none were run, and why is said already.
        return;
    }
    if extent != Extent::None && !filtered {
        for test in smoke_tests().filter(|test| !ran(test)) {
            problems.push(format!("the test {test} was not run"));
        }
    } else if filtered && seen.tests.is_empty() {
        problems.push("no test was run".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a guest with kernel 6.1 says if all is well.
    const GOOD: &str = "\
@vm kernel 6.1.0-56-cloud-amd64
@vm probe offers ring-buffer yes
@vm probe offers bpf-loop yes
@vm probe offers socket-storage yes
@vm probe offers socket-storage-in-tracing yes
@vm probe offers socket-hash yes
@vm probe offers sock_recv_length no
@vm probe offers tcp_rcv_space_adjust yes
@vm probe offers uprobe-multi no
@vm probe offers fionread right
@vm check ok      ring buffer: there
@vm check ok      bpf_loop: there
@vm check ok      socket storage: there
@vm check off     associate_receiver: unknown BTF type
@vm check ok      associate_receiver_adjust: loads
@vm check ok      rewrite_request: loads
@vm check off     probes of TLS libraries: cannot read requests over TLS: Linux before 6.6
@vm check ok      propagation: FIONREAD stays right on enrolled sockets
@vm check-exit 0 3
@vm run-ready yes 3
@vm probe uses ring-buffer yes
@vm probe uses socket-storage yes
@vm probe uses socket-hash yes
@vm probe uses sock_recv_length no
@vm probe uses tcp_rcv_space_adjust yes
@vm run-exit 0
@vm end
";

    fn judge(transcript: &str) -> Vec<String> {
        let mut seen = Seen::default();
        for line in transcript.lines() {
            seen.line(line);
        }
        problems(Series::V6_1, &seen, Extent::None, false)
    }

    #[test]
    fn a_kernel_with_all_in_order_has_no_problems() {
        assert_eq!(judge(GOOD), Vec::<String>::new());
    }

    #[test]
    fn a_feature_that_is_there_and_not_used_is_a_problem() {
        let unused =
            judge(&GOOD.replace("uses tcp_rcv_space_adjust yes", "uses tcp_rcv_space_adjust no"));
        assert!(matches!(unused.as_slice(), [one] if one.contains("does not use")), "{unused:?}");
        let unclaimed = judge(&GOOD.replace("check ok      bpf_loop", "check off     bpf_loop"));
        assert!(
            matches!(unclaimed.as_slice(), [one] if one.contains("no \"ok\"")),
            "{unclaimed:?}"
        );
    }

    #[test]
    fn a_claim_that_the_kernel_does_not_bear_out_is_a_problem() {
        let claimed =
            GOOD.replace("check off     associate_receiver:", "check ok      associate_receiver:");
        let claimed = judge(&claimed);
        assert!(matches!(claimed.as_slice(), [one] if one.contains("lacks it")), "{claimed:?}");
        let broken = judge(&GOOD.replace("fionread right", "fionread broken"));
        assert!(matches!(broken.as_slice(), [one] if one.contains("FIONREAD")), "{broken:?}");
    }

    #[test]
    fn a_kernel_that_differs_from_its_versions_documents_is_a_problem() {
        let older = judge(&GOOD.replace("offers bpf-loop yes", "offers bpf-loop no"));
        assert!(older.iter().any(|problem| problem.contains("by its version")), "{older:?}");
    }

    #[test]
    fn an_old_kernel_has_to_be_refused_with_the_version_that_is_needed() {
        let judge = |transcript: &str| {
            let mut seen = Seen::default();
            for line in transcript.lines() {
                seen.line(line);
            }
            problems(Series::V5_10, &seen, Extent::None, false)
        };
        let said = "kernel 5.10 has no bpf_loop; Tracewire needs 5.17 or newer";
        let refused = format!(
            "@vm check MISSING bpf_loop: {said}\n@vm check-exit 1 2\n@vm run-ready no 1\n@vm run error: {said}\n@vm run-exit 1\n@vm end\n"
        );
        assert_eq!(judge(&refused), Vec::<String>::new());
        assert_eq!(judge(&refused.replace("needs 5.17", "fails")).len(), 2);
        assert!(!judge(GOOD).is_empty(), "an agent that runs there belies the table");
    }

    #[test]
    fn an_agent_that_does_not_run_is_a_problem() {
        let dead = judge(&GOOD.replace("run-ready yes", "run-ready no"));
        assert!(dead.iter().any(|problem| problem.contains("run did not work")), "{dead:?}");
        let unfinished = judge(&GOOD.replace("@vm end\n", ""));
        assert!(unfinished.iter().any(|problem| problem.contains("its end")), "{unfinished:?}");
    }
}
