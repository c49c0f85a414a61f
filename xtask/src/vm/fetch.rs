//! Kernels from the packages of other releases, without touching the machine's own lists.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::kernels::{Archive, Series};
use crate::packages::Need;
use crate::process;
use crate::progress::say;
use crate::workspace;

/// The keys of Debian's releases, past and coming; `apt` checks every list with them.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A file that is written last: the kernel is there as a whole.
const COMPLETE: &str = "complete";

/// A kernel, unpacked.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// The directory that holds what the packages hold.
    root: PathBuf,
}

/// What the machine needs to fetch kernels.
pub(crate) fn needs() -> Vec<Need> {
    vec![
        Need::package("debian-archive-keyring"),
        Need::program("dpkg-deb", "dpkg"),
        Need::program("xz", "xz-utils"),
    ]
}

/// Gives a kernel of the series: the one that was fetched earlier, else the newest.
///
/// # Errors
///
/// If no package has it, or it cannot be fetched or unpacked.
pub(crate) fn kernel(series: Series) -> Result<Kernel> {
    let root = directory().join("kernels").join(series.to_string());
    if root.join(COMPLETE).exists() {
        return Ok(Kernel { root });
    }
    say(format!("fetching a kernel of the series {series}"));
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    }
    let apt = Apt::of(series)?;
    apt.run("apt-get", &["update"])?;
    let mut names = Vec::new();
    for pattern in series.packages() {
        names.push(apt.newest(pattern).with_context(|| {
            let suites: Vec<&str> = series.suites().iter().map(|(_, suite)| *suite).collect();
            format!(
                "no package of {} matches {pattern}: adapt xtask/src/vm/kernels.rs to what is there",
                suites.join(" or ")
            )
        })?);
    }
    let packages = apt.download(&names)?;
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    for package in packages {
        process::run(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&root))?;
        fs::remove_file(&package)
            .with_context(|| format!("cannot remove {}", package.display()))?;
    }
    let kernel = Kernel { root };
    kernel.image()?;
    fs::write(kernel.root.join(COMPLETE), names.join("\n")).context("cannot mark the kernel")?;
    Ok(kernel)
}

/// Where all that this command keeps is.
pub(super) fn directory() -> PathBuf {
    workspace::target_dir().join("vm")
}

impl Kernel {
    /// The image that boots.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub(crate) fn image(&self) -> Result<PathBuf> {
        find(&self.root, &|name| name.starts_with("vmlinuz"))
            .with_context(|| format!("no kernel image in {}", self.root.display()))
    }

    /// A module's file, by the module's name.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub(crate) fn module(&self, name: &str) -> Result<PathBuf> {
        let file = format!("{name}.ko");
        find(&self.root, &|found| found.split(".xz").next() == Some(&file))
            .with_context(|| format!("no module {name} in {}", self.root.display()))
    }
}

/// A file below `directory` whose name fits.
fn find(directory: &Path, fits: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let mut deeper = Vec::new();
    for entry in fs::read_dir(directory).ok()?.flatten() {
        let kind = entry.file_type().ok()?;
        if kind.is_dir() {
            deeper.push(entry.path());
        } else if kind.is_file() && entry.file_name().to_str().is_some_and(fits) {
            return Some(entry.path());
        }
    }
    deeper.iter().find_map(|directory| find(directory, fits))
}

/// apt with lists of its own.
struct Apt {
    directory: PathBuf,
}

impl Apt {
    fn of(series: Series) -> Result<Self> {
        let directory = directory().join("apt").join(series.to_string());
        for part in ["lists/partial", "cache/archives/partial", "packages"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let mut lines = String::new();
        for (archive, suite) in series.suites() {
            lines += &format!("deb [signed-by={KEYS}] {} {suite} main\n", mirror(*archive)?);
        }
        let list = directory.join("sources.list");
        fs::write(&list, lines).with_context(|| format!("cannot write {}", list.display()))?;
        Ok(Self { directory })
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        let at = self.directory.display();
        for option in [
            format!("Dir::Etc::SourceList={at}/sources.list"),
            "Dir::Etc::SourceParts=-".to_owned(),
            format!("Dir::State::Lists={at}/lists"),
            format!("Dir::Cache={at}/cache"),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::IndexTargets::deb::CNF::DefaultEnabled=false".to_owned(),
            // The user `_apt` may not write below a private target directory.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command.arg("-q=2").args(arguments);
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        process::run(&mut self.command(program, arguments))
    }

    /// The package with the highest version in its name.
    fn newest(&self, pattern: &str) -> Result<String> {
        let found =
            process::output(&mut self.command("apt-cache", &["search", "--names-only", pattern]))?;
        let names = found.lines().filter_map(|line| line.split(' ').next());
        let newest = names.max_by_key(|name| numbers(name));
        newest.map(str::to_owned).context("nothing was found")
    }

    fn download(&self, names: &[String]) -> Result<Vec<PathBuf>> {
        let into = self.directory.join("packages");
        let mut command = self.command("apt-get", &["download"]);
        process::run(command.args(names).current_dir(&into))?;
        let entries =
            fs::read_dir(&into).with_context(|| format!("cannot read {}", into.display()))?;
        let files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        if files.len() < names.len() {
            bail!(
                "apt left {} packages in {} instead of {}",
                files.len(),
                into.display(),
                names.len()
            );
        }
        Ok(files)
    }
}

/// All numbers in a name, to compare versions by.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// The mirror of Debian that this machine uses.
fn mirror(archive: Archive) -> Result<String> {
    let label = match archive {
        Archive::Main => "Debian",
        Archive::Security => "Debian-Security",
    };
    let known = process::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(LABEL) $(REPO_URI)",
        "Created-By: Packages",
    ]))
    .context("this machine's package sources cannot be read")?;
    known
        .lines()
        .find_map(|line| line.split_once(' ').filter(|(found, _)| *found == label))
        .map(|(_, uri)| uri.to_owned())
        .with_context(|| {
            format!(
                "the kernels come from Debian's packages, and this machine knows no mirror of the archive \"{label}\": add one to its package sources and run `apt-get update`"
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let newest =
            ["linux-image-6.12.95+deb12", "linux-image-6.12.117+deb12", "linux-image-6.12.9"]
                .into_iter()
                .max_by_key(|name| numbers(name));
        assert_eq!(newest, Some("linux-image-6.12.117+deb12"));
    }
}
