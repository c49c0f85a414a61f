//! Requests that nginx hands to PHP-FPM, in records of FastCGI.

use std::collections::HashMap;
use std::path::PathBuf;

use tracewire_tests::needs::{Package, lacks};
use tracewire_tests::otlp::{Kind, Span};
use tracewire_tests::php;
use tracewire_tests::script::{Load, Step};
use tracewire_tests::services::{Service, Wire, curl, nginx, node};
use tracewire_tests::world::{World, is_control};

/// nginx, PHP-FPM, and a service in Node that the script asks.
struct Stack {
    front: Service,
    fpm: Service,
    leaf: Service,
}

/// Asks the next service for the same, and answers what that does.
const ASKS_NEXT: &str = "<?php
    $curl = curl_init('http://' . getenv('NEXT') . $_SERVER['REQUEST_URI']);
    curl_setopt_array($curl, [CURLOPT_RETURNTRANSFER => true, CURLOPT_PROXY => '']);
    echo curl_exec($curl);";

/// Answers what it was sent, and as it was told in the query.
const ECHOES: &str = "<?php
    parse_str(parse_url($_SERVER['REQUEST_URI'], PHP_URL_QUERY) ?? '', $asked);
    if (isset($asked['status'])) { http_response_code((int) $asked['status']); }
    if (isset($asked['warn'])) { error_log(str_repeat('warning ', 300)); }
    if (isset($asked['die'])) { exec('kill -9 ' . getmypid()); }
    if (isset($asked['traceparent'])) { echo $_SERVER['HTTP_TRACEPARENT'] ?? 'none'; }
    echo file_get_contents('php://input');";

fn script(world: &World, source: &str) -> PathBuf {
    let path = world.scratch().join("index.php");
    std::fs::write(&path, source).expect("the scratch directory is writable");
    path
}

impl Stack {
    /// Starts them; `keep` says whether nginx keeps its connections to PHP-FPM.
    fn start(world: &World, source: &str, keep: bool) -> Self {
        let leaf = node(world, &Wire::Plain);
        let fpm = php::fpm(world, &[("NEXT", leaf.address().to_string())]);
        let script = script(world, source);
        let address = fpm.address();
        let front = if keep {
            let location = php::location("next", &script);
            let location = location.replace("location / {", "location / { fastcgi_keep_conn on;");
            nginx(world, Some(address), &location)
        } else {
            nginx(world, None, &php::location(&address.to_string(), &script))
        };
        Self { front, fpm, leaf }
    }

    fn load(&self, world: &World, path: &str, requests: usize) {
        let report = world.load(Load {
            to: self.front.address(),
            path: path.to_owned(),
            threads: 16,
            requests,
            limit_ms: 60_000,
        });
        let output = [&self.front, &self.fpm, &self.leaf].map(Service::output).concat();
        assert_eq!(report.failures, Vec::<String>::new(), "{report:?}\n{output}");
    }

    fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.front.address())
    }
}

/// The spans of a request, from the client on: service, kind and the parent's place.
const HOPS: [(&str, Kind); 6] = [
    ("peer", Kind::Client),
    ("nginx", Kind::Server),
    ("nginx", Kind::Client),
    ("php-fpm", Kind::Server),
    ("php-fpm", Kind::Client),
    ("leaf", Kind::Server),
];

/// What is wrong with one trace, if anything is.
fn flaw(spans: &[&Span]) -> Option<String> {
    let mut parent = "";
    for (service, kind) in HOPS {
        let mut found =
            spans.iter().filter(|span| span.kind == kind && span.service().starts_with(service));
        let (Some(span), None) = (found.next(), found.next()) else {
            return Some(format!("not one {kind:?} span of {service} in {}", spans.len()));
        };
        if span.parent != parent {
            let rule = span.attribute("tracewire.correlation");
            return Some(format!("{kind:?} span of {service}: its parent is another, by {rule}"));
        }
        parent = &span.span_id;
    }
    (spans.len() != HOPS.len()).then(|| format!("{} spans", spans.len()))
}

/// Asks, by 16 clients, through a stack that keeps connections or not, and that is older than the agent
/// or not. Each request must be one trace.
fn are_whole(keep: bool, is_older: bool, flags: &[&str]) {
    const REQUESTS: usize = 3000;
    if lacks(&[Package::PhpFpm]) {
        return;
    }
    let mut world = World::alone();
    if !is_older {
        world.start_agent(flags);
    }
    let stack = Stack::start(&world, ASKS_NEXT, keep);
    if is_older {
        stack.load(&world, "/unseen", 200);
        world.start_agent(flags);
    }
    // Until nginx's loop is known to go on at once.
    stack.load(&world, "/before", 1000);
    stack.load(&world, "/item", REQUESTS);
    let Some(outcome) = world.stop_agent() else { return };
    let mut traces: HashMap<&str, Vec<&Span>> = HashMap::new();
    for span in outcome.spans.iter().filter(|span| span.path().starts_with("/item")) {
        traces.entry(&span.trace_id).or_default().push(span);
    }
    let flaws: Vec<String> = traces.values().filter_map(|spans| flaw(spans)).collect();
    assert_eq!(traces.len(), REQUESTS, "{:?}", flaws.first());
    assert!(flaws.is_empty(), "{} of them: {:?}", flaws.len(), flaws.first());
    for span in outcome.spans.iter().filter(|span| span.service().starts_with("php-fpm")) {
        let protocol = span.attribute("network.protocol.name");
        assert_eq!(protocol == "fastcgi", span.kind == Kind::Server, "{span:?}");
        assert_eq!(span.status(), "200", "{span:?}");
    }
}

#[test]
fn what_goes_through_php_fpm_is_one_trace_each() {
    are_whole(false, false, &["--propagate", "off"]);
}

#[test]
fn what_goes_through_php_fpm_on_kept_connections_is_one_trace_each() {
    are_whole(true, false, &["--propagate", "always"]);
}

#[test]
fn what_goes_through_php_fpm_on_connections_older_than_the_agent_is_one_trace_each() {
    are_whole(true, true, &["--propagate", "off"]);
}

#[test]
fn requests_are_told_as_the_application_is_told_of_them() {
    if lacks(&[Package::PhpFpm]) {
        return;
    }
    let mut world = World::traced();
    let stack = Stack::start(&world, ECHOES, false);
    let body = world.scratch().join("body");
    let content = "tell".repeat(50_000);
    std::fs::write(&body, &content).expect("the scratch directory is writable");
    let data = format!("@{}", body.display());
    let url = stack.url("/told/x?status=201&warn=1&sig=secret");
    // The `Host` is the proxy's, not PHP-FPM's.
    let arguments = ["--data-binary", &data, "--header", "Host: shop.test", "-A", "me/1", &url];
    assert!(curl(&world, &arguments) == content, "the content was changed");
    let Some(outcome) = world.stop_agent() else { return };
    let of = |service: &str, kind| {
        let mut spans = outcome.spans.iter().filter(|span| span.service().starts_with(service));
        spans.find(|span| span.kind == kind).unwrap_or_else(|| panic!("no {kind:?} of {service}"))
    };
    let (client, server) = (of("nginx", Kind::Client), of("php-fpm", Kind::Server));
    assert_eq!((&server.parent, &server.trace_id), (&client.span_id, &client.trace_id));
    for span in [client, server] {
        assert_eq!(span.name, "POST", "{span:?}");
        assert_eq!(span.status(), "201", "{span:?}");
        assert_eq!(span.attribute("network.protocol.name"), "fastcgi", "{span:?}");
        assert_eq!(span.attribute("http.request.body.size"), "200000", "{span:?}");
        assert_eq!(span.attribute("http.response.body.size"), "200000", "{span:?}");
        assert_eq!(span.attribute("user_agent.original"), "me/1", "{span:?}");
    }
    assert_eq!(server.path(), "/told/x");
    assert_eq!(server.attribute("url.query"), "status=201&warn=1&sig=REDACTED");
    assert_eq!(server.attribute("url.scheme"), "http");
    let server_of = |span: &Span| {
        [span.attribute("server.address"), span.attribute("server.port")].map(str::to_owned)
    };
    assert_eq!(server_of(server), ["shop.test", "80"], "{server:?}");
    let port = stack.fpm.port.to_string();
    assert_eq!(server_of(client), ["127.0.0.1", &port], "{client:?}");
}

#[test]
fn a_process_that_dies_in_a_request_leaves_an_error() {
    if lacks(&[Package::PhpFpm]) {
        return;
    }
    let mut world = World::traced();
    let stack = Stack::start(&world, ECHOES, false);
    let url = stack.url("/dies?die=1");
    let told = ["--no-fail", "--output", "/dev/null", "--write-out", "%{http_code}", &url];
    assert_eq!(curl(&world, &told), "502");
    assert_eq!(curl(&world, &["--data", "on", &stack.url("/lives")]), "on");
    let Some(outcome) = world.stop_agent() else { return };
    for span in outcome.spans.iter().filter(|span| span.path() == "/dies") {
        assert!(span.is_error || span.service().starts_with("curl"), "{span:?}");
        if span.attribute("network.protocol.name") == "fastcgi" {
            assert_eq!(span.status(), "", "{span:?}");
        }
    }
    let dead = outcome.spans.iter().filter(|span| {
        span.path() == "/dies" && span.attribute("network.protocol.name") == "fastcgi"
    });
    assert_eq!(dead.count(), 2, "{:?}", outcome.counters);
}

/// A record of request 1 ("FastCGI Specification" §3.3).
fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    record_of(1, kind, content)
}

fn record_of(id: u8, kind: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).expect("a short record").to_be_bytes();
    [&[1, kind, 0, id, high, low, 0, 0], content].concat()
}

/// The head of a request behind which the connection is kept.
fn head_of(id: u8, path: &str) -> Vec<u8> {
    let len = u8::try_from(path.len()).expect("a short path");
    let parameters =
        [b"\x0e\x03REQUEST_METHODGET\x0b", &[len][..], b"REQUEST_URI", path.as_bytes()].concat();
    [
        record_of(id, 1, &[0, 1, 1, 0, 0, 0, 0, 0]),
        record_of(id, 4, &parameters),
        record_of(id, 4, b""),
    ]
    .concat()
}

fn answer_to(id: u8, status: &str) -> Vec<u8> {
    let head = format!("Status: {status}\r\n\r\n");
    [record_of(id, 6, head.as_bytes()), record_of(id, 6, b""), record_of(id, 3, &[0; 8])].concat()
}

/// One request and its answer, then two requests as they are given, whose answers come in the other order.
fn answers_are_nobodys(both: &[u8]) {
    let mut world = World::traced();
    let alone = [head_of(1, "/alone"), record_of(1, 5, b"")].concat();
    let answers = [answer_to(2, "500 Failed"), answer_to(1, "201 Created")].concat();
    let server = world.server(vec![
        Step::UntilMore(alone.len()),
        Step::send(answer_to(1, "202 Accepted")),
        Step::UntilMore(both.len()),
        Step::send(&answers),
        Step::Close,
    ]);
    let steps = vec![
        Step::Connect(server.address()),
        Step::send(&alone),
        Step::UntilMore(answer_to(1, "202 Accepted").len()),
        Step::send(both),
        Step::UntilMore(answers.len()),
        Step::Close,
    ];
    world.client(1, steps.into_iter().map(|step| (0, step)).collect());
    let Some(outcome) = world.stop_agent() else { return };
    let told = |path: &str| {
        let of_path = outcome.spans.iter().filter(move |span| span.path() == path);
        of_path.map(|span| (span.kind, span.status())).collect::<Vec<_>>()
    };
    let alone = told("/alone");
    assert_eq!(alone.len(), 2, "{:?}", outcome.counters);
    assert!(alone.iter().all(|(_, status)| *status == "202"), "{alone:?}");
    // Of the first it was told that it began; what became of it is not known.
    assert!(told("/one").iter().all(|(_, status)| status.is_empty()), "{:?}", outcome.spans);
    assert_eq!(told("/two"), []);
}

#[test]
fn answers_to_requests_that_follow_one_another_unanswered_are_nobodys() {
    let both = [head_of(1, "/one"), record_of(1, 5, b""), head_of(2, "/two"), record_of(2, 5, b"")];
    answers_are_nobodys(&both.concat());
}

#[test]
fn answers_to_requests_whose_records_are_mixed_are_nobodys() {
    let both = [head_of(1, "/one"), head_of(2, "/two"), record_of(1, 5, b""), record_of(2, 5, b"")];
    answers_are_nobodys(&both.concat());
}

/// Two requests one behind the other, each with its answer; this goes with the first, behind its end. Both must be
/// told by both ends.
fn are_told_with(behind: &[u8]) {
    let mut world = World::traced();
    let request = |path: &str| [head_of(1, path), record_of(1, 5, b"")].concat();
    let first = [&request("/first")[..], behind].concat();
    let (second, answers) = (request("/second"), ["201 Created", "404 Not Found"]);
    let [created, missing] = answers.map(|status| answer_to(1, status));
    let server = world.server(vec![
        Step::UntilMore(first.len()),
        Step::send(&created),
        Step::UntilMore(second.len()),
        Step::send(&missing),
        Step::Close,
    ]);
    let steps = vec![
        Step::Connect(server.address()),
        Step::send(request("/first")),
        Step::send(behind),
        Step::UntilMore(created.len()),
        Step::send(&second),
        Step::UntilMore(missing.len()),
        Step::Close,
    ];
    world.client(1, steps.into_iter().map(|step| (0, step)).collect());
    let Some(outcome) = world.stop_agent() else { return };
    for (path, status) in [("/first", "201"), ("/second", "404")] {
        let spans: Vec<_> = outcome.spans.iter().filter(|span| span.path() == path).collect();
        assert_eq!(spans.len(), 2, "{path}: {:?}", outcome.counters);
        assert!(spans.iter().all(|span| span.status() == status), "{spans:?}");
    }
}

#[test]
fn a_request_that_is_aborted_while_it_is_answered_is_told_and_so_is_the_next() {
    are_told_with(&record_of(1, 2, b""));
}

#[test]
fn a_question_about_the_application_behind_a_request_costs_no_answer() {
    are_told_with(&record_of(0, 9, b"\x0f\x00FCGI_MPXS_CONNS"));
}

#[test]
fn nothing_is_told_behind_heads_of_requests_that_are_mixed() {
    // Only the later one is in order: who answers it may be at work on the others.
    let [one, two] = [1, 2].map(|id| head_of(id, "/mixed"));
    let mixed = [&one[..16], &two[..16], &one[16..], &two[16..], &record_of(1, 5, b"")].concat();
    let alone = |id, path| [head_of(id, path), record_of(id, 5, b"")].concat();
    let (before, later) = (alone(1, "/before"), alone(3, "/later"));
    let mut world = World::traced();
    let [accepted, answer] =
        [(1, "202 Accepted"), (3, "200 Fine")].map(|(id, to)| answer_to(id, to));
    let server = world.server(vec![
        Step::UntilMore(before.len()),
        Step::send(&accepted),
        Step::UntilMore(mixed.len()),
        Step::send(b"\x01"),
        Step::UntilMore(later.len()),
        Step::send(&answer),
        Step::Close,
    ]);
    let steps = vec![
        Step::Connect(server.address()),
        Step::send(&before),
        Step::UntilMore(accepted.len()),
        Step::send(&mixed),
        Step::UntilMore(1),
        Step::send(&later),
        Step::UntilMore(answer.len()),
        Step::Close,
    ];
    world.client(1, steps.into_iter().map(|step| (0, step)).collect());
    let Some(outcome) = world.stop_agent() else { return };
    let told: Vec<_> = outcome.spans.iter().map(|span| (span.path(), span.status())).collect();
    assert_eq!(told, [("/before", "202"); 2], "{:?}", outcome.counters);
}

#[test]
fn an_answer_that_breaks_off_in_its_head_has_no_status_and_no_size() {
    let mut world = World::traced();
    let method = b"\x0e\x03REQUEST_METHODGET\x0b\x04REQUEST_URI/cut";
    let request =
        [record(1, &[0, 1, 0, 0, 0, 0, 0, 0]), record(4, method), record(4, b""), record(5, b"")]
            .concat();
    // In the midst of a status, and of a name.
    for head in ["Status: 50", "X-Powered-B"] {
        let answer = [&record(6, head.as_bytes())[..4], &[0, 200, 0, 0], head.as_bytes()].concat();
        let steps = vec![Step::UntilMore(request.len()), Step::send(answer), Step::Close];
        let server = world.server(steps);
        let steps =
            [Step::Connect(server.address()), Step::send(&request), Step::UntilClosed, Step::Close];
        world.client(1, steps.into_iter().map(|step| (0, step)).collect());
    }
    let Some(outcome) = world.stop_agent() else { return };
    assert_eq!(outcome.spans.len(), 4, "{:?}", outcome.counters);
    for span in &outcome.spans {
        assert_eq!((span.path(), span.status(), span.is_error), ("/cut", "", true), "{span:?}");
        assert_eq!(span.attribute("http.response.body.size"), "", "{span:?}");
    }
}

#[test]
fn a_context_that_nginx_passes_on_becomes_that_of_its_own_span() {
    becomes_that_of_nginxs_span("");
}

#[test]
fn a_context_that_nginx_passes_on_with_white_space_does_too() {
    // It goes over spaces alone.
    becomes_that_of_nginxs_span("\t");
}

fn becomes_that_of_nginxs_span(space: &str) {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    if lacks(&[Package::PhpFpm]) {
        return;
    }
    let mut world = World::alone();
    world.start_agent(&["--propagate", "always"]);
    let stack = Stack::start(&world, ECHOES, false);
    let url = stack.url("/passed?traceparent=1");
    let value = format!("{space}00-{TRACE}-00f067aa0ba902b7-01");
    let header = format!("traceparent:{value}");
    let passed = curl(&world, &["--header", &header, &url]);
    // Nobody writes where there was none.
    if is_control() {
        assert_eq!(passed, value);
        assert_eq!(curl(&world, &[&url]), "none");
        return;
    }
    let Some(outcome) = world.stop_agent() else { return };
    let client = outcome
        .spans
        .iter()
        .find(|span| span.kind == Kind::Client && span.service().starts_with("nginx"))
        .expect("a span of nginx");
    assert_eq!(client.attribute("tracewire.propagation"), "rewritten", "{client:?}");
    assert_eq!(passed, format!("{space}00-{}-{}-01", client.trace_id, client.span_id));
    assert_eq!(client.trace_id, TRACE);
}
