//! Executables that are made here, with what a Go program has and nothing else.

use std::fs::File;
use std::io::Write;

use super::*;
use crate::tls::TlsLibrary;
use tracewire_common::tls::Call;

const CODE: u64 = 0x40_1000;
const CODE_AT: u64 = 0x1000;
const CODE_LEN: u64 = 0x800;
/// Where the client's function and the program's start are, counted from the start of the code.
const CLIENT: u32 = 0x340;
const START: u32 = 0x20;

/// `lea r12, [rsp-0x60]; cmp r12, [r14+16]; jbe`
const SHORT: &[u8] = &[0x4c, 0x8d, 0x64, 0x24, 0xa0, 0x4d, 0x3b, 0x66, 0x10, 0x76, 0x20];

/// What is different from one program to the other.
struct Made {
    version: &'static str,
    text_start: u64,
    thread_local_len: u64,
    functions: Vec<(&'static str, u32)>,
    entry: u64,
    symbols: bool,
    prologue: &'static [u8],
    /// More code: where, and what.
    code: Vec<(u32, Vec<u8>)>,
}

impl Default for Made {
    fn default() -> Self {
        Self {
            version: "go1.22.3",
            text_start: CODE,
            thread_local_len: 8,
            functions: vec![
                ("_rt0_amd64_linux", START),
                ("net/http.(*persistConn).roundTripper", 0x200),
                ("net/http.(*persistConn).roundTrip", CLIENT),
                ("main.main", 0x500),
            ],
            entry: CODE + u64::from(START),
            symbols: false,
            prologue: SHORT,
            code: Vec::new(),
        }
    }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

impl Made {
    fn build_info(&self) -> Vec<u8> {
        let mut made = b"\xff Go buildinf:\x08\x02".to_vec();
        made.resize(32, 0);
        made.push(self.version.len() as u8);
        made.extend(self.version.bytes());
        made
    }

    fn function_table(&self) -> Vec<u8> {
        let mut names = vec![0];
        let mut described = Vec::new();
        let mut index = Vec::new();
        let index_len = (self.functions.len() * 8 + 4) as u32;
        for &(name, at) in &self.functions {
            index.extend(at.to_le_bytes());
            index.extend((index_len + described.len() as u32).to_le_bytes());
            described.extend(at.to_le_bytes());
            described.extend((names.len() as u32).to_le_bytes());
            described.extend([0; 36]);
            names.extend(name.bytes());
            names.push(0);
        }
        index.extend((CODE_LEN as u32).to_le_bytes());
        let names_at = 8 + 8 * 8;
        let index_at = names_at + names.len() as u64;
        let mut made = vec![0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8];
        made.extend(words(&[self.functions.len() as u64, 0, self.text_start, names_at]));
        made.extend(words(&[index_at, index_at, index_at, index_at]));
        made.extend([names, index, described].concat());
        made
    }

    fn bytes(&self) -> Vec<u8> {
        let mut strings = vec![0];
        let mut name = |text: &str| {
            let at = strings.len() as u32;
            strings.extend(text.bytes());
            strings.push(0);
            at
        };
        let tlsg = name("runtime.tlsg");
        let mut symbols = vec![0u8; 24];
        symbols.extend(tlsg.to_le_bytes());
        // A thread-local variable in some section, at 16, of 8 bytes.
        symbols.extend([6, 0, 1, 0]);
        symbols.extend(words(&[16, 8]));
        let mut parts: Vec<(u32, u32, u64, Vec<u8>, u32)> = vec![
            (name(".text"), 1, CODE, vec![0xcc; CODE_LEN as usize], 0),
            (name(".go.buildinfo"), 1, 0, self.build_info(), 0),
            (name(".gopclntab"), 1, 0, self.function_table(), 0),
        ];
        if self.symbols {
            parts.push((name(".symtab"), 2, 0, symbols, 5));
        }
        parts[0].3[CLIENT as usize..][..self.prologue.len()].copy_from_slice(self.prologue);
        for (at, code) in &self.code {
            parts[0].3[*at as usize..][..code.len()].copy_from_slice(code);
        }
        let own = name(".shstrtab");
        parts.push((own, 3, 0, strings, 0));
        let mut made = b"\x7fELF\x02\x01\x01".to_vec();
        made.resize(CODE_AT as usize, 0);
        let mut headers = vec![0; 64];
        for (name, kind, address, part, link) in &parts {
            headers.extend(name.to_le_bytes());
            headers.extend(kind.to_le_bytes());
            headers.extend(words(&[0, *address, made.len() as u64, part.len() as u64]));
            headers.extend(link.to_le_bytes());
            headers.resize(headers.len() + 20, 0);
            made.extend(part);
        }
        let sections_at = made.len() as u64;
        made.extend(headers);
        let segments = [
            // Code: readable, executable. Thread-local: readable, as long as is said.
            (1u32, 5u32, [CODE_AT, CODE, CODE, CODE_LEN, CODE_LEN, 0x1000]),
            (7, 4, [0, 0, 0, 0, self.thread_local_len, 8]),
        ];
        for (index, (kind, flags, fields)) in segments.iter().enumerate() {
            let at = 64 + index * 56;
            let segment = [&kind.to_le_bytes()[..], &flags.to_le_bytes(), &words(fields)].concat();
            made[at..at + 56].copy_from_slice(&segment);
        }
        made[16..20].copy_from_slice(&[2, 0, 62, 0]);
        made[24..48].copy_from_slice(&words(&[self.entry, 64, sections_at]));
        made[52..64].copy_from_slice(
            &[64u16, 56, 2, 64, parts.len() as u16 + 1, parts.len() as u16]
                .map(u16::to_le_bytes)
                .concat(),
        );
        made
    }
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile();
    file.write_all(bytes).expect("there is room for some kilobytes");
    file
}

fn tempfile() -> File {
    let name = rustix::fs::memfd_create(c"go", rustix::fs::MemfdFlags::CLOEXEC);
    File::from(name.expect("there is memory for a small file"))
}

fn inspected(made: &Made) -> Option<Result<GoBinary, Unknown>> {
    inspect(&file(&made.bytes()))
}

const SLOT_BEFORE_BASE: u64 = 8u64.wrapping_neg();

#[test]
fn a_program_without_symbols_is_understood() {
    let binary = inspected(&Made::default()).expect("a Go program").expect("a known one");
    assert_eq!(binary.process.g_slot, SLOT_BEFORE_BASE);
    assert_eq!(binary.process.off_goid, 152);
    assert_eq!(binary.calls, [(CODE_AT + u64::from(CLIENT) + 9, GoPlace::RoundTrip)]);
}

#[test]
fn a_program_without_the_client_has_none_to_probe() {
    let functions = vec![("_rt0_amd64_linux", START), ("main.main", 0x500)];
    let binary = inspected(&Made { functions, ..Made::default() }).expect("a Go program");
    assert_eq!(binary.map(|binary| binary.calls), Ok(Vec::new()));
}

#[test]
fn where_the_code_starts_is_known_without_the_header_only_if_the_entry_shows_it() {
    let silent = Made { text_start: 0, version: "go1.26.1", ..Made::default() };
    let binary = inspected(&silent).expect("a Go program").expect("a known one");
    assert_eq!(binary.calls, [(CODE_AT + u64::from(CLIENT) + 9, GoPlace::RoundTrip)]);
    // Code of C stands before Go's.
    let elsewhere = Made { entry: CODE, ..silent };
    assert_eq!(inspected(&elsewhere), Some(Err(Unknown::Functions)));
}

#[test]
fn a_function_outside_of_the_code_is_not_believed() {
    let functions = vec![("net/http.(*persistConn).roundTrip", CODE_LEN as u32)];
    let made = Made { functions, ..Made::default() };
    assert_eq!(inspected(&made), Some(Err(Unknown::Functions)));
}

#[test]
fn a_function_is_probed_at_the_jump_of_its_prologue_and_nowhere_else() {
    let place = |prologue| {
        let inspected = inspected(&Made { prologue, ..Made::default() }).expect("a Go program");
        inspected.map(|binary| binary.calls.first().map(|(at, _)| at - CODE_AT - u64::from(CLIENT)))
    };
    const BEFORE: [u8; 8] = [0x4c, 0x8d, 0xa4, 0x24, 0x10, 0xff, 0xff, 0xff];
    const LONG: [u8; 14] = {
        let mut made = [0x4d, 0x3b, 0x66, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0x0f, 0x86];
        (made[8], made[9], made[10], made[11]) = (made[0], made[1], made[2], made[3]);
        let mut at = 0;
        while at < BEFORE.len() {
            made[at] = BEFORE[at];
            at += 1;
        }
        made
    };
    assert_eq!(place(&[0x49, 0x3b, 0x66, 0x10, 0x76, 0x40]), Ok(Some(4)));
    assert_eq!(place(SHORT), Ok(Some(9)));
    assert_eq!(place(&LONG), Ok(Some(12)));
    for other in [&[0x49, 0x3b, 0x66, 0x10, 0x74, 0x40][..], &[0xcc; 4], &LONG[..12]] {
        assert_eq!(place(other), Err(Unknown::Functions), "{other:x?}");
    }
}

#[test]
fn among_other_thread_local_variables_the_slot_is_found_by_its_symbol() {
    let stripped = Made { thread_local_len: 40, ..Made::default() };
    assert_eq!(inspected(&stripped), Some(Err(Unknown::ThreadLocal)));
    let made = Made { symbols: true, ..stripped };
    let binary = inspected(&made).expect("a Go program").expect("a known one");
    assert_eq!(binary.process.g_slot, 24u64.wrapping_neg());
}

/// A program with the functions of the TLS library, of which the one that reads has this code behind its
/// prologue.
fn with_tls(read: &[u8]) -> Made {
    let functions = vec![
        ("_rt0_amd64_linux", START),
        ("crypto/tls.(*Conn).Read", 0x100),
        ("crypto/tls.(*Conn).Write", 0x200),
        ("crypto/tls.(*Conn).serverHandshake", 0x300),
    ];
    let code = [(0x100, [SHORT, read].concat()), (0x200, SHORT.to_vec()), (0x300, SHORT.to_vec())];
    Made { functions, code: code.to_vec(), ..Made::default() }
}

fn tls_of(made: &Made) -> Option<Result<TlsLibrary, Unknown>> {
    let file = file(&made.bytes());
    tls_library(&mut Elf::open(Window::new(&file))?)
}

#[test]
fn reading_from_tls_is_probed_at_each_instruction_that_returns_and_at_no_byte_that_looks_like_one()
{
    // mov eax, 0xc3c3c3c3; ret; jmp; mov rax, [rsp+0xc3]; ret
    let read = [
        &[0xb8, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3, 0xeb, 0x09][..],
        &[0x48, 0x8b, 0x84, 0x24, 0xc3, 0, 0, 0, 0xc3],
    ]
    .concat();
    let library = tls_of(&with_tls(&read)).expect("a Go program with TLS").expect("a known one");
    let after = CODE_AT + 0x100 + SHORT.len() as u64;
    assert_eq!(library.ends, [(after + 5, Call::GoRead), (after + 16, Call::GoRead)]);
    assert_eq!(library.returns, []);
    let entered = |at| CODE_AT + at + 9;
    let entries = [
        (entered(0x100), Call::GoRead),
        (entered(0x200), Call::GoWrite),
        (entered(0x300), Call::GoHandshake),
    ];
    assert_eq!(library.entries, entries);
}

#[test]
fn reading_from_tls_that_is_not_understood_is_not_probed() {
    // An instruction that there is not in 64 bits; no end at all.
    for read in [&[0x06, 0xc3][..], &[]] {
        assert_eq!(tls_of(&with_tls(read)), Some(Err(Unknown::Functions)), "{read:x?}");
    }
    let without = Made::default();
    assert_eq!(tls_of(&without), None);
}

#[test]
fn grpc_is_probed_where_it_makes_fields_and_where_it_opens_streams() {
    let functions = vec![
        ("_rt0_amd64_linux", START),
        ("google.golang.org/grpc/internal/transport.(*http2Client).createHeaderFields", 0x100),
        ("google.golang.org/grpc/internal/transport.(*http2Server).operateHeaders", 0x200),
        ("google.golang.org/grpc/internal/transport.(*loopyWriter).originateStream", 0x300),
    ];
    let fields = [SHORT, &[0xc3]].concat();
    let code = vec![(0x100, fields), (0x200, SHORT.to_vec()), (0x300, SHORT.to_vec())];
    let mut made = Made { functions, code, ..Made::default() };
    let calls = |made: &Made| inspected(made).map(|one| one.map(|binary| binary.calls));
    let at = |place| CODE_AT + place;
    let wanted = vec![
        (at(0x100 + 11), GoPlace::GrpcFields),
        (at(0x300 + 9), GoPlace::GrpcStream),
        (at(0x200 + 9), GoPlace::GrpcServed),
    ];
    assert_eq!(calls(&made), Some(Ok(wanted)));
    // Of a version that is not understood nothing is probed, and its goroutines are told apart.
    made.code[0].1 = [SHORT, &[0x06]].concat();
    assert_eq!(calls(&made), Some(Ok(vec![])));
}

#[test]
fn a_version_to_come_is_not_guessed_at() {
    let made = Made { version: "go1.99", ..Made::default() };
    assert_eq!(inspected(&made), Some(Err(Unknown::Version("go1.99".to_owned()))));
}

#[test]
fn what_is_no_go_program_is_none() {
    assert_eq!(inspect(&file(b"")), None);
    assert_eq!(inspect(&file(b"#!/bin/sh\n")), None);
    let own = File::open("/proc/self/exe").expect("the test runs");
    assert_eq!(inspect(&own), None);
}

#[test]
fn a_damaged_file_is_refused_or_read_but_harms_nothing() {
    let whole = Made { symbols: true, thread_local_len: 40, ..Made::default() }.bytes();
    for len in (0..whole.len()).step_by(61) {
        let _refused = inspect(&file(&whole[..len]));
    }
    for at in (0..whole.len()).filter(|at| *at < 200 || *at > CODE_AT as usize + 0x800) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        let _refused_or_read = inspect(&file(&damaged));
    }
}
