//! A probe that is put into processes while the agent runs.
//!
//! The loader's own way takes `CAP_SYS_ADMIN` for each probe, which the agent has let go of by
//! then. A link of the kind "uprobe multi" (since 6.6) takes no capability of who holds the
//! program. The loader does not know that kind, so the program is loaded and attached here.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::mpsc::{SendError, Sender, channel};
use std::thread::{Builder, JoinHandle};

use anyhow::{Context, Result, anyhow, bail};
use aya::Ebpf;
use aya::maps::Map;
use aya_obj::Object;

/// `enum bpf_cmd`, `bpf_prog_type` and `bpf_attach_type` (include/uapi/linux/bpf.h).
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_BTF_LOAD: libc::c_int = 18;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_KPROBE: u32 = 2;
const BPF_TRACE_UPROBE_MULTI: u32 = 48;
/// `BPF_F_UPROBE_MULTI_RETURN`: at the ends of functions.
const RETURNS: u32 = 1;

/// What the verifier says, at most, in bytes: where it refuses, the end of it is of interest.
const LOG: usize = 1 << 20;

/// `union bpf_attr` for `BPF_PROG_LOAD`, as far as it is used; the rest counts as zero.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    pad: u32,
}

/// `union bpf_attr` for `BPF_BTF_LOAD`.
#[repr(C)]
struct BtfLoad {
    btf: u64,
    log_buf: u64,
    size: u32,
    log_size: u32,
    log_level: u32,
    pad: u32,
}

/// `union bpf_attr` for `BPF_LINK_CREATE` of this kind.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    ref_ctr_offsets: u64,
    cookies: u64,
    cnt: u32,
    multi_flags: u32,
    pid: u32,
    pad: u32,
}

/// `union bpf_attr` for `BPF_MAP_UPDATE_ELEM`.
#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The descriptors of the loaded object's maps, by name.
pub(super) struct Maps(HashMap<String, RawFd>);

impl Maps {
    /// Those of an object of which no map was taken yet. They are open as long as it lives.
    pub(super) fn of(ebpf: &Ebpf) -> Self {
        let named = |(name, map): (&str, &Map)| Some((name.to_owned(), descriptor(map)?));
        Self(ebpf.maps().filter_map(named).collect())
    }
}

/// A loaded program for entries of functions, or for returns from them.
#[derive(Debug)]
pub(super) struct Uprobe {
    program: OwnedFd,
}

/// Where a probe is put in a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Bytes from the file's start, to the start of a function.
    pub(super) offset: u64,
    /// What the program is told about it.
    pub(super) cookie: u64,
}

impl Uprobe {
    /// Loads the program of that name, with these maps.
    ///
    /// # Errors
    ///
    /// If the kernel does not know this kind of link, or refuses the program.
    pub(super) fn load(loaded: &Maps, object: &[u8], name: &str) -> Result<Self> {
        let mut object = Object::parse(object)?;
        let key = object.programs.get(name).context("no such program")?.function_key();
        let others: HashSet<_> = (object.programs.values())
            .map(aya_obj::Program::function_key)
            .filter(|other| *other != key)
            .collect();
        object.programs.retain(|program, _| program == name);
        object.functions.retain(|function, _| !others.contains(function));
        let types = load_types(&mut object)?;
        let maps: Vec<_> = std::mem::take(&mut object.maps).into_iter().collect();
        // All of them: for one that is missing the loader would take another.
        let descriptors: Vec<_> = maps
            .iter()
            .map(|(name, map)| {
                let descriptor = loaded.0.get(name).copied();
                Ok((name.as_str(), descriptor.with_context(|| format!("no map {name}"))?, map))
            })
            .collect::<Result<_>>()?;
        let text: HashSet<_> = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(descriptors.into_iter(), &text)?;
        object.relocate_calls(&text)?;
        let function = object.functions.get(&key).context("no such function")?;
        let func_info = function.func_info.func_info_bytes();
        let license = CString::new("Dual MIT/GPL")?;
        let mut prog_name = [0; 16];
        // The kernel's has fifteen characters.
        prog_name.iter_mut().zip(name.bytes().take(15)).for_each(|(to, from)| *to = from);
        let mut log = Vec::new();
        loop {
            let attr = ProgLoad {
                prog_type: BPF_PROG_TYPE_KPROBE,
                insn_cnt: u32::try_from(function.instructions.len())?,
                insns: function.instructions.as_ptr() as u64,
                license: license.as_ptr() as u64,
                log_level: u32::from(!log.is_empty()),
                log_size: u32::try_from(log.len())?,
                log_buf: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
                kern_version: 0,
                prog_flags: 0,
                prog_name,
                prog_ifindex: 0,
                expected_attach_type: BPF_TRACE_UPROBE_MULTI,
                prog_btf_fd: types.as_raw_fd() as u32,
                func_info_rec_size: u32::try_from(function.func_info_rec_size)?,
                func_info: func_info.as_ptr() as u64,
                func_info_cnt: u32::try_from(function.func_info.len())?,
                pad: 0,
            };
            // SAFETY: everything that is pointed to is alive, and as long as is said.
            match unsafe { make(BPF_PROG_LOAD, &attr) } {
                Ok(program) => {
                    let probe = Self { program };
                    probe.is_possible()?;
                    return Ok(probe);
                }
                Err(_) if log.is_empty() => log = vec![0u8; LOG],
                Err(error) => {
                    let said = String::from_utf8_lossy(&log);
                    let said: Vec<_> = said.trim_end_matches('\0').lines().collect();
                    let end = said.len().saturating_sub(4);
                    return Err(anyhow!(error).context(said.get(end..).unwrap_or(&[]).join("; ")));
                }
            }
        }
    }

    /// Puts the program at the first place of an array, where others find it. The kernel empties the
    /// array when it is closed.
    ///
    /// # Errors
    ///
    /// If that is no array of programs, or of others than this.
    pub(super) fn place(&self, array: &Map) -> io::Result<()> {
        let array = descriptor(array).ok_or(io::ErrorKind::InvalidInput)?;
        let (index, program) = (0u32, self.program.as_raw_fd());
        let attr = MapUpdate {
            map_fd: array as u32,
            pad: 0,
            key: (&raw const index) as u64,
            value: (&raw const program) as u64,
            flags: 0,
        };
        // SAFETY: key and value are alive, and as long as such an array's are.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &attr) }.map(|_| ())
    }

    /// Whether the kernel knows this kind of link. It says of a directory that it is no file.
    fn is_possible(&self) -> Result<()> {
        match self.link(c"/", &[Place { offset: 0, cookie: 0 }], 0, 0) {
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => Ok(()),
            _ => bail!("Linux before 6.6 cannot probe processes without CAP_SYS_ADMIN"),
        }
    }

    /// Puts the probe at places of a file, as one process runs it. It goes with what is returned,
    /// or with the process.
    ///
    /// # Errors
    ///
    /// If the process is gone, or the kernel refuses.
    pub(super) fn attach(&self, file: &File, places: &[Place], pid: u32) -> io::Result<OwnedFd> {
        self.put(file, places, pid, 0)
    }

    /// As [`Uprobe::attach`], where the functions return.
    ///
    /// # Errors
    ///
    /// As there.
    pub(super) fn attach_returns(
        &self,
        file: &File,
        places: &[Place],
        pid: u32,
    ) -> io::Result<OwnedFd> {
        self.put(file, places, pid, RETURNS)
    }

    fn put(&self, file: &File, places: &[Place], pid: u32, flags: u32) -> io::Result<OwnedFd> {
        // By the descriptor: a path may mean another file by now, and the offset in it no
        // start of an instruction.
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        self.link(&path, places, pid, flags)
    }

    fn link(
        &self,
        path: &std::ffi::CStr,
        places: &[Place],
        pid: u32,
        flags: u32,
    ) -> io::Result<OwnedFd> {
        let offsets: Vec<u64> = places.iter().map(|place| place.offset).collect();
        let cookies: Vec<u64> = places.iter().map(|place| place.cookie).collect();
        let attr = LinkCreate {
            prog_fd: self.program.as_raw_fd() as u32,
            target_fd: 0,
            attach_type: BPF_TRACE_UPROBE_MULTI,
            flags: 0,
            path: path.as_ptr() as u64,
            offsets: offsets.as_ptr() as u64,
            ref_ctr_offsets: 0,
            cookies: cookies.as_ptr() as u64,
            cnt: u32::try_from(places.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
            multi_flags: flags,
            pid,
            pad: 0,
        };
        // SAFETY: path, offsets and cookies are alive, and there are as many as it says.
        unsafe { make(BPF_LINK_CREATE, &attr) }
    }
}

impl AsFd for Uprobe {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.program.as_fd()
    }
}

/// Takes probes out of processes, beside all else: for each the kernel waits for tens of
/// milliseconds until nobody is at it any more.
#[derive(Debug, Default)]
pub(super) struct Closer(Option<Closing>);

#[derive(Debug)]
struct Closing {
    probes: Sender<Vec<OwnedFd>>,
    thread: JoinHandle<()>,
}

/// Probes that are taken out at once: the kernel waits for all of them together.
const AT_ONCE: usize = 32;

impl Closer {
    /// Takes these out, soon. (The first time by a new thread: one that was there before the agent let
    /// go of capabilities would keep them.)
    pub(super) fn close(&mut self, probes: Vec<OwnedFd>) {
        if self.0.is_none() {
            self.0 = Closing::start().ok();
        }
        // Without a thread, or once it is gone, they are taken out here.
        if let Some(closing) = &self.0
            && let Err(SendError(probes)) = closing.probes.send(probes)
        {
            drop(probes);
        }
    }
}

impl Drop for Closer {
    /// Waits until all are out.
    fn drop(&mut self) {
        let Some(Closing { probes, thread }) = self.0.take() else { return };
        drop(probes);
        if thread.join().is_err() {
            tracing::debug!("probes are taken out by the kernel, as the agent ends");
        }
    }
}

impl Closing {
    fn start() -> io::Result<Self> {
        let (probes, queue) = channel::<Vec<OwnedFd>>();
        let thread = Builder::new().name("probes".to_owned()).spawn(move || {
            while let Ok(first) = queue.recv() {
                let mut all: Vec<OwnedFd> =
                    first.into_iter().chain(queue.try_iter().flatten()).collect();
                std::thread::scope(|scope| {
                    let share = all.len().div_ceil(AT_ONCE).max(1);
                    while !all.is_empty() {
                        let some = all.split_off(all.len().saturating_sub(share));
                        scope.spawn(move || drop(some));
                    }
                });
            }
        })?;
        Ok(Self { probes, thread })
    }
}

/// The descriptor of a map of the kinds that programs use.
fn descriptor(map: &Map) -> Option<RawFd> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::ProgramArray(data)
        | Map::RingBuf(data)
        | Map::PerfEventArray(data)
        | Map::SockHash(data)
        | Map::SkStorage(data) => Some(data.fd().as_fd().as_raw_fd()),
        _ => None,
    }
}

/// Gives the kernel the types of the object's functions, without which it takes no program that
/// hands a function to a helper, and none whose functions are verified by themselves.
fn load_types(object: &mut Object) -> Result<OwnedFd> {
    let features = aya::features().btf().context("the kernel knows no BTF")?;
    let types = object.fixup_and_sanitize_btf(features)?.context("the object has no types")?;
    let types = types.to_bytes();
    let attr = BtfLoad {
        btf: types.as_ptr() as u64,
        log_buf: 0,
        size: u32::try_from(types.len())?,
        log_size: 0,
        log_level: 0,
        pad: 0,
    };
    // SAFETY: the types are alive, and as long as is said.
    unsafe { make(BPF_BTF_LOAD, &attr) }.context("the kernel refused the programs' types")
}

/// bpf(2).
///
/// # Safety
///
/// `attr` must be what the command takes, and what it points to be as long as it says.
unsafe fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: the caller's promise; the size is the attribute's own.
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attr, size_of_val(attr)) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// bpf(2), with a command that makes a descriptor.
///
/// # Safety
///
/// As for [`bpf`].
unsafe fn make<T>(command: libc::c_int, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise; a new descriptor, owned here alone.
    unsafe { bpf(command, attr).map(|fd| OwnedFd::from_raw_fd(fd as RawFd)) }
}
