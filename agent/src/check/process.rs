//! `tracewire check --pid`: what can be read of one process.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::line;
use crate::golang;
use crate::resolve::procfs::ProcFs;
use crate::tls::mapped::{self, Mapped};
use crate::tls::{self, TlsLibrary};

/// What stands where a probe is (`int3`).
const BREAKPOINT: u8 = 0xcc;

/// Prints what is known of the process. Answers whether it could be looked at.
pub(crate) fn check(pid: u32) -> bool {
    let Some(maps) = mapped::of(pid) else {
        let error = File::open(format!("/proc/{pid}/maps")).err();
        let why = error.map_or_else(String::new, |error| format!(": {error}"));
        line(&format!(
            "MISSING process {pid}: it is not there, or may not be looked at (CAP_SYS_PTRACE){why}"
        ));
        return false;
    };
    let executable = ProcFs::at("/proc").executable(pid);
    line(&format!("ok      process {pid}: runs {}", executable.as_deref().unwrap_or("no program")));
    let pieces: Vec<Mapped<'_>> = maps.lines().filter_map(Mapped::parse).collect();
    let mut seen = Vec::new();
    let mut can_be_read = false;
    let mut hidden = None;
    for piece in &pieces {
        if seen.contains(&piece.number) {
            continue;
        }
        seen.push(piece.number);
        let Some((file, _)) = piece.open(pid) else {
            line(&format!("off     {}: it was replaced on disk, or cannot be opened", piece.path));
            continue;
        };
        say_goroutines(piece.path, &file);
        match tls::inspect(&file) {
            Some(Ok(library)) => {
                can_be_read = true;
                say_library(pid, piece.path, &library, &pieces);
            }
            Some(Err(why)) => line(&format!("off     {}: TLS of a Go program: {why}", piece.path)),
            None if Some(piece.path) == executable.as_deref() => hidden = tls::hidden(&file),
            None if piece.path.ends_with("/libjvm.so") => {
                line(&format!("off     {}: TLS of Java is not read", piece.path));
            }
            None => {}
        }
    }
    if !can_be_read {
        line(&match hidden {
            Some(name) => format!(
                "off     TLS: the program seems to hold {name}, without the symbols by which it could be probed"
            ),
            None => "off     TLS: no library that can be probed is mapped".to_owned(),
        });
    }
    true
}

/// Says whether goroutines can be told apart, if it is a Go program.
fn say_goroutines(path: &str, file: &File) {
    match golang::inspect(file) {
        Some(Ok(binary)) => {
            let calls =
                if binary.calls.is_empty() { "; no client is in it that is known" } else { "" };
            line(&format!(
                "ok      {path}: a Go program whose goroutines can be told apart{calls}"
            ));
        }
        Some(Err(why)) => {
            line(&format!("off     {path}: goroutines cannot be told apart: {why}"));
        }
        None => {}
    }
}

fn say_library(pid: u32, path: &str, library: &TlsLibrary, pieces: &[Mapped<'_>]) {
    let mut places: Vec<u64> = [&library.entries, &library.returns, &library.ends]
        .into_iter()
        .flatten()
        .map(|(place, _)| *place)
        .collect();
    places.sort_unstable();
    places.dedup();
    let wanted = places.len();
    let state = match probed(pid, path, &places, pieces) {
        Some(0) => "none is probed now".to_owned(),
        Some(probed) if probed == wanted => "all are probed now".to_owned(),
        Some(probed) => format!("{probed} are probed now"),
        None => "whether they are probed now cannot be seen (CAP_SYS_PTRACE)".to_owned(),
    };
    line(&format!("ok      {path}: {}, {wanted} places to probe, {state}", library.kind));
}

/// How many of these places in the file have a probe, as the process runs it.
fn probed(pid: u32, path: &str, places: &[u64], pieces: &[Mapped<'_>]) -> Option<usize> {
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    let of_file = || pieces.iter().filter(|piece| piece.path == path);
    let mut found = 0;
    for place in places {
        let address = of_file().find_map(|piece| piece.address_of(*place))?;
        let mut byte = [0];
        memory.read_exact_at(&mut byte, address).ok()?;
        found += usize::from(byte[0] == BREAKPOINT);
    }
    Some(found)
}
