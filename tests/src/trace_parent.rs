//! `traceparent` headers as the tests read them: strictly, as version 00 writes them.

/// Bytes that one inserted header line has: name, colon, space, value, CR LF.
pub const HEADER_LEN: usize = b"traceparent: \r\n".len() + VALUE_LEN;

/// Bytes that one inserted field of HTTP/2 has: how it is coded, both lengths, name, value.
pub const FIELD_LEN: usize = FIELD_START.len() + VALUE_LEN;

/// What stands before the value: a literal without indexing, both strings as they are (RFC 7541
/// §6.2.2).
const FIELD_START: &[u8] = b"\x00\x0btraceparent\x37";

/// Bytes of a value of version 00.
pub const VALUE_LEN: usize = 55;

/// The value of a `traceparent` header (W3C Trace Context §3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// 32 lower-case hex digits.
    pub trace_id: String,
    /// 16 lower-case hex digits.
    pub span_id: String,
    /// Whether the sampled flag is set.
    pub sampled: bool,
}

impl TraceParent {
    /// Reads a value of version 00 with flags 00 or 01: all that the agent may write.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let value = std::str::from_utf8(value).ok()?;
        let [version, trace_id, span_id, flags] =
            value.split('-').collect::<Vec<_>>().try_into().ok()?;
        let hex = |text: &str, len| {
            text.len() == len
                && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
                && text.bytes().any(|b| b != b'0')
        };
        let sampled = match flags {
            "00" => false,
            "01" => true,
            _ => return None,
        };
        (version == "00" && hex(trace_id, 32) && hex(span_id, 16)).then(|| Self {
            trace_id: trace_id.into(),
            span_id: span_id.into(),
            sampled,
        })
    }

    /// Reads the header line at the front of `bytes`, exactly as the agent writes it.
    pub fn parse_line(bytes: &[u8]) -> Option<Self> {
        let value = bytes.strip_prefix(b"traceparent: ")?;
        (value.get(VALUE_LEN..VALUE_LEN + 2)? == b"\r\n")
            .then(|| Self::parse(&value[..VALUE_LEN]))?
    }

    /// Reads a field of HTTP/2, exactly as the agent writes it.
    pub fn parse_field(bytes: &[u8]) -> Option<Self> {
        Self::parse(bytes.strip_prefix(FIELD_START)?)
    }

    /// The value as written in a header.
    pub fn value(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

/// The values of all `traceparent` headers in a head.
pub fn in_head(head: &[u8]) -> Vec<Vec<u8>> {
    head.split(|b| *b == b'\n')
        .skip(1)
        .filter_map(|line| {
            let colon = line.iter().position(|b| *b == b':')?;
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            name.eq_ignore_ascii_case(b"traceparent").then(|| value.trim_ascii().to_vec())
        })
        .collect()
}
