//! Executables that the Go toolchain made: what has to be known of one to tell the goroutines
//! of its processes apart, and to see calls of its HTTP client. All of it is read off the file,
//! and works with programs without symbols.

mod build_info;
mod ends;
mod function_table;
mod tls;

use std::fmt;
use std::fs::File;

use tracewire_common::golang::{GoPlace, GoProcess};

use crate::elf::{Elf, Window};
use build_info::{Layout, Version};
use function_table::Code;
pub(crate) use tls::tls_library;

/// The client's function that hands a request to the goroutine that writes on a connection. It
/// runs in the goroutine for which the request is.
const ROUND_TRIP: &[u8] = b"net/http.(*persistConn).roundTrip";

/// grpc-go's function that makes the header fields of a call, in the goroutine for which that is, and the
/// one that opens a stream with them, in the goroutine that writes on the connection.
const GRPC_FIELDS: &[u8] =
    b"google.golang.org/grpc/internal/transport.(*http2Client).createHeaderFields";
const GRPC_STREAM: &[u8] =
    b"google.golang.org/grpc/internal/transport.(*loopyWriter).originateStream";

/// The functions by which servers of HTTP/2 take up a request, before they make a goroutine for it.
const SERVED: [(&[u8], GoPlace); 4] = [
    (
        b"google.golang.org/grpc/internal/transport.(*http2Server).operateHeaders",
        GoPlace::GrpcServed,
    ),
    (b"net/http.(*http2serverConn).processHeaders", GoPlace::Http2Served),
    // From Go 1.27 on.
    (b"net/http/internal/http2.(*serverConn).processHeaders", GoPlace::Http2Served),
    (b"golang.org/x/net/http2.(*serverConn).processHeaders", GoPlace::Http2Served),
];

/// The runtime's function that each goroutine passes when it is made, and that nothing else calls.
const BIRTH: &[u8] = b"runtime.gostartcallfn";

/// How functions of Go begin that need stack, up to the jump that is taken where there is too
/// little of it (`jbe`, short or long): the stack is compared with what the goroutine has, as it
/// is or with what the function needs taken off. Zeros stand for any byte.
const PROLOGUES: [&[u8]; 3] = [
    // cmp rsp, [r14+16]
    &[0x49, 0x3b, 0x66, 0x10],
    // lea r12, [rsp-n]; cmp r12, [r14+16]
    &[0x4c, 0x8d, 0x64, 0x24, 0, 0x4d, 0x3b, 0x66, 0x10],
    &[0x4c, 0x8d, 0xa4, 0x24, 0, 0, 0, 0, 0x4d, 0x3b, 0x66, 0x10],
];
const JUMPS: [&[u8]; 2] = [&[0x76], &[0x0f, 0x86]];

/// The size of the thread-local slot for the address of the running goroutine, in bytes.
const SLOT: u64 = 8;

/// A Go program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GoBinary {
    /// How the kernel half finds the goroutines of its processes.
    pub(crate) process: GoProcess,
    /// Where in the file clients' functions are probed, in bytes; none in a program without them.
    pub(crate) calls: Vec<(u64, GoPlace)>,
    /// Where the function is probed that makes goroutines; `None` if their births are not of
    /// interest, or not understood.
    pub(crate) birth: Option<u64>,
}

/// Why the goroutines of a Go program cannot be told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// It was made by a version whose layout is not known.
    Version(String),
    /// The file does not say where a thread keeps its goroutine.
    ThreadLocal,
    /// The table of functions is missing, or in a format that is not known.
    Functions,
    /// What the file says does not fit together.
    Malformed,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => {
                write!(f, "it was built by {version}, whose layout is not known")
            }
            Self::ThreadLocal => {
                f.write_str("a C linker has put it together, and its symbols were removed")
            }
            Self::Functions => {
                f.write_str("its table of functions is in a format that is not known")
            }
            Self::Malformed => f.write_str("what the file says does not fit together"),
        }
    }
}

/// Reads an executable. `None` if it is not one that the Go toolchain made for this machine.
///
/// # Errors
///
/// If it is one, but its goroutines cannot be told apart with certainty.
pub(crate) fn inspect(file: &File) -> Option<Result<GoBinary, Unknown>> {
    if !cfg!(target_arch = "x86_64") {
        return None;
    }
    let mut elf = Elf::open(Window::new(file))?;
    Some(layout(&mut elf)?.and_then(|layout| binary(&mut elf, layout)))
}

/// Where fields are in the program. `None` if it is none of Go.
fn layout(elf: &mut Elf<'_>) -> Option<Result<Layout, Unknown>> {
    let build_info = elf.section(b".go.buildinfo")?;
    let Some(version) = build_info::version(&mut elf.window, build_info) else {
        return Some(Err(Unknown::Version("a version before go1.18".to_owned())));
    };
    let layout = version.parse().ok().and_then(Version::layout);
    Some(layout.ok_or(Unknown::Version(version)))
}

fn binary(elf: &mut Elf<'_>, layout: Layout) -> Result<GoBinary, Unknown> {
    let g_slot = g_slot(elf)?;
    let round_trip = function(elf, ROUND_TRIP)?.map(|place| (place, GoPlace::RoundTrip));
    let mut calls: Vec<_> = round_trip.into_iter().collect();
    // Of another version than is known here they may be missing, or be made otherwise.
    calls.extend(grpc(elf).unwrap_or_default());
    let mut process = GoProcess { g_slot, off_goid: layout.goid, ..GoProcess::default() };
    // Of a request that is never passed on nobody asks whose goroutine it was given.
    if !calls.is_empty() {
        for (name, served) in SERVED {
            calls.extend(function(elf, name).ok().flatten().map(|place| (place, served)));
        }
    }
    let mut birth = None;
    // Without a client there are no calls of which a birth could say anything.
    if let (false, Some((curg, gopc))) = (calls.is_empty(), layout.birth) {
        birth = function(elf, BIRTH)?;
        (process.off_curg, process.off_gopc) = (curg, gopc);
    }
    Ok(GoBinary { process, calls, birth })
}

/// Where grpc-go's client is probed; nowhere in a program without it.
fn grpc(elf: &mut Elf<'_>) -> Result<Vec<(u64, GoPlace)>, Unknown> {
    let (Some(fields), Some(stream)) = (code(elf, GRPC_FIELDS)?, function(elf, GRPC_STREAM)?)
    else {
        return Ok(Vec::new());
    };
    let ends = ends::ends(elf, fields)?.into_iter().map(|place| (place, GoPlace::GrpcFields));
    Ok(ends.chain([(stream, GoPlace::GrpcStream)]).collect())
}

/// Where in the file a function is probed; `None` if the program has it not.
fn function(elf: &mut Elf<'_>, name: &[u8]) -> Result<Option<u64>, Unknown> {
    match code(elf, name)? {
        Some(code) => place_of_probe(elf, code.address).map(Some),
        None => Ok(None),
    }
}

/// The code of a function; `None` if the program has it not.
fn code(elf: &mut Elf<'_>, name: &[u8]) -> Result<Option<Code>, Unknown> {
    // It is called otherwise in programs that can be moved.
    let table = elf.section(b".gopclntab").or_else(|| elf.section(b".data.rel.ro.gopclntab"));
    let table = table.ok_or(Unknown::Functions)?;
    let text = elf.section(b".text").ok_or(Unknown::Malformed)?;
    function_table::code_of(elf, table, text, name)
}

/// Where in the file a function, at that address, can be probed: at the jump in its prologue, which
/// the kernel carries out by itself; other instructions it would have to step, at twice the price.
/// No argument has left its register there. Nowhere if the function begins otherwise: a probe
/// that is not at the start of an instruction would be the end of the process.
fn place_of_probe(elf: &mut Elf<'_>, address: u64) -> Result<u64, Unknown> {
    let offset = elf.offset_of_code(address).ok_or(Unknown::Malformed)?;
    let code = elf.window.bytes(offset, 16).ok_or(Unknown::Malformed)?;
    let prologue = PROLOGUES.iter().find(|prologue| {
        code.iter().zip(prologue.iter()).all(|(code, byte)| *byte == 0 || code == byte)
    });
    let prologue = prologue.ok_or(Unknown::Functions)?;
    let rest = code.get(prologue.len()..).unwrap_or(&[]);
    if !JUMPS.iter().any(|jump| rest.starts_with(jump)) {
        return Err(Unknown::Functions);
    }
    offset.checked_add(prologue.len() as u64).ok_or(Unknown::Malformed)
}

/// Where a thread keeps the address of its goroutine, as a distance from its fs base.
///
/// The thread-local block of the executable ends at the base. Go's own linker puts nothing but
/// the slot in it. A C linker may put more there, and then a symbol says which it is.
fn g_slot(elf: &mut Elf<'_>) -> Result<u64, Unknown> {
    const LARGEST: u64 = 1 << 20;
    let Some((address, len, align)) = elf.thread_local_block() else {
        // The runtime sets the base of each thread right behind the slot.
        return Ok(SLOT.wrapping_neg());
    };
    let align = align.max(1);
    if !align.is_power_of_two() || !(SLOT..=LARGEST).contains(&len) || align > LARGEST {
        return Err(Unknown::Malformed);
    }
    // Linkers leave room at the end, so that the block's start is aligned as its address is.
    let padded = len + (address.wrapping_add(len).wrapping_neg() & (align - 1));
    if len == SLOT {
        return Ok(padded.wrapping_neg());
    }
    let at = elf.thread_local(b"runtime.tlsg").filter(|at| *at <= len - SLOT);
    Ok(at.ok_or(Unknown::ThreadLocal)?.wrapping_sub(padded))
}

#[cfg(test)]
mod golang_tests;
