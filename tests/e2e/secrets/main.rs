//! What came over the wire stays where it was, but for what is documented to leave.

mod encrypted;
mod fastcgi;
mod http2;
mod programs;
mod traffic;

use std::process::Command;
use std::time::Duration;

use tracewire_tests::needs::probes;
use tracewire_tests::otlp::Span;
use tracewire_tests::peer::{Peer, program};
use tracewire_tests::script::Step;
use tracewire_tests::stream::show;
use tracewire_tests::tee::Tee;
use tracewire_tests::world::{World, is_control, send};
use tracewire_tests::{agent, cgroup::Cgroup};

use traffic::{Exchange, MARK, SHOWN};

/// How long spans may take to come.
const LIMIT: Duration = Duration::from_secs(10);

/// What a process may say of itself, and what its spans may say of it.
const SERVICE: &str = "plainly-named";

/// Variables that no span may have anything of.
const VARIABLES: &[&str] = &[
    "AWS_SECRET_ACCESS_KEY",
    "DATABASE_URL",
    "SECRET_TOKEN",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_SERVICE_NAME_SECRET",
    "OTEL_RESOURCE_ATTRIBUTES_SECRET",
    "XOTEL_SERVICE_NAME",
];

/// A secret environment, and the documented exceptions.
fn furnish(command: &mut Command) {
    for name in VARIABLES {
        command.env(name, format!("{MARK}-variable,service.name={MARK}-in-{name}"));
    }
    command.env("OTEL_SERVICE_NAME", SERVICE);
    command.env("OTEL_RESOURCE_ATTRIBUTES", format!("deployment.environment.name={SHOWN}"));
    command.args(["--password", &format!("{MARK}-argument"), &format!("--token={MARK}-argument")]);
}

fn furnished(world: &World, steps: Vec<(usize, Step)>) -> Peer {
    world.peer_by(&program(), |directory| send(directory, steps), furnish)
}

/// Sends everything, each exchange on its own connection; checks that the server got it.
fn run_traffic(world: &World) {
    let all = Over::Tcp.exchanges();
    // A peer that serves gives connections their steps in the order of their coming.
    let connections = all.iter().map(|exchange| exchange.server()).collect();
    let server = world.peer_by(
        &program(),
        |directory| tracewire_tests::world::serve(directory, connections),
        furnish,
    );
    let to = server.address();
    let steps = all.iter().enumerate().flat_map(|(number, exchange)| {
        let mut steps = vec![Step::Connect(to)];
        steps.extend(exchange.client());
        steps.into_iter().map(move |step| (number, step))
    });
    let client = furnished(world, steps.collect());
    let answers = client.finish(all.len());
    for (number, exchange) in all.iter().enumerate() {
        let (request, answer) = (server.received(number), &answers[number]);
        let passed = secrets(&request) + secrets(answer);
        assert_eq!(
            passed,
            exchange.secrets(),
            "{}: secrets that passed; {} and {}",
            exchange.name,
            show(&request),
            show(answer)
        );
    }
}

/// How many secrets are in there.
fn secrets(bytes: &[u8]) -> usize {
    bytes.windows(MARK.len()).filter(|part| part.eq_ignore_ascii_case(MARK.as_bytes())).count()
}

impl Exchange {
    /// How many secrets both sides send.
    fn secrets(&self) -> usize {
        secrets(&[self.request.concat(), self.afterwards.clone()].concat())
            + secrets(&self.response)
    }
}

/// Whether bytes hold a text, in whatever case.
fn holds(bytes: &[u8], text: &str) -> bool {
    position(bytes, text).is_some()
}

fn position(bytes: &[u8], text: &str) -> Option<usize> {
    bytes.windows(text.len()).position(|part| part.eq_ignore_ascii_case(text.as_bytes()))
}

/// No secret is in there, neither as it was nor as its bytes are written out.
fn assert_clean(what: &str, bytes: &[u8]) {
    for secret in [MARK.as_bytes(), http2::CODED] {
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let list: Vec<String> = secret.iter().map(u8::to_string).collect();
        for text in [MARK, &hex, &list.join(", "), &list.join(",")] {
            if let Some(at) = position(bytes, text) {
                let around = &bytes[at.saturating_sub(80)..bytes.len().min(at + 80)];
                panic!("{what} holds a secret: …{}…", around.escape_ascii());
            }
        }
    }
}

#[test]
fn a_secret_is_found_however_it_is_written() {
    for text in [
        "no 5EcRet here",
        "0x356563726574",
        "[0, 53, 101, 99, 114, 101, 116]",
        "[108,164,176,169]",
        "6CA4B0A9",
    ] {
        let found = std::panic::catch_unwind(|| assert_clean("this", text.as_bytes()));
        assert!(found.is_err(), "{text}");
    }
    assert_clean("this", b"secret");
}

/// What exchanges are made over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Tcp,
    /// TLS on top of it, by OpenSSL.
    Tls,
}

impl Over {
    fn exchanges(self) -> Vec<Exchange> {
        let http = [traffic::exchanges(), http2::exchanges()].into_iter().flatten();
        match self {
            Self::Tcp => http.chain(fastcgi::exchanges()).collect(),
            // No web server asks by FastCGI over TLS.
            Self::Tls => http.collect(),
        }
    }

    fn run_traffic(self, world: &mut World) {
        match self {
            Self::Tcp => run_traffic(world),
            Self::Tls => encrypted::run(world, &self.exchanges(), furnish),
        }
    }

    fn wait_for_spans(self, world: &World) {
        let exchanges = self.exchanges();
        let wanted = 2 * exchanges.iter().filter(|exchange| exchange.spans).count();
        world.sink.wait_for("the spans", LIMIT, |spans| (spans.len() >= wanted).then_some(()));
        for exchange in exchanges {
            let Some(path) = exchange.path else { continue };
            world.sink.wait_for(exchange.name, LIMIT, |spans| {
                (spans.iter().filter(|span| shows(span, path)).count() == 2).then_some(())
            });
        }
    }
}

/// Whether a span is of the request for a path, or of the call.
fn shows(span: &Span, path: &str) -> bool {
    span.path() == path || span.attribute("rpc.method") == &path[1..]
}

/// With spans sent to a collector, and logs of everything in a format.
fn exported(format: &str, over: Over) {
    let mut world = World::new();
    let tee = Tee::to(world.sink.port());
    let key = format!("authorization=Bearer%20{MARK}-of-the-collector");
    let mut command = world.agent_command_to(&tee.endpoint(), &["--log-level", "trace"]);
    command.args(["--otlp-headers", &key]);
    if format == "text" {
        command = text_command(&world, &["--exporter", "otlp", "--otlp-endpoint", &tee.endpoint()]);
        command.args(["--otlp-headers", &key]);
    }
    if !is_control() {
        world.start_agent_by(command);
    }
    over.run_traffic(&mut world);
    if is_control() {
        return;
    }
    over.wait_for_spans(&world);
    let Some(agent) = world.agent() else { return };
    let pid = agent.id();
    tracewire_tests::process::kill(pid, libc::SIGUSR1);
    std::thread::sleep(Duration::from_millis(200));
    let log = match format {
        "text" => stop_text(&mut world),
        _ => world.take_agent().map(|agent| agent.stop_with_log().1).unwrap_or_default(),
    };
    assert!(log.contains("stopped"), "{log}");
    assert_clean("the log", log.as_bytes());

    let spans = world.sink.spans();
    let seen = spans.iter().any(|span| span.path().contains(SHOWN) && span.service() == SERVICE);
    assert!(seen, "{}", tracewire_tests::otlp::describe(&spans));
    for span in &spans {
        assert_clean("a span", format!("{span:?}").as_bytes());
    }
    // The collector's own key is the collector's to have; the library packs it (HPACK).
    let wire = String::from_utf8_lossy(&tee.kept()).replace("5ecret-of-the-collector", "");
    assert!(holds(wire.as_bytes(), SHOWN), "nothing can be found on the wire");
    assert_clean("the wire to the collector", wire.as_bytes());
}

fn text_command(world: &World, flags: &[&str]) -> Command {
    let cgroup = world.cgroup.path().to_string_lossy().into_owned();
    let mut command = agent::command(&["run", "--cgroup", &cgroup, "--log-format", "text"]);
    command.args(["--log-level", "trace", "--nice", "0"]).args(flags);
    command
}

/// Stops an agent whose log is text; gives all that it wrote.
fn stop_text(world: &mut World) -> String {
    let Some(agent) = world.take_agent() else { return String::new() };
    agent.stop_with_output()
}

#[test]
fn no_secret_leaves_with_spans_or_with_logs_in_json() {
    exported("json", Over::Tcp);
}

#[test]
fn no_secret_leaves_with_spans_or_with_logs_as_text() {
    exported("text", Over::Tcp);
}

#[test]
fn no_secret_of_what_was_encrypted_leaves_with_spans_or_with_logs() {
    if !probes() {
        return;
    }
    exported("json", Over::Tls);
}

/// With traces and logs of everything written to the terminal.
fn printed(over: Over) {
    let mut world = World::new();
    if !is_control() {
        let command = text_command(&world, &["--exporter", "console", "--color", "always"]);
        world.start_agent_by(command);
    }
    over.run_traffic(&mut world);
    if is_control() {
        return;
    }
    // A trace is printed a second after its last span.
    std::thread::sleep(Duration::from_secs(4));
    let output = stop_text(&mut world);
    assert!(output.contains(SHOWN), "nothing was printed: {output}");
    assert!(output.contains(SERVICE), "nobody was named: {output}");
    for path in over.exchanges().iter().filter_map(|exchange| exchange.path) {
        assert!(output.contains(&path[1..]), "no word of {path}: {output}");
    }
    assert_clean("what is printed and logged", output.as_bytes());
}

#[test]
fn no_secret_is_printed() {
    printed(Over::Tcp);
}

#[test]
fn no_secret_of_what_was_encrypted_is_printed() {
    if !probes() {
        return;
    }
    printed(Over::Tls);
}

#[test]
fn no_secret_leaves_where_the_agent_comes_into_the_middle() {
    let mut world = World::new();
    let head =
        format!("GET /{SHOWN} HTTP/1.1\r\nHost: a\r\nCookie: {MARK}\r\nX-Key: {MARK}\r\n\r\n");
    let server = world.server(vec![
        Step::heads(1),
        Step::send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        Step::UntilClosed,
    ]);
    let steps = [
        Step::Connect(server.address()),
        Step::send(&head[..40]),
        Step::Gate,
        Step::send(&head[40..]),
        Step::until("\r\n\r\nok"),
        Step::Gate,
    ];
    let mut client = furnished(&world, steps.into_iter().map(|step| (0, step)).collect());
    client.wait_gate(0);
    let tee = Tee::to(world.sink.port());
    if !is_control() {
        let command = world.agent_command_to(&tee.endpoint(), &["--log-level", "trace"]);
        world.start_agent_by(command);
    }
    client.open_gate();
    client.wait_gate(1);
    // Processes that are older than the agent are read from /proc: their environment too.
    run_traffic(&world);
    client.open_gate();
    client.finish(1);
    if is_control() {
        return;
    }
    Over::Tcp.wait_for_spans(&world);
    let log = world.take_agent().map(|agent| agent.stop_with_log().1).unwrap_or_default();
    assert_clean("the log", log.as_bytes());
    assert_clean("the wire to the collector", &tee.kept());
}

#[test]
fn a_failing_export_quotes_nothing() {
    if is_control() {
        return;
    }
    let mut world = World::new();
    let port = tracewire_tests::services::free_port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let mut command = world.agent_command_to(&endpoint, &["--log-level", "trace"]);
    command.args(["--otlp-headers", &format!("authorization={MARK}")]);
    world.start_agent_by(command);
    run_traffic(&world);
    std::thread::sleep(Duration::from_secs(2));
    let Some(agent) = world.take_agent() else { return };
    let log = agent.stop_with_log().1;
    assert!(log.contains("WARN") || log.contains("ERROR"), "no word of the failure: {log}");
    assert_clean("the log", log.as_bytes());
    // Bad usage is answered without the value that may be a secret.
    let other = Cgroup::new();
    let cgroup = other.path().to_string_lossy().into_owned();
    let mut command = agent::command(&["run", "--cgroup", &cgroup, "--exporter", "otlp"]);
    command.args(["--otlp-endpoint", &endpoint, "--otlp-headers", &format!("a=%zz{MARK}")]);
    let mut process = tracewire_tests::process::Process::start(command);
    assert!(process.wait_exit(LIMIT).is_some_and(|status| status.code() == Some(2)));
    assert_clean("the error", process.output().as_bytes());
}

/// Names of exchanges are theirs alone, so that a failure tells them apart.
#[test]
fn every_exchange_has_a_name_and_a_secret() {
    let all = Over::Tcp.exchanges();
    let names: std::collections::BTreeSet<&str> = all.iter().map(|one| one.name).collect();
    assert_eq!(names.len(), all.len());
    let without = all.iter().find(|one| one.secrets() == 0);
    assert_eq!(without.map(|one| one.name), None);
}
