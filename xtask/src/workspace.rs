//! Where things are: the checkout and what is built from it.

use std::path::{Path, PathBuf};

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Cargo's target directory: `CARGO_TARGET_DIR`, else `target` in the checkout.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => {
            let dir = PathBuf::from(dir);
            if dir.is_absolute() {
                dir
            } else {
                std::env::current_dir().unwrap_or_else(|_| root().to_path_buf()).join(dir)
            }
        }
        _ => root().join("target"),
    }
}

/// Where tools that only this project needs are installed: `bin` is below it.
pub(crate) fn tools_dir() -> PathBuf {
    target_dir().join("tools")
}

/// The eBPF object that the agent's build embeds.
pub(crate) fn ebpf_object() -> PathBuf {
    target_dir().join("ebpf-object").join("tracewire-ebpf")
}

/// The agent, as `cargo xtask build` leaves it.
pub(crate) fn agent_binary() -> PathBuf {
    target_dir().join("release").join("tracewire")
}
