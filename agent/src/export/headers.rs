//! The headers that a collector is to be given, as they are typed.

use std::fmt;

use crate::resolve::percent::decode;

/// A header that cannot be sent. Holds its name, or its place in the list if it has none,
/// and nothing of its value, which may be a secret.
#[derive(Debug)]
pub(crate) struct HeaderError(pub(crate) String);

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "OTLP header {} cannot be sent; \
             give headers as name=value,name2=value2 in ASCII, special characters percent-encoded",
            self.0
        )
    }
}

impl std::error::Error for HeaderError {}

/// Reads `name=value,name2=value2`, the form of `OTEL_EXPORTER_OTLP_HEADERS`;
/// values are percent-decoded.
///
/// # Errors
///
/// If an entry has no name, no equals sign or a malformed escape.
pub(crate) fn parse_headers(text: &str) -> Result<Vec<(String, String)>, HeaderError> {
    text.split(',')
        .map(str::trim)
        .enumerate()
        .filter(|(_, entry)| !entry.is_empty())
        .map(|(at, entry)| {
            let number = || HeaderError(format!("number {}", at + 1));
            let (name, value) = entry.split_once('=').ok_or_else(number)?;
            let name = name.trim();
            if name.is_empty() {
                return Err(number());
            }
            let value = decode(value.trim()).ok_or_else(|| HeaderError(format!("{name:?}")))?;
            Ok((name.to_ascii_lowercase(), value))
        })
        .collect()
}
