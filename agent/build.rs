//! Finds the eBPF object that `cargo xtask build` made.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=TRACEWIRE_EBPF_OBJECT");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let object = std::env::var_os("TRACEWIRE_EBPF_OBJECT")
        .map_or_else(|| workspace.join("target/ebpf-object/tracewire-ebpf"), PathBuf::from);
    println!("cargo:rerun-if-changed={}", object.display());
    assert!(
        object.is_file(),
        "there is no eBPF object at {}: run `cargo xtask build`, which makes it",
        object.display()
    );
    println!("cargo:rustc-env=TRACEWIRE_EBPF_OBJECT={}", object.display());
}
