//! Which processes are looked at, by the path of their executable.

use globset::{Glob, GlobSet, GlobSetBuilder};

/// Include and exclude patterns.
#[derive(Clone, Debug)]
pub(crate) struct Executables {
    include: Patterns,
    exclude: Patterns,
}

/// Patterns with a slash are matched against the whole path, others against the name.
/// A star matches slashes too, as in `find -path`.
#[derive(Clone, Debug)]
struct Patterns {
    paths: GlobSet,
    names: GlobSet,
}

impl Patterns {
    fn new(patterns: &[String]) -> Result<Self, globset::Error> {
        let mut paths = GlobSetBuilder::new();
        let mut names = GlobSetBuilder::new();
        for pattern in patterns {
            let glob = Glob::new(pattern)?;
            if pattern.contains('/') {
                paths.add(glob)
            } else {
                names.add(glob)
            };
        }
        Ok(Self { paths: paths.build()?, names: names.build()? })
    }

    fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.names.is_empty()
    }

    fn matches(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        self.paths.is_match(path) || self.names.is_match(name)
    }
}

impl Executables {
    /// Compiles the patterns.
    ///
    /// # Errors
    ///
    /// If one is no glob.
    pub(crate) fn new(include: &[String], exclude: &[String]) -> Result<Self, globset::Error> {
        Ok(Self { include: Patterns::new(include)?, exclude: Patterns::new(exclude)? })
    }

    /// Whether there is any pattern.
    pub(crate) fn are_listed(&self) -> bool {
        !self.include.is_empty() || !self.exclude.is_empty()
    }

    /// Whether a process that runs this is looked at. One about which nothing is known
    /// is not on a list, so it is looked at only where all are that are not excluded.
    pub(crate) fn include(&self, path: Option<&str>) -> bool {
        match path {
            Some(path) => {
                !self.exclude.matches(path)
                    && (self.include.is_empty() || self.include.matches(path))
            }
            None => self.include.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executables(include: &[&str], exclude: &[&str]) -> Executables {
        let owned = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
        Executables::new(&owned(include), &owned(exclude)).expect("the patterns are globs")
    }

    #[test]
    fn without_patterns_every_process_is_looked_at() {
        let all = executables(&[], &[]);
        assert!(!all.are_listed());
        assert!(all.include(Some("/usr/bin/python3")) && all.include(None));
    }

    #[test]
    fn a_pattern_without_a_slash_is_about_the_name() {
        let pythons = executables(&["python*"], &[]);
        assert!(pythons.include(Some("/opt/venv/bin/python3.11")));
        assert!(!pythons.include(Some("/opt/python/bin/gunicorn")));
        assert!(!pythons.include(None));
    }

    #[test]
    fn an_exclusion_wins() {
        let some = executables(&["/usr/**"], &["/usr/sbin/*"]);
        assert!(some.include(Some("/usr/bin/node")));
        assert!(!some.include(Some("/usr/sbin/nginx")));
        assert!(!some.include(Some("/opt/node")));
    }
}
