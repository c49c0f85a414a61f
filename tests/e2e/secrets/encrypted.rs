//! The same exchanges over TLS: what is read in the library stays where it was, too.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tracewire_tests::services::{Wire, free_port, interpreter, start};
use tracewire_tests::world::World;

use crate::traffic::Exchange;

/// How long the client may take.
const LIMIT: Duration = Duration::from_secs(60);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Has a client and a server in Python, whose library is OpenSSL, make the exchanges, each on a connection of
/// its own, once both libraries are probed.
///
/// # Panics
///
/// If something else came than was sent: nothing is ever written into what is encrypted.
pub(crate) fn run(world: &mut World, exchanges: &[Exchange], furnish: impl Fn(&mut Command)) {
    let file = world.scratch().join("exchanges.json");
    let told = exchanges.iter().map(|exchange| {
        let pieces: Vec<String> = exchange.request.iter().map(|piece| hex(piece)).collect();
        json!({
            "request": pieces,
            "response": hex(&exchange.response),
            "afterwards": hex(&exchange.afterwards),
        })
    });
    let told: Vec<Value> = told.collect();
    std::fs::write(&file, Value::from(told).to_string())
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let command = |record: &Path| {
        let mut command = interpreter("tls/exchanges.py");
        Wire::tls().tell(&mut command);
        command.env("EXCHANGES", &file).env("RECORD", record);
        furnish(&mut command);
        command
    };
    let (requests, answers) = (world.scratch(), world.scratch());
    let port = free_port();
    let server = start(world, command(&requests), port, world.scratch().join("seen"));
    let mut command = command(&answers);
    command.env("PORT", port.to_string()).env("ASK", "1");
    let mut client = world.start(command);
    client.wait_line_for("ready", LIMIT);
    if let Some(agent) = world.agent() {
        agent.wait_probed(2);
    }
    client.tell("");
    client.wait_line_for("asked", LIMIT);
    drop(client);
    server.wait_line_for("served", LIMIT);
    for (number, exchange) in exchanges.iter().enumerate() {
        let received = |directory: &Path| {
            let path = directory.join(number.to_string());
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let sent = [exchange.request.concat(), exchange.afterwards.clone()].concat();
        assert!(received(&requests) == sent, "{}: the request", exchange.name);
        assert!(received(&answers) == exchange.response, "{}: the answer", exchange.name);
    }
}
