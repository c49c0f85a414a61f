//! From the captured records that begin a request of FastCGI to what a span says of it.
//!
//! A server hands what it knows of a request to the application as parameters, by the names of
//! CGI (RFC 3875 §4.1). Captures are cut, so records that stop anywhere are legal.

use std::borrow::Cow;

/// The first byte of each record, its version ("FastCGI Specification" §3.3): no request of HTTP/1.x
/// starts with it.
const VERSION: u8 = 1;
/// The type of records that carry parameters (§8).
const PARAMS: u8 = 4;
/// Bytes of a record's header.
const HEADER: usize = 8;

/// The parameters that are kept; no other leaves this module.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters<'a> {
    /// `REQUEST_METHOD`
    pub(super) method: &'a [u8],
    /// `REQUEST_URI`: the target as it was sent (not of RFC 3875, but all servers send it).
    pub(super) target: Option<&'a [u8]>,
    /// `SCRIPT_NAME`, where there is no target.
    pub(super) script: &'a [u8],
    /// `PATH_INFO`, what came behind the script's name.
    pub(super) path_info: &'a [u8],
    /// `QUERY_STRING`
    pub(super) query: Option<&'a [u8]>,
    /// `HTTP_HOST`
    pub(super) host: Option<&'a [u8]>,
    /// `HTTP_USER_AGENT`
    pub(super) user_agent: Option<&'a [u8]>,
    /// `REQUEST_SCHEME`, or what `HTTPS` says.
    pub(super) scheme: Option<&'a [u8]>,
    /// Whether the target's end is missing.
    pub(super) target_is_cut: bool,
}

/// Whether these bytes begin a request of FastCGI.
pub(super) fn is_fastcgi(head: &[u8]) -> bool {
    head.first() == Some(&VERSION)
}

/// The content of the records of parameters, one after another.
pub(super) fn content(mut records: &[u8]) -> Cow<'_, [u8]> {
    let mut content: Cow<'_, [u8]> = Cow::default();
    while let Some((header, rest)) = records.split_at_checked(HEADER) {
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let (part, rest) = rest.split_at(len.min(rest.len()));
        if header[1] == PARAMS {
            if content.is_empty() {
                content = part.into();
            } else {
                content.to_mut().extend_from_slice(part);
            }
        }
        records = rest.get(usize::from(header[6])..).unwrap_or_default();
    }
    content
}

impl<'a> Parameters<'a> {
    /// Reads pairs of names and values (§3.4) up to where they are cut.
    pub(super) fn read(mut content: &'a [u8]) -> Self {
        let mut found = Self::default();
        let mut scheme = None;
        while let (Some(name_len), Some(value_len)) = (length(&mut content), length(&mut content)) {
            let Some((name, rest)) = content.split_at_checked(name_len) else { break };
            let (value, rest) = rest.split_at(value_len.min(rest.len()));
            let is_cut = value.len() < value_len;
            match name {
                b"REQUEST_METHOD" if !is_cut => found.method = value,
                b"REQUEST_URI" => (found.target, found.target_is_cut) = (Some(value), is_cut),
                b"SCRIPT_NAME" => found.script = value,
                b"PATH_INFO" => found.path_info = value,
                b"QUERY_STRING" => found.query = Some(value),
                b"HTTP_HOST" if !is_cut => found.host = Some(value),
                b"HTTP_USER_AGENT" => found.user_agent = Some(value),
                b"REQUEST_SCHEME" if !is_cut => found.scheme = Some(value),
                // What it is where it is on is up to the server; nginx leaves it empty where not.
                b"HTTPS" if !is_cut && !value.is_empty() => {
                    scheme = Some(if value == b"off" { &b"http"[..] } else { b"https" });
                }
                _ => {}
            }
            content = rest;
        }
        found.scheme = found.scheme.or(scheme);
        found
    }
}

/// Takes a length: a byte, or four with the highest bit set.
fn length(content: &mut &[u8]) -> Option<usize> {
    let (&first, rest) = content.split_first()?;
    if first < 0x80 {
        *content = rest;
        return Some(first.into());
    }
    let (bytes, rest) = content.split_first_chunk::<4>()?;
    *content = rest;
    usize::try_from(u32::from_be_bytes(*bytes) & 0x7fff_ffff).ok()
}

#[cfg(test)]
#[path = "fastcgi_tests.rs"]
mod tests;
