//! Replays the corpora of the fuzz targets.

use crate::bodies::TARGETS;
use std::path::Path;

#[test]
fn the_corpora_of_the_fuzz_targets_pass() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
    for (target, body) in TARGETS {
        let dir = root.join(target);
        let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let mut inputs = 0;
        for entry in entries {
            let path = entry.expect("an entry of a directory of this repository").path();
            let data = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            println!("{}", path.display());
            body(&data);
            inputs += 1;
        }
        assert!(inputs > 0, "{} holds no inputs", dir.display());
    }
}
