//! What fills messages: values, names and contents, with traps among them.

use fastrand::Rng;

use crate::oracle::RECEIVED;

/// A request that must never be taken for one, inside something else.
pub(super) const INNER: &str = "GET /inner HTTP/1.1\r\nHost: inner.test\r\n\r\n";

/// A trace context of a few, so that it comes again; half of them as it was [`RECEIVED`].
pub(super) fn context(rng: &mut Rng) -> String {
    match rng.u8(..10) {
        0..=3 => RECEIVED.into(),
        // Sampled by others, and not by who sends it.
        4 => RECEIVED.replace("-01", "-00"),
        5 => "nonsense".into(),
        6 => String::new(),
        7 => RECEIVED.to_ascii_uppercase(),
        _ => RECEIVED.replace("9203331", one_of(rng, &["9203332", "9203333"])),
    }
}

/// One of `menu`.
pub(super) fn one_of<T: Copy>(rng: &mut Rng, menu: &[T]) -> T {
    menu[rng.usize(..menu.len())]
}

/// Whether something with a chance of so many in a hundred happens.
pub(super) fn chance(rng: &mut Rng, percent: u8) -> bool {
    rng.u8(..100) < percent
}

/// So many letters and digits.
pub(super) fn word(rng: &mut Rng, len: usize) -> String {
    std::iter::repeat_with(|| rng.alphanumeric()).take(len).collect()
}

/// So many bytes of any value.
pub(super) fn noise(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

/// A content of any kind and size: mostly small, now and then large.
pub(super) fn content(rng: &mut Rng) -> Vec<u8> {
    let len = match rng.u8(..100) {
        0..=14 => 0,
        15..=69 => rng.usize(..300),
        70..=94 => rng.usize(..20_000),
        95..=98 => rng.usize(..300_000),
        _ => rng.usize(..1_500_000),
    };
    content_of(rng, len)
}

/// A content of one size.
pub(super) fn content_of(rng: &mut Rng, len: usize) -> Vec<u8> {
    match rng.u8(..5) {
        0 => noise(rng, len),
        1 => vec![rng.u8(b'a'..=b'z'); len],
        2 => INNER.bytes().cycle().take(len).collect(),
        3 => "\r\n\r\ntraceparent: x\r\n".bytes().cycle().skip(rng.usize(..9)).take(len).collect(),
        _ => {
            // Text with line ends and whole requests thrown in.
            let mut text = Vec::with_capacity(len + INNER.len());
            while text.len() < len {
                if chance(rng, 5) {
                    text.extend_from_slice(INNER.as_bytes());
                } else {
                    let len = rng.usize(1..80);
                    text.extend_from_slice(word(rng, len).as_bytes());
                    text.extend_from_slice(
                        one_of(rng, &[" ", "\r\n", "\n", "\r", ": "]).as_bytes(),
                    );
                }
            }
            text.truncate(len);
            text
        }
    }
}

/// A header's name: some are almost those that matter.
pub(super) fn header_name(rng: &mut Rng) -> String {
    const ALMOST: &[&str] = &[
        "traceparents",
        "traceparen",
        "xtraceparent",
        "trace-parent",
        "traceparent-x",
        "traceparent2",
        "tracestate",
        "Traceparenu",
        "tRACEPAREN",
        "content-lengths",
        "content-lengt",
        "x-content-length",
        "transfer-encodings",
        "transfer-encodin",
        "upgrad",
        "upgrades",
        "cookie",
        "te",
        "t",
        "c",
        "u",
    ];
    if chance(rng, 40) {
        return one_of(rng, ALMOST).to_owned();
    }
    let len = rng.usize(1..24);
    format!("X-{}", word(rng, len))
}

/// A header's value: any visible text, some of it almost a header.
pub(super) fn header_value(rng: &mut Rng) -> String {
    match rng.u8(..8) {
        0 => String::new(),
        1 => "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
        2 => "content-length: 5".into(),
        3 => format!("\u{e9}\u{1f600}{}", word(rng, 5)),
        4 => "  padded \t ".into(),
        _ => {
            let len = rng.usize(..120);
            word(rng, len)
        }
    }
}
