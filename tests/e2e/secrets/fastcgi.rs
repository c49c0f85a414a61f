//! FastCGI with a secret in every place that is not for others to read.

use crate::traffic::{Exchange, MARK, fields, looks_like_a_request, looks_like_a_response, query};

/// Types of records ("FastCGI Specification" §8).
const BEGIN_REQUEST: u8 = 1;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;
const DATA: u8 = 8;

/// What a web server says of itself and of its client, with secrets where the stars are.
const PARAMETERS: [(&str, &str); 14] = [
    ("SCRIPT_FILENAME", "/srv/*/index.php"),
    ("DOCUMENT_ROOT", "/srv/*"),
    ("SCRIPT_NAME", "/*.php"),
    ("PATH_TRANSLATED", "/srv/*/*"),
    ("REMOTE_USER", "*"),
    ("REMOTE_ADDR", "*"),
    ("AUTH_TYPE", "Basic *"),
    ("PHP_AUTH_USER", "*"),
    ("PHP_AUTH_PW", "*"),
    ("SERVER_NAME", "*.test"),
    ("CONTENT_TYPE", "multipart/form-data; boundary=*"),
    ("DATABASE_URL", "postgres://user:*@store/*"),
    ("PHP_VALUE", "mysqli.default_pw=*"),
    ("*", "the name is the secret"),
];

/// Names and values, each with its length before it (§3.4).
fn pairs(all: &[(String, String)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in all {
        for len in [name.len(), value.len()] {
            match u8::try_from(len) {
                Ok(len @ ..0x80) => bytes.push(len),
                _ => bytes.extend((len as u32 | 1 << 31).to_be_bytes()),
            }
        }
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(value.as_bytes());
    }
    bytes
}

/// The target and the method, and all that holds secrets, so often.
fn parameters(target: &str, times: usize) -> Vec<u8> {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut all = vec![pair("REQUEST_METHOD", "PUT"), pair("REQUEST_URI", target)];
    let (_, query) = target.split_once('?').unwrap_or((target, ""));
    all.extend([pair("QUERY_STRING", query), pair("HTTP_HOST", "a.test")]);
    for _ in 0..times {
        let secret = |text: &str| text.replace('*', MARK);
        all.extend(PARAMETERS.iter().map(|(name, value)| (secret(name), secret(value))));
        all.extend(fields().into_iter().map(|(name, value)| {
            (format!("HTTP_{}", name.to_ascii_uppercase().replace('-', "_")), value)
        }));
    }
    pairs(&all)
}

/// A record, with a secret in its padding too.
fn record(kind: u8, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let len = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    let padding = MARK.len() as u8;
    [&[1, kind, 0, 1, len[0], len[1], padding, 0], content, MARK.as_bytes()].concat()
}

/// A request whose parameters are in records of so many bytes at most.
fn request(parameters: &[u8], len: usize, body: &str) -> Vec<u8> {
    let mut bytes = record(BEGIN_REQUEST, [0, 1, 1, 0, 0, 0, 0, 0]);
    bytes.extend(parameters.chunks(len).flat_map(|part| record(PARAMS, part)));
    bytes.extend(record(PARAMS, []));
    if !body.is_empty() {
        bytes.extend(record(STDIN, body));
    }
    bytes.extend(record(STDIN, []));
    bytes
}

fn response() -> Vec<u8> {
    let head = format!(
        "Status: 401 {MARK}-reason\r\nSet-Cookie: sid={MARK}\r\nLocation: /{MARK}\r\n\
         X-{MARK}: 1\r\n\r\n"
    );
    [
        record(STDERR, format!("PHP message: {MARK}\nStatus: 500 {MARK}\r\n\r\n")),
        record(STDOUT, head + MARK),
        record(STDOUT, looks_like_a_response()),
        record(STDERR, looks_like_a_request()),
        record(STDOUT, []),
        record(END_REQUEST, [0; 8]),
    ]
    .concat()
}

/// Every exchange, each on a connection of its own.
pub(crate) fn exchanges() -> Vec<Exchange> {
    let exchange = |name, path, request| Exchange::new(name, request).at(path).answered(response());
    let body = looks_like_a_request();
    let whole = usize::from(u16::MAX);
    let [plain, pieces, long, records, target, data] = [
        "/plainly-shown/fastcgi/plain",
        "/plainly-shown/fastcgi/pieces",
        "/plainly-shown/fastcgi/long",
        "/plainly-shown/fastcgi/records",
        "/plainly-shown/fastcgi/target",
        "/plainly-shown/fastcgi/data",
    ];
    let of = |path| request(&parameters(path, 1), whole, &body);
    let with_query = format!("{target}{}", query());
    vec![
        exchange("parameters of FastCGI", plain, of(plain)),
        exchange("parameters of FastCGI, in pieces", pieces, of(pieces)).cut_every(5),
        exchange(
            "parameters of FastCGI of more than one window",
            long,
            request(&parameters(long, 8), whole, &body),
        ),
        exchange(
            "parameters of FastCGI in records",
            records,
            request(&parameters(records, 1), 50, &body),
        ),
        exchange("the target of FastCGI", target, request(&parameters(&with_query, 1), whole, "")),
        exchange("what stands after a request of FastCGI", data, of(data))
            .followed_by(record(DATA, looks_like_a_request())),
        Exchange::new(
            "FastCGI that asks for values",
            record(9, pairs(&[(MARK.into(), MARK.into())])),
        )
        .answered(record(10, pairs(&[(MARK.into(), MARK.into())])))
        .without_spans(),
    ]
}
