//! A file that is read piece by piece: executables are large, and others write them, so no more
//! of one is in memory than a piece.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// The longest piece, in bytes.
const PIECE: usize = 64 << 10;

/// Pieces of a file that are read at most: together 4 GiB. The largest Go programs have tables of some 100 MiB,
/// which are gone through for each function that is looked for. A file made for it could have the same looked
/// through for hours.
const MOST_PIECES: u32 = 1 << 16;

/// A piece of a file, which moves over it.
pub(crate) struct Window<'a> {
    file: &'a File,
    start: u64,
    piece: Vec<u8>,
    /// Pieces that may still be read.
    left: u32,
}

impl<'a> Window<'a> {
    /// The longest run of bytes that can be asked for.
    pub(crate) const LONGEST: usize = PIECE;

    /// A window over a file, which may grow or shrink meanwhile.
    pub(crate) fn new(file: &'a File) -> Self {
        Self { file, start: 0, piece: Vec::new(), left: MOST_PIECES }
    }

    /// So many bytes from there on; `None` if the file has them not, cannot be read, if these are more
    /// than a piece, or if too much was read already.
    pub(crate) fn bytes(&mut self, at: u64, len: usize) -> Option<&[u8]> {
        let upto = self.upto(at, len)?;
        (upto.len() == len).then_some(upto)
    }

    /// As [`Window::bytes`], but less at the end of the file.
    pub(crate) fn upto(&mut self, at: u64, len: usize) -> Option<&[u8]> {
        if len > PIECE {
            return None;
        }
        let held = at.checked_sub(self.start).and_then(|from| usize::try_from(from).ok());
        let from = match held {
            Some(from) if from.checked_add(len).is_some_and(|end| end <= self.piece.len()) => from,
            _ => {
                self.read(at)?;
                0
            }
        };
        let end = (from + len).min(self.piece.len());
        self.piece.get(from..end)
    }

    fn read(&mut self, at: u64) -> Option<()> {
        self.left = self.left.checked_sub(1)?;
        self.piece.resize(PIECE, 0);
        self.start = at;
        let mut read = 0;
        while let Some(rest) = self.piece.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, at.checked_add(read as u64)?) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.piece.clear();
                    return None;
                }
            }
        }
        self.piece.truncate(read);
        Some(())
    }

    /// A little-endian number of four bytes.
    pub(crate) fn u32(&mut self, at: u64) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(at, 4)?.try_into().ok()?))
    }

    /// A little-endian number of eight bytes.
    pub(crate) fn u64(&mut self, at: u64) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(at, 8)?.try_into().ok()?))
    }

    /// Where in the `len` bytes from `at` on these bytes are first, as a distance from `at`.
    pub(crate) fn find(&mut self, at: u64, len: u64, wanted: &[u8]) -> Option<u64> {
        let mut from = 0;
        while from < len {
            let room = usize::try_from(len - from).unwrap_or(PIECE).min(PIECE);
            let piece = self.upto(at.checked_add(from)?, room)?;
            if piece.len() < wanted.len() {
                return None;
            }
            if let Some(place) = piece.windows(wanted.len()).position(|some| some == wanted) {
                return Some(from + place as u64);
            }
            // What begins at the end of a piece ends in the next.
            from += (piece.len() - wanted.len() + 1) as u64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_of_a_file_than_is_ever_needed() {
        let file = File::open("/dev/zero").expect("every Linux has it");
        let mut window = Window::new(&file);
        for piece in 0..u64::from(MOST_PIECES) {
            assert!(window.u64(piece * PIECE as u64).is_some(), "piece {piece}");
        }
        assert_eq!(window.u64(0), None);
        // What is held is still there.
        assert_eq!(window.u64(u64::from(MOST_PIECES - 1) * PIECE as u64), Some(0));
    }
}
