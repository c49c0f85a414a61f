//! The kernels of the matrix: where their packages are, and what their versions are known
//! to have.

use std::fmt;

/// A series of kernels, by the name that `--kernel` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Series {
    /// Debian 11
    #[value(name = "5.10")]
    V5_10,
    /// Debian 12
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13, as Debian 12 has it too
    #[value(name = "6.12")]
    V6_12,
    /// Debian's development
    #[value(name = "7.2")]
    V7_2,
}

/// Which of Debian's two archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Archive {
    /// The archive proper.
    Main,
    /// Security updates, where kernels appear first.
    Security,
}

impl Series {
    /// All, oldest first.
    pub(crate) const ALL: [Self; 4] = [Self::V5_10, Self::V6_1, Self::V6_12, Self::V7_2];

    /// Major and minor version.
    pub(crate) fn version(self) -> (u32, u32) {
        match self {
            Self::V5_10 => (5, 10),
            Self::V6_1 => (6, 1),
            Self::V6_12 => (6, 12),
            Self::V7_2 => (7, 2),
        }
    }

    /// The suites that carry it.
    pub(crate) fn suites(self) -> &'static [(Archive, &'static str)] {
        match self {
            Self::V5_10 => &[(Archive::Main, "bullseye"), (Archive::Security, "bullseye-security")],
            Self::V6_1 | Self::V6_12 => {
                &[(Archive::Main, "bookworm"), (Archive::Security, "bookworm-security")]
            }
            Self::V7_2 => &[(Archive::Main, "sid")],
        }
    }

    /// The packages whose newest versions make up the kernel: regular expressions for
    /// `apt-cache search`. The first is the image.
    pub(crate) fn packages(self) -> &'static [&'static str] {
        match self {
            Self::V5_10 => &[r"^linux-image-5\.10\.0-[0-9]+-cloud-amd64$"],
            Self::V6_1 => &[r"^linux-image-6\.1\.0-[0-9]+-cloud-amd64$"],
            Self::V6_12 => &[r"^linux-image-6\.12\.[0-9.]+\+deb12(\.[0-9]+)?-cloud-amd64$"],
            Self::V7_2 => &[
                r"^linux-binary-7\.2\.[0-9.]+\+deb[0-9.]+-cloud-amd64$",
                r"^linux-modules-7\.2\.[0-9.]+\+deb[0-9.]+-cloud-amd64$",
            ],
        }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.version();
        write!(f, "{major}.{minor}")
    }
}

/// A feature that the agent is to use where the kernel has it.
#[derive(Debug)]
pub(crate) struct Feature {
    /// As `vm-probe` names it.
    pub(crate) name: &'static str,
    /// The first version with it (bpf-helpers(7), the kernel's history).
    pub(crate) since: (u32, u32),
    /// The lines of `tracewire check` that claim it, or what it is for.
    pub(crate) claims: &'static [&'static str],
    /// Whether a running agent's descriptors show that it is used.
    pub(crate) visible: bool,
    /// Newer features that make this one needless.
    pub(crate) superseded_by: Option<&'static str>,
    /// A feature without which this one is of no use.
    pub(crate) needs: Option<&'static str>,
}

/// The oldest kernel that the agent runs on. Of older ones it says so, and attaches nothing.
pub(crate) const OLDEST: (u32, u32) = (5, 17);

/// What is expected of the kernels.
pub(crate) const FEATURES: &[Feature] = &[
    Feature {
        name: "socket-hash",
        since: (4, 18),
        claims: &["rewrite_request"],
        visible: true,
        superseded_by: None,
        needs: None,
    },
    Feature {
        name: "socket-storage",
        since: (5, 2),
        claims: &["socket storage"],
        visible: true,
        superseded_by: None,
        needs: None,
    },
    Feature {
        name: "ring-buffer",
        since: (5, 8),
        claims: &["ring buffer"],
        visible: true,
        superseded_by: None,
        needs: None,
    },
    Feature {
        name: "socket-storage-in-tracing",
        since: (5, 11),
        claims: &[],
        visible: false,
        superseded_by: None,
        needs: None,
    },
    Feature {
        name: "bpf-loop",
        since: (5, 17),
        claims: &["bpf_loop"],
        visible: false,
        superseded_by: None,
        needs: None,
    },
    Feature {
        name: "sock_recv_length",
        since: (6, 3),
        claims: &["associate_receiver"],
        visible: true,
        superseded_by: None,
        needs: Some("socket-storage-in-tracing"),
    },
    Feature {
        name: "tcp_rcv_space_adjust",
        since: (4, 15),
        claims: &["associate_receiver_adjust"],
        visible: true,
        superseded_by: Some("sock_recv_length"),
        needs: Some("socket-storage-in-tracing"),
    },
    Feature {
        name: "uprobe-multi",
        since: (6, 6),
        // Those of Python, Node, Ruby and tokio need 6.10. No kernel here is between the two.
        claims: &[
            "probes of TLS libraries",
            "probes of Go",
            "probes of Python",
            "probes of Node",
            "probes of Ruby",
            "probes of tokio",
        ],
        visible: false,
        superseded_by: None,
        needs: None,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_that_another_refers_to_is_there() {
        let exists = |name: &str| FEATURES.iter().any(|feature| feature.name == name);
        for feature in FEATURES {
            for other in [feature.superseded_by, feature.needs].into_iter().flatten() {
                assert!(exists(other), "{} refers to {other}", feature.name);
            }
        }
    }
}
