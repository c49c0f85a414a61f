//! The version of the toolchain that made a program, which it says in its build information
//! (Go's debug/buildinfo, since Go 1.18).

use std::fmt;
use std::str::FromStr;

use crate::elf::{Section, Window};

const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Where the byte with flags is, and where the strings start.
const FLAGS: usize = 15;
const STRINGS: usize = 32;
/// The strings follow right behind. Before Go 1.18 there were pointers to them.
const INLINE: u8 = 2;
/// The longest version that is taken for one, in bytes.
const LONGEST: usize = 120;

/// What the build information says of the version. `None` if that is not there, or older
/// than Go 1.18.
pub(super) fn version(window: &mut Window<'_>, section: Section) -> Option<String> {
    let bytes = window.upto(section.at, STRINGS + 1 + LONGEST)?;
    if !bytes.starts_with(MAGIC) || bytes.get(FLAGS)? & INLINE == 0 {
        return None;
    }
    // A length of one byte (a varint), and the string.
    let (&len, rest) = bytes.get(STRINGS..)?.split_first()?;
    let text = rest.get(..usize::from(len)).filter(|text| text.len() <= LONGEST)?;
    let text = std::str::from_utf8(text).ok()?;
    text.chars().all(|c| !c.is_control()).then(|| text.to_owned())
}

/// A release of Go, 1.x.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    minor: u32,
}

impl FromStr for Version {
    type Err = ();

    /// Reads `go1.22`, `go1.22.3`, `go1.23rc1` and the like, with whatever a distributor has
    /// added; not `devel`, which says nothing certain.
    fn from_str(text: &str) -> Result<Self, ()> {
        let rest = text.strip_prefix("go1.").ok_or(())?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let minor = rest.get(..digits).ok_or(())?.parse().map_err(drop)?;
        Ok(Self { minor })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "go1.{}", self.minor)
    }
}

/// Offsets of fields, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// `runtime.g.goid`.
    pub(super) goid: u32,
    /// `runtime.m.curg` and `runtime.g.gopc`; `None` where they were not looked up.
    pub(super) birth: Option<(u32, u32)>,
}

impl Version {
    /// Where fields are, on machines of 64 bits: from the debug information, or the assembler's
    /// header, of each version's runtime. Fields before them come and go.
    pub(super) fn layout(self) -> Option<Layout> {
        let (goid, birth) = match self.minor {
            18 | 20 => (152, None),
            19 => (152, Some((192, 296))),
            21 | 22 => (152, Some((192, 280))),
            23 | 24 => (160, Some((192, 288))),
            25 => (152, Some((184, 280))),
            26 | 27 => (152, Some((184, 288))),
            _ => return None,
        };
        Some(Layout { goid, birth })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_whatever_was_added_to_it() {
        for (text, minor) in [
            ("go1.18", 18),
            ("go1.19.8", 19),
            ("go1.22rc1", 22),
            ("go1.21.13 X:boringcrypto", 21),
            ("go1.24.4-custom", 24),
        ] {
            assert_eq!(text.parse(), Ok(Version { minor }), "{text}");
        }
        for text in ["", "go2.1", "go1.", "go1.x", "devel go1.25-abcdef", "1.22", "go1.99999999999"]
        {
            assert_eq!(text.parse::<Version>(), Err(()), "{text}");
        }
    }

    #[test]
    fn the_layout_of_a_version_to_come_is_not_guessed() {
        let goid = |minor| Version { minor }.layout().map(|layout| layout.goid);
        assert_eq!(goid(17), None);
        assert_eq!(goid(22), Some(152));
        assert_eq!(goid(24), Some(160));
        assert_eq!(goid(27), Some(152));
        assert_eq!(goid(28), None);
    }
}
