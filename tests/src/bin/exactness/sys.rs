//! The system calls of the two ends, thinly.

use std::io::{Error, Result};
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// `SO_EE_ORIGIN_ZEROCOPY` (linux/errqueue.h), which libc lacks.
const ORIGIN_ZERO_COPY: u8 = 5;

/// The result of a call that answers with a length, or -1.
fn length(result: libc::ssize_t) -> Result<usize> {
    usize::try_from(result).map_err(|_| Error::last_os_error())
}

fn done(result: libc::c_int) -> Result<()> {
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// write(2).
pub(crate) fn write(fd: RawFd, bytes: &[u8]) -> Result<usize> {
    // SAFETY: pointer and length describe `bytes`, which outlives the call.
    length(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) })
}

/// send(2).
pub(crate) fn send(fd: RawFd, bytes: &[u8], flags: i32) -> Result<usize> {
    // SAFETY: pointer and length describe `bytes`, which outlives the call.
    length(unsafe {
        libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags | libc::MSG_NOSIGNAL)
    })
}

/// Segments that came out of order on a connection (`tcpi_rcv_ooopack`, include/uapi/linux/tcp.h, since 5.4).
pub(crate) fn out_of_order(fd: RawFd) -> Result<u32> {
    const AT: usize = 224;
    let mut info = [0u8; 256];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the length bounds what the kernel writes.
    let result = unsafe {
        let info = info.as_mut_ptr().cast();
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info, &raw mut len)
    };
    if result != 0 {
        return Err(Error::last_os_error());
    }
    Ok(u32::from_ne_bytes([info[AT], info[AT + 1], info[AT + 2], info[AT + 3]]))
}

/// `bytes` in a few vectors, an empty one among them.
pub(crate) fn vectors(bytes: &[u8]) -> [libc::iovec; 4] {
    let (first, rest) = bytes.split_at(bytes.len() / 3);
    let (second, third) = rest.split_at(rest.len().min(5));
    [first, &[], second, third]
        .map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() })
}

/// writev(2).
pub(crate) fn writev(fd: RawFd, vectors: &[libc::iovec]) -> Result<usize> {
    let count = i32::try_from(vectors.len()).unwrap_or(0);
    // SAFETY: the vectors describe live memory that the kernel only reads.
    length(unsafe { libc::writev(fd, vectors.as_ptr(), count) })
}

/// A message header over `vectors`, which must outlive its use.
pub(crate) fn message(vectors: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: an all-zero `msghdr` is a valid value: no name, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vectors.as_mut_ptr();
    message.msg_iovlen = vectors.len();
    message
}

/// sendmsg(2).
pub(crate) fn sendmsg(fd: RawFd, bytes: &[u8]) -> Result<usize> {
    let mut vectors = vectors(bytes);
    let message = message(&mut vectors);
    // SAFETY: the message describes `vectors` and those `bytes`; both outlive the call.
    length(unsafe { libc::sendmsg(fd, &raw const message, libc::MSG_NOSIGNAL) })
}

/// sendmmsg(2): one message for each vector. Gives the bytes of all messages that went.
pub(crate) fn sendmmsg(fd: RawFd, bytes: &[u8]) -> Result<usize> {
    let mut vectors = vectors(bytes);
    let vectors_len = vectors.map(|vector| vector.iov_len);
    let mut messages = vectors
        .each_mut()
        .map(|vector| libc::mmsghdr { msg_hdr: message(std::slice::from_mut(vector)), msg_len: 0 });
    // SAFETY: the messages describe `vectors` and those `bytes`; all outlive the call.
    let count = unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), 4, libc::MSG_NOSIGNAL) };
    let count = usize::try_from(count).map_err(|_| Error::last_os_error())?;
    let sent = |message: &libc::mmsghdr| message.msg_len as usize;
    let short = (0..count).find(|n| sent(&messages[*n]) < vectors_len[*n]);
    if short.is_some_and(|short| messages[short + 1..count].iter().any(|later| sent(later) > 0)) {
        return Err(Error::other("went on after a message that was cut: a hole in the stream"));
    }
    match messages[..count].iter().map(sent).sum() {
        // An empty message went, and the next one did not.
        0 if !bytes.is_empty() => Err(std::io::ErrorKind::WouldBlock.into()),
        sent => Ok(sent),
    }
}

/// sendfile(2) of a part of a file.
pub(crate) fn sendfile(fd: RawFd, file: RawFd, part: Range<usize>) -> Result<usize> {
    let mut offset = libc::off_t::try_from(part.start).unwrap_or(0);
    // SAFETY: the offset outlives the call.
    length(unsafe { libc::sendfile(fd, file, &raw mut offset, part.len()) })
}

/// splice(2) from one descriptor to another, from a place in the file if one is given.
pub(crate) fn splice(
    from: RawFd,
    at: Option<usize>,
    to: RawFd,
    len: usize,
    flags: u32,
) -> Result<usize> {
    let mut offset = at.and_then(|at| libc::loff_t::try_from(at).ok());
    let offset = offset.as_mut().map_or(std::ptr::null_mut(), std::ptr::from_mut);
    // SAFETY: the offset is null or outlives the call.
    length(unsafe { libc::splice(from, offset, to, std::ptr::null_mut(), len, flags) })
}

/// vmsplice(2): the pipe refers to the pages of `bytes`.
pub(crate) fn vmsplice(pipe: RawFd, bytes: &[u8]) -> Result<usize> {
    let vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: the vector describes `bytes`; without SPLICE_F_GIFT they stay the caller's,
    // who keeps them unchanged until the pipe was read.
    length(unsafe { libc::vmsplice(pipe, &raw const vector, 1, 0) })
}

/// read(2).
pub(crate) fn read(fd: RawFd, into: &mut [u8]) -> Result<usize> {
    // SAFETY: pointer and length describe `into`, which outlives the call.
    length(unsafe { libc::read(fd, into.as_mut_ptr().cast(), into.len()) })
}

/// recv(2).
pub(crate) fn recv(fd: RawFd, into: &mut [u8], flags: i32) -> Result<usize> {
    // SAFETY: pointer and length describe `into`, which outlives the call.
    length(unsafe { libc::recv(fd, into.as_mut_ptr().cast(), into.len(), flags) })
}

/// readv(2) into three parts of `into`.
pub(crate) fn readv(fd: RawFd, into: &mut [u8]) -> Result<usize> {
    let mut vectors = vectors(into);
    let count = i32::try_from(vectors.len()).unwrap_or(0);
    // SAFETY: the vectors describe `into`, which is exclusively borrowed and outlives the call.
    length(unsafe { libc::readv(fd, vectors.as_mut_ptr(), count) })
}

/// recvmsg(2) into parts of `into`.
pub(crate) fn recvmsg(fd: RawFd, into: &mut [u8]) -> Result<usize> {
    let mut vectors = vectors(into);
    let mut message = message(&mut vectors);
    // SAFETY: the message describes `vectors` and those `into`, exclusively borrowed.
    length(unsafe { libc::recvmsg(fd, &raw mut message, 0) })
}

/// Takes one report off the socket's error queue: the range of completed zero-copy sends.
pub(crate) fn completed(fd: RawFd) -> Result<Option<(u32, u32)>> {
    let mut control = [0u64; 32];
    let mut message = message(&mut []);
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the message describes `control`, which outlives the call.
    length(unsafe { libc::recvmsg(fd, &raw mut message, libc::MSG_ERRQUEUE) })?;
    // SAFETY: the kernel filled the message in; its control data is in `control`.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    if header.is_null() {
        return Ok(None);
    }
    // SAFETY: not null, so a whole header; what follows is read only as far as it is there.
    let report: libc::sock_extended_err = unsafe {
        if (*header).cmsg_len < size_of::<libc::cmsghdr>() + size_of::<libc::sock_extended_err>() {
            return Ok(None);
        }
        libc::CMSG_DATA(header).cast::<libc::sock_extended_err>().read_unaligned()
    };
    let is_completion = report.ee_origin == ORIGIN_ZERO_COPY;
    Ok(is_completion.then_some((report.ee_info, report.ee_data)))
}

/// What waits to be read, by ioctl(FIONREAD).
pub(crate) fn waiting(fd: RawFd) -> Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int (tcp(7), pipe(7)).
    done(unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// poll(2) on one descriptor. Gives what happened; 0 if nothing did in time.
pub(crate) fn poll(fd: RawFd, events: i16, milliseconds: i32) -> Result<i16> {
    let mut poll = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one `pollfd`, which outlives the call.
    match unsafe { libc::poll(&raw mut poll, 1, milliseconds) } {
        -1 => Err(Error::last_os_error()),
        _ => Ok(poll.revents),
    }
}

/// select(2) for reading on one descriptor below FD_SETSIZE. Whether it became readable.
pub(crate) fn select(fd: RawFd, milliseconds: u32) -> Result<bool> {
    if !usize::try_from(fd).is_ok_and(|fd| fd < libc::FD_SETSIZE) {
        return Err(Error::other("descriptor too large for select"));
    }
    // SAFETY: an all-zero `fd_set` is the empty set.
    let mut set: libc::fd_set = unsafe { std::mem::zeroed() };
    let mut limit = libc::timeval {
        tv_sec: (milliseconds / 1000).into(),
        tv_usec: (milliseconds % 1000 * 1000).into(),
    };
    let none = std::ptr::null_mut();
    // SAFETY: the descriptor is within the set; set and limit outlive the calls.
    let count = unsafe {
        libc::FD_SET(fd, &raw mut set);
        libc::select(fd + 1, &raw mut set, none, none, &raw mut limit)
    };
    if count < 0 { Err(Error::last_os_error()) } else { Ok(count > 0) }
}

/// A new epoll instance that watches `fd` for `events`.
pub(crate) fn epoll(fd: RawFd, events: i32) -> Result<OwnedFd> {
    // SAFETY: takes an integer; a new descriptor is owned by nobody else.
    let epoll = unsafe {
        let epoll = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        if epoll < 0 {
            return Err(Error::last_os_error());
        }
        OwnedFd::from_raw_fd(epoll)
    };
    let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: 0 };
    // SAFETY: the event outlives the call.
    done(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) })?;
    Ok(epoll)
}

/// epoll_wait(2) for one event. Gives what happened; 0 if nothing did in time.
pub(crate) fn epoll_wait(epoll: RawFd, milliseconds: i32) -> Result<u32> {
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: room for one event, which outlives the call.
    match unsafe { libc::epoll_wait(epoll, &raw mut event, 1, milliseconds) } {
        -1 => Err(Error::last_os_error()),
        0 => Ok(0),
        _ => Ok(event.events),
    }
}

/// setsockopt(2) with a value of plain data.
pub(crate) fn set<T: Copy>(fd: RawFd, level: i32, option: i32, value: T) -> Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: pointer and length describe `value`, which outlives the call.
    done(unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), len) })
}

/// A new pipe: the end to read from, the end to write to.
pub(crate) fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors, which are owned by nobody else then.
    unsafe {
        done(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC))?;
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}
