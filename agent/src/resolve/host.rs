//! What is true of every process on this host.

use super::resource::ResourceValue;
use std::borrow::Cow;
use std::fs;
use std::sync::Arc;

/// The host's own attributes.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// Attributes of every resource.
    pub(crate) attributes: Arc<[(Cow<'static, str>, ResourceValue)]>,
    /// Differs from one boot to the next; part of `service.instance.id`.
    pub(crate) boot_id: Box<str>,
}

impl Host {
    /// Reads the host's name, ids and architecture. What cannot be read is left out.
    pub(crate) fn detect() -> Self {
        let mut attributes = Vec::new();
        let mut push = |key: &'static str, value: &str| {
            attributes.push((Cow::Borrowed(key), ResourceValue::Text(value.into())));
        };
        if let Some(name) = read_line("/proc/sys/kernel/hostname") {
            push("host.name", &name);
        }
        // The conventions name these two files for `host.id` on Linux.
        if let Some(id) =
            read_line("/etc/machine-id").or_else(|| read_line("/var/lib/dbus/machine-id"))
        {
            push("host.id", &id);
        }
        push("host.arch", architecture());
        push("os.type", "linux");
        push("telemetry.distro.name", "tracewire");
        push("telemetry.distro.version", env!("CARGO_PKG_VERSION"));
        Self {
            attributes: attributes.into(),
            boot_id: read_line("/proc/sys/kernel/random/boot_id").unwrap_or_default().into(),
        }
    }
}

/// The conventions' name of the architecture that this agent was built for.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "arm" => "arm32",
        "powerpc64" => "ppc64",
        other => other,
    }
}

fn read_line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_has_a_name_and_an_architecture() {
        let host = Host::detect();
        for key in ["host.name", "host.arch", "os.type"] {
            assert!(host.attributes.iter().any(|(k, _)| k == key), "{key} is missing");
        }
    }
}
