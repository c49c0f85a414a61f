//! HTTP/2 and gRPC with a secret in every place that is not for others to read.

use tracewire_tests::http2::{Frame, PREFACE, flag, kind};

use crate::traffic::{
    Exchange, MARK, SHOWN, fields, looks_like_a_request, looks_like_a_response, query,
};

/// Types of frames that no client of other tests sends (RFC 9113 §6).
const PUSH_PROMISE: u8 = 5;
const GOAWAY: u8 = 7;
/// A type that nobody knows.
const UNKNOWN: u8 = 0xbb;

/// The only stream, but for what says otherwise.
const STREAM: u32 = 1;

/// Bytes in a piece: the first has to hold eight of the preface, or nothing is read.
const PIECE: usize = 9;

/// How a field stands in a block (RFC 7541 §6.2).
#[derive(Clone, Copy)]
enum Form {
    Plain = 0x00,
    Never = 0x10,
    /// Both ends put it into their tables.
    Kept = 0x40,
}

/// [`MARK`] by the code of RFC 7541, appendix B.
pub(crate) const CODED: &[u8] = b"\x6c\xa4\xb0\xa9";

/// Fields, one after another.
#[derive(Clone, Default)]
struct Block(Vec<u8>);

impl Block {
    fn request(method: &str, path: &str) -> Self {
        let all = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "a")];
        Self::default().all(Form::Plain, all)
    }

    fn response(status: &str) -> Self {
        Self::default().field(Form::Plain, ":status", status)
    }

    fn field(mut self, form: Form, name: &str, value: &str) -> Self {
        self.0.push(form as u8);
        self.string(name.to_ascii_lowercase().as_bytes());
        self.string(value.as_bytes());
        self
    }

    fn all<N: AsRef<str>, V: AsRef<str>>(
        self,
        form: Form,
        fields: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let add =
            |block: Self, (name, value): (N, V)| block.field(form, name.as_ref(), value.as_ref());
        fields.into_iter().fold(self, add)
    }

    /// A field whose value is the coded [`MARK`].
    fn coded(mut self, name: &str) -> Self {
        self.0.push(Form::Plain as u8);
        self.string(name.as_bytes());
        self.0.push(0x80 | CODED.len() as u8);
        self.0.extend_from_slice(CODED);
        self
    }

    /// So many of the newest entries of the table.
    fn again(mut self, entries: u8) -> Self {
        self.0.extend((0..entries).map(|number| 0x80 | (62 + number)));
        self
    }

    /// A length of seven bits and more (RFC 7541 §5.1), and the bytes.
    fn string(&mut self, bytes: &[u8]) {
        let mut rest = bytes.len();
        if rest < 127 {
            self.0.push(rest as u8);
        } else {
            self.0.push(127);
            rest -= 127;
            while rest >= 128 {
                self.0.push(0x80 | (rest % 128) as u8);
                rest /= 128;
            }
            self.0.push(rest as u8);
        }
        self.0.extend_from_slice(bytes);
    }

    /// In one frame, that does not end the stream.
    fn opens(&self, stream: u32) -> Vec<u8> {
        frame(kind::HEADERS, flag::END_HEADERS, stream, &self.0)
    }

    /// In one frame, with which the stream ends.
    fn ends(&self, stream: u32) -> Vec<u8> {
        frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &self.0)
    }

    /// In frames of so many bytes at most.
    fn in_frames(&self, len: usize) -> Vec<u8> {
        let count = self.0.len().div_ceil(len);
        let parts = self.0.chunks(len).enumerate().map(|(number, part)| {
            let flags = if number + 1 == count { flag::END_HEADERS } else { 0 };
            let kind = if number == 0 { kind::HEADERS } else { kind::CONTINUATION };
            frame(kind, flags, STREAM, part)
        });
        parts.collect::<Vec<_>>().concat()
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    Frame { kind, flags, stream, payload: payload.to_vec() }.bytes()
}

/// Content, with which the stream ends. What it ends with stands nowhere else.
fn last(stream: u32, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = [content.as_ref(), b" at its end"].concat();
    frame(kind::DATA, flag::END_STREAM, stream, &content)
}

/// What either side says first.
fn settings() -> Vec<u8> {
    frame(kind::SETTINGS, 0, 0, &[])
}

fn exchange(name: &'static str, path: &'static str, frames: &[Vec<u8>]) -> Exchange {
    let request = [PREFACE.to_vec(), settings(), frames.concat()].concat();
    Exchange::new(name, request).at(path).answered(answer(&[Block::response("200").ends(STREAM)]))
}

fn answer(frames: &[Vec<u8>]) -> Vec<u8> {
    let acknowledged = frame(kind::SETTINGS, flag::END_STREAM, 0, &[]);
    [settings(), acknowledged, frames.concat()].concat()
}

/// An answer with secrets before, in and after its content.
fn telling_answer() -> Vec<u8> {
    let early = Block::response("103").field(Form::Plain, "link", &format!("</{MARK}>; rel=x"));
    let head = Block::response("401")
        .field(Form::Plain, "set-cookie", &format!("sid={MARK}"))
        .field(Form::Kept, "location", &format!("http://user:{MARK}@a/{MARK}"))
        .field(Form::Never, "www-authenticate", &format!("Bearer realm=\"{MARK}\""))
        .coded("etag")
        .field(Form::Plain, &format!("x-{MARK}"), "1");
    let trailers = Block::default().field(Form::Plain, "x-trailer", &format!("{MARK}-trailer"));
    answer(&[
        early.opens(STREAM),
        head.opens(STREAM),
        frame(kind::DATA, 0, STREAM, looks_like_a_response().as_bytes()),
        frame(kind::DATA, 0, STREAM, looks_like_a_request().as_bytes()),
        trailers.ends(STREAM),
    ])
}

/// A message with its prefix: not compressed, and the length.
fn message(content: &str) -> Vec<u8> {
    let len = u32::try_from(content.len()).unwrap_or(u32::MAX);
    [&[0][..], &len.to_be_bytes(), content.as_bytes()].concat()
}

fn call(path: &str) -> Block {
    let fixed = [("content-type", "application/grpc"), ("te", "trailers")];
    let metadata = fields().into_iter().filter(|(name, _)| name != "Content-Type");
    Block::request("POST", path)
        .all(Form::Plain, fixed)
        .all(Form::Plain, metadata)
        .field(Form::Plain, "x-token-bin", &format!("{MARK}-bin"))
        .field(Form::Kept, "grpc-timeout-secret", MARK)
}

/// What gRPC says at a stream's end, with secrets.
fn status(block: Block) -> Block {
    let text = format!("{MARK} was not found");
    block
        .field(Form::Plain, "grpc-status", "5")
        .field(Form::Plain, "grpc-message", &text)
        .field(Form::Plain, "grpc-status-details-bin", &format!("{MARK}-details"))
        .field(Form::Plain, "x-trailer", MARK)
}

/// Every exchange, each on a connection of its own.
pub(crate) fn exchanges() -> Vec<Exchange> {
    const PATHS: [&str; 9] = [
        "/plainly-shown/h2/fields",
        "/plainly-shown/h2/pieces",
        "/plainly-shown/h2/frames",
        "/plainly-shown/h2/table",
        "/plainly-shown/h2/code",
        "/plainly-shown/h2/target",
        "/plainly-shown/h2/around",
        "/plainly-shown/h2/answer",
        "/plainly-shown/h2/promise",
    ];
    assert!(PATHS.iter().all(|path| path[1..].starts_with(SHOWN)));
    let [plain, pieces, many, table, code, target, around, answered, promise] = PATHS;
    let full = |path| Block::request("PUT", path).all(Form::Plain, fields());
    let body = || last(STREAM, looks_like_a_request());
    let kept = [("x-key", MARK), ("authorization", MARK), (MARK, "a name")];
    let padded = [&[6][..], &Block::request("PUT", around).0, MARK.as_bytes()].concat();
    let promised = Block::request("GET", "/promised").field(Form::Plain, "cookie", MARK);
    let mut all = vec![
        exchange("fields of HTTP/2", plain, &[full(plain).opens(STREAM), body()]),
        exchange("fields of HTTP/2, in pieces", pieces, &[full(pieces).opens(STREAM), body()])
            .cut_every(PIECE),
        exchange("HTTP/2 that nobody can tell", "", &[full("/unseen").opens(STREAM), body()])
            .cut_every(PIECE - 2)
            .without_spans(),
        exchange("fields of HTTP/2, in frames", many, &[full(many).in_frames(100), body()]),
        exchange(
            "fields of HTTP/2 in tables",
            table,
            &[
                Block::request("GET", "/before").all(Form::Kept, kept).ends(STREAM),
                Block::request("PUT", table).again(3).all(Form::Never, kept).opens(3),
                last(3, MARK),
            ],
        )
        .answered(answer(&[
            Block::response("200").field(Form::Kept, "set-cookie", MARK).ends(STREAM),
            Block::response("200").again(1).ends(3),
        ])),
        exchange(
            "coded fields of HTTP/2",
            code,
            &[Block::request("PUT", code).coded("cookie").coded("x-key").opens(STREAM), body()],
        ),
        exchange(
            "the target of HTTP/2",
            target,
            &[
                Block::default()
                    .field(Form::Plain, ":method", "PUT")
                    .field(Form::Plain, ":scheme", "http")
                    .field(Form::Kept, ":path", &format!("{target}{}", query()))
                    .field(Form::Plain, ":authority", &format!("{MARK}-user:{MARK}-word@a.test"))
                    .opens(STREAM),
                body(),
            ],
        ),
        exchange(
            "what stands around fields and content of HTTP/2",
            around,
            &[
                frame(kind::PING, 0, 0, format!("{MARK}00").as_bytes()),
                frame(UNKNOWN, 0, 0, looks_like_a_request().as_bytes()),
                frame(kind::HEADERS, flag::END_HEADERS | flag::PADDED, STREAM, &padded),
                frame(kind::DATA, flag::PADDED, STREAM, format!("\x06a{MARK}").as_bytes()),
                body(),
            ],
        )
        .followed_by(frame(GOAWAY, 0, 0, format!("\0\0\0\0\0\0\0\x0b{MARK}").as_bytes())),
        exchange(
            "the answer of HTTP/2",
            answered,
            &[Block::request("PUT", answered).opens(STREAM), last(STREAM, "")],
        )
        .answered(telling_answer()),
        exchange(
            "what is promised",
            promise,
            &[Block::request("PUT", promise).opens(STREAM), last(STREAM, "")],
        )
        .answered(answer(&[
            frame(
                PUSH_PROMISE,
                flag::END_HEADERS,
                STREAM,
                &[&[0, 0, 0, 2][..], &promised.0].concat(),
            ),
            Block::response("200").ends(STREAM),
            Block::response("200").field(Form::Plain, "set-cookie", MARK).opens(2),
            last(2, MARK),
        ])),
    ];
    all.extend(calls());
    all
}

/// Calls of gRPC.
fn calls() -> Vec<Exchange> {
    let sent = |path| {
        let messages = [MARK, &looks_like_a_request()].map(message).concat();
        [call(path).opens(STREAM), last(STREAM, messages)]
    };
    let head = || {
        Block::response("200").field(Form::Plain, "content-type", "application/grpc").field(
            Form::Plain,
            "x-token",
            MARK,
        )
    };
    let told = || {
        let messages = [MARK, &looks_like_a_response()].map(message).concat();
        answer(&[
            head().opens(STREAM),
            frame(kind::DATA, 0, STREAM, &messages),
            status(Block::default()).ends(STREAM),
        ])
    };
    let [call, pieces, failed] =
        ["/plainly-shown.Grpc/Call", "/plainly-shown.Grpc/Pieces", "/plainly-shown.Grpc/Failed"];
    vec![
        exchange("a call of gRPC", call, &sent(call)).answered(told()),
        exchange("a call of gRPC, in pieces", pieces, &sent(pieces))
            .cut_every(PIECE)
            .answered(told()),
        exchange("a failed call of gRPC", failed, &sent(failed))
            .answered(answer(&[status(head()).ends(STREAM)])),
    ]
}

#[test]
fn coded_secrets_are_secrets() {
    let block = Block::default().coded("cookie").field(Form::Plain, "b", &"x".repeat(300));
    let decoded = loona_hpack::Decoder::new().decode(&block.0).expect("a good block");
    let wanted = [("cookie", MARK.to_owned()), ("b", "x".repeat(300))];
    let wanted = wanted.map(|(name, value)| (name.as_bytes().to_vec(), value.into_bytes()));
    assert_eq!(decoded, wanted);
}
