//! TLS libraries: what has to be known of the file of one to see its plaintext.

use std::fs::File;

use tracewire_common::tls::Call;

use crate::elf::{Elf, Window};

/// Where in a file the functions of a TLS library with OpenSSL's interface are, in bytes. OpenSSL
/// 1.1 and 3, LibreSSL and BoringSSL have it, whether as a library or as a part of a program that
/// offers it to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsLibrary {
    /// Those of which it is of interest that they are entered.
    pub(crate) entries: Vec<(u64, Call)>,
    /// Those of which it is of interest that they return.
    pub(crate) returns: Vec<(u64, Call)>,
}

/// The functions by name; without the first two it is no such library.
const FUNCTIONS: [(&[u8], Call); 8] = [
    (b"SSL_read", Call::Read),
    (b"SSL_write", Call::Write),
    (b"SSL_read_ex", Call::ReadEx),
    (b"SSL_write_ex", Call::WriteEx),
    (b"SSL_do_handshake", Call::Handshake),
    (b"SSL_new", Call::New),
    (b"SSL_free", Call::Free),
    (b"SSL_clear", Call::Clear),
];

/// Reads a file. `None` if it is no such library.
pub(crate) fn inspect(file: &File) -> Option<TlsLibrary> {
    let mut elf = Elf::open(Window::new(file))?;
    let mut library = TlsLibrary::default();
    for (name, call) in FUNCTIONS {
        let place = elf.exported(name).and_then(|address| elf.offset_of_code(address));
        let Some(place) = place else {
            if matches!(call, Call::Read | Call::Write) {
                return None;
            }
            continue;
        };
        if call != Call::New {
            library.entries.push((place, call));
        }
        if !matches!(call, Call::Free | Call::Clear) {
            library.returns.push((place, call));
        }
    }
    Some(library)
}
