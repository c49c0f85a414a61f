//! Listening ports of a network namespace, from `/proc/PID/net/tcp{,6}` (proc_net_tcp.rst).

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};

/// `TCP_LISTEN` (include/net/tcp_states.h), as printed.
const LISTEN: &str = "0A";

/// The local ports on which something listens in the process's network namespace.
pub(crate) fn listening_ports(pid: u32) -> HashSet<u16> {
    ["tcp", "tcp6"]
        .iter()
        .filter_map(|name| File::open(format!("/proc/{pid}/net/{name}")).ok())
        .flat_map(|file| ports_of(BufReader::new(file)))
        .collect()
}

/// Reads no further than it must: who listens comes first (`tcp_seq_start`,
/// net/ipv4/tcp_ipv4.c), and what follows can be a hundred thousand connections that wait
/// for their end.
fn ports_of(table: impl BufRead) -> Vec<u16> {
    table.lines().skip(1).map_while(|line| listening_port(&line.ok()?)).collect()
}

/// `  sl  local_address rem_address   st …`, addresses as `HEX:PORT`.
pub(crate) fn listening_port(line: &str) -> Option<u16> {
    let mut fields = line.split_whitespace().skip(1);
    let local = fields.next()?;
    let state = fields.nth(1)?;
    let port = local.rsplit(':').next()?;
    (state == LISTEN).then(|| u16::from_str_radix(port, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listening_sockets_give_ports() {
        let listening = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000";
        let connected = "   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000";
        assert_eq!(listening_port(listening), Some(8080));
        assert_eq!(listening_port(connected), None);
        assert_eq!(listening_port("garbage"), None);
    }

    #[test]
    fn connections_are_not_read() {
        struct Table(usize);
        impl std::io::Read for Table {
            fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
                const ROWS: [&str; 3] = [
                    "  sl  local_address rem_address   st\n",
                    "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n",
                    "   1: 0100007F:1F90 0100007F:C350 06 00000000:00000000\n",
                ];
                let row = ROWS.get(self.0).expect("nothing is read past the first connection");
                self.0 += 1;
                into[..row.len()].copy_from_slice(row.as_bytes());
                Ok(row.len())
            }
        }
        assert_eq!(ports_of(BufReader::new(Table(0))), [8080]);
    }
}
