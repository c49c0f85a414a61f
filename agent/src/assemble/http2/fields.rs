//! The fields of a header block that a span says something of. No other is kept, in no table.

/// Declares the names, in the order of their numbers.
macro_rules! names {
    ($($variant:ident => $text:literal, $longest:literal;)+) => {
        /// The name of a field, as far as it matters.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Name {
            $(#[doc = concat!("`", $text, "`")] $variant,)+
            /// A field of which nothing is kept.
            Other,
            /// A field whose name stood in a part of the table that is not known.
            Unknown,
        }

        impl Name {
            /// Names of which values are kept.
            pub(crate) const KEPT: &'static [Self] = &[$(Self::$variant,)+];

            /// The name of these bytes. Names are in lower case (RFC 9113 §8.2).
            pub(crate) const fn of(bytes: &[u8]) -> Self {
                $(if equal(bytes, $text.as_bytes()) {
                    return Self::$variant;
                })+
                Self::Other
            }

            /// Whether values of this name are kept.
            pub(crate) const fn is_kept(self) -> bool {
                !matches!(self, Self::Other | Self::Unknown)
            }

            /// The most bytes of a value that are kept; a longer one is as good as not known.
            pub(crate) const fn longest_value(self) -> usize {
                match self {
                    $(Self::$variant => $longest,)+
                    Self::Other | Self::Unknown => 0,
                }
            }
        }
    };
}

names! {
    Method => ":method", 64;
    Scheme => ":scheme", 16;
    Authority => ":authority", 1024;
    Path => ":path", 8192;
    Status => ":status", 16;
    Host => "host", 1024;
    UserAgent => "user-agent", 1024;
    ContentType => "content-type", 256;
    GrpcStatus => "grpc-status", 16;
}

/// The length of the longest name that is kept.
pub(crate) const LONGEST_NAME: usize = 12;

const fn equal(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let mut at = 0;
    while at < left.len() {
        if left[at] != right[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// What is known of a field.
#[derive(Clone, Copy, Debug, Default)]
enum Slot {
    /// It did not come.
    #[default]
    Absent,
    /// It came, with a value that is not known.
    Unknown,
    /// It came, with the bytes from here to there.
    Known(usize, usize),
}

/// The fields of one header block. Made once and used again, since it owns its bytes.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    bytes: Vec<u8>,
    slots: [Slot; Name::KEPT.len()],
    has_unknown: bool,
}

impl Fields {
    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.slots = Default::default();
        self.has_unknown = false;
    }

    /// Takes a field. Of several with one name the first counts.
    pub(crate) fn add(&mut self, name: Name, value: Option<&[u8]>) {
        self.has_unknown |= name == Name::Unknown;
        // `Other` and `Unknown` have no slot.
        let Some(slot @ Slot::Absent) = self.slots.get_mut(name as usize) else { return };
        *slot = match value.filter(|value| value.len() <= name.longest_value()) {
            Some(value) => {
                let start = self.bytes.len();
                self.bytes.extend_from_slice(value);
                Slot::Known(start, self.bytes.len())
            }
            None => Slot::Unknown,
        };
    }

    /// Bytes that it takes beside its fixed size.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.bytes.capacity()
    }

    /// Notes that there may be fields that were not decoded.
    pub(crate) fn set_incomplete(&mut self) {
        self.has_unknown = true;
    }

    /// The value of a field, if it is there and known.
    pub(crate) fn get(&self, name: Name) -> Option<&[u8]> {
        match self.slots.get(name as usize) {
            Some(&Slot::Known(start, end)) => self.bytes.get(start..end),
            _ => None,
        }
    }

    /// Whether it is certain that a field did not come.
    pub(crate) fn is_absent(&self, name: Name) -> bool {
        !self.has_unknown && matches!(self.slots.get(name as usize), Some(Slot::Absent))
    }
}
