//! One runtime's service, asked for all that it has, under one agent.

use std::time::Duration;

use tracewire_tests::world::World;

use crate::asking::Clients;
use crate::backend::Backend;
use crate::load::{Load, MIXED, PATTERNS, Pattern};
use crate::report::Row;
use crate::runtimes::Runtime;
use crate::truth::Spans;

/// How long what goes on behind an answer may take.
const AFTERMATH: Duration = Duration::from_millis(400);
/// Requests at once that warm the service up.
const WARMING_AT_ONCE: usize = 16;
/// Requests after these, one at a time and of all patterns: a quiet time, as services have it.
/// What an agent learns of a process then must not mislead it when the crowd comes back.
const QUIET: usize = 50;
/// More requests than a load has.
const STRIDE: usize = 1_000_000;
/// Numbers of requests that no measured load has.
const WARMING: usize = 1000 * STRIDE;
const OPENING: usize = 2000 * STRIDE;

/// What is measured of a runtime.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// Only these patterns, or all; `mixed` counts as one.
    pub(crate) columns: &'a [String],
    /// Requests at once, one after another.
    pub(crate) concurrency: &'a [usize],
    /// Requests of each load; a tenth of it where there is one at once.
    pub(crate) requests: usize,
    /// Requests that warm the service up; none, and no quiet time, if zero.
    pub(crate) warm_up: usize,
    /// Whether connections, the clients' and the service's, are older than the agent.
    pub(crate) older: bool,
    /// More flags for the agent.
    pub(crate) flags: &'a [String],
}

impl Plan<'_> {
    /// Measures.
    ///
    /// # Panics
    ///
    /// If a service or the agent does not start, or a request is not answered.
    pub(crate) fn run(&self, runtime: Runtime) -> Vec<Row> {
        let mut world = World::new();
        let backend = Backend::start();
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        if !self.older {
            world.start_agent(&flags);
        }
        let service = runtime.start(&world, backend);
        let patterns: Vec<&Pattern> =
            PATTERNS.iter().filter(|pattern| runtime.has(pattern)).collect();
        let most = self.concurrency.iter().copied().max().unwrap_or(1).max(WARMING_AT_ONCE);
        let mut clients = Clients::new(service.port(), most);
        if self.older {
            for (place, pattern) in patterns.iter().enumerate() {
                let first = OPENING + place * STRIDE;
                clients.ask(&Load::of(pattern, first..first + 2 * most), most);
            }
            std::thread::sleep(AFTERMATH);
            world.start_agent(&flags);
        }
        if self.warm_up > 0 {
            warm_up(&mut clients, &patterns, self.warm_up);
        }
        let loads = self.loads(runtime, &patterns);
        for (concurrency, load) in &loads {
            clients.ask(load, *concurrency);
            std::thread::sleep(AFTERMATH);
        }
        let spans = world.stop_agent().map_or_else(Vec::new, |outcome| outcome.spans);
        let spans = Spans::new(&spans);
        loads
            .iter()
            .map(|(concurrency, load)| {
                Row::new(runtime, load.name, *concurrency, self.older, spans.judge(load))
            })
            .collect()
    }

    /// What is asked, and how much of it at once.
    fn loads(&self, runtime: Runtime, patterns: &[&'static Pattern]) -> Vec<(usize, Load)> {
        let is_wanted = |name: &str| {
            self.columns.is_empty() || self.columns.iter().any(|column| column == name)
        };
        let mut loads = Vec::new();
        for &concurrency in self.concurrency {
            let requests = if concurrency == 1 { self.requests / 10 } else { self.requests };
            let numbers = |loads: &[_]| {
                let first = loads.len() * STRIDE;
                first..first + requests.clamp(1, STRIDE)
            };
            for &pattern in patterns.iter().filter(|pattern| is_wanted(pattern.name)) {
                loads.push((concurrency, Load::of(pattern, numbers(&loads))));
            }
            if runtime.has_column(MIXED) && is_wanted(MIXED) {
                loads.push((concurrency, Load::mixed(patterns.to_vec(), numbers(&loads))));
            }
        }
        loads
    }
}

/// Many requests of the first pattern at once, then a quiet time.
fn warm_up(clients: &mut Clients, patterns: &[&'static Pattern], requests: usize) {
    let Some(first) = patterns.first() else { return };
    let numbers = WARMING..WARMING + requests;
    clients.ask(&Load::of(first, numbers.clone()), WARMING_AT_ONCE);
    std::thread::sleep(AFTERMATH);
    clients.ask(&Load::mixed(patterns.to_vec(), numbers.end..numbers.end + QUIET), 1);
    std::thread::sleep(AFTERMATH);
}
