//! Listening ports of a network namespace, from `/proc/PID/net/tcp{,6}` (proc_net_tcp.rst).

use std::collections::HashSet;

/// `TCP_LISTEN` (include/net/tcp_states.h), as printed.
const LISTEN: &str = "0A";

/// The local ports on which something listens in the process's network namespace.
pub(crate) fn listening_ports(pid: u32) -> HashSet<u16> {
    ["tcp", "tcp6"]
        .iter()
        .filter_map(|name| std::fs::read_to_string(format!("/proc/{pid}/net/{name}")).ok())
        .flat_map(|text| text.lines().skip(1).filter_map(listening_port).collect::<Vec<_>>())
        .collect()
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
}
