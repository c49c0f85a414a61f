//! TLS libraries: what has to be known of the file of one to see its plaintext.

use std::fs::File;

use tracewire_common::tls::Call;

use crate::elf::{Elf, Window};
use crate::golang;

/// Where in a file the functions of a TLS library are, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsLibrary {
    /// Those of which it is of interest that they are entered.
    pub(crate) entries: Vec<(u64, Call)>,
    /// Those of which it is of interest that they return.
    pub(crate) returns: Vec<(u64, Call)>,
    /// The instructions by which functions return whose return address must be left alone.
    pub(crate) ends: Vec<(u64, Call)>,
}

/// The functions of an interface by name; without the first two it is no such library.
type Interface = [(&'static [u8], Call)];

/// OpenSSL 1.1 and 3, LibreSSL and BoringSSL, whether as a library or as a part of a program that offers
/// it to others.
const OPENSSL: &Interface = &[
    (b"SSL_read", Call::Read),
    (b"SSL_write", Call::Write),
    (b"SSL_read_ex", Call::ReadEx),
    (b"SSL_write_ex", Call::WriteEx),
    (b"SSL_read_early_data", Call::ReadEx),
    (b"SSL_write_early_data", Call::WriteEx),
    (b"SSL_sendfile", Call::SendFile),
    (b"SSL_do_handshake", Call::Handshake),
    (b"SSL_new", Call::New),
    (b"SSL_free", Call::Free),
    (b"SSL_clear", Call::Clear),
];

/// GnuTLS 3.
const GNUTLS: &Interface = &[
    (b"gnutls_record_recv", Call::Read),
    (b"gnutls_record_send", Call::Write),
    (b"gnutls_record_recv_seq", Call::Read),
    // What the other calls, at its end.
    (b"gnutls_record_send2", Call::Write),
    (b"gnutls_record_send_file", Call::SendFile),
    (b"gnutls_handshake", Call::Handshake),
    (b"gnutls_deinit", Call::Free),
];

/// Reads a file. `None` if it is no such library.
pub(crate) fn inspect(file: &File) -> Option<TlsLibrary> {
    let mut elf = Elf::open(Window::new(file))?;
    let c = [OPENSSL, GNUTLS].into_iter().find_map(|interface| find(&mut elf, interface));
    c.or_else(|| match golang::tls_library(&mut elf)? {
        Ok(library) => Some(library),
        Err(unknown) => {
            tracing::debug!(%unknown, "requests over TLS of a Go program are not read");
            None
        }
    })
}

fn find(elf: &mut Elf<'_>, interface: &Interface) -> Option<TlsLibrary> {
    let mut library = TlsLibrary::default();
    for (number, &(name, call)) in interface.iter().enumerate() {
        let place = elf.exported(name).and_then(|address| elf.offset_of_code(address));
        let Some(place) = place else {
            if number < 2 {
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
