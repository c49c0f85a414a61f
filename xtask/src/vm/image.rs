//! The file system that a guest boots into: a list of files, written as an initramfs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Cursor, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What an entry holds.
#[derive(Debug)]
enum Entry {
    Directory,
    /// A file of the host.
    Host(PathBuf),
    /// Bytes, and the file's mode.
    Bytes(Vec<u8>, u32),
    Link(PathBuf),
}

/// A file system in the making. Parents of entries come by themselves.
#[derive(Debug, Default)]
pub(crate) struct Image {
    entries: BTreeMap<PathBuf, Entry>,
}

/// `S_IFDIR`, `S_IFREG` and `S_IFLNK` (inode(7)).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

impl Image {
    /// An empty directory.
    pub(crate) fn directory(&mut self, path: impl Into<PathBuf>) {
        self.insert(path.into(), Entry::Directory);
    }

    /// A file of the host, at a path of the guest.
    pub(crate) fn host_file(&mut self, path: impl Into<PathBuf>, from: &Path) {
        self.insert(path.into(), Entry::Host(from.to_owned()));
    }

    /// A file with the given content.
    pub(crate) fn bytes(&mut self, path: impl Into<PathBuf>, content: Vec<u8>, mode: u32) {
        self.insert(path.into(), Entry::Bytes(content, mode));
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: impl Into<PathBuf>, to: impl Into<PathBuf>) {
        self.insert(path.into(), Entry::Link(to.into()));
    }

    /// Whether there is something at a path.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.entries.contains_key(path)
    }

    /// A directory of the host with all that is in it, at the same path, but for those
    /// entries whose names `skip` picks out.
    ///
    /// # Errors
    ///
    /// If something in it cannot be read.
    pub(crate) fn host_tree(&mut self, path: &Path, skip: &dyn Fn(&str) -> bool) -> Result<()> {
        let entries =
            fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read {}", path.display()))?;
            if entry.file_name().to_str().is_some_and(skip) {
                continue;
            }
            let path = entry.path();
            let kind = entry.file_type().with_context(|| format!("{}", path.display()))?;
            if kind.is_dir() {
                self.host_tree(&path, skip)?;
            } else if kind.is_symlink() {
                // What it points to may lie outside; a copy cannot dangle.
                if let Ok(target) = path.canonicalize()
                    && target.is_file()
                {
                    self.host_file(path, &target);
                }
            } else if kind.is_file() {
                self.host_file(path.clone(), &path);
            }
        }
        Ok(())
    }

    fn insert(&mut self, path: PathBuf, entry: Entry) {
        for parent in path.ancestors().skip(1).filter(|parent| parent.parent().is_some()) {
            self.entries.entry(parent.to_owned()).or_insert(Entry::Directory);
        }
        self.entries.insert(path, entry);
    }

    /// Writes the archive that the kernel unpacks (`Documentation/driver-api/early-userspace`).
    ///
    /// # Errors
    ///
    /// If a file of the host cannot be read, or the archive not written.
    pub(crate) fn write(&self, to: &Path) -> Result<()> {
        let file = File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
        let mut out = BufWriter::new(file);
        for (number, (path, entry)) in self.entries.iter().enumerate() {
            self.append(&mut out, number, path, entry)
                .with_context(|| format!("cannot put {} into the image", path.display()))?;
        }
        let mut out = cpio::newc::trailer(out).context("cannot end the image")?;
        out.flush().with_context(|| format!("cannot write {}", to.display()))
    }

    fn append(
        &self,
        out: &mut impl Write,
        number: usize,
        path: &Path,
        entry: &Entry,
    ) -> Result<()> {
        let (mode, mut content, size): (u32, Box<dyn Read>, u64) = match entry {
            Entry::Directory => (DIRECTORY | 0o755, Box::new(io::empty()), 0),
            Entry::Host(from) => {
                let file = File::open(from).with_context(|| format!("{}", from.display()))?;
                let metadata = file.metadata()?;
                let mode = REGULAR | (metadata.permissions().mode() & 0o7777);
                (mode, Box::new(file), metadata.len())
            }
            Entry::Bytes(bytes, mode) => {
                (REGULAR | mode, Box::new(bytes.as_slice()), bytes.len() as u64)
            }
            Entry::Link(to) => {
                let target = to.as_os_str().as_bytes().to_vec();
                let size = target.len() as u64;
                (LINK | 0o777, Box::new(Cursor::new(target)), size)
            }
        };
        let name = path.to_string_lossy();
        let header = cpio::newc::Builder::new(name.trim_start_matches('/'))
            .ino(u32::try_from(number)?)
            .nlink(1)
            .mode(mode);
        let mut writer = header.write(out, u32::try_from(size)?);
        io::copy(&mut content, &mut writer)?;
        writer.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::ScratchDir;

    #[test]
    fn an_image_holds_what_was_put_in_and_the_parents() {
        let scratch = ScratchDir::create("image").expect("a temporary directory");
        let from = scratch.write("from", "of the host").expect("the directory is ours");
        let mut image = Image::default();
        image.host_file("/a/b/file", &from);
        image.link("/a/link", "b/file");
        image.bytes("/init", b"#!/bin/sh\n".to_vec(), 0o755);
        let path = scratch.path().join("image");
        image.write(&path).expect("the directory is ours");

        let mut file = File::open(&path).expect("it was just written");
        let mut found = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(file).expect("an archive");
            if reader.entry().is_trailer() {
                break;
            }
            let mut content = String::new();
            reader.read_to_string(&mut content).expect("text");
            let entry = reader.entry();
            found.push((entry.name().to_owned(), entry.mode() & 0o170_000, content));
            file = reader.finish().expect("the next entry");
        }
        let wanted = [
            ("a", DIRECTORY, ""),
            ("a/b", DIRECTORY, ""),
            ("a/b/file", REGULAR, "of the host"),
            ("a/link", LINK, "b/file"),
            ("init", REGULAR, "#!/bin/sh\n"),
        ];
        let wanted = wanted.map(|(name, kind, text)| (name.to_owned(), kind, text.to_owned()));
        assert_eq!(found, wanted);
    }
}
