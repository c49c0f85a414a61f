//! The programs, what each is for, and how each is loaded and attached.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use aya::maps::{MapData, ProgramArray};
use aya::programs::{CgroupAttachMode, Program, ProgramError, ProgramType, RawTracePoint};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Btf, Ebpf, EbpfLoader};

use super::enrolment::{self, Readability};
use super::requirements::is_at_least;
use super::runtimes;
use super::scope::Scope;
use super::stats;
use super::uprobes::Maps;

/// The eBPF object, built by `cargo xtask build`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("TRACEWIRE_EBPF_OBJECT"));

/// The object, for the loader.
pub(super) fn object() -> &'static [u8] {
    OBJECT
}

/// The tracepoint that says that bytes were received, since 6.3.
const RECEIVE: &str = "associate_receiver";
/// The one that older kernels have.
const RECEIVE_OLDER: &str = "associate_receiver_adjust";

/// The programs for HTTP/2: those that are attached call them.
pub(super) const HTTP2_EGRESS: &str = "read_http2_egress";
pub(super) const HTTP2_INGRESS: &str = "read_http2_ingress";
pub(super) const HTTP2_REWRITE: &str = "rewrite_http2";

/// The program for contexts in a TCP option.
const TCP_OPTION: &str = "carry_context";

/// Programs and what is lost without them, in the order in which they are attached:
/// who looks at connections comes last, when all that it needs is there.
const PROGRAMS: &[(&str, &str)] = &[
    ("inherit_activity", "follow work to new threads and processes"),
    ("note_exec", "name short-lived processes"),
    ("forget_task", "forget tasks that ended"),
    (RECEIVE, "tell which task works on which request"),
    (RECEIVE_OLDER, "tell the same on kernels before 6.3"),
    ("note_opener4", "tell who opens an IPv4 connection"),
    ("note_opener6", "tell who opens an IPv6 connection"),
    ("read_egress", "read messages that leave"),
    ("read_ingress", "read messages that arrive"),
    (HTTP2_EGRESS, "read frames of HTTP/2 that leave"),
    (HTTP2_INGRESS, "read frames of HTTP/2 that arrive"),
    ("rewrite_request", "stay with enrolled sockets"),
    ("rewrite_stage", "write the trace context into requests"),
    (HTTP2_REWRITE, "write the trace context into streams of HTTP/2"),
    ("keep_readable", "keep FIONREAD right on enrolled sockets"),
    ("track_connection", "follow connections"),
    // After what follows connections: it asks what that knows.
    (TCP_OPTION, "carry contexts in a TCP option"),
];

/// Programs that only propagation needs.
const FOR_PROPAGATION: &[&str] =
    &["rewrite_request", "rewrite_stage", HTTP2_REWRITE, "keep_readable"];

/// Whether a program could be loaded, or those of one purpose.
#[derive(Debug)]
pub(crate) struct ProgramReport {
    /// The program, or what they are.
    pub(crate) name: &'static str,
    /// What it is for.
    pub(crate) purpose: &'static str,
    /// Why it could not be loaded.
    pub(crate) error: Option<String>,
    /// Whether the agent works without it, with less.
    pub(crate) optional: bool,
    /// Instructions that the verifier walked until it took it, where the kernel says so.
    pub(crate) verified: Option<u64>,
}

/// The names of the programs.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    PROGRAMS.iter().map(|&(name, _)| name)
}

/// What a program is for.
fn purpose(name: &str) -> &'static str {
    PROGRAMS.iter().find(|(one, _)| *one == name).map_or("", |(_, purpose)| purpose)
}

/// Programs that the verifier walks longest, longest first. To begin with them lets several
/// threads end at about the same time; it matters to nothing else.
const LONGEST: &[&str] =
    &["rewrite_stage", "read_egress", "read_ingress", "track_connection", HTTP2_EGRESS];

/// How many threads load programs at once, at most: more are not sooner done, for the longest
/// program is a quarter of all.
const LOADERS: usize = 4;

/// How many threads may load programs where so many others do so besides. More than there are processors
/// would be later done.
fn loaders(besides: usize) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    processors.saturating_sub(besides).clamp(1, LOADERS)
}

/// Loads programs into the kernel, by so many threads: the verifier takes its time, and of who has
/// `CAP_BPF` it looks at many programs at once. Answers how that went, in the same order.
fn load_side_by_side(
    ebpf: &mut Ebpf,
    names: &[&'static str],
    threads: usize,
) -> Vec<(&'static str, Result<(), ProgramError>)> {
    let rank = |name: &str| LONGEST.iter().position(|one| *one == name).unwrap_or(LONGEST.len());
    let mut wanted: Vec<(usize, &mut Program)> = ebpf
        .programs_mut()
        .filter_map(|(name, program)| {
            Some((names.iter().position(|wanted| *wanted == name)?, program))
        })
        .collect();
    // The next is taken from the end. The kernel's types are some 20 MiB, and only the main thread's
    // heap is given back.
    let (mut own, mut shared): (Vec<_>, Vec<_>) =
        wanted.drain(..).partition(|(_, program)| matches!(program, Program::BtfTracePoint(_)));
    shared.sort_by_key(|(place, _)| std::cmp::Reverse(rank(names[*place])));
    let shared = Mutex::new(shared);
    let next = || shared.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let load_shared = || {
        let mut done = Vec::new();
        while let Some((place, program)) = next() {
            done.push((place, load_one(names[place], program)));
        }
        done
    };
    let mut done = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(load_shared)).collect();
        let mut done: Vec<_> = own
            .drain(..)
            .map(|(place, program)| (place, load_one(names[place], program)))
            .collect();
        done.extend(load_shared());
        // A thread that panicked leaves its programs without an answer: they are refused below.
        done.extend(others.into_iter().filter_map(|other| other.join().ok()).flatten());
        done
    });
    let result = |place: usize| {
        let at = done.iter().position(|(of, _)| *of == place);
        at.map_or(Err(ProgramError::UnexpectedProgramType), |at| done.swap_remove(at).1)
    };
    names.iter().copied().zip((0..names.len()).map(result)).collect()
}

/// Loads one program into the kernel.
fn load(ebpf: &mut Ebpf, name: &str) -> Result<(), ProgramError> {
    let program = ebpf.program_mut(name).ok_or(ProgramError::UnexpectedProgramType)?;
    load_one(name, program)
}

fn load_one(name: &str, program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::SockOps(p) => p.load(),
        Program::SkMsg(p) => p.load(),
        Program::SkSkb(p) => p.load(),
        Program::CgroupSkb(p) => p.load(),
        Program::CgroupSockAddr(p) => p.load(),
        Program::RawTracePoint(p) => p.load(),
        Program::BtfTracePoint(p) => {
            // Not kept for the others: the kernel's types are some 20 MiB.
            let btf = Btf::from_sys_fs()?;
            p.load(if name == RECEIVE { "sock_recv_length" } else { "tcp_rcv_space_adjust" }, &btf)
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// What a machine makes of the programs.
#[derive(Debug)]
pub(crate) struct Trial {
    /// Each program.
    pub(crate) programs: Vec<ProgramReport>,
    /// What enrolment does to `FIONREAD`, or why that could not be tried.
    pub(crate) readability: Result<Readability, String>,
}

/// A loader that knows what the programs have to know of this kernel before they are loaded.
pub(super) fn loader() -> EbpfLoader<'static> {
    // What cannot be probed is tried: loading says what is wrong then.
    let packets_know_task =
        is_helper_supported(ProgramType::CgroupSkb, BpfHelper::BPF_FUNC_get_current_pid_tgid)
            .unwrap_or(true);
    let mut loader = EbpfLoader::new();
    loader.override_global("PACKETS_KNOW_TASK", yes_or_no(packets_know_task), true);
    loader.override_global("HEADS_ARE_BUILT", yes_or_no(pop_data_is_right()), true);
    loader
}

fn yes_or_no(answer: bool) -> &'static u32 {
    if answer { &1 } else { &0 }
}

/// Whether `bpf_msg_pop_data` does what it says. It was mended in 6.13 ("bpf: fix wrong
/// return and offsets in bpf_msg_pop_data" and others, November 2024), and whether a stable
/// kernel has that cannot be told without risking bytes.
fn pop_data_is_right() -> bool {
    is_at_least((6, 13))
}

/// Tries to load every program, one by one, attaches none to anything of the machine's,
/// and says how that went.
///
/// # Errors
///
/// If not even the maps can be made.
pub(crate) fn try_all() -> Result<Trial> {
    let mut ebpf = loader()
        .map_max_entries("RECORDS", 1 << 16)
        .load(OBJECT)
        .context("the kernel refused the agent's maps")?;
    let names: Vec<&str> = names().collect();
    let maps = Maps::of(&ebpf);
    let (loaded, probes) = std::thread::scope(|scope| {
        let probes = scope.spawn(|| runtimes::try_all(&maps, OBJECT));
        let loaded = load_side_by_side(&mut ebpf, &names, loaders(1));
        (loaded, probes.join().unwrap_or_default())
    });
    let programs = loaded
        .into_iter()
        .map(|(name, loaded)| ProgramReport {
            name,
            purpose: purpose(name),
            error: loaded.err().map(|e| short(&e)),
            verified: (ebpf.program(name).and_then(|program| program.fd().ok()))
                .and_then(stats::verified_instructions),
            optional: FOR_PROPAGATION.contains(&name)
                || name.starts_with(RECEIVE)
                || name == TCP_OPTION,
        })
        .chain(probes)
        .collect();
    let readability = enrolment::sockets(&mut ebpf)
        .and_then(|mut sockets| enrolment::prepare(&mut ebpf, &mut sockets, true))
        .map_err(|error| format!("{error:#}"));
    Ok(Trial { programs, readability })
}

/// The last line of what the verifier said; all of it is pages.
fn short(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let said = log.lines().map(str::trim).rev().find(|l| {
                !l.is_empty()
                    && !l.starts_with("processed")
                    && !l.starts_with("verification time")
                    && !l.starts_with("stack depth")
            });
            match said {
                Some(line) => format!("{io_error}; the verifier said: {line}"),
                None => io_error.to_string(),
            }
        }
        other => other.to_string(),
    }
}

/// Loads all programs that are needed; of the two that learn receivers, the newer that loads. To be
/// called beside one thread that loads those for processes.
pub(super) fn load_all(ebpf: &mut Ebpf, propagate: bool, tcp_option: bool) -> Result<&'static str> {
    let mut receive = RECEIVE;
    let wanted: Vec<&str> = names()
        .filter(|name| {
            *name != RECEIVE_OLDER
                && (propagate || !FOR_PROPAGATION.contains(name))
                && (tcp_option || *name != TCP_OPTION)
        })
        .collect();
    for (name, loaded) in load_side_by_side(ebpf, &wanted, loaders(1)) {
        let Err(error) = loaded else { continue };
        if name == RECEIVE && load(ebpf, RECEIVE_OLDER).is_ok() {
            receive = RECEIVE_OLDER;
            continue;
        }
        bail!(
            "the kernel refused the program {name} (to {}): {}; run `tracewire check` for what this machine offers",
            purpose(name),
            short(&error)
        );
    }
    Ok(receive)
}

/// Puts the programs for HTTP/2 where the others find them. What is answered is to be held open:
/// the kernel empties it when it is closed.
pub(super) fn place_http2(ebpf: &mut Ebpf, propagate: bool) -> Result<Vec<ProgramArray<MapData>>> {
    let mut places = vec![("HTTP2_EGRESS", HTTP2_EGRESS), ("HTTP2_INGRESS", HTTP2_INGRESS)];
    if propagate {
        places.push(("HTTP2_STAGE", HTTP2_REWRITE));
    }
    let place = |(map, name)| {
        let taken = ebpf.take_map(map).with_context(|| format!("the object has no map {map}"))?;
        let mut array = ProgramArray::try_from(taken)?;
        let program = ebpf
            .program(name)
            .with_context(|| format!("the object has no program {name}"))?
            .fd()?;
        array.set(0, program, 0).with_context(|| format!("cannot put {name} in place"))?;
        Ok(array)
    };
    places.into_iter().map(place).collect()
}

/// What says which processes begin, run another program, and end.
const OF_PROCESSES: [&str; 3] = ["inherit_activity", "note_exec", "forget_task"];

/// Attaches what says which processes begin, run another program, and end.
pub(super) fn attach_to_processes(ebpf: &mut Ebpf) -> Result<()> {
    for name in OF_PROCESSES {
        let tracepoint = match name {
            "inherit_activity" => "sched_process_fork",
            "note_exec" => "sched_process_exec",
            _ => "sched_process_exit",
        };
        let program: &mut RawTracePoint = ebpf
            .program_mut(name)
            .with_context(|| format!("the object has no program {name}"))?
            .try_into()?;
        program
            .attach(tracepoint)
            .with_context(|| format!("cannot attach the program {name} to {tracepoint}"))?;
    }
    Ok(())
}

/// Attaches all but those, and the programs on the socket map, which are attached before.
pub(super) fn attach_all(
    ebpf: &mut Ebpf,
    scope: &Scope,
    receive: &str,
    tcp_option: bool,
) -> Result<()> {
    // A cgroup link is always one of several ("multi"); the mode for links is `Single`.
    let mode = CgroupAttachMode::Single;
    for &(name, purpose) in PROGRAMS {
        if OF_PROCESSES.contains(&name)
            || FOR_PROPAGATION.contains(&name)
            || (name.starts_with(RECEIVE) && name != receive)
            || [HTTP2_EGRESS, HTTP2_INGRESS].contains(&name)
            || (!tcp_option && name == TCP_OPTION)
        {
            continue;
        }
        let Some(program) = ebpf.program_mut(name) else {
            bail!("the object has no program {name}")
        };
        match program {
            Program::SockOps(p) => p.attach(&scope.directory, mode).map(|_| ()),
            Program::CgroupSockAddr(p) => p.attach(&scope.directory, mode).map(|_| ()),
            Program::CgroupSkb(p) => {
                let direction = if name == "read_egress" {
                    aya::programs::CgroupSkbAttachType::Egress
                } else {
                    aya::programs::CgroupSkbAttachType::Ingress
                };
                p.attach(&scope.directory, direction, mode).map(|_| ())
            }
            Program::BtfTracePoint(p) => p.attach().map(|_| ()),
            _ => Err(ProgramError::UnexpectedProgramType),
        }
        .with_context(|| {
            format!("cannot attach the program {name} (to {purpose}) to {}", scope.path.display())
        })?;
    }
    Ok(())
}
