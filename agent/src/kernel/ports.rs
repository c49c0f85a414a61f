//! The rules on ports: told to the kernel half, and applied to connections older than the agent.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::HashMap;
use tracewire_common::config::{PORT_EXCLUDED, PORT_INCLUDED};

use super::settings::KernelSettings;

/// Which service ports are looked at.
#[derive(Debug)]
pub(super) struct PortRules {
    include: Vec<u16>,
    exclude: Vec<u16>,
}

impl PortRules {
    /// The rules of the settings.
    pub(super) fn new(settings: &KernelSettings) -> Self {
        Self { include: settings.include_ports.clone(), exclude: settings.exclude_ports.clone() }
    }

    /// Whether connections with this service port are left alone. An exclusion wins over
    /// an inclusion, as in the kernel half.
    pub(super) fn leave_alone(&self, port: u16) -> bool {
        self.exclude.contains(&port) || !(self.include.is_empty() || self.include.contains(&port))
    }
}

/// Tells the kernel half, before the programs are attached.
pub(super) fn tell(ebpf: &mut Ebpf, settings: &KernelSettings) -> Result<()> {
    let mut ports: HashMap<_, u16, u8> =
        HashMap::try_from(ebpf.map_mut("PORTS").context("the object has no map PORTS")?)?;
    let rules = (settings.include_ports.iter().map(|&p| (p, PORT_INCLUDED)))
        // An exclusion wins over an inclusion of the same port.
        .chain(settings.exclude_ports.iter().map(|&p| (p, PORT_EXCLUDED)));
    for (port, rule) in rules {
        ports
            .insert(port, rule, 0)
            .with_context(|| format!("cannot set the rule for port {port}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(include: &[u16], exclude: &[u16]) -> PortRules {
        PortRules { include: include.to_vec(), exclude: exclude.to_vec() }
    }

    #[test]
    fn only_listed_ports_are_looked_at_and_an_exclusion_wins() {
        assert!(!rules(&[], &[]).leave_alone(80));
        assert!(rules(&[], &[80]).leave_alone(80));
        assert!(rules(&[8080], &[]).leave_alone(80));
        assert!(rules(&[80], &[80]).leave_alone(80));
    }
}
