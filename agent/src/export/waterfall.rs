//! A trace as an indented waterfall.
//!
//! One line a span: who, what, how it ended, when it began after the trace did,
//! how long it took, and the same as a bar. Text from the wire is shown without
//! control characters, which a terminal might obey.

use crate::grpc::GrpcStatus;
use crate::span::{Span, SpanError, SpanKind};
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

/// Columns of the bar.
const BAR: u64 = 24;
/// Columns of what a span is called; longer ones push the rest to the right.
const MAX_TITLE: usize = 56;
/// The deepest indentation that is drawn.
const MAX_DEPTH: usize = 32;

const RESET: &str = "\x1b[0m";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
/// Colours of services, told apart by name.
const SERVICE_COLOURS: [&str; 5] = ["\x1b[36m", "\x1b[35m", "\x1b[34m", "\x1b[96m", "\x1b[95m"];

/// A span and its place in the tree.
struct Row<'a> {
    span: &'a Span,
    /// Lines of the tree, then the service's name begins.
    branch: String,
    title: String,
}

/// Draws a trace, with a blank line after it. Roots are spans without a parent
/// and spans whose parent is not among them, in the order of time.
pub(crate) fn render(spans: &[Span], colour: bool) -> String {
    let rows = rows(spans);
    let start = spans.iter().map(|span| span.start_unix_ns).min().unwrap_or(0);
    let end = spans.iter().map(|span| span.end_unix_ns).max().unwrap_or(0);
    let total = end.saturating_sub(start);
    let label = |row: &Row<'_>| width(&row.branch) + width(&row.span.resource.service_name);
    let label_width = rows.iter().map(label).max().unwrap_or(0);
    let title_width = rows.iter().map(|row| width(&row.title)).max().unwrap_or(0).min(MAX_TITLE);

    let paint = Paint { colour };
    let mut out = String::new();
    header(&mut out, &paint, spans, total);
    for row in &rows {
        let span = row.span;
        let service = printable(&span.resource.service_name);
        let pad = " ".repeat(label_width.saturating_sub(label(row)));
        let title_pad = " ".repeat(title_width.saturating_sub(width(&row.title)));
        let kind = match span.kind {
            SpanKind::Server => "server",
            SpanKind::Client => "client",
        };
        let offset = span.start_unix_ns.saturating_sub(start);
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "  {}{}{pad}  {}  {}{title_pad}  {}  {:>11}  {:>11}  {}",
            paint.with(DIM, &row.branch),
            paint.with(service_colour(&service), &service),
            paint.with(DIM, kind),
            row.title,
            paint.with(status_colour(span), &format!("{:<5}", status(span))),
            format!("+{}", duration(offset)),
            duration(span.duration_ns()),
            bar(offset, span.duration_ns(), total),
        );
    }
    out.push('\n');
    out
}

fn header(out: &mut String, paint: &Paint, spans: &[Span], total: u64) {
    let mut id = String::with_capacity(32);
    for byte in spans.first().map(|span| span.trace_id).unwrap_or_default() {
        // Writing to a string cannot fail.
        let _ = write!(id, "{byte:02x}");
    }
    let services: HashSet<_> = spans.iter().map(|span| &span.resource.service_name).collect();
    let errors = spans.iter().filter(|span| span.error().is_some()).count();
    let _ = write!(
        out,
        "{} {}  {}, {}, {}",
        paint.with(BOLD, "trace"),
        paint.with(BOLD, &id),
        plural(spans.len(), "span"),
        plural(services.len(), "service"),
        duration(total),
    );
    if errors != 0 {
        let _ = write!(out, ", {}", paint.with(RED, &plural(errors, "error")));
    }
    out.push('\n');
}

/// The spans in the order of drawing, each with its branch.
fn rows(spans: &[Span]) -> Vec<Row<'_>> {
    let known: HashSet<u64> = spans.iter().map(|span| span.span_id).collect();
    let mut children: HashMap<u64, Vec<&Span>> = HashMap::new();
    let mut roots = Vec::new();
    for span in spans {
        // A span that is its own parent would never be reached.
        if span.parent_span_id == span.span_id || !known.contains(&span.parent_span_id) {
            roots.push(span);
        } else {
            children.entry(span.parent_span_id).or_default().push(span);
        }
    }
    let in_time = |spans: &mut Vec<&Span>| {
        // Those that come last are drawn first: the stack turns them round.
        spans.sort_by_key(|span| std::cmp::Reverse((span.start_unix_ns, span.end_unix_ns)));
    };
    in_time(&mut roots);
    let mut stack: Vec<(&Span, String, String)> =
        roots.into_iter().map(|root| (root, String::new(), String::new())).collect();
    let mut rows = Vec::with_capacity(spans.len());
    // Ids come off the wire, so parents may form a circle: it has no root and is
    // never reached, and each span is drawn once.
    while let Some((span, branch, below)) = stack.pop() {
        if let Some(mut next) = children.remove(&span.span_id) {
            in_time(&mut next);
            let flat = below.chars().count() >= 2 * MAX_DEPTH;
            for (at, child) in next.into_iter().enumerate() {
                let (corner, line) = match (flat, at == 0) {
                    (true, _) => ("", ""),
                    (false, true) => ("└─", "  "),
                    (false, false) => ("├─", "│ "),
                };
                stack.push((child, format!("{below}{corner}"), format!("{below}{line}")));
            }
        }
        let branch = if branch.is_empty() { branch } else { format!("{branch} ") };
        rows.push(Row { span, branch, title: title(span) });
    }
    rows
}

/// The span's name and, for reading only, its path. The method of a call of gRPC is all of that.
fn title(span: &Span) -> String {
    let request = &span.request;
    let path = request.text_of(request.path);
    let (name, target) = match span.grpc {
        Some(_) => (span.name(), path.filter(|_| span.rpc_method().is_none())),
        None => (
            request.text_of(request.method_original).unwrap_or(span.name()),
            path.or_else(|| request.text_of(request.authority)),
        ),
    };
    let text = match target {
        Some(target) => format!("{name} {target}"),
        None => name.to_owned(),
    };
    let mut text = printable(&text);
    if width(&text) > MAX_TITLE {
        text = text.chars().take(MAX_TITLE - 1).collect();
        text.push('…');
    }
    text
}

fn status(span: &Span) -> String {
    if let Some(status) = span.grpc.and_then(|call| call.status) {
        return status.name().into_owned();
    }
    match (span.status, span.error()) {
        (0, Some(SpanError::Broken(end))) => {
            end.as_str().trim_start_matches("connection_").to_owned()
        }
        (0, _) => "-".to_owned(),
        (status, Some(SpanError::Broken(_))) => format!("{status}!"),
        (status, _) => status.to_string(),
    }
}

fn status_colour(span: &Span) -> &'static str {
    let is_refused = match span.grpc {
        Some(call) => call.status.is_some_and(|status| status != GrpcStatus::OK),
        None => span.status >= 400,
    };
    match (span.error(), is_refused) {
        (Some(_), _) => RED,
        (None, true) => YELLOW,
        (None, false) => GREEN,
    }
}

fn service_colour(name: &str) -> &'static str {
    let sum = name.bytes().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    SERVICE_COLOURS[sum % SERVICE_COLOURS.len()]
}

fn bar(offset: u64, length: u64, total: u64) -> String {
    let columns = |ns: u64| {
        u64::try_from(u128::from(ns) * u128::from(BAR) / u128::from(total.max(1))).unwrap_or(BAR)
    };
    let from = columns(offset).min(BAR - 1);
    // However short, a span can be seen.
    let until = columns(offset.saturating_add(length)).clamp(from + 1, BAR);
    let times = |n: u64, text: &str| text.repeat(n as usize);
    times(from, " ") + &times(until - from, "━")
}

/// A duration in a unit that fits it, with two decimals.
fn duration(ns: u64) -> String {
    match ns {
        0..1_000_000 => format!("{:.2} µs", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

struct Paint {
    colour: bool,
}

impl Paint {
    fn with(&self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() {
            format!("{code}{text}{RESET}")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
#[path = "waterfall_tests.rs"]
mod tests;
