//! Network namespaces of a test's own, joined by a pair of virtual interfaces.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cleanup::{self, Made};

/// A named network namespace; removed when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
    handle: Arc<File>,
    address: IpAddr,
}

impl Netns {
    /// Makes two namespaces that reach each other, and nothing else.
    ///
    /// # Panics
    ///
    /// If `ip` (iproute2) is missing or refuses.
    pub fn pair() -> (Self, Self) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Interface names are at most 15 bytes long; pids are below 2^22.
        let stem = format!("tw{}-{number}", std::process::id());
        let (left, right) = (format!("{stem}a"), format!("{stem}b"));
        let left = Self::make(left, Ipv4Addr::new(198, 18, 0, 1));
        let right = Self::make(right, Ipv4Addr::new(198, 18, 0, 2));
        ip(
            &["link", "add", &left.name, "netns", &left.name, "type", "veth"],
            &["peer", "name", &right.name, "netns", &right.name],
        );
        for end in [&left, &right] {
            let address = format!("{}/30", end.address);
            ip(&["-n", &end.name, "addr", "add", &address, "dev", &end.name], &[]);
            ip(&["-n", &end.name, "link", "set", &end.name, "up"], &[]);
            ip(&["-n", &end.name, "link", "set", "lo", "up"], &[]);
        }
        (left, right)
    }

    fn make(name: String, address: Ipv4Addr) -> Self {
        ip(&["netns", "add", &name], &[]);
        cleanup::list(Made::Netns(name.clone()));
        let path = format!("/run/netns/{name}");
        let handle =
            File::open(&path).unwrap_or_else(|error| panic!("cannot open {path}: {error}"));
        Self { name, handle: Arc::new(handle), address: IpAddr::V4(address) }
    }

    /// The address of this end of the pair.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Makes `command` start inside this namespace.
    pub fn place(&self, command: &mut Command) {
        let handle = Arc::clone(&self.handle);
        // SAFETY: `setns` is a plain system call on an open file; the closure
        // allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(move || {
                // SAFETY: the descriptor is open for as long as the closure lives.
                if libc::setns(handle.as_raw_fd(), libc::CLONE_NEWNET) == 0 {
                    Ok(())
                } else {
                    Err(std::io::Error::last_os_error())
                }
            });
        }
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove(&self.name);
        cleanup::unlist(&Made::Netns(self.name.clone()));
    }
}

fn ip(first: &[&str], more: &[&str]) {
    let output = Command::new("ip")
        .args(first)
        .args(more)
        .output()
        .unwrap_or_else(|error| panic!("cannot run ip (Debian: iproute2): {error}"));
    assert!(
        output.status.success(),
        "ip {} {}: {}",
        first.join(" "),
        more.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Removes one of our namespaces; its interface and the other end go with it.
pub(crate) fn remove(name: &str) {
    match Command::new("ip").args(["netns", "del", name]).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => eprint!("ip netns del {name}: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => eprintln!("cannot run ip netns del {name}: {error}"),
    }
}
