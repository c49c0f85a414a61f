//! Offsets of fields of kernel structs, from the kernel's own type information.
//!
//! aya reads BTF too but keeps member offsets to itself, and the other readers on
//! offer are LGPL. Only what is needed is here: find a struct by name, and a
//! member in it, through anonymous structs and unions.
//! Format: Documentation/bpf/btf.rst.

use std::fmt;

/// Where the kernel publishes its BTF.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const HEADER_LEN: usize = 24;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
/// Anonymous structs inside one another that are followed.
const MAX_DEPTH: u32 = 8;
/// Members that are looked at for one question. The largest struct of any kernel has some
/// hundreds; what has more goes in circles.
const MAX_MEMBERS: u32 = 1 << 16;

/// Why an offset is not known.
#[derive(Debug)]
pub(crate) enum BtfError {
    /// The kernel publishes none.
    Missing(std::io::Error),
    /// It is not in the format that is known.
    Malformed,
    /// It has no such struct or member.
    NotFound(String),
}

impl fmt::Display for BtfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(error) => write!(
                f,
                "cannot read {VMLINUX} ({error}): Tracewire needs a kernel built with CONFIG_DEBUG_INFO_BTF"
            ),
            Self::Malformed => write!(f, "{VMLINUX} is not in a format that Tracewire knows"),
            Self::NotFound(what) => write!(f, "the kernel's type information has no {what}"),
        }
    }
}

impl std::error::Error for BtfError {}

/// The kernel's types.
pub(crate) struct KernelTypes {
    data: Vec<u8>,
    strings: usize,
    /// Where each type starts; type ids count from 1.
    types: Vec<u32>,
}

impl KernelTypes {
    /// Reads the running kernel's.
    ///
    /// # Errors
    ///
    /// If there is none, or it is malformed.
    pub(crate) fn of_kernel() -> Result<Self, BtfError> {
        Self::parse(std::fs::read(VMLINUX).map_err(BtfError::Missing)?).ok_or(BtfError::Malformed)
    }

    /// Reads type information; `None` if it is malformed.
    pub(crate) fn parse(data: Vec<u8>) -> Option<Self> {
        let header = |at: usize| read_u32(&data, at).map(|v| v as usize);
        if u16::from_ne_bytes([*data.first()?, *data.get(1)?]) != MAGIC {
            return None;
        }
        let start = header(4)?;
        if start < HEADER_LEN {
            return None;
        }
        let mut at = start.checked_add(header(8)?)?;
        let end = at.checked_add(header(12)?)?;
        let strings = start.checked_add(header(16)?)?;
        let mut types = Vec::new();
        while at < end {
            types.push(u32::try_from(at).ok()?);
            let info = read_u32(&data, at.checked_add(4)?)?;
            let vlen = (info & 0xffff) as usize;
            at += 12
                + match info >> 24 & 0x1f {
                    1 | 14 | 17 => 4,
                    3 => 12,
                    KIND_STRUCT | KIND_UNION | 15 | 19 => vlen * 12,
                    6 | 13 => vlen * 8,
                    2 | 7..=12 | 16 | 18 => 0,
                    _ => return None,
                };
        }
        Some(Self { data, strings, types })
    }

    /// Whether the name of what is described at `at` is this one. Looks at no more of it
    /// than that takes: names are as long as whoever wrote them likes.
    fn is_named(&self, at: usize, name: &[u8]) -> Option<bool> {
        let start = self.strings.checked_add(read_u32(&self.data, at)? as usize)?;
        let rest = self.data.get(start..)?;
        Some(rest.strip_prefix(name).is_some_and(|rest| matches!(rest.first(), None | Some(0))))
    }

    /// The offset of a member, in bytes; `sk_lock.owned` is a member of that member.
    ///
    /// # Errors
    ///
    /// If there is no such struct or member, or it does not start at a byte.
    pub(crate) fn offset(&self, structure: &str, member: &str) -> Result<u32, BtfError> {
        let mut left = MAX_MEMBERS;
        self.types
            .iter()
            .map(|&at| at as usize)
            .filter(|&at| {
                self.kind(at) == Some(KIND_STRUCT)
                    && self.is_named(at, structure.as_bytes()) == Some(true)
            })
            .find_map(|at| self.bits_of_path(at, member, &mut left))
            .filter(|bits| bits % 8 == 0)
            .map(|bits| bits / 8)
            .ok_or_else(|| BtfError::NotFound(format!("struct {structure}.{member}")))
    }

    /// Where a member of the struct is, in bits, or a member of a member.
    fn bits_of_path(&self, at: usize, path: &str, left: &mut u32) -> Option<u32> {
        let (first, rest) = path.split_once('.').unwrap_or((path, ""));
        let (bits, id) = self.member(at, first.as_bytes(), 0, left)?;
        if rest.is_empty() {
            return Some(bits);
        }
        let mut inner = self.place_of(id)?;
        for _ in 0..MAX_DEPTH {
            if self.kind(inner)? != KIND_TYPEDEF {
                break;
            }
            inner = self.place_of(read_u32(&self.data, inner + 8)?)?;
        }
        if self.kind(inner)? != KIND_STRUCT {
            return None;
        }
        bits.checked_add(self.bits_of_path(inner, rest, left)?)
    }

    /// Where the type of that number is described.
    fn place_of(&self, id: u32) -> Option<usize> {
        Some(*self.types.get((id as usize).checked_sub(1)?)? as usize)
    }

    fn kind(&self, at: usize) -> Option<u32> {
        Some(read_u32(&self.data, at + 4)? >> 24 & 0x1f)
    }

    /// Where a member of the struct is, in bits, and the number of its type.
    fn member(&self, at: usize, member: &[u8], depth: u32, left: &mut u32) -> Option<(u32, u32)> {
        if depth > MAX_DEPTH {
            return None;
        }
        let info = read_u32(&self.data, at + 4)?;
        let has_bitfields = info >> 31 != 0;
        for index in 0..(info & 0xffff) as usize {
            *left = left.checked_sub(1)?;
            let place = at + 12 + index * 12;
            let mut offset = read_u32(&self.data, place + 8)?;
            if has_bitfields {
                offset &= 0x00ff_ffff;
            }
            let id = read_u32(&self.data, place + 4)?;
            if self.is_named(place, member)? {
                return Some((offset, id));
            }
            if self.is_named(place, b"")? {
                let inner = self.place_of(id)?;
                if matches!(self.kind(inner), Some(KIND_STRUCT | KIND_UNION))
                    && let Some((bits, id)) = self.member(inner, member, depth + 1, left)
                {
                    return Some((offset.checked_add(bits)?, id));
                }
            }
        }
        None
    }
}

fn read_u32(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_type_information_is_refused() {
        assert!(KernelTypes::parse(Vec::new()).is_none());
        assert!(KernelTypes::parse(vec![0x9f, 0xeb, 1, 0]).is_none());
        assert!(KernelTypes::parse(vec![0xff; 64]).is_none());
    }

    #[test]
    fn the_running_kernel_gives_plausible_offsets() {
        let Ok(types) = KernelTypes::of_kernel() else {
            // The error is tested where the agent is started; here there is nothing to read.
            return;
        };
        let pid = types.offset("task_struct", "pid").expect("every kernel has it");
        let tgid = types.offset("task_struct", "tgid").expect("every kernel has it");
        assert_eq!(tgid, pid + 4);
        assert!(types.offset("mm_struct", "arg_start").expect("in an anonymous struct") > 0);
        assert!(types.offset("task_struct", "no_such_member").is_err());
        let lock = types.offset("sock", "sk_lock").expect("every kernel has it");
        let owned = types.offset("sock", "sk_lock.owned").expect("behind a spin lock");
        assert!((lock + 4..lock + 256).contains(&owned), "{lock} {owned}");
        assert!(types.offset("sock", "sk_lock.no_such_member").is_err());
        assert!(types.offset("sock", "sk_sndbuf.owned").is_err());
    }
}
