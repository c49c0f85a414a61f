//! Secrets that real programs pass to one another, in the forms that their libraries choose.

use tracewire_tests::grpc::{Next, call, python_calls, python_server};
use tracewire_tests::needs::{Package, lacks};
use tracewire_tests::otlp::{Kind, Span, describe};
use tracewire_tests::php;
use tracewire_tests::services::{curl, nginx};
use tracewire_tests::tee::Tee;
use tracewire_tests::world::{World, is_control};

use crate::traffic::MARK;
use crate::{LIMIT, assert_clean, holds, shows};

/// Answers with what it was told, and tells it to its server's log and in a header too.
const TELLS: &str = "<?php
    $told = getenv('STORE_PASSWORD') . ' ' . implode(' ', $_SERVER);
    error_log($told);
    header('X-Told: ' . $_SERVER['HTTP_COOKIE']);
    setcookie('sid', $_SERVER['HTTP_COOKIE']);
    echo $told . file_get_contents('php://input');";

/// The user and the password as they are sent (RFC 7617 §2).
const CREDENTIALS: &str = "dXNlcjo1ZWNyZXQtcGFzc3dvcmQ=";

/// Where spans show each request.
const CALLS: [&str; 2] = ["/plainly.Shown/Echo", "/plainly.Shown/Mirror"];
const PAGE: &str = "/plainly-shown/page";

/// Calls of gRPC in Python: their header fields are coded and go into tables.
fn call_by_grpc(world: &World) {
    let server = python_server(world, Next::Nobody);
    let bearer = format!("Bearer {MARK}-token");
    let name = format!("x-{MARK}");
    let metadata = [("authorization", bearer.as_str()), ("cookie", MARK), (name.as_str(), "1")];
    let mut mirror = call(CALLS[1], &metadata);
    let text = format!("{MARK}-message");
    mirror["text"] = text.clone().into();
    let got = python_calls(world, server.port, false, &[call(CALLS[0], &metadata), mirror]);
    assert_eq!(got[0].received("authorization"), [bearer.as_str()], "{got:?}");
    assert_eq!(got[0].received("cookie"), [MARK], "{got:?}");
    assert_eq!(got[0].received(&name), ["1"], "{got:?}");
    assert_eq!(got[1].messages, [text.as_str()], "{got:?}");
}

/// A request that nginx hands to PHP-FPM.
fn ask_by_fastcgi(world: &World) {
    let secret = |what: &str| format!("{MARK}-{what}");
    let fpm = php::fpm(world, &[("STORE_PASSWORD", secret("environment"))]);
    let script = world.scratch().join("index.php");
    std::fs::write(&script, TELLS).expect("the scratch directory is writable");
    let location = php::location(&fpm.address().to_string(), &script);
    let with = format!("location / {{ fastcgi_param STORE_KEY {}; ", secret("parameter"));
    let front = nginx(world, None, &location.replace("location / {", &with));
    let url = format!("http://{}{PAGE}?sig={}", front.address(), secret("signature"));
    let cookie = format!("Cookie: {}", secret("cookie"));
    let user = format!("user:{}", secret("password"));
    let body = secret("body");
    let arguments = ["--include", "--header", &cookie, "--user", &user, "--data", &body, &url];
    let answer = curl(world, &arguments);
    for what in ["environment", "parameter", "signature", "cookie", "password", "body"] {
        assert!(answer.contains(&secret(what)), "{what}: {answer}");
    }
    assert!(answer.contains(CREDENTIALS), "{answer}");
    for header in ["X-Told", "Set-Cookie"] {
        let line = answer.lines().find(|line| line.starts_with(header)).unwrap_or_default();
        assert!(line.contains(&secret("cookie")), "{header}: {answer}");
    }
    // Not before the answer for certain.
    let is_told = |line: &str| line.contains("FastCGI sent in stderr") && line.contains(MARK);
    assert!(front.wait_stderr(LIMIT, is_told).is_some(), "{}", front.output());
}

#[test]
fn no_secret_leaves_from_real_programs() {
    if lacks(&[Package::PythonGrpc, Package::PhpFpm]) {
        return;
    }
    let mut world = World::new();
    let tee = Tee::to(world.sink.port());
    if !is_control() {
        let command = world.agent_command_to(&tee.endpoint(), &["--log-level", "trace"]);
        world.start_agent_by(command);
    }
    call_by_grpc(&world);
    ask_by_fastcgi(&world);
    if is_control() {
        return;
    }
    let of = |spans: &[Span], path: &str| spans.iter().filter(|span| shows(span, path)).count();
    world.sink.wait_for("the spans", LIMIT, |spans| {
        let calls = CALLS.iter().all(|path| of(spans, path) == 2);
        (calls && of(spans, PAGE) == 4).then_some(())
    });
    let spans = world.sink.spans();
    for kind in [Kind::Client, Kind::Server] {
        let fastcgi = spans
            .iter()
            .find(|span| span.kind == kind && span.attribute("network.protocol.name") == "fastcgi");
        assert!(fastcgi.is_some_and(|span| shows(span, PAGE)), "{}", describe(&spans));
    }
    let log = world.take_agent().map(|agent| agent.stop_with_log().1).unwrap_or_default();
    assert_clean("the log", log.as_bytes());
    assert!(!holds(log.as_bytes(), CREDENTIALS), "{log}");
    for span in &spans {
        assert_clean("a span", format!("{span:?}").as_bytes());
    }
    let wire = tee.kept();
    assert!(holds(&wire, PAGE), "nothing can be found on the wire");
    assert_clean("the wire to the collector", &wire);
    assert!(!holds(&wire, CREDENTIALS), "the wire to the collector holds credentials");
}
