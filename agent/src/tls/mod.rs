//! TLS libraries: what has to be known of the file of one to see its plaintext.

pub(crate) mod mapped;

use std::fs::File;

use tracewire_common::tls::Call;

use crate::elf::{Elf, Window};
use crate::golang::{self, Unknown};

/// Where in a file the functions of a TLS library are, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsLibrary {
    /// What it is, for people.
    pub(crate) kind: &'static str,
    /// Those of which it is of interest that they are entered.
    pub(crate) entries: Vec<(u64, Call)>,
    /// Those of which it is of interest that they return.
    pub(crate) returns: Vec<(u64, Call)>,
    /// The instructions by which functions return whose return address must be left alone.
    pub(crate) ends: Vec<(u64, Call)>,
}

impl TlsLibrary {
    /// Whether it is Go's own.
    pub(crate) fn is_go(&self) -> bool {
        !self.ends.is_empty()
    }
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
    (b"SSL_write_early_data", Call::EarlyData),
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
///
/// # Errors
///
/// If it is a Go program that may hold one, but cannot be probed with certainty.
pub(crate) fn inspect(file: &File) -> Option<Result<TlsLibrary, Unknown>> {
    let mut elf = Elf::open(Window::new(file))?;
    let mut of_c = |kind, interface| find(&mut elf, kind, interface).map(Ok);
    of_c("OpenSSL's interface", OPENSSL)
        .or_else(|| of_c("GnuTLS", GNUTLS))
        .or_else(|| golang::tls_library(&mut elf))
}

fn find(elf: &mut Elf<'_>, kind: &'static str, interface: &Interface) -> Option<TlsLibrary> {
    let mut library = TlsLibrary { kind, ..TlsLibrary::default() };
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

/// Words by which libraries show that are linked into a program without symbols.
const HIDDEN: [(&[u8], &str); 4] = [
    (b"/rustls-0.", "rustls"),
    (b"BoringSSL", "BoringSSL"),
    (b"OpenSSL 3.", "OpenSSL 3"),
    (b"OpenSSL 1.1.", "OpenSSL 1.1"),
];

/// The library that a program seems to hold where [`inspect`] finds none: it cannot be probed.
pub(crate) fn hidden(file: &File) -> Option<&'static str> {
    let mut elf = Elf::open(Window::new(file))?;
    let text = elf.section(b".rodata")?;
    HIDDEN.iter().find_map(|&(word, name)| {
        elf.window.find(text.at, text.len, word).is_some().then_some(name)
    })
}
