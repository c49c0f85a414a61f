//! One server, some connections, and what was recorded at both ends.

use std::net::SocketAddr;

use tracewire_tests::script::Step;
use tracewire_tests::world::{World, serve};

/// A response that ends where its head says.
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What both ends of each connection received.
pub(crate) struct Recorded {
    /// By the server, connection by connection.
    pub(crate) requests: Vec<Vec<u8>>,
    /// By the client, connection by connection.
    pub(crate) responses: Vec<Vec<u8>>,
}

/// Runs one connection after the other, each with its client's and its server's steps.
pub(crate) fn run(world: &World, connections: Vec<(Vec<Step>, Vec<Step>)>) -> Recorded {
    let count = connections.len();
    let (clients, servers): (Vec<_>, Vec<_>) = connections.into_iter().unzip();
    let server = world.peer(|directory| serve(directory, servers));
    let address = server.address();
    let steps = clients.into_iter().enumerate();
    let steps = steps.flat_map(|(number, steps)| on_connection(number, address, steps)).collect();
    let responses = world.client(count, steps);
    let requests = (0..count).map(|number| server.received(number)).collect();
    Recorded { requests, responses }
}

/// As [`run`], with one connection. Gives what the server and what the client received.
pub(crate) fn run_one(world: &World, client: Vec<Step>, server: Vec<Step>) -> (Vec<u8>, Vec<u8>) {
    let Recorded { mut requests, mut responses } = run(world, vec![(client, server)]);
    (requests.remove(0), responses.remove(0))
}

/// The steps, between opening and closing a connection.
fn on_connection(
    number: usize,
    address: SocketAddr,
    steps: Vec<Step>,
) -> impl Iterator<Item = (usize, Step)> {
    let open = std::iter::once(Step::Connect(address));
    open.chain(steps).chain([Step::Close]).map(move |step| (number, step))
}
