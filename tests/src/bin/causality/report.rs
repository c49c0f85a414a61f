//! Rows of what was measured, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::known;
use crate::runtimes::Runtime;
use crate::truth::Verdict;

/// One column of one runtime.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// The runtime's name.
    pub(crate) runtime: String,
    /// A pattern of calls, or `mixed`.
    pub(crate) pattern: String,
    /// Requests at once.
    pub(crate) concurrency: usize,
    /// Whether connections are older than the agent.
    pub(crate) older: bool,
    /// Calls whose parent is the request that caused them.
    pub(crate) right: usize,
    /// Calls without a parent.
    pub(crate) missing: usize,
    /// Calls with another parent.
    pub(crate) wrong: usize,
    /// Calls without a span.
    pub(crate) unseen: usize,
    /// By rule: right, missing, wrong.
    pub(crate) rules: BTreeMap<String, [usize; 3]>,
}

impl Row {
    /// What was found of one load.
    pub(crate) fn new(
        runtime: Runtime,
        pattern: &str,
        concurrency: usize,
        older: bool,
        verdict: Verdict,
    ) -> Self {
        let Verdict { right, missing, wrong, unseen, rules } = verdict;
        Self {
            runtime: runtime.to_string(),
            pattern: pattern.to_owned(),
            concurrency,
            older,
            right,
            missing,
            wrong,
            unseen,
            rules,
        }
    }

    /// All calls.
    pub(crate) fn calls(&self) -> usize {
        self.right + self.missing + self.wrong + self.unseen
    }

    /// So many of the calls, in percent.
    pub(crate) fn share(&self, count: usize) -> f64 {
        100.0 * count as f64 / self.calls().max(1) as f64
    }

    /// Whether more parents are wrong than may be.
    pub(crate) fn lies(&self) -> bool {
        // Of few calls one alone is more than the share.
        self.wrong > 1 && self.share(self.wrong) > known::MOST_WRONG
    }

    /// Says so if less holds than has to.
    pub(crate) fn falls_behind(&self) -> Option<String> {
        let least = known::least_right(self);
        let lies = self.lies().then(|| format!("at most {}% may be wrong", known::MOST_WRONG));
        let few = (self.share(self.right) < least).then(|| format!("{least}% have to be right"));
        let why: Vec<String> = [lies, few].into_iter().flatten().collect();
        (!why.is_empty()).then(|| format!("{self}; {}", why.join(", ")))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runtime, pattern, concurrency, older, right, missing, wrong, unseen, rules } =
            self;
        let older = if *older { ", older" } else { "" };
        write!(
            f,
            "{runtime}, {pattern}, {concurrency} at once{older}: {right} right, {missing} missing, {wrong} wrong"
        )?;
        if *unseen > 0 {
            write!(f, ", {unseen} without a span")?;
        }
        for (rule, [right, missing, wrong]) in rules {
            write!(f, "; by {rule} {right}/{missing}/{wrong}")?;
        }
        Ok(())
    }
}

/// Rows as a JSON object, which `--rows` reads again.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Rows {
    /// All of them.
    pub(crate) rows: Vec<Row>,
}
