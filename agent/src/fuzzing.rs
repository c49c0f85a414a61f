//! What the fuzz targets of userspace's parsers do with their input. Those of the parsers
//! that both halves share are in `agent-common/tests/parsers`.
//!
//! A fuzz target (`tests/fuzz`) is made of this file and of the parsers' own; ordinary
//! tests replay the corpora through the same functions.

use crate::assemble::http2::fields::{Fields, Name};
use crate::assemble::http2::hpack::{Table, decode};
use crate::assemble::http2::{Http2Connections, Http2Limits, Part};
use crate::assemble::{REDACTED, head_of_fields, parse_head};
use crate::executables::Executables;
use crate::export::parse_headers;
use crate::golang;
use crate::kernel::blocked::descriptor;
use crate::kernel::btf::KernelTypes;
use crate::kernel::proc_net::listening_port;
use crate::metrics::Metrics;
use crate::node;
use crate::python;
use crate::resolve::identity::Identity;
use crate::resolve::{container, procfs};
use crate::ruby;
use crate::span::{RequestHead, TextRange};
use crate::tls;
use crate::tokio_tasks;
use std::fs::File;
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};
use std::slice::from_ref;
use tracewire_common::outcome::HeadKind;

/// A target: its name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// The targets.
pub const TARGETS: &[Target] = &[
    ("request_head", request_head),
    ("hpack", hpack),
    ("http2_blocks", http2_blocks),
    ("identity", identity),
    ("proc_files", proc_files),
    ("btf", btf),
    ("otlp_headers", otlp_headers),
    ("executables", executables),
    ("programs", programs),
];

/// Takes the next piece of an input: up to the first byte 0xff, which no text holds.
fn piece<'a>(data: &mut &'a [u8]) -> &'a [u8] {
    let end = data.iter().position(|&byte| byte == 0xff).unwrap_or(data.len());
    let (piece, rest) = data.split_at(end);
    *data = rest.get(1..).unwrap_or_default();
    piece
}

/// A captured head, cut or not: what is kept lies inside its text, is not longer than
/// what came, and holds no credentials.
pub fn request_head(data: &[u8]) {
    for cut in [false, true] {
        let head = parse_head(data, cut);
        // Bytes that are no UTF-8 become three each; values that are redacted, a word.
        let replaced = data.iter().filter(|&&byte| byte == b'=').count() * REDACTED.len();
        assert!(head.text.len() <= 3 * data.len() + replaced + 1, "longer than what came");
        check_head(&head);
    }
}

/// What holds of every head: its parts lie inside its text, and hold no credentials.
fn check_head(head: &RequestHead) {
    let ranges = [
        head.method_original,
        head.scheme,
        head.authority,
        head.host,
        head.path,
        head.query,
        head.user_agent,
    ];
    for TextRange { start, end } in ranges.into_iter().flatten() {
        assert!(start <= end && head.text.get(start as usize..end as usize).is_some());
    }
    if let Some(authority) = head.text_of(head.authority) {
        assert!(!authority.contains('@'), "user information in {authority:?}");
    }
    let query = head.text_of(head.query).unwrap_or_default();
    for pair in query.split('&') {
        if let Some((key @ ("sig" | "Signature" | "AWSAccessKeyId"), value)) = pair.split_once('=')
        {
            assert_eq!(value, REDACTED, "the value of {key}");
        }
    }
}

/// Takes the next piece of an input of any bytes: its length in a byte, then it.
fn counted<'a>(data: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (&length, rest) = data.split_first()?;
    let (piece, rest) = rest.split_at(rest.len().min(usize::from(length)));
    *data = rest;
    Some(piece)
}

/// Header blocks, one after the other, of one direction: to one who has seen all of them, and to
/// one who has not seen those before. Whatever the second knows, the first knows too.
pub fn hpack(mut data: &[u8]) {
    let (mut whole, mut late) = (Table::new(), Table::unknown());
    let (mut fields, mut late_fields) = (Fields::default(), Fields::default());
    while let Some(block) = counted(&mut data) {
        fields.clear();
        late_fields.clear();
        let decoded = decode(block, &mut whole, &mut fields);
        let seen_late = decode(block, &mut late, &mut late_fields);
        check_head(&head_of_fields(&late_fields));
        assert!(whole.kept() < 1 << 18 && late.kept() < 1 << 18);
        if decoded.is_err() {
            // No encoder wrote it, so there is no truth about what it says.
            return;
        }
        assert_eq!(seen_late, Ok(()), "what is right for all is right for who came late");
        for &name in Name::KEPT {
            // Of fields that are there twice another may be the first that is known.
            let value = late_fields.get(name);
            assert!(value.is_none() || !fields.is_absent(name), "{name:?} never came");
            if late_fields.is_absent(name) {
                assert!(fields.is_absent(name), "{name:?} came");
            }
        }
        // The newest entries of the dynamic table, by their index in one byte (RFC 7541 §6.1).
        for index in 0xbe..0xff {
            fields.clear();
            late_fields.clear();
            let is_there = decode(&[index], &mut whole, &mut fields).is_ok();
            let seen_late = decode(&[index], &mut late, &mut late_fields);
            assert!(!is_there || seen_late.is_ok(), "entry {index} is not there for all");
            for &name in Name::KEPT {
                if let (true, Some(value)) = (is_there, late_fields.get(name)) {
                    assert_eq!(fields.get(name), Some(value), "entry {index} is another");
                }
            }
        }
    }
}

/// Parts of header blocks on a few connections, in any order, with any numbers and holes:
/// memory is bounded, and what comes out is fit to be shown.
pub fn http2_blocks(mut data: &[u8]) {
    let metrics = Metrics::default();
    let limits = Http2Limits { connections: 3, kept: 4096 };
    let mut http2 = Http2Connections::new(limits);
    let (mut block, mut offset) = (0u32, 0u32);
    while let Some((&choice, rest)) = data.split_first() {
        data = rest;
        let connection = u64::from(choice & 3);
        match choice >> 5 {
            0 => http2.start(connection, &metrics),
            1 => http2.end(connection),
            2 => block = block.wrapping_add(1),
            3 => offset = offset.wrapping_add(1),
            kind => {
                let bytes = counted(&mut data).unwrap_or_default();
                let end = offset.wrapping_add(bytes.len() as u32);
                let is_last = kind & 1 != 0;
                let part = Part { block, offset, data: bytes, block_len: is_last.then_some(end) };
                let sender = [HeadKind::Request, HeadKind::Response][usize::from(choice >> 4 & 1)];
                if let Some(ended) = http2.on_part(connection, sender, &part, &metrics) {
                    assert!(is_last);
                    check_head(&head_of_fields(ended.fields));
                    (block, offset) = (block.wrapping_add(1), 0);
                } else {
                    offset = end;
                }
            }
        }
    }
}

/// Arguments, environment, name and path of a process: of the environment nothing counts
/// but two variables.
pub fn identity(mut data: &[u8]) {
    let path = String::from_utf8_lossy(piece(&mut data)).into_owned();
    let path = (!path.is_empty()).then_some(path);
    let comm = String::from_utf8_lossy(piece(&mut data)).into_owned();
    let args = piece(&mut data);
    let environ = data;
    let known = Identity::new(path.clone(), &comm, args, environ);
    let whole = environ.iter().rposition(|&byte| byte == 0).map_or(0, |end| end + 1);
    let ours: Vec<u8> = environ[..whole]
        .split_inclusive(|&byte| byte == 0)
        .filter(|variable| {
            [&b"OTEL_SERVICE_NAME="[..], b"OTEL_RESOURCE_ATTRIBUTES="]
                .iter()
                .any(|name| variable.starts_with(name))
        })
        .flatten()
        .copied()
        .collect();
    assert_eq!(known, Identity::new(path, &comm, args, &ours), "another variable counted");
}

/// Files of `/proc`, as a process's `stat`, `syscall`, `cgroup`, `mountinfo`, `maps` and `net/tcp`.
pub fn proc_files(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = procfs::start_of(&text);
    let _ = descriptor(&text);
    for line in text.lines() {
        let _ = listening_port(line);
        if let Some(mapped) = tls::mapped::Mapped::parse(line) {
            check_mapped(&mapped);
        }
    }
    let _ = container::is_cgroup_opaque(&text);
    for id in [container::from_cgroup(&text), container::from_mountinfo(&text)] {
        let is_id = |id: &str| {
            id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
                // A task of ECS has a number of any length.
                || id.len() > 33 && id.as_bytes()[32] == b'-'
        };
        assert!(id.is_none_or(is_id), "{id:?} is no id of a container");
    }
}

/// What a process has mapped: any place of the file is outside of that, or at an address inside.
fn check_mapped(mapped: &tls::mapped::Mapped<'_>) {
    assert!(mapped.path.starts_with('/') && mapped.number.1 != 0);
    let (start, end) = mapped.memory;
    for place in [0, mapped.at, mapped.at.wrapping_add(1), end.wrapping_sub(1), u64::MAX] {
        let address = mapped.address_of(place);
        assert!(address.is_none_or(|address| (start..end).contains(&address)), "{place:#x}");
    }
}

/// The kernel's type information: refused, or asked in bounded time.
pub fn btf(data: &[u8]) {
    let Some(types) = KernelTypes::parse(data.to_vec()) else {
        return;
    };
    for (structure, member) in [("sock", "sk_sndbuf"), ("a", "b"), ("a", "")] {
        if let (Ok(first), Ok(again)) =
            (types.offset(structure, member), types.offset(structure, member))
        {
            assert_eq!(first, again);
        }
    }
}

/// `--otlp-headers`: names are lower case and not empty, and errors quote no value.
pub fn otlp_headers(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match parse_headers(text) {
        Ok(headers) => {
            assert!(headers.len() <= 1 + text.matches(',').count());
            for (name, value) in headers {
                assert!(!name.is_empty() && !name.contains([',', '=']), "{name:?}");
                assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()), "{name:?}");
                assert!(value.len() <= text.len());
            }
        }
        Err(error) => {
            let known = |entry: &str| {
                let name = entry.split_once('=').map(|(name, _)| name.trim());
                name.is_some_and(|name| error.0 == format!("{name:?}"))
            };
            assert!(error.0.starts_with("number ") || text.split(',').any(known), "{error:?}");
        }
    }
}

/// Globs of executables, and the path of one.
pub fn executables(mut data: &[u8]) {
    let mut next = || String::from_utf8_lossy(piece(&mut data)).into_owned();
    let (include, exclude, path) = (next(), next(), next());
    let Ok(both) = Executables::new(from_ref(&include), from_ref(&exclude)) else {
        return;
    };
    assert!(both.are_listed());
    // An exclusion wins, whatever is included.
    if let Ok(excluding) = Executables::new(&[], from_ref(&exclude)) {
        assert!(excluding.include(Some(&path)) || !both.include(Some(&path)));
    }
    if let Ok(including) = Executables::new(from_ref(&include), &[]) {
        assert!(including.include(Some(&path)) || !both.include(Some(&path)));
    }
}

/// The file of a program or of a library, which is looked at wherever a process has it mapped: where it is
/// probed is inside of it.
pub fn programs(data: &[u8]) {
    let Some(file) = memory_file(data) else { return };
    let len = data.len() as u64;
    if let Some(Ok(binary)) = golang::inspect(&file) {
        assert!(binary.calls.iter().all(|(place, _)| *place < len));
        assert!(binary.birth.is_none_or(|place| place < len));
    }
    let _none_or_one = tls::hidden(&file);
    if let Some(binary) = python::inspect(&file) {
        // Three of queues; `copy_context`, what it calls, and four that make contexts.
        assert!(binary.entries.len() + binary.returns.len() <= 3 + 2 + 4);
    }
    let _none_or_one = node::inspect(&file);
    let _none_or_one = ruby::inspect(&file);
    if let Some(binary) = tokio_tasks::inspect(&file) {
        assert!(binary.entries().count() <= 4096 + 3 * 64);
    }
    if let Some(Ok(library)) = tls::inspect(&file) {
        // Of the others only the start of what is executable is known, and the kernel asks for the end.
        for (place, _) in library.ends {
            let byte = usize::try_from(place).ok().and_then(|place| data.get(place));
            // `ret`, near and far, with and without a number, or a prefix of it.
            assert!(byte.is_some_and(|byte| is_return_or_prefix(*byte)), "{byte:x?} at {place}");
        }
    }
}

fn is_return_or_prefix(byte: u8) -> bool {
    const PREFIXES: [u8; 11] = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3];
    matches!(byte, 0xc2 | 0xc3 | 0x40..=0x4f) || PREFIXES.contains(&byte)
}

/// A file with this content that is nowhere but in memory.
fn memory_file(data: &[u8]) -> Option<File> {
    // SAFETY: a name that ends with a zero, and a plain number.
    let descriptor = unsafe { libc::memfd_create(c"program".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return None;
    }
    // SAFETY: a new descriptor, owned here alone.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
    file.write_all(data).ok()?;
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::{TARGETS, golang, memory_file, node, python, tls, tokio_tasks};
    use std::fs::File;
    use std::path::{Path, PathBuf};

    fn corpus(target: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target)
    }

    /// The file of the corpus that a fuzzer begins with.
    fn program(name: &str) -> File {
        let path = corpus("programs").join(name);
        let data = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        memory_file(&data).expect("a file in memory")
    }

    #[test]
    fn a_fuzzer_of_programs_begins_with_one_of_each_kind() {
        for name in ["go", "go-tls"] {
            assert!(matches!(golang::inspect(&program(name)), Some(Ok(_))), "{name}");
        }
        for name in ["openssl", "gnutls"] {
            assert!(matches!(tls::inspect(&program(name)), Some(Ok(_))), "{name}");
        }
        assert!(node::inspect(&program("node")).is_some());
        let tasks = tokio_tasks::inspect(&program("tokio")).expect("tasks");
        assert_eq!((tasks.runs.len(), tasks.wakes.len()), (1, 2), "{tasks:?}");
        let interpreter = python::inspect(&program("python")).expect("an interpreter");
        assert!(matches!(interpreter.interpreter, Some(Ok(_))), "{interpreter:?}");
        assert_eq!((interpreter.entries.len(), interpreter.returns.len()), (1, 8));
        let module = python::inspect(&program("gevent")).expect("a module");
        assert!(module.switches_stacks && module.enters_contexts);
    }

    #[test]
    fn the_corpora_of_the_fuzz_targets_pass() {
        for (target, body) in TARGETS {
            let dir = corpus(target);
            let entries =
                std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
            let mut inputs = 0;
            for entry in entries {
                let path = entry.expect("an entry of a directory of this repository").path();
                let data =
                    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                println!("{}", path.display());
                body(&data);
                inputs += 1;
            }
            assert!(inputs > 0, "{} holds no inputs", dir.display());
        }
    }
}
