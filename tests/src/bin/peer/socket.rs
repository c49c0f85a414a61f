//! The socket calls that the standard library does not offer.

use std::io::{Error, ErrorKind, Result};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

/// Sends with `flags`; gives how much the kernel took.
pub(crate) fn send(stream: &TcpStream, bytes: &[u8], flags: i32) -> Result<usize> {
    // SAFETY: pointer and length describe `bytes`, which outlives the call.
    let sent = unsafe {
        libc::send(
            stream.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(sent).map_err(|_| Error::last_os_error())
}

/// Waits until the socket may be written to (`POLLOUT`) or read from (`POLLIN`).
pub(crate) fn wait(stream: &TcpStream, events: i16, limit: Duration) -> Result<()> {
    let mut poll = libc::pollfd { fd: stream.as_raw_fd(), events, revents: 0 };
    let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one `pollfd`, which outlives the call.
    match unsafe { libc::poll(&mut poll, 1, limit) } {
        0 => Err(Error::new(ErrorKind::TimedOut, "poll: nothing happened")),
        n if n > 0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

/// Bytes that wait to be read, as `ioctl(FIONREAD)` says.
pub(crate) fn fionread(stream: &TcpStream) -> Result<usize> {
    let mut waiting: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, and `waiting` is one (tcp(7)).
    if unsafe { libc::ioctl(stream.as_raw_fd(), libc::FIONREAD, &mut waiting) } != 0 {
        return Err(Error::last_os_error());
    }
    Ok(usize::try_from(waiting).unwrap_or(0))
}

/// Makes `close` send a reset.
pub(crate) fn reset_on_close(stream: &TcpStream) -> Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    set(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &linger)
}

/// Sets the size of the send buffer.
pub(crate) fn set_send_buffer(stream: &TcpStream, bytes: i32) -> Result<()> {
    set(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, &bytes)
}

/// Lets a listener wake only for connections with data.
pub(crate) fn defer_accept(listener: RawFd) -> Result<()> {
    let seconds: libc::c_int = 5;
    set(listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, &seconds)
}

fn set<T>(fd: RawFd, level: i32, option: i32, value: &T) -> Result<()> {
    // The structs in question have a few bytes.
    let len = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: pointer and length describe `value`, which outlives the call.
    let result =
        unsafe { libc::setsockopt(fd, level, option, std::ptr::from_ref(value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}
