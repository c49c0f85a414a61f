//! TLS libraries: what has to be known of the file of one to see its plaintext.

use std::fs::File;

use tracewire_common::tls::{Call, OVER_CLEARED, OVER_FREED};

use crate::elf::{Elf, Window};

/// Where in a file the functions of a TLS library with OpenSSL's interface are, in bytes. OpenSSL
/// 1.1 and 3, LibreSSL and BoringSSL have it, whether as a library or as a part of a program that
/// offers it to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsLibrary {
    /// `SSL_new`.
    pub(crate) made: Vec<u64>,
    /// `SSL_free` and `SSL_clear`, and which of them.
    pub(crate) over: Vec<(u64, u64)>,
    /// What is read or written, and the handshake.
    pub(crate) calls: Vec<(u64, Call)>,
}

/// Reads a file. `None` if it is no such library.
pub(crate) fn inspect(file: &File) -> Option<TlsLibrary> {
    let mut elf = Elf::open(Window::new(file))?;
    let mut place = |name: &[u8]| {
        let address = elf.exported(name)?;
        elf.offset_of_code(address)
    };
    let (read, write) = (place(b"SSL_read")?, place(b"SSL_write")?);
    let mut calls = vec![(read, Call::Read), (write, Call::Write)];
    let others: [(&[u8], Call); 3] = [
        (b"SSL_read_ex", Call::ReadEx),
        (b"SSL_write_ex", Call::WriteEx),
        (b"SSL_do_handshake", Call::Handshake),
    ];
    calls.extend(others.into_iter().filter_map(|(name, call)| Some((place(name)?, call))));
    Some(TlsLibrary {
        made: place(b"SSL_new").into_iter().collect(),
        over: [(b"SSL_free".as_slice(), OVER_FREED), (b"SSL_clear", OVER_CLEARED)]
            .into_iter()
            .filter_map(|(name, which)| Some((place(name)?, which)))
            .collect(),
        calls,
    })
}
