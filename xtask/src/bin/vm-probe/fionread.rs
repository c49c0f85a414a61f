//! What `ioctl(FIONREAD)` answers on a socket in a socket map, tried with plain system calls.

use std::fs::File;
use std::io::{Error, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::Duration;

// Commands and types of bpf(2), from `include/uapi/linux/bpf.h`.
const MAP_CREATE: i32 = 0;
const MAP_UPDATE_ELEM: i32 = 2;
const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const MAP_TYPE_SOCKHASH: u32 = 18;
const PROG_TYPE_SK_SKB: u32 = 14;
const PROG_TYPE_SK_MSG: u32 = 16;
const ATTACH_SK_SKB_STREAM_VERDICT: u32 = 5;
const ATTACH_SK_MSG_VERDICT: u32 = 7;

/// `r0 = 1; exit`: `SK_PASS`, for both kinds of programs.
static PASS: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
static LICENSE: &[u8] = b"GPL\0";

/// What is sent, in bytes.
const SENT: usize = 100;

/// How long that may take on the loopback device, in emulation.
const ARRIVAL: Duration = Duration::from_secs(10);

/// `union bpf_attr`, by words; longer than what any command here reads.
#[repr(C, align(8))]
#[derive(Default)]
struct Attributes([u32; 32]);

impl Attributes {
    fn word(mut self, at: usize, value: u32) -> Self {
        self.0[at] = value;
        self
    }

    /// A pointer, as two words, low one first.
    fn pointer<T>(self, at: usize, to: *const T) -> Self {
        let address = to.addr() as u64;
        self.word(at, (address & 0xffff_ffff) as u32).word(at + 1, (address >> 32) as u32)
    }

    fn call(mut self, command: i32) -> Result<i32, Error> {
        // SAFETY: the attributes are zeroed beyond what the callers set, and what they
        // point to is static or outlives the call.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut self, size_of::<Self>()) };
        if result < 0 {
            Err(Error::last_os_error())
        } else {
            Ok(i32::try_from(result).unwrap_or(0))
        }
    }

    fn open(self, command: i32) -> Result<File, Error> {
        let descriptor = self.call(command)?;
        // SAFETY: the kernel has just made this descriptor, for nobody else.
        Ok(unsafe { File::from_raw_fd(descriptor) })
    }
}

fn descriptor(file: &impl AsRawFd) -> u32 {
    u32::try_from(file.as_raw_fd()).unwrap_or(u32::MAX)
}

/// `right`, `restored` if a verdict program has to make it right, or `broken`.
///
/// # Errors
///
/// If the kernel refuses the trial.
pub(crate) fn behaviour() -> Result<&'static str, String> {
    let say = |what: &str| {
        let what = what.to_owned();
        move |error: Error| format!("cannot try FIONREAD, {what}: {error}")
    };
    if available(false).map_err(say("without verdict"))? == SENT {
        return Ok("right");
    }
    if available(true).map_err(say("with verdict"))? == SENT {
        return Ok("restored");
    }
    Ok("broken")
}

/// What `FIONREAD` says when [`SENT`] bytes wait on a socket in a map of its own.
fn available(with_verdict: bool) -> Result<usize, Error> {
    // map_type, key_size, value_size, max_entries
    let map = Attributes::default()
        .word(0, MAP_TYPE_SOCKHASH)
        .word(1, 4)
        .word(2, 4)
        .word(3, 1)
        .open(MAP_CREATE)?;
    let message = load(PROG_TYPE_SK_MSG, ATTACH_SK_MSG_VERDICT)?;
    attach(&map, &message, ATTACH_SK_MSG_VERDICT)?;
    if with_verdict {
        let verdict = load(PROG_TYPE_SK_SKB, ATTACH_SK_SKB_STREAM_VERDICT)?;
        attach(&map, &verdict, ATTACH_SK_SKB_STREAM_VERDICT)?;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    let (key, value) = (7u32, descriptor(&client));
    // map_fd, key, value, flags
    Attributes::default()
        .word(0, descriptor(&map))
        .pointer(2, &raw const key)
        .pointer(4, &raw const value)
        .call(MAP_UPDATE_ELEM)?;
    server.write_all(&[b'x'; SENT])?;
    client.set_read_timeout(Some(ARRIVAL))?;
    let mut poll = libc::pollfd { fd: client.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives through the call.
    if unsafe { libc::poll(&raw mut poll, 1, ARRIVAL.as_millis() as i32) } != 1 {
        return Err(Error::other("the bytes did not arrive"));
    }
    let mut waiting: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, which lives through the call.
    if unsafe { libc::ioctl(client.as_raw_fd(), libc::FIONREAD, &raw mut waiting) } != 0 {
        return Err(Error::last_os_error());
    }
    // Whatever FIONREAD says, the bytes have to be there.
    client.read_exact(&mut [0; SENT])?;
    Ok(usize::try_from(waiting).unwrap_or(0))
}

fn load(kind: u32, attach: u32) -> Result<File, Error> {
    // prog_type, insn_cnt, insns, license; expected_attach_type
    Attributes::default()
        .word(0, kind)
        .word(1, PASS.len() as u32)
        .pointer(2, PASS.as_ptr())
        .pointer(4, LICENSE.as_ptr())
        .word(17, attach)
        .open(PROG_LOAD)
}

fn attach(map: &File, program: &File, kind: u32) -> Result<(), Error> {
    // target_fd, attach_bpf_fd, attach_type, attach_flags
    Attributes::default()
        .word(0, descriptor(map))
        .word(1, descriptor(program))
        .word(2, kind)
        .call(PROG_ATTACH)
        .map(drop)
}
