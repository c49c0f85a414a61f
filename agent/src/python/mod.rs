//! CPython: what has to be known of an interpreter to tell the contexts at work in its processes
//! apart, and of the module whose queues hand jobs to threads. All of it is read off the files.

mod methods;

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;

use iced_x86::{Decoder, DecoderOptions};
use tracewire_common::python::PyPlace;

use crate::elf::{Elf, Window};
use methods::Relocations;

/// Where fields of `PyThreadState` are, in bytes (Include/cpython/pystate.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// `thread_id`.
    pub(crate) thread_id: u32,
    /// `context`.
    pub(crate) context: u32,
    /// `datastack_chunk`; 0 before 3.11, which has none.
    pub(crate) stack: u16,
}

/// By minor version of CPython 3, as its headers have it.
const LAYOUTS: [(u32, Layout); 8] = [
    (7, Layout { thread_id: 176, context: 256, stack: 0 }),
    (8, Layout { thread_id: 176, context: 240, stack: 0 }),
    (9, Layout { thread_id: 176, context: 240, stack: 0 }),
    (10, Layout { thread_id: 176, context: 240, stack: 0 }),
    (11, Layout { thread_id: 152, context: 224, stack: 296 }),
    (12, Layout { thread_id: 136, context: 208, stack: 232 }),
    (13, Layout { thread_id: 152, context: 208, stack: 232 }),
    (14, Layout { thread_id: 152, context: 208, stack: 232 }),
];

/// Minor versions from this one on have threads start in contexts of their own.
const THREADS_HAVE_CONTEXTS: u32 = 14;

/// Copies the context at work; each task and each callback gets its own from it.
const COPY: &[u8] = b"PyContext_CopyCurrent";
/// Make contexts that are no copies of the one at work, and the type by which Python does.
const NEW: [&[u8]; 2] = [b"PyContext_New", b"PyContext_Copy"];
const TYPE: &[u8] = b"PyContext_Type";
/// `PyTypeObject.tp_new`, in bytes (Include/cpython/object.h).
const TYPE_NEW: u64 = 312;
/// Enters a context, by modules that are compiled.
const ENTER: &[u8] = b"PyContext_Enter";
/// The version of the interpreter, in the form of `PY_VERSION_HEX`; from 3.11 on.
const VERSION: &[u8] = b"Py_Version";
/// What 3.8 added, by which it is told from 3.7.
const SINCE_3_8: &[u8] = b"PyCode_NewWithPosOnlyArgs";
/// What free-threaded builds of 3.13 have, whose objects look different.
const FREE_THREADED: &[u8] = b"_Py_DecRefShared";
/// How the module is initialised that has the tasks of asyncio.
const ASYNCIO: &[u8] = b"PyInit__asyncio";
/// How the module of gevent is initialised that has its greenlets.
const GEVENT: &[u8] = b"PyInit__gevent_cgreenlet";
/// How the module is initialised that has `SimpleQueue`, whether it is a file of its own or not.
const QUEUE: &[u8] = b"PyInit__queue";

/// What has to be known of an interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interpreter {
    /// Where fields are.
    pub(crate) layout: Layout,
    /// Whether each thread but the first starts in a context of its own.
    pub(crate) threads_have_contexts: bool,
    /// Where in the file the function is that copies contexts, in bytes.
    pub(crate) copy: u64,
    /// How far behind that function `PyContext_Type` is in memory, in bytes, modulo 2^64.
    pub(crate) type_from_copy: u64,
}

/// What a file has of CPython.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PyBinary {
    /// If it is the interpreter: what is known of it, or why nothing is.
    pub(crate) interpreter: Option<Result<Interpreter, Unknown>>,
    /// Functions of which it is of interest that they are entered, as places in the file in bytes.
    pub(crate) entries: Vec<(u64, PyPlace)>,
    /// Those of which it is of interest that they return.
    pub(crate) returns: Vec<(u64, PyPlace)>,
    /// Functions by which contexts are entered; none if these are not all that there are.
    pub(crate) enters: Vec<u64>,
    /// Whether it is a module that exchanges parts of stacks wherever something waits (gevent): what returns
    /// then is not what was called.
    pub(crate) switches_stacks: bool,
    /// Whether it is a module that enters contexts itself, as one that has an event loop of its own.
    pub(crate) enters_contexts: bool,
}

/// Why the contexts of an interpreter cannot be told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// Its layout is not known.
    Version(String),
    /// It was built without a global interpreter lock.
    FreeThreaded,
    /// Functions by which contexts are made are not found, or may be in the midst of others.
    Functions,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => {
                write!(f, "CPython {version} is not known; 3.7 to 3.14 are")
            }
            Self::Functions => f.write_str("it is not known where it makes contexts"),
            Self::FreeThreaded => f.write_str("free-threaded builds of CPython are not known"),
        }
    }
}

/// Reads a file. `None` if it has nothing of CPython.
pub(crate) fn inspect(file: &File) -> Option<PyBinary> {
    let mut elf = Elf::open(Window::new(file))?;
    let mut binary = PyBinary::default();
    let copy = code(&mut elf, COPY);
    let has_queue = elf.exported(QUEUE).is_some();
    let tables = (copy.is_some() || has_queue).then(|| Relocations::of(&mut elf));
    if let (Some(copy), Some(tables)) = (copy, &tables) {
        interpreter(&mut elf, copy, tables, &mut binary);
    } else {
        // That of the standard library receives in the context for which it does.
        binary.enters_contexts = elf.imports(ENTER) && elf.exported(ASYNCIO).is_none();
        binary.switches_stacks = elf.exported(GEVENT).is_some();
    }
    if let (true, Some(tables)) = (has_queue, &tables) {
        queue(&mut elf, tables, &mut binary);
    }
    (binary != PyBinary::default()).then_some(binary)
}

fn interpreter(elf: &mut Elf<'_>, copy: u64, tables: &Relocations, binary: &mut PyBinary) {
    let interpreter = layout(elf).and_then(|(minor, layout)| {
        // In one file the compiler may have put what copies contexts into what makes tasks.
        if elf.exported(ASYNCIO).is_some() {
            return Err(Unknown::Functions);
        }
        let methods = Methods::find(elf, tables).ok_or(Unknown::Functions)?;
        let context_type = elf.exported_object(TYPE).ok_or(Unknown::Functions)?;
        let makers = makers(elf, tables, context_type, &methods).ok_or(Unknown::Functions)?;
        let copy_address = elf.exported(COPY).ok_or(Unknown::Functions)?;
        binary.returns.push((copy, PyPlace::Copied));
        let inlined = inlined_copy(elf, tables, copy);
        binary.returns.extend(inlined.map(|copy| (copy, PyPlace::Copied)));
        binary.returns.extend(makers.into_iter().map(|maker| (maker, PyPlace::Made)));
        binary.enters = code(elf, ENTER).map(|enter| vec![enter, methods.run]).unwrap_or_default();
        Ok(Interpreter {
            layout,
            threads_have_contexts: minor >= THREADS_HAVE_CONTEXTS,
            copy,
            type_from_copy: context_type.wrapping_sub(copy_address),
        })
    });
    binary.interpreter = Some(interpreter);
}

/// Methods of contexts, as places in the file in bytes.
struct Methods {
    /// `Context.run`.
    run: u64,
    /// `Context.copy`.
    copy: u64,
}

impl Methods {
    fn find(elf: &mut Elf<'_>, tables: &Relocations) -> Option<Self> {
        let names = [&b"run"[..], b"copy", b"items", b"keys"];
        let [run, copy, ..] = methods::find(elf, tables, names)?;
        Some(Self { run: elf.offset_of_code(run)?, copy: elf.offset_of_code(copy)? })
    }
}

fn code(elf: &mut Elf<'_>, name: &[u8]) -> Option<u64> {
    let address = elf.exported(name)?;
    elf.offset_of_code(address)
}

/// Where contexts are made that are no copies of the one at work; `None` if not all of that is found.
fn makers(
    elf: &mut Elf<'_>,
    tables: &Relocations,
    context_type: u64,
    methods: &Methods,
) -> Option<BTreeSet<u64>> {
    let new = methods::slot(elf, tables, context_type.checked_add(TYPE_NEW)?)?;
    let mut makers: BTreeSet<u64> = NEW.iter().filter_map(|name| code(elf, name)).collect();
    makers.extend([elf.offset_of_code(new)?, methods.copy]);
    Some(makers)
}

/// `contextvars.copy_context`, if it is in the interpreter's own file and does not call what it is
/// for there: the compiler may have put that into it.
fn inlined_copy(elf: &mut Elf<'_>, tables: &Relocations, copy: u64) -> Option<u64> {
    const INSTRUCTIONS: usize = 8;
    const LONGEST: usize = INSTRUCTIONS * 15;
    let [function] = methods::find(elf, tables, [&b"copy_context"[..]])?;
    let function = elf.offset_of_code(function)?;
    let bytes = elf.window.upto(function, LONGEST)?;
    let calls = Decoder::with_ip(64, bytes, function, DecoderOptions::NONE)
        .into_iter()
        .take(INSTRUCTIONS)
        .any(|instruction| instruction.near_branch_target() == copy);
    (!calls).then_some(function)
}

/// The minor version of CPython 3, and the layout of that.
fn layout(elf: &mut Elf<'_>) -> Result<(u32, Layout), Unknown> {
    if elf.exported(FREE_THREADED).is_some() {
        return Err(Unknown::FreeThreaded);
    }
    let minor = match elf.exported_object(VERSION).and_then(|address| elf.word(address)) {
        Some(version) if (version as u32) >> 24 == 3 => (version as u32) >> 16 & 0xff,
        Some(version) => return Err(Unknown::Version(format!("{:#x}", version as u32))),
        // Versions without that: 3.8, 3.9 and 3.10 have one layout.
        None if elf.exported(SINCE_3_8).is_some() => 8,
        None => 7,
    };
    let known = LAYOUTS.iter().find(|(version, _)| *version == minor);
    known.copied().ok_or_else(|| Unknown::Version(format!("3.{minor}")))
}

/// `queue.SimpleQueue`, by the table of its methods: the functions have no names in the file.
fn queue(elf: &mut Elf<'_>, tables: &Relocations, binary: &mut PyBinary) {
    let names = [&b"get_nowait"[..], b"get", b"put"];
    let Some([get_nowait, get, put]) = methods::find(elf, tables, names) else {
        return;
    };
    let place = |elf: &Elf<'_>, address| elf.offset_of_code(address);
    if let (Some(put), Some(get), Some(get_nowait)) =
        (place(elf, put), place(elf, get), place(elf, get_nowait))
    {
        binary.entries.push((put, PyPlace::Put));
        binary.returns.extend([(get, PyPlace::Taken), (get_nowait, PyPlace::Taken)]);
    }
}

#[cfg(test)]
mod python_tests;
