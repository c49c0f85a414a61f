//! Probes in processes, seen by what they change of their code.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::process::patient;

/// How long probes may take to be put in, or to be taken out.
const LIMIT: Duration = Duration::from_secs(15);

/// Whether this kernel can put probes in processes without `CAP_SYS_ADMIN` (6.6).
///
/// # Panics
///
/// If the kernel does not say what it is.
pub fn can_probe() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6, 6),
        _ => panic!("{release:?} is no version"),
    }
}

/// How many bytes of the code that a process has from a file, named by the end of its path, are other
/// than in the file: one for each probe.
///
/// # Panics
///
/// If the process is gone, or has no such file.
pub fn bytes_changed(pid: u32, file: &str) -> usize {
    let read = |path: &str| File::open(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let memory = read(&format!("/proc/{pid}/mem"));
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"));
    let maps = maps.unwrap_or_else(|error| panic!("process {pid}: {error}"));
    let mapped: Vec<_> = maps
        .lines()
        .filter(|line| line.ends_with(file))
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (from, to) = fields.next()?.split_once('-')?;
            let is_code = fields.next()?.contains('x');
            let number = |text| u64::from_str_radix(text, 16).ok();
            let (from, to, offset) = (number(from)?, number(to)?, number(fields.next()?)?);
            is_code.then_some((from, to - from, offset, fields.nth(2)?))
        })
        .collect();
    assert!(!mapped.is_empty(), "process {pid} does not run {file}");
    mapped
        .into_iter()
        .map(|(address, len, offset, path)| {
            let (mut left, mut right) = (vec![0; len as usize], vec![0; len as usize]);
            memory.read_exact_at(&mut left, address).unwrap_or_else(|error| panic!("{error}"));
            let length = read(path).read_at(&mut right, offset);
            let length = length.unwrap_or_else(|error| panic!("{path}: {error}"));
            left.iter().zip(&right).take(length).filter(|(left, right)| left != right).count()
        })
        .sum()
}

/// Waits until a process has probes in its code from that file, and no more are put in.
///
/// # Panics
///
/// If it has none in time.
pub fn await_probed(pid: u32, file: &str) {
    let deadline = Instant::now() + patient(LIMIT);
    let mut before = 0;
    loop {
        let changed = bytes_changed(pid, file);
        if changed != 0 && changed == before {
            return;
        }
        before = changed;
        assert!(Instant::now() < deadline, "no probe in {file}, or ever more: {changed}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until so many bytes of a process's code from that file are changed.
///
/// # Panics
///
/// If they are not in time.
pub fn await_bytes_changed(pid: u32, file: &str, wanted: usize) {
    let deadline = Instant::now() + patient(LIMIT);
    loop {
        let changed = bytes_changed(pid, file);
        if changed == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{changed} bytes of {file}, not {wanted}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
