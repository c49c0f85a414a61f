//! Traffic with a secret in every place that is not for others to read.

use tracewire_tests::http1::find;
use tracewire_tests::script::Step;

/// Every secret starts so, in no other text.
pub(crate) const MARK: &str = "5ecret";

/// What may be seen, and has to be: it shows that the search would find a secret.
pub(crate) const SHOWN: &str = "plainly-shown";

/// One connection: what the client sends, what the server answers.
pub(crate) struct Exchange {
    /// Where the secret is.
    pub(crate) name: &'static str,
    /// Pieces, one send each, and whether an answer is awaited after all of them.
    pub(crate) request: Vec<Vec<u8>>,
    /// What the server sends when it has the whole request; the client awaits all of it.
    pub(crate) response: Vec<u8>,
    /// What the client sends after the answer, in the same connection.
    pub(crate) afterwards: Vec<u8>,
    /// Whether it makes a pair of spans.
    pub(crate) spans: bool,
    /// What both show of it, if that is no other's.
    pub(crate) path: Option<&'static str>,
}

impl Exchange {
    pub(crate) fn new(name: &'static str, request: impl AsRef<[u8]>) -> Self {
        Self {
            name,
            request: vec![request.as_ref().to_vec()],
            response: OK.into(),
            afterwards: Vec::new(),
            spans: true,
            path: None,
        }
    }

    pub(crate) fn at(self, path: &'static str) -> Self {
        Self { path: Some(path), ..self }
    }

    pub(crate) fn answered(self, response: impl AsRef<[u8]>) -> Self {
        Self { response: response.as_ref().to_vec(), ..self }
    }

    pub(crate) fn followed_by(self, bytes: impl AsRef<[u8]>) -> Self {
        Self { afterwards: bytes.as_ref().to_vec(), ..self }
    }

    pub(crate) fn without_spans(self) -> Self {
        Self { spans: false, path: None, ..self }
    }

    pub(crate) fn cut_every(self, len: usize) -> Self {
        let request = self.request.iter().flat_map(|all| all.chunks(len)).map(<[u8]>::to_vec);
        Self { request: request.collect(), ..self }
    }

    /// The client's steps after connecting.
    pub(crate) fn client(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = self.request.iter().map(Step::send).collect();
        steps.push(Step::UntilMore(self.response.len()));
        if !self.afterwards.is_empty() {
            steps.push(Step::send(&self.afterwards));
            // A server that is not told of an end may not have read it all.
            steps.push(Step::Pause(50));
        }
        steps.push(Step::Close);
        steps
    }

    /// The server's steps. A header may be put into the request, so its end is known by
    /// its last bytes, which are those of a head or of something that nobody puts any into.
    pub(crate) fn server(&self) -> Vec<Step> {
        let sent = self.request.concat();
        let last = if sent.ends_with(b"\r\n\r\n") { 4 } else { 6 };
        let pattern = &sent[sent.len() - last..];
        let (mut times, mut rest) = (0, sent.as_slice());
        while let Some(at) = find(rest, pattern) {
            (times, rest) = (times + 1, &rest[at + last..]);
        }
        let whole = Step::Until { pattern: pattern.into(), times };
        vec![whole, Step::send(&self.response), Step::UntilClosed]
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A request of a name, with these header lines.
fn get(name: &'static str, lines: &str) -> Exchange {
    Exchange::new(name, format!("GET /{SHOWN} HTTP/1.1\r\nHost: a\r\n{lines}\r\n"))
}

/// Header fields that hold secrets where the stars are, and some that look like what they are not.
const FIELDS: [(&str, &str); 25] = [
    ("Authorization", "Bearer *"),
    ("Authorization", "Basic *"),
    ("Proxy-Authorization", "Digest username=\"*\""),
    ("Cookie", "sid=*; theme=*"),
    ("X-Api-Key", "*"),
    ("X-*", "the name is the secret"),
    ("X-Amz-Security-Token", "*"),
    ("Referer", "http://user:*@elsewhere.test/*?sig=*"),
    ("Origin", "http://*.test"),
    ("From", "*@users.test"),
    ("X-Forwarded-For", "*"),
    ("X-Forwarded-Host", "*"),
    ("Forwarded", "for=*;host=*"),
    ("Content-Type", "multipart/form-data; boundary=*"),
    ("If-None-Match", "\"*\""),
    ("traceparent", "*"),
    ("tracestate", "vendor=*"),
    ("baggage", "user=*"),
    // These look like what is kept of a head.
    ("X-Line", "GET /* HTTP/1.1"),
    ("X-Host", "Host: *"),
    ("Host-Secret", "*"),
    ("User-Agent-Secret", "*"),
    ("X-User-Agent", "User-Agent: *"),
    ("X-Url", "http://*/*?*"),
    ("X-Traceparent", "traceparent: 00-*"),
];

/// Names and values of header fields, with their secrets.
pub(crate) fn fields() -> Vec<(String, String)> {
    let planted = |(number, (name, value)): (usize, &(&str, &str))| {
        let secret = format!("{MARK}-header-{number}");
        (name.replace('*', &secret), value.replace('*', &secret))
    };
    FIELDS.iter().enumerate().map(planted).collect()
}

fn headers() -> String {
    fields().iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

/// Bytes that a reader who lost its way would take for a request.
pub(crate) fn looks_like_a_request() -> String {
    format!("GET /{MARK}-body HTTP/1.1\r\nHost: {MARK}-body\r\nUser-Agent: {MARK}-body\r\n\r\n")
}

/// As above, for a response.
pub(crate) fn looks_like_a_response() -> String {
    format!("HTTP/1.1 500 {MARK}-body\r\nServer: {MARK}-body\r\n\r\n")
}

fn with_length(first: &str, body: &str) -> String {
    format!("{first}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn in_chunks(first: &str, body: &str) -> String {
    let (left, right) = body.split_at(body.len() / 2);
    format!(
        "{first}Transfer-Encoding: chunked\r\n\r\n\
         {:x};{MARK}-extension={MARK}\r\n{left}\r\n{:X} ; q=\"{MARK}-quoted\"\r\n{right}\r\n\
         0;{MARK}-last\r\nX-Trailer: {MARK}-trailer\r\n{MARK}-trailer-name: 1\r\n\r\n",
        left.len(),
        right.len(),
    )
}

/// Every exchange of HTTP/1.x, and of what is none, each on a connection of its own.
pub(crate) fn exchanges() -> Vec<Exchange> {
    let put = format!("PUT /{SHOWN} HTTP/1.1\r\nHost: a\r\n");
    let found = "HTTP/1.1 200 OK\r\n";
    let long = headers().repeat(8);
    vec![
        get("headers", &headers()),
        get("headers, byte by byte", &headers()).cut_every(1),
        get("headers of more than one window", &long),
        get("headers of more than one window, in pieces", &long).cut_every(700),
        Exchange::new(
            "the query",
            format!("GET /{SHOWN}{} HTTP/1.1\r\nHost: a\r\n\r\n", query()),
        ),
        Exchange::new(
            "user information of the target",
            format!("GET http://{MARK}-user:{MARK}-word@a.test/{SHOWN}?sig={MARK} HTTP/1.1\r\nHost: {MARK}-user@a\r\n\r\n"),
        ),
        Exchange::new("the body", with_length(&put, &looks_like_a_request())),
        Exchange::new("the body, in pieces", with_length(&put, &looks_like_a_request()))
            .cut_every(7),
        Exchange::new("chunks", in_chunks(&put, &looks_like_a_request())),
        Exchange::new("chunks, in pieces", in_chunks(&put, &looks_like_a_request())).cut_every(5),
        get("the response's head", "").answered(with_length(
            &format!(
                "HTTP/1.1 401 {MARK}-reason\r\nSet-Cookie: sid={MARK}\r\nLocation: /{MARK}\r\n\
                 WWW-Authenticate: Bearer realm=\"{MARK}\"\r\nX-{MARK}: 1\r\n"
            ),
            "",
        )),
        get("the response's body", "")
            .answered(with_length(found, &looks_like_a_response())),
        get("the response's chunks", "").answered(in_chunks(found, &looks_like_a_response())),
        get("an upgraded connection", "Connection: Upgrade\r\nUpgrade: other\r\n")
            .answered("HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
            .followed_by(looks_like_a_request()),
        Exchange::new(
            "a tunnel",
            format!("CONNECT {MARK}-user:{MARK}-word@{SHOWN}:443 HTTP/1.1\r\nHost: a\r\nProxy-Authorization: {MARK}\r\n\r\n"),
        )
        .answered("HTTP/1.1 200 Connected\r\n\r\n")
        .followed_by(looks_like_a_request()),
        get("a folded header", &format!("X-Folded: a\r\n {MARK}-folded\r\n")).without_spans(),
        Exchange::new("what is no HTTP", format!("EHLO {MARK}\r\n{}", looks_like_a_request()))
            .answered(format!("250 {MARK}\r\n"))
            .without_spans(),
        Exchange::new("a Redis command", format!("*2\r\n$4\r\nAUTH\r\n$7\r\n{MARK}\r\n"))
            .answered("+OK\r\n")
            .without_spans(),
        Exchange::new("a TLS name", [&[22, 3, 1, 0, 80, 1][..], MARK.as_bytes()].concat())
            .answered([21, 3, 3, 0, 2, 2, 40])
            .without_spans(),
        // Cut off inside the head.
        Exchange::new("a head that never ends", format!("GET / HTTP/1.1\r\nCookie: {MARK}\r\nX: "))
            .answered("")
            .without_spans(),
    ]
}

/// A query with a secret in the value of each key that is documented to be redacted.
pub(crate) fn query() -> String {
    let keys = [
        "AWSAccessKeyId",
        "Signature",
        "X-Amz-Credential",
        "X-Amz-Security-Token",
        "X-Amz-Signature",
        "X-Goog-Signature",
        "sig",
        "s%69g",
    ];
    let query: String = keys.iter().map(|key| format!("&{key}={MARK}-{key}")).collect();
    format!("?a=1{query}")
}
