//! Services that know nothing of tracing, joined in one trace.

use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use tracewire_tests::agent::Counters;
use tracewire_tests::needs::probes;
use tracewire_tests::otlp::{Kind, Span, describe};
use tracewire_tests::script::{Load, LoadReport};
use tracewire_tests::services::{PROXY, Service, Wire, curl, nginx, node, python};
use tracewire_tests::world::{World, is_control};

/// nginx, then a Python service, then a Node service.
struct Stack {
    front: Service,
    middle: Service,
    leaf: Service,
}

impl Stack {
    /// Starts them; what is behind nginx is spoken with over `wire`.
    fn start(world: &World, wire: &Wire) -> Self {
        let leaf = node(world, wire);
        let middle = python(world, leaf.address(), wire);
        let proxy = match wire {
            Wire::Plain => PROXY.to_owned(),
            Wire::Tls(_) => PROXY.replace("http://next", "https://next"),
        };
        let front = nginx(world, Some(middle.address()), &proxy);
        Self { front, middle, leaf }
    }

    fn load(&self, world: &World, requests: usize) -> LoadReport {
        let report = world.load(Load {
            to: ([127, 0, 0, 1], self.front.port).into(),
            path: "/item".into(),
            threads: 16,
            requests,
            limit_ms: 120_000,
        });
        assert_eq!(report.failures, Vec::<String>::new(), "{report:?}\n{}", self.output());
        assert_eq!(report.requests, requests);
        report
    }

    fn output(&self) -> String {
        [&self.front, &self.middle, &self.leaf].map(Service::output).concat()
    }
}

/// The spans of one request: a client and a server span at each hop, from the client on.
const HOPS: [(&str, Kind); 6] = [
    ("client", Kind::Client),
    ("nginx", Kind::Server),
    ("nginx", Kind::Client),
    ("middle", Kind::Server),
    ("middle", Kind::Client),
    ("leaf", Kind::Server),
];

/// Puts one request's spans in the order of [`HOPS`]; says what is wrong with them.
fn chain<'a>(spans: &[&'a Span], client: &str) -> Result<Vec<&'a Span>, String> {
    let mut found: Vec<&Span> = Vec::new();
    for (service, kind) in HOPS {
        let service = if service == "client" { client } else { service };
        let mut matching =
            spans.iter().filter(|span| span.kind == kind && is_service(span.service(), service));
        let (Some(span), None) = (matching.next(), matching.next()) else {
            return Err(format!("not one {kind:?} span of {service}"));
        };
        let (trace, parent) = found
            .last()
            .map_or((&span.trace_id, ""), |before| (&before.trace_id, before.span_id.as_str()));
        if span.parent != parent {
            let (name, rule) = (span.service(), span.attribute("tracewire.correlation"));
            return Err(format!(
                "{kind:?} span of {name} has the parent {:?} by {rule:?}",
                span.parent
            ));
        }
        if span.trace_id != *trace {
            return Err(format!("{kind:?} span of {} is of another trace", span.service()));
        }
        found.push(span);
    }
    if spans.len() == HOPS.len() { Ok(found) } else { Err(format!("{} spans", spans.len())) }
}

/// A script's service may be named with or without its extension.
fn is_service(name: &str, wanted: &str) -> bool {
    name.split('.').next() == Some(wanted)
}

#[test]
fn one_request_through_three_services_is_one_trace() {
    let mut world = World::traced();
    let stack = Stack::start(&world, &Wire::Plain);
    let url = format!("http://127.0.0.1:{}/one?secret=1", stack.front.port);
    assert_eq!(curl(&world, &[&url]), "middle leaf /one?secret=1\n0 bytes");
    if is_control() {
        return;
    }
    // While the agent is running: spans do not wait for its end.
    world.sink.wait_for("six spans", Duration::from_secs(15), |spans| {
        (spans.len() >= HOPS.len()).then_some(())
    });
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    let spans: Vec<&Span> = outcome.spans.iter().collect();
    let chain = chain(&spans, "curl")
        .unwrap_or_else(|wrong| panic!("{wrong}; {}", describe(&outcome.spans)));
    let ports = [stack.front.port, stack.middle.port, stack.leaf.port].map(|port| port.to_string());
    for (number, span) in chain.iter().enumerate() {
        assert_eq!(span.name, "GET", "{span:?}");
        assert_eq!(span.attribute("http.request.method"), "GET", "{span:?}");
        assert_eq!(span.status(), "200", "{span:?}");
        assert_eq!(span.path(), "/one", "{span:?}");
        assert_eq!(span.attribute("network.protocol.version"), "1.1", "{span:?}");
        assert!(!span.is_error && span.start < span.end, "{span:?}");
        assert!(!span.attribute("tracewire.correlation").is_empty(), "{span:?}");
        if span.kind == Kind::Client {
            assert_eq!(span.attribute("server.port"), ports[number / 2], "{span:?}");
        } else {
            assert_eq!(span.attribute("url.scheme"), "http", "{span:?}");
            assert_eq!(span.attribute("client.address"), "127.0.0.1", "{span:?}");
        }
        assert!(span.resource.contains_key("service.instance.id"), "{:?}", span.resource);
        assert!(span.resource.contains_key("process.pid"), "{:?}", span.resource);
        assert!(span.resource.contains_key("host.name"), "{:?}", span.resource);
    }
    assert!(chain[0].attribute("user_agent.original").starts_with("curl/"), "{:?}", chain[0]);
    for window in chain.windows(2) {
        // Each span lies within its parent: a millisecond for two views of one packet.
        let slack = 1_000_000;
        assert!(window[0].start <= window[1].start + slack, "{window:?}");
        assert!(window[1].end <= window[0].end + slack, "{window:?}");
    }
}

#[test]
fn five_thousand_requests_of_sixteen_clients_are_five_thousand_traces() {
    are_whole(&Case { flags: &[], headers: [1, 1], ..Case::default() });
}

#[test]
fn without_a_byte_written_five_thousand_requests_are_five_thousand_traces_on_one_host() {
    let counters = are_whole(&Case { flags: &["--propagate", "off"], ..Case::default() });
    let handed_over = counters.get("contexts_handed_over").copied().unwrap_or(0);
    assert!(is_control() || handed_over == 3 * 5000, "{counters:?}");
}

#[test]
fn over_tls_five_thousand_requests_are_five_thousand_traces_on_one_host() {
    if !probes() {
        return;
    }
    // What nginx received goes on to the next; that is as old as nginx's own server span.
    let case = Case { headers: [1, 0], is_tls: true, is_agent_late: true, ..Case::default() };
    let counters = are_whole(&case);
    let handed_over = counters.get("contexts_handed_over").copied().unwrap_or(0);
    assert!(is_control() || handed_over == 2 * 5000, "{counters:?}");
}

#[test]
fn services_that_start_after_the_agent_are_joined_over_tls() {
    if !probes() {
        return;
    }
    let flags = &["--propagate", "off", "--log-level", "debug"];
    are_whole(&Case { flags, is_tls: true, requests: 2000, ..Case::default() });
}

/// What is asked, of whom.
struct Case<'a> {
    /// The agent's flags.
    flags: &'a [&'a str],
    /// How many requests.
    requests: usize,
    /// With how many headers they come at the services behind the proxy.
    headers: [usize; 2],
    /// Whether it is TLS that is spoken behind the proxy.
    is_tls: bool,
    /// Whether the agent is started after the services.
    is_agent_late: bool,
}

impl Default for Case<'_> {
    fn default() -> Self {
        Self { flags: &[], requests: 5000, headers: [0, 0], is_tls: false, is_agent_late: false }
    }
}

/// Asks, by 16 clients. Each request must be one trace. Answers the agent's counters.
fn are_whole(case: &Case<'_>) -> Counters {
    let requests = case.requests;
    let mut world = World::alone();
    let wire = if case.is_tls { Wire::tls() } else { Wire::Plain };
    let without = {
        let stack = Stack::start(&world, &wire);
        stack.load(&world, requests)
    };
    let stack = if case.is_agent_late {
        let stack = Stack::start(&world, &wire);
        if !is_control() {
            world.start_agent(case.flags);
        }
        stack
    } else {
        if !is_control() {
            world.start_agent(case.flags);
        }
        let stack = Stack::start(&world, &wire);
        if case.is_tls
            && let Some(agent) = world.agent()
        {
            // nginx is two processes.
            agent.wait_probed(4);
        }
        stack
    };
    let with = stack.load(&world, requests);
    assert_eq!(with.digest, without.digest, "answers with the agent differ from those without");
    let services = [("middle", &stack.middle), ("leaf", &stack.leaf)];
    for ((name, service), headers) in services.into_iter().zip(case.headers) {
        let seen = service.headers_seen();
        assert_eq!(seen.len(), requests, "requests seen by {name}");
        let wanted = if is_control() { 0 } else { headers };
        let wrong: Vec<_> = seen.iter().filter(|(_, count)| *count != wanted).take(10).collect();
        assert!(wrong.is_empty(), "{name}: not {wanted} traceparent: {wrong:?}");
    }
    let Some(outcome) = world.stop_agent() else {
        return Counters::new();
    };
    let mut by_path: HashMap<&str, Vec<&Span>> = HashMap::new();
    for span in &outcome.spans {
        by_path.entry(span.path()).or_default().push(span);
    }
    let mut wrong = Vec::new();
    let mut traces = std::collections::HashSet::new();
    for number in 0..requests {
        let path = format!("/item/{number}");
        let spans = by_path.remove(path.as_str()).unwrap_or_default();
        match chain(&spans, "peer") {
            Ok(chain) => drop(traces.insert(&chain[0].trace_id)),
            Err(what) => wrong.push(format!("{path}: {what}")),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {requests} requests are not whole, the first: {:#?}\ncounters: {:?}",
        wrong.len(),
        &wrong[..wrong.len().min(10)],
        outcome.counters
    );
    assert_eq!(traces.len(), requests, "traces");
    assert!(by_path.is_empty(), "spans of no request: {:?}", by_path.keys());
    outcome.counters
}

#[test]
fn wrk_on_nginx_sees_no_error_and_no_span_is_lost_unsaid() {
    let mut world = World::alone();
    world.start_agent(&[]);
    let web = nginx(&world, None, "location / { return 200 \"hello\\n\"; }");
    let mut command = Command::new("wrk");
    command
        .args(["-c", "16", "-t", "2", "-d", "3s"])
        .arg(format!("http://127.0.0.1:{}/", web.port));
    let told = world.start(command).succeed();
    assert!(!told.contains("Socket errors") && !told.contains("Non-2xx"), "{told}");
    let requests: usize = told
        .lines()
        .find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok())
        .unwrap_or_else(|| panic!("wrk did not say how many requests: {told}"));
    let Some(agent) = world.take_agent() else {
        return;
    };
    let counters = agent.stop();
    let spans = world.sink.spans().len();
    let dropped: u64 =
        counters.iter().filter(|(name, _)| name.contains("drop")).map(|(_, count)| count).sum();
    // Each request has two spans here; wrk cuts off up to one a connection at its end.
    let accounted = spans as u64 + 2 * dropped;
    assert!(
        accounted >= 2 * requests as u64,
        "{requests} requests, {spans} spans, {dropped} said to be dropped: {counters:?}"
    );
}
