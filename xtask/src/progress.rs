//! What xtask says while it works: to standard error, so that standard output is the result's.

/// One line about what is done and why.
pub(crate) fn say(line: impl AsRef<str>) {
    eprintln!("xtask: {}", line.as_ref());
}

/// A time span as a person reads it.
pub(crate) fn duration(span: std::time::Duration) -> String {
    let seconds = span.as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {:02} s", span.as_secs() / 60, span.as_secs() % 60)
    }
}
