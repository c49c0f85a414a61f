//! Ruby: whether a process runs it, and where in its C library the function is of which it is of interest
//! who calls it.

use std::fs::File;

use crate::elf::{Elf, Window};
use crate::tls::mapped::Mapped;

/// getsockopt(2) of the C library.
const GETSOCKOPT: &[u8] = b"getsockopt";

/// What a file has that threads of Ruby call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketOptions {
    /// `getsockopt`, as a place in the file in bytes.
    pub(crate) getsockopt: u64,
}

/// The C library of a process of Ruby, among what that has mapped. `None` if it is none of Ruby. (CRuby is
/// a library, `libruby.so` or with a version in its name, or is in its executable.)
pub(crate) fn c_library<'m, 'a>(maps: &'m [Mapped<'a>]) -> Option<&'m Mapped<'a>> {
    let is_ruby = |name: &str| name.starts_with("libruby") || name.starts_with("ruby");
    // glibc's, also before 2.34, and musl's.
    let is_c =
        |name: &str| ["libc.so", "libc-2", "ld-musl-"].iter().any(|start| name.starts_with(start));
    maps.iter().any(|one| is_ruby(file_name(one))).then_some(())?;
    maps.iter().find(|one| is_c(file_name(one)))
}

fn file_name<'a>(mapped: &Mapped<'a>) -> &'a str {
    mapped.path.rsplit('/').next().unwrap_or(mapped.path)
}

/// Reads a C library. `None` if it is none.
pub(crate) fn inspect(file: &File) -> Option<SocketOptions> {
    let mut elf = Elf::open(Window::new(file))?;
    let address = elf.exported(GETSOCKOPT)?;
    Some(SocketOptions { getsockopt: elf.offset_of_code(address)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(paths: &[&str]) -> Option<String> {
        let lines: Vec<String> = (paths.iter().zip(7..))
            .map(|(path, inode)| format!("1000-2000 r-xp 00000000 fe:01 {inode} {path}"))
            .collect();
        let maps: Vec<_> = lines.iter().filter_map(|line| Mapped::parse(line)).collect();
        c_library(&maps).map(|mapped| mapped.path.to_owned())
    }

    #[test]
    fn the_c_library_is_found_in_processes_of_ruby_alone() {
        let debian = [
            "/usr/bin/ruby3.1",
            "/usr/lib/x86_64-linux-gnu/libc.so.6",
            "/usr/lib/libruby-3.1.so.3.1.2",
        ];
        assert_eq!(found(&debian).as_deref(), Some(debian[1]));
        let alpine =
            ["/lib/ld-musl-x86_64.so.1", "/usr/local/bin/ruby", "/usr/local/lib/libruby.so.3.3.0"];
        assert_eq!(found(&alpine).as_deref(), Some(alpine[0]));
        let older = ["/usr/local/bin/ruby", "/lib/x86_64-linux-gnu/libc-2.31.so"];
        assert_eq!(found(&older).as_deref(), Some(older[1]));
        assert_eq!(found(&["/usr/bin/python3.11", "/usr/lib/x86_64-linux-gnu/libc.so.6"]), None);
        assert_eq!(found(&["/usr/local/bin/ruby", "/usr/lib/libcrypto.so.3"]), None);
    }
}
