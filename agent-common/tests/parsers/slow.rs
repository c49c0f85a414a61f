//! Messages made to be slow to read, and how many steps they take.

use tracewire_common::config::WINDOW;
use tracewire_common::outcome::HeadKind;
use tracewire_common::parse::http1::{Body, Event, Http1, Window};

/// Bytes that are slow to read.
#[derive(Debug)]
pub struct Slow {
    /// What makes them so.
    pub name: &'static str,
    /// Requests or responses.
    pub kind: HeadKind,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Everything slow that anybody thought of, of about `len` bytes each.
pub fn messages(len: usize) -> Vec<Slow> {
    let start = "POST / HTTP/1.1\r\n";
    let lines = |line: &str| format!("{start}{}\r\n", line.repeat(len / line.len()));
    let value = |before: &str, piece: &str| {
        format!("{start}{before}{}\r\n\r\n", piece.repeat(len / piece.len()))
    };
    let chunked =
        |chunks: String| format!("{start}Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
    let requests = [
        ("lines of one byte", lines("a\r\n")),
        ("lines of one byte, bare line feeds", lines("a\n")),
        ("bare colons", lines(":\r\n")),
        ("names without a value", lines("a:\r\n")),
        ("folded empty lines", lines(" \r\n")),
        ("almost traceparent", lines("traceparen: x\r\n")),
        ("almost traceparent, to its last byte", lines("traceparenx: 00-\r\n")),
        ("traceparent without an end", value("traceparent: ", "0")),
        ("many traceparents", lines("traceparent:0\r\n")),
        ("almost content-length", lines("content-lengtx:1\r\n")),
        ("many lengths", lines("content-length:1\r\n")),
        ("a length of zeros", value("content-length: ", "0")),
        ("almost transfer-encoding", lines("transfer-encodinx:1\r\n")),
        ("a list of codings", value("transfer-encoding: ", ",")),
        ("many codings", lines("transfer-encoding:x\r\n")),
        ("blanks before a colon", lines("a \t \t :\r\n")),
        ("a long target", format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(len))),
        ("a target of blanks", format!("GET /{} HTTP/1.1\r\n\r\n", " ".repeat(len))),
        ("carriage returns", value("a: ", "\r")),
        ("empty lines before a request", format!("{}{start}\r\n", "\r\n".repeat(len / 2))),
        ("chunks of one byte", chunked("1\r\nx\r\n".repeat(len / 6))),
        ("a chunk's extension", chunked(format!("1;{}\r\nx\r\n", "x".repeat(len)))),
        (
            "a chunk's quoted extension",
            chunked(format!("1;a=\"{}\"\r\nx\r\n", "\\\"".repeat(len / 2))),
        ),
        ("zeros before a chunk's size", chunked(format!("{}1\r\nx\r\n", "0".repeat(len)))),
        (
            "trailers of one byte",
            format!(
                "{start}Transfer-Encoding: chunked\r\n\r\n0\r\n{}\r\n",
                "a\r\n".repeat(len / 3)
            ),
        ),
        ("small requests", "GET / HTTP/1.1\r\n\r\n".repeat(len / 18)),
    ];
    let head = "HTTP/1.1 200 OK\r\n";
    let responses = [
        ("lines of one byte", format!("{head}{}\r\n", "a\r\n".repeat(len / 3))),
        ("many lengths", format!("{head}{}\r\n", "content-length:1\r\n".repeat(len / 18))),
        ("a long reason", format!("HTTP/1.1 200 {}\r\n\r\n", "a".repeat(len))),
        ("interim responses", "HTTP/1.1 100 C\r\n\r\n".repeat(len / 18)),
        ("small responses", "HTTP/1.1 204 N\r\n\r\n".repeat(len / 18)),
    ];
    let slow =
        |kind| move |(name, text): (&'static str, String)| Slow { name, kind, bytes: text.into() };
    let in_records = |(name, bytes)| Slow { name, kind: HeadKind::Request, bytes };
    requests
        .into_iter()
        .map(slow(HeadKind::Request))
        .chain(responses.into_iter().map(slow(HeadKind::Response)))
        .chain(requests_in_records(len).map(in_records))
        .collect()
}

/// Likewise, of requests in records of FastCGI.
fn requests_in_records(len: usize) -> [(&'static str, Vec<u8>); 5] {
    const BEGIN: [u8; 16] = [1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    const PARAMS: u8 = 4;
    const STDIN: u8 = 5;
    let record = |kind, content: &[u8]| {
        let [high, low] = (content.len() as u16).to_be_bytes();
        [&[1, kind, 0, 1, high, low, 0, 0], content].concat()
    };
    let request = |parameters: Vec<u8>, body: Vec<u8>| {
        [&BEGIN[..], &parameters, &record(PARAMS, b""), &body, &record(STDIN, b"")].concat()
    };
    let pairs = |pair: &[u8]| {
        let together = pair.repeat(len / pair.len());
        together.chunks(60 * pair.len()).flat_map(|some| record(PARAMS, some)).collect::<Vec<u8>>()
    };
    let almost = b"\x80\0\0\x10\x80\0\0\x01HTTP_TRACEPARENx0";
    let smallest = request(Vec::new(), Vec::new());
    [
        ("parameters of nothing", request(pairs(&[0, 0]), Vec::new())),
        ("long lengths of nothing", request(pairs(b"\x80\0\0\0\x80\0\0\0"), Vec::new())),
        ("a parameter that is almost it", request(pairs(almost), Vec::new())),
        ("records of one byte", request(Vec::new(), record(STDIN, b"x").repeat(len / 9))),
        ("small requests in records", smallest.repeat(len / smallest.len())),
    ]
}

/// How many steps the machine takes for the bytes, or up to where it gives up, and how many
/// bytes those are. The window moves as in the kernel half (`agent-ebpf/src/socket/drive.rs`).
pub fn steps(slow: &Slow) -> (usize, usize) {
    let mut http1 = Http1::new(slow.kind);
    let mut window = Window([0; size_of::<Window>()]);
    let (mut held, mut at, mut steps) = (0..0, 0, 0);
    while at < slow.bytes.len() {
        if !held.contains(&at) {
            held = at..slow.bytes.len().min(at + WINDOW);
            window.0[..held.len()].copy_from_slice(&slow.bytes[held.clone()]);
        }
        let available = slow.bytes.len() - at;
        let (in_window, end) = ((at - held.start) as u32, held.len() as u32);
        let (taken, event) = http1.step(&window, in_window, end, available as u32);
        at += taken as usize;
        steps += 1;
        let event = match event {
            Event::HeadEnd => {
                let bodiless = (100..200).contains(&http1.status()) || http1.status() == 204;
                http1.begin_body(if bodiless { Body::None } else { Body::Framed })
            }
            event => event,
        };
        match event {
            Event::NotHttp | Event::Held => break,
            Event::MessageEnd => http1.next_message(),
            Event::None | Event::HeadEnd => {}
        }
    }
    (steps, at)
}
