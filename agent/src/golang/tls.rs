//! Go's own TLS library, `crypto/tls`, which is linked into every program that uses it.

use tracewire_common::tls::Call;

use super::ends::ends;
use super::{Unknown, code, function, g_slot, layout};
use crate::elf::Elf;
use crate::tls::TlsLibrary;

/// The functions that plaintext passes; without them the program does not use TLS.
const READ: &[u8] = b"crypto/tls.(*Conn).Read";
const WRITE: &[u8] = b"crypto/tls.(*Conn).Write";

/// The functions that each connection passes once, before any plaintext does.
const HANDSHAKES: [&[u8]; 2] =
    [b"crypto/tls.(*Conn).clientHandshake", b"crypto/tls.(*Conn).serverHandshake"];

/// Reads an executable. `None` if it is no Go program that uses TLS.
///
/// # Errors
///
/// If it is one, but one that cannot be probed with certainty.
pub(crate) fn tls_library(elf: &mut Elf<'_>) -> Option<Result<TlsLibrary, Unknown>> {
    match layout(elf)? {
        Ok(_) => find(elf).transpose(),
        Err(unknown) => Some(Err(unknown)),
    }
}

fn find(elf: &mut Elf<'_>) -> Result<Option<TlsLibrary>, Unknown> {
    // Whoever comes back from reading is known by its goroutine.
    g_slot(elf)?;
    let (Some(read), Some(write)) = (code(elf, READ)?, function(elf, WRITE)?) else {
        return Ok(None);
    };
    let mut library = TlsLibrary { kind: "Go's crypto/tls", ..TlsLibrary::default() };
    let entered = function(elf, READ)?.ok_or(Unknown::Malformed)?;
    library.entries.extend([(entered, Call::GoRead), (write, Call::GoWrite)]);
    for name in HANDSHAKES {
        if let Some(place) = function(elf, name)? {
            library.entries.push((place, Call::GoHandshake));
        }
    }
    library.ends.extend(ends(elf, read)?.into_iter().map(|place| (place, Call::GoRead)));
    Ok(Some(library))
}
