//! The bound on what reading costs: two steps a byte, whatever the bytes are.
//!
//! The fuzz targets hold the same of any bytes: no two steps in a row may take nothing
//! (`machine.rs`).

use crate::slow::{messages, steps};

#[test]
fn no_message_takes_more_than_two_steps_a_byte() {
    for slow in messages(64 * 1024) {
        let (steps, bytes) = steps(&slow);
        println!(
            "{:<10} {:<40} {:>6} bytes {:>6} steps {:>6.3} a byte",
            format!("{:?}", slow.kind),
            slow.name,
            bytes,
            steps,
            steps as f64 / bytes as f64
        );
        assert!(bytes > 0, "{}: nothing was read", slow.name);
        assert!(steps <= 2 * bytes + 1, "{}: {steps} steps for {bytes} bytes", slow.name);
    }
}

#[test]
fn twice_the_bytes_take_no_more_than_twice_the_steps() {
    for (short, long) in messages(16 * 1024).iter().zip(&messages(32 * 1024)) {
        let ((few, half), (many, whole)) = (steps(short), steps(long));
        // What is given up early takes the same few.
        let allowed = few * whole.div_ceil(half) + 64;
        assert!(many <= allowed, "{}: {few} steps became {many}", short.name);
    }
}
