use super::*;
use crate::assemble::parse_head;
use crate::span::{Method, Version};

fn record(kind: u8, content: &[u8], padding: u8) -> Vec<u8> {
    let [hi, lo] = (content.len() as u16).to_be_bytes();
    let mut record = vec![1, kind, 0, 1, hi, lo, padding, 0];
    record.extend_from_slice(content);
    record.extend(std::iter::repeat_n(0xaa, padding.into()));
    record
}

fn pair(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut pair = Vec::new();
    for len in [name.len(), value.len()] {
        match u8::try_from(len) {
            Ok(len @ ..0x80) => pair.push(len),
            _ => pair.extend((len as u32 | 1 << 31).to_be_bytes()),
        }
    }
    [pair.as_slice(), name, value].concat()
}

/// A request's head with these parameters, in records of so many bytes.
fn head(pairs: &[(&str, &str)], len: usize) -> Vec<u8> {
    let content: Vec<u8> =
        pairs.iter().flat_map(|(name, value)| pair(name.as_bytes(), value.as_bytes())).collect();
    let mut head = record(1, &[0, 1, 0, 0, 0, 0, 0, 0], 0);
    for part in content.chunks(len) {
        head.extend(record(PARAMS, part, 3));
    }
    head.extend(record(PARAMS, b"", 0));
    head
}

const PAIRS: &[(&str, &str)] = &[
    ("SCRIPT_FILENAME", "/srv/index.php"),
    ("QUERY_STRING", "a=1&sig=secret"),
    ("REQUEST_METHOD", "POST"),
    ("REQUEST_URI", "/cart/7?a=1&sig=secret"),
    ("REQUEST_SCHEME", "https"),
    ("HTTP_HOST", "shop.test:8443"),
    ("HTTP_COOKIE", "secret=1"),
    ("HTTP_USER_AGENT", "curl/8"),
];

#[test]
fn parameters_say_what_a_requests_head_does() {
    for len in [1, 7, 60_000] {
        let bytes = head(PAIRS, len);
        let request = parse_head(&bytes, false);
        assert_eq!((request.method, request.version), (Method::Post, Some(Version::FastCgi)));
        assert_eq!(request.text_of(request.path), Some("/cart/7"));
        assert_eq!(request.text_of(request.query), Some("a=1&sig=REDACTED"));
        assert_eq!(request.scheme(), Some("https"));
        assert_eq!((request.text_of(request.host), request.port), (Some("shop.test"), Some(8443)));
        assert_eq!(request.text_of(request.user_agent), Some("curl/8"));
        assert!(!request.text.contains("secret"), "{}", request.text);
    }
}

#[test]
fn without_the_target_the_scripts_name_is_the_path() {
    let pairs = [
        ("REQUEST_METHOD", "GET"),
        ("SCRIPT_NAME", "/app.php"),
        ("PATH_INFO", "/more"),
        ("QUERY_STRING", "q=2"),
        ("HTTPS", "on"),
    ];
    let request = parse_head(&head(&pairs, 99), false);
    assert_eq!(request.text_of(request.path), Some("/app.php/more"));
    assert_eq!(request.text_of(request.query), Some("q=2"));
    assert_eq!(request.scheme(), Some("https"));
}

#[test]
fn long_values_have_lengths_of_four_bytes() {
    let agent = "x".repeat(300);
    let pairs = [("REQUEST_METHOD", "GET"), ("HTTP_USER_AGENT", &agent), ("REQUEST_URI", "/")];
    let request = parse_head(&head(&pairs, 60_000), false);
    assert_eq!(request.text_of(request.user_agent), Some(&*agent));
    assert_eq!(request.text_of(request.path), Some("/"));
}

#[test]
fn what_is_cut_anywhere_says_no_more_than_is_there() {
    let bytes = head(PAIRS, 50);
    for len in 0..bytes.len() {
        let request = parse_head(&bytes[..len], true);
        if request.has_method() {
            assert_eq!(request.method, Method::Post);
        }
        if let Some(path) = request.text_of(request.path) {
            assert!("/cart/7".starts_with(path), "{path}");
        }
        assert!(!request.text.contains("secret"), "{}", request.text);
    }
}
