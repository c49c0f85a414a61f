//! The requests that are made of a service, and how each of them is told from all others.

use std::ops::Range;

/// A way in which a request causes calls.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// The first part of the paths.
    pub(crate) name: &'static str,
    /// Calls that each request causes.
    pub(crate) calls: usize,
}

/// All of them, as the services know them.
pub(crate) const PATTERNS: &[Pattern] = &[
    Pattern { name: "one", calls: 1 },
    Pattern { name: "sequence", calls: 3 },
    Pattern { name: "parallel", calls: 3 },
    Pattern { name: "timer", calls: 1 },
    Pattern { name: "background", calls: 1 },
    Pattern { name: "retry", calls: 2 },
    Pattern { name: "datastore", calls: 1 },
];

/// The name of what has requests of all patterns at once.
pub(crate) const MIXED: &str = "mixed";

/// The columns of the tables.
pub(crate) fn columns() -> impl Iterator<Item = &'static str> {
    PATTERNS.iter().map(|pattern| pattern.name).chain([MIXED])
}

/// Requests that are made one after another, of one pattern or of several.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// The column that it makes.
    pub(crate) name: &'static str,
    /// The numbers of its requests. No two loads of a service share one.
    pub(crate) numbers: Range<usize>,
    patterns: Vec<&'static Pattern>,
}

impl Load {
    /// Requests of one pattern.
    pub(crate) fn of(pattern: &'static Pattern, numbers: Range<usize>) -> Self {
        Self { name: pattern.name, numbers, patterns: vec![pattern] }
    }

    /// Requests of several patterns, in no order.
    ///
    /// # Panics
    ///
    /// If there is no pattern.
    pub(crate) fn mixed(patterns: Vec<&'static Pattern>, numbers: Range<usize>) -> Self {
        assert!(!patterns.is_empty(), "a load has patterns");
        Self { name: MIXED, numbers, patterns }
    }

    /// The pattern of a request: without order, and the same in every run.
    pub(crate) fn pattern(&self, number: usize) -> &'static Pattern {
        // Multiplied by 2^64 divided by the golden ratio (Knuth, volume 3, 6.4), the upper
        // bits of consecutive numbers are spread; shifted onto the lower, for the remainder.
        let spread = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        self.patterns[(spread % self.patterns.len() as u64) as usize]
    }

    /// The calls that all its requests cause.
    pub(crate) fn calls(&self) -> usize {
        self.numbers.clone().map(|number| self.pattern(number).calls).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixed_load_has_every_pattern_about_as_often_as_others() {
        let load = Load::mixed(PATTERNS.iter().collect(), 5000..5700);
        for pattern in PATTERNS {
            let count = load.numbers.clone().filter(|&n| load.pattern(n) == pattern).count();
            assert!((60..140).contains(&count), "{}: {count} of 700", pattern.name);
        }
    }
}
