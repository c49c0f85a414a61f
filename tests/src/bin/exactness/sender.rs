//! Sending a stream, piece by piece, each in its way, with what each call answers checked.

use std::fs::File;
use std::io::{Error, ErrorKind, Result, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use crate::digest::Digest;
use crate::plan::{Piece, Turn};
use crate::socket::Socket;
use crate::sys;
use crate::uring::Ring;
use crate::ways::Way;

/// What is put into a pipe at once, in bytes: what a pipe holds (pipe(7)).
const PIPE_BYTES: usize = 65_536;

/// Sends one stream.
pub(crate) struct Sender<'a> {
    bytes: &'a [u8],
    ring: &'a mut Ring,
    /// The same bytes on disk, where a piece is sent from there.
    file: Option<File>,
    pipe: Option<(OwnedFd, OwnedFd)>,
    is_zero_copy: bool,
    /// Whether the peer reads an urgent byte in the stream.
    urgent_inline: bool,
    /// What the kernel took, by its own answers.
    pub(crate) digest: Digest,
}

impl<'a> Sender<'a> {
    /// A sender of `bytes` in `turns`; files are made in `directory`.
    pub(crate) fn new<'t>(
        bytes: &'a [u8],
        turns: impl Iterator<Item = &'t Turn>,
        ring: &'a mut Ring,
        directory: &Path,
        urgent_inline: bool,
    ) -> Result<Self> {
        let mut pieces = turns.flat_map(|turn| &turn.pieces);
        let file = if pieces.any(|piece| piece.way.is_from_file()) {
            let mut file = tempfile::tempfile_in(directory)?;
            file.write_all(bytes)?;
            Some(file)
        } else {
            None
        };
        Ok(Self {
            bytes,
            ring,
            file,
            pipe: None,
            is_zero_copy: false,
            urgent_inline,
            digest: Digest::default(),
        })
    }

    /// Sends a whole turn.
    pub(crate) fn send(&mut self, socket: &mut Socket, turn: &Turn) -> Result<()> {
        if turn.cork {
            sys::set(socket.fd(), libc::IPPROTO_TCP, libc::TCP_CORK, 1)?;
        }
        for piece in &turn.pieces {
            self.send_piece(socket, piece)
                .map_err(|error| Error::new(error.kind(), format!("{:?}: {error}", piece.way)))?;
        }
        if turn.cork {
            sys::set(socket.fd(), libc::IPPROTO_TCP, libc::TCP_CORK, 0)?;
        }
        Ok(())
    }

    fn send_piece(&mut self, socket: &mut Socket, piece: &Piece) -> Result<()> {
        let mut at = piece.bytes.start;
        socket.call = format!("{:?}", piece.way);
        while at < piece.bytes.end {
            let asked = piece.bytes.end - at;
            match self.send_some(socket, at, piece.bytes.end, piece.way) {
                Ok(sent) if sent == 0 || sent > asked => {
                    return Err(Error::other(format!("took {sent} bytes of {asked}")));
                }
                Ok(sent) => {
                    if sent < asked && !socket.non_blocking && !is_cut_by_itself(piece.way) {
                        socket.odd(&format!("{:?} sent less than asked, blocking", piece.way));
                    }
                    if piece.way != Way::Urgent || self.urgent_inline {
                        self.digest.add(&self.bytes[at..at + sent]);
                    }
                    at += sent;
                    socket.went_on();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && socket.non_blocking => {
                    socket.wait(libc::POLLOUT)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// One call, or those that belong together.
    fn send_some(&mut self, socket: &mut Socket, at: usize, end: usize, way: Way) -> Result<usize> {
        let fd = socket.fd();
        let bytes = &self.bytes[at..end];
        match way {
            Way::Write => sys::write(fd, bytes),
            Way::Send => sys::send(fd, bytes, 0),
            Way::More => sys::send(fd, bytes, libc::MSG_MORE),
            Way::Urgent => sys::send(fd, bytes, libc::MSG_OOB),
            Way::Writev => sys::writev(fd, &sys::vectors(bytes)),
            Way::Sendmsg => sys::sendmsg(fd, bytes),
            Way::Sendmmsg => sys::sendmmsg(fd, bytes),
            Way::ZeroCopy => self.zero_copy(socket, at, end),
            Way::Sendfile => sys::sendfile(fd, self.file()?.as_raw_fd(), at..end),
            Way::SpliceFile | Way::SplicePipe | Way::Vmsplice => self.by_pipe(socket, at, end, way),
            Way::UringZeroCopy => match self.by_ring(socket, at, end, way) {
                // Said among the limits in the README.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    socket.odd("IORING_OP_SEND_ZC is not supported");
                    self.by_ring(socket, at, end, Way::UringSend)
                }
                result => result,
            },
            Way::UringSend | Way::UringWrite | Way::UringWritev | Way::UringSendmsg => {
                self.by_ring(socket, at, end, way)
            }
        }
    }

    fn by_ring(&mut self, socket: &mut Socket, at: usize, end: usize, way: Way) -> Result<usize> {
        let answer = self.ring.send(socket.fd(), &self.bytes[at..end], way);
        if answer.idle > 0 {
            socket.was_idle(answer.idle)?;
        }
        answer.result
    }

    fn zero_copy(&mut self, socket: &mut Socket, at: usize, end: usize) -> Result<usize> {
        if !self.is_zero_copy {
            sys::set(socket.fd(), libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1)?;
            self.is_zero_copy = true;
        }
        let bytes = &self.bytes[at..end];
        match sys::send(socket.fd(), bytes, libc::MSG_ZEROCOPY) {
            Ok(sent) => {
                socket.zero_copies.0 += 1;
                Ok(sent)
            }
            // Too many reports are waiting (msg_zerocopy.rst, "Transmission").
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                socket.take_completions()?;
                sys::send(socket.fd(), bytes, 0)
            }
            Err(error) => Err(error),
        }
    }

    fn by_pipe(&mut self, socket: &mut Socket, at: usize, end: usize, way: Way) -> Result<usize> {
        if self.pipe.is_none() {
            self.pipe = Some(sys::pipe()?);
        }
        let Some((out, into)) = &self.pipe else { return Err(Error::other("no pipe")) };
        let (out, into) = (out.as_raw_fd(), into.as_raw_fd());
        let end = end.min(at + PIPE_BYTES);
        let filled = match way {
            Way::SpliceFile => sys::splice(self.file()?.as_raw_fd(), Some(at), into, end - at, 0)?,
            // Pages that are only partly used fill a pipe with fewer bytes: one page less.
            Way::Vmsplice => {
                sys::vmsplice(into, &self.bytes[at..end.min(at + PIPE_BYTES - 8_192)])?
            }
            _ => sys::write(into, &self.bytes[at..end])?,
        };
        let mut left = filled;
        while left > 0 {
            match sys::splice(out, None, socket.fd(), left, 0) {
                Ok(sent) if sent == 0 || sent > left => {
                    return Err(Error::other(format!("splice took {sent} bytes of {left}")));
                }
                Ok(sent) => {
                    left -= sent;
                    socket.went_on();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && socket.non_blocking => {
                    socket.wait(libc::POLLOUT)?;
                }
                Err(error) => return Err(error),
            }
        }
        match sys::waiting(out)? {
            0 => Ok(filled),
            kept => Err(Error::other(format!("{kept} bytes were sent but stay in the pipe"))),
        }
    }

    fn file(&self) -> Result<&File> {
        self.file.as_ref().ok_or_else(|| Error::other("no file to send from"))
    }

    /// After the connection: what the bytes were sent from must be as it was.
    pub(crate) fn check_sources(&mut self, socket: &mut Socket, original: u64) -> Result<()> {
        if Digest::of(self.bytes) != original {
            return Err(Error::other("the sender's memory was changed"));
        }
        if let Some(file) = &mut self.file {
            file.rewind()?;
            let mut now = Vec::new();
            std::io::Read::read_to_end(file, &mut now)?;
            if Digest::of(&now) != original {
                return Err(Error::other("the file that was sent from was changed"));
            }
        }
        let mut tries = 0;
        while socket.zero_copies.1 < socket.zero_copies.0 && tries < 20 {
            sys::poll(socket.fd(), 0, 50)?;
            socket.take_completions()?;
            tries += 1;
        }
        let (sent, reported) = socket.zero_copies;
        if reported != sent {
            let what = if reported < sent { "without its report" } else { "reported twice" };
            socket.odd(&format!("a send with MSG_ZEROCOPY {what}"));
        }
        Ok(())
    }
}

/// Whether a blocking call of this kind may send less than asked.
fn is_cut_by_itself(way: Way) -> bool {
    // A pipe holds so much; sendfile goes through one (do_splice_direct). A ring does not
    // wait for all without MSG_WAITALL (io_uring_enter(2)).
    way.is_from_file() || way.is_by_ring() || matches!(way, Way::SplicePipe | Way::Vmsplice)
}
