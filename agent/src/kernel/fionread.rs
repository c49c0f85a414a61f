//! Does a socket in the socket map still say how much it has to read?
//!
//! On some kernels (6.6.128+, 6.12.75+, 6.18.14+ until their fix) `ioctl(FIONREAD)`
//! answers 0 on such a socket unless the map has a stream verdict program, and
//! programs that size their reads by it stall. So it is tried, on sockets of our own.

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// How long the bytes may take over the loopback interface.
const PATIENCE: Duration = Duration::from_secs(2);

/// A pair of connected sockets, of which `reader` is to be put in the map.
pub(crate) struct Pair {
    pub(crate) reader: TcpStream,
    writer: TcpStream,
}

impl Pair {
    /// A connected pair on the loopback interface.
    pub(crate) fn new() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let reader = TcpStream::connect(listener.local_addr()?)?;
        let (writer, _) = listener.accept()?;
        Ok(Self { reader, writer })
    }

    /// Whether the reader says how much there is to read, once something is.
    pub(crate) fn reader_counts(&mut self) -> io::Result<bool> {
        const MESSAGE: &[u8] = b"ready";
        self.writer.write_all(MESSAGE)?;
        let deadline = Instant::now() + PATIENCE;
        // Readable first, by `poll`; then the count must be there as well.
        let mut poll =
            libc::pollfd { fd: self.reader.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, which lives through the call.
        unsafe { libc::poll(&raw mut poll, 1, PATIENCE.as_millis() as i32) };
        loop {
            let mut waiting: libc::c_int = 0;
            // SAFETY: the descriptor is open, the result is an int that lives here.
            let result =
                unsafe { libc::ioctl(self.reader.as_raw_fd(), libc::FIONREAD, &raw mut waiting) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
            if usize::try_from(waiting) == Ok(MESSAGE.len()) {
                return Ok(true);
            }
            if waiting == 0 && poll.revents & libc::POLLIN != 0 || Instant::now() > deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
