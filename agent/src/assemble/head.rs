//! From the captured bytes of a request's head to what a span says of it.
//!
//! Captures are cut, so a head that stops anywhere is legal: what is there is
//! taken, what is missing stays missing. Only the request line, `Host` and
//! `User-Agent` are kept; no other header leaves this function.

use super::fastcgi::{self, Parameters};
use super::http2::fields::{Fields, Name};
use super::redact::push_query;
use crate::grpc;
use crate::span::{Method, RequestHead, TextRange, Version};
use std::mem::MaybeUninit;

/// Headers looked at in a head of ordinary size.
const FEW_HEADERS: usize = 48;
/// Headers looked at in any head: past these, `Host` or `User-Agent` may be missed.
const MANY_HEADERS: usize = 256;

/// The parts of a head that are kept, as they were sent.
#[derive(Default)]
struct Parts<'a> {
    method: &'a [u8],
    target: Option<&'a [u8]>,
    minor_version: Option<u8>,
    host: Option<&'a [u8]>,
    user_agent: Option<&'a [u8]>,
}

/// Reads a request's head. `cut` says that more of it was sent than is in `bytes`.
pub(crate) fn parse_head(bytes: &[u8], cut: bool) -> RequestHead {
    if fastcgi::is_fastcgi(bytes) {
        return head_of_parameters(&Parameters::read(&fastcgi::content(bytes)));
    }
    let parts = read(bytes);
    let target_is_cut = cut && parts.minor_version.is_none();
    let mut builder = Builder { text: String::with_capacity(bytes.len().min(512)) };

    let method = Method::parse(parts.method);
    let method_original = match method {
        Method::Other => builder.push_lossy(parts.method),
        _ => None,
    };
    let target = String::from_utf8_lossy(parts.target.unwrap_or_default());
    let target = Target::split(&target, method, target_is_cut);
    let version = parts.minor_version.map(|minor| match minor {
        0 => Version::Http10,
        _ => Version::Http11,
    });
    let host_header = parts.host.map(|host| String::from_utf8_lossy(host.trim_ascii()));

    // RFC 9112 §3.2.2: the authority of an absolute-form target wins over `Host`.
    let authority = target.authority.or(host_header.as_deref()).map(without_userinfo);
    let (authority, host, port) = match authority {
        Some(text) if !text.is_empty() => builder.push_authority(text),
        _ => (None, None, None),
    };
    RequestHead {
        method,
        version,
        method_original,
        scheme: target.scheme.and_then(|scheme| builder.push(&scheme.to_ascii_lowercase())),
        authority,
        host,
        port,
        has_userinfo: target.authority.is_some_and(|authority| authority.contains('@')),
        path: target.path.and_then(|path| builder.push(path)),
        query: target.query.and_then(|query| builder.push_query(query)),
        user_agent: parts.user_agent.and_then(|agent| builder.push_lossy(agent)),
        over_tls: false,
        is_grpc: Some(false),
        text: builder.text.into_boxed_str(),
    }
}

/// What the header block of a request over HTTP/2 says (RFC 9113 §8.3.1).
pub(crate) fn head_of_fields(fields: &Fields) -> RequestHead {
    let text = |name| fields.get(name).map(String::from_utf8_lossy);
    let mut builder = Builder { text: String::new() };

    let method_name = fields.get(Name::Method).unwrap_or_default();
    let method = Method::parse(method_name);
    let method_original = match method {
        Method::Other => builder.push_lossy(method_name),
        _ => None,
    };
    let path = text(Name::Path);
    let target = path.as_deref().map(|path| Target::split(path, method, false)).unwrap_or_default();
    // RFC 9113 §8.3.1: `Host` is for requests that were made of those of HTTP/1.1.
    let named = text(Name::Authority).or_else(|| text(Name::Host));
    let named = named.as_deref().map(str::trim_ascii);
    let (authority, host, port) = match named.map(without_userinfo) {
        Some(text) if !text.is_empty() => builder.push_authority(text),
        _ => (None, None, None),
    };
    let is_grpc = match fields.get(Name::ContentType) {
        Some(value) => Some(grpc::is_content_type(value)),
        None => fields.is_absent(Name::ContentType).then_some(false),
    };
    RequestHead {
        method,
        version: Some(Version::Http2),
        method_original,
        scheme: text(Name::Scheme).and_then(|scheme| builder.push(&scheme.to_ascii_lowercase())),
        authority,
        host,
        port,
        has_userinfo: named.is_some_and(|authority| authority.contains('@')),
        path: target.path.and_then(|path| builder.push(path)),
        query: target.query.and_then(|query| builder.push_query(query)),
        user_agent: fields.get(Name::UserAgent).and_then(|agent| builder.push_lossy(agent)),
        over_tls: false,
        is_grpc,
        text: builder.text.into_boxed_str(),
    }
}

/// What the parameters of a request of FastCGI say.
fn head_of_parameters(parameters: &Parameters<'_>) -> RequestHead {
    let mut builder = Builder { text: String::new() };
    let method = Method::parse(parameters.method);
    let method_original = match method {
        Method::Other => builder.push_lossy(parameters.method),
        _ => None,
    };
    let script = [parameters.script, parameters.path_info].concat();
    let target = String::from_utf8_lossy(parameters.target.unwrap_or(&script));
    let mut target = Target::split(&target, method, parameters.target_is_cut);
    let query = parameters.query.map(String::from_utf8_lossy);
    target.query = target.query.or(query.as_deref().filter(|query| !query.is_empty()));
    let host = parameters.host.map(|host| String::from_utf8_lossy(host.trim_ascii()));
    let (authority, host, port) = match host.as_deref().map(without_userinfo) {
        Some(text) if !text.is_empty() => builder.push_authority(text),
        _ => (None, None, None),
    };
    let scheme = parameters.scheme.map(|scheme| String::from_utf8_lossy(scheme).to_lowercase());
    RequestHead {
        method,
        version: Some(Version::FastCgi),
        method_original,
        scheme: scheme.and_then(|scheme| builder.push(&scheme)),
        authority,
        host,
        port,
        has_userinfo: false,
        path: target.path.and_then(|path| builder.push(path)),
        query: target.query.and_then(|query| builder.push_query(query)),
        user_agent: parameters.user_agent.and_then(|agent| builder.push_lossy(agent)),
        over_tls: false,
        is_grpc: Some(false),
        text: builder.text.into_boxed_str(),
    }
}

fn read(bytes: &[u8]) -> Parts<'_> {
    let mut headers = [MaybeUninit::<httparse::Header<'_>>::uninit(); FEW_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let config = {
        let mut config = httparse::ParserConfig::default();
        config.ignore_invalid_headers_in_requests(true);
        config
    };
    let whole = config
        .parse_request_with_uninit_headers(&mut request, bytes, &mut headers)
        .is_ok_and(|s| s.is_complete());
    if whole {
        return Parts::of(&request);
    }
    // Cut, malformed or with many headers. This form leaves the headers that were
    // read before the trouble in the array, the others empty.
    let mut headers = [httparse::EMPTY_HEADER; MANY_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    // The result does not matter: what was read is in `request` in any case.
    let _ = config.parse_request(&mut request, bytes);
    if request.path.is_some() {
        return Parts::of(&request);
    }
    read_leniently(bytes)
}

/// Reads a head whose request line is longer than the capture, or holds bytes that
/// the parser refuses and servers take.
fn read_leniently(bytes: &[u8]) -> Parts<'_> {
    let bytes = bytes.trim_ascii_start();
    let end = bytes.iter().position(|&byte| byte == b'\n');
    let (line, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
    let mut words = line.trim_ascii_end().splitn(3, |&byte| byte == b' ');
    let mut parts = Parts {
        method: words.next().unwrap_or_default(),
        target: words.next(),
        minor_version: match words.next() {
            Some(b"HTTP/1.0") => Some(0),
            Some(b"HTTP/1.1") => Some(1),
            _ => None,
        },
        ..Parts::default()
    };
    let mut headers = [httparse::EMPTY_HEADER; MANY_HEADERS];
    // As above: what was read before any trouble is in the array.
    let _ = httparse::parse_headers(rest, &mut headers);
    parts.take_headers(&headers);
    parts
}

impl<'a> Parts<'a> {
    fn of(request: &httparse::Request<'_, 'a>) -> Self {
        let mut parts = Parts {
            method: request.method.unwrap_or_default().as_bytes(),
            target: request.path.map(str::as_bytes),
            minor_version: request.version,
            ..Parts::default()
        };
        parts.take_headers(request.headers);
        parts
    }

    fn take_headers(&mut self, headers: &[httparse::Header<'a>]) {
        for header in headers.iter().take_while(|header| !header.name.is_empty()) {
            // The first one wins; a second `Host` is an error anyway (RFC 9112 §3.2).
            if self.host.is_none() && header.name.eq_ignore_ascii_case("host") {
                self.host = Some(header.value);
            } else if self.user_agent.is_none() && header.name.eq_ignore_ascii_case("user-agent") {
                self.user_agent = Some(header.value);
            }
        }
    }
}

/// A request target (RFC 9112 §3.2), taken apart.
#[derive(Default)]
struct Target<'a> {
    scheme: Option<&'a str>,
    authority: Option<&'a str>,
    path: Option<&'a str>,
    query: Option<&'a str>,
}

impl<'a> Target<'a> {
    fn split(target: &'a str, method: Method, is_cut: bool) -> Self {
        if target.is_empty() {
            return Self::default();
        }
        if target.starts_with('/') || target == "*" {
            return Self::default().with_path(target);
        }
        if method == Method::Connect {
            return Self { authority: (!is_cut).then_some(target), ..Self::default() };
        }
        let Some((scheme, rest)) = target.split_once("://") else {
            // Of no form that exists; still the best there is for a path. It may be an
            // authority, and have user information.
            if is_cut {
                return Self::default();
            }
            let front = target.split('?').next().unwrap_or_default();
            let hidden = front.rfind('@').map_or(0, |at| at + 1);
            return Self::default().with_path(target.get(hidden..).unwrap_or_default());
        };
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(end) => rest.split_at(end),
            // Without its end the authority may be user information.
            None if is_cut => return Self::default(),
            None => (rest, ""),
        };
        let head = Self { scheme: Some(scheme), authority: Some(authority), ..Self::default() };
        // RFC 9110 §4.2.3: an empty path is the same as "/".
        if path.is_empty() { head.with_path("/") } else { head.with_path(path) }
    }

    fn with_path(mut self, target: &'a str) -> Self {
        // A fragment is not sent by anybody who keeps to RFC 9112.
        let target = target.split('#').next().unwrap_or_default();
        (self.path, self.query) = match target.split_once('?') {
            Some((path, query)) => (Some(path), Some(query)),
            None => (Some(target), None),
        };
        self
    }
}

fn without_userinfo(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// Gathers the kept texts into one.
struct Builder {
    text: String,
}

impl Builder {
    fn range_from(&self, start: usize) -> Option<TextRange> {
        Some(TextRange {
            start: u16::try_from(start).ok()?,
            end: u16::try_from(self.text.len()).ok()?,
        })
    }

    fn push(&mut self, text: &str) -> Option<TextRange> {
        let start = self.text.len();
        self.text.push_str(text);
        self.range_from(start)
    }

    fn push_lossy(&mut self, bytes: &[u8]) -> Option<TextRange> {
        if bytes.is_empty() { None } else { self.push(&String::from_utf8_lossy(bytes)) }
    }

    fn push_query(&mut self, query: &str) -> Option<TextRange> {
        let start = self.text.len();
        push_query(&mut self.text, query);
        self.range_from(start)
    }

    /// Appends an authority; returns the ranges of it and of its host, and its port.
    fn push_authority(
        &mut self,
        authority: &str,
    ) -> (Option<TextRange>, Option<TextRange>, Option<u16>) {
        let start = self.text.len();
        let range = self.push(authority);
        // RFC 3986 §3.2.2: an IPv6 address is in brackets, and only there are colons its own.
        let (host_start, host_end, port) = match authority.strip_prefix('[') {
            Some(inner) => match inner.split_once(']') {
                Some((host, port)) => (1, 1 + host.len(), port.strip_prefix(':')),
                None => (0, authority.len(), None),
            },
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (0, host.len(), Some(port)),
                None => (0, authority.len(), None),
            },
        };
        let host = range.map(|_| TextRange {
            start: (start + host_start) as u16,
            end: (start + host_end) as u16,
        });
        (range, host.filter(|host| host.start != host.end), port.and_then(|port| port.parse().ok()))
    }
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
