//! Exchanges as they begin: a request's head, and where it stands in its trace.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use tracewire_common::config::{HEAD_CAPTURE, PIPELINE_DEPTH};
use tracewire_common::connection::{
    ACTIVITY_OWN_TRACING, CONN_DISTRUSTED, CONN_TLS, Connection, EXCHANGE_CONNECT, EXCHANGE_HEAD,
    EXCHANGE_OWN_TRACING, EXCHANGE_REQUEST_DONE, EXCHANGE_SAMPLED, Exchange, UNKNOWN_UNCOUNTED,
};
use tracewire_common::context::{FLAG_SAMPLED, TraceContext, is_sampled_at};
use tracewire_common::counter::Counter;
use tracewire_common::outcome::{Correlation, Outcome};
use tracewire_common::parse::http1::{
    Body, Event, FACT_CONNECT, FACT_HEAD, FACT_TRACEPARENT, FACT_TRACEPARENT_REPEATED, FACT_UPGRADE,
};
use tracewire_common::records::{ExchangeOpened, KIND_EXCHANGE_OPENED, OPENED_TLS};
use tracewire_common::stream::{Stream, TRUSTED};

use crate::activities;
use crate::emit;
use crate::scratch::{Scratch, forgotten};
use crate::socket::drive::Drive;
use crate::socket::handover;
use crate::state::{self, count, count_outcome, rule_is_on};
use crate::task::candidates::tell_candidates;
use crate::task::shown;
use crate::task::work::{self, Work};
use crate::tcp_option;

/// A request's place in its trace.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Origin {
    pub(crate) context: TraceContext,
    pub(crate) parent: u64,
    pub(crate) activity: u64,
    /// [`Correlation`]: the rule that found the parent. A number, since the verifier would
    /// follow all that comes after it once for each of its values.
    pub(crate) correlation: u8,
}

impl Origin {
    /// The same, of which the verifier no longer knows by which way it was found.
    ///
    /// # Safety
    ///
    /// As for [`forgotten`].
    #[inline(always)]
    unsafe fn forgotten(self, scratch: *mut Scratch) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let flags = forgotten(scratch, self.context.flags as u64) as u8;
            Self {
                context: TraceContext { flags, ..self.context },
                parent: forgotten(scratch, self.parent),
                activity: forgotten(scratch, self.activity),
                correlation: forgotten(scratch, self.correlation as u64) as u8,
            }
        }
    }
}

/// Random ids, all of one drawing: a call of the helper costs more than any mixing.
#[derive(Clone, Copy)]
pub(crate) struct Ids {
    drawn: u64,
    now: u64,
}

impl Ids {
    /// Draws. `now` in ns of `CLOCK_MONOTONIC`.
    #[inline(always)]
    pub(crate) fn draw(now: u64) -> Self {
        // SAFETY: no arguments.
        let (hi, lo) = unsafe { (bpf_get_prandom_u32(), bpf_get_prandom_u32()) };
        Self { drawn: ((hi as u64) << 32) | lo as u64, now }
    }

    /// The id of a span, or another of the same drawing; never zero (W3C §3.2.2.4).
    #[inline(always)]
    pub(crate) fn span(&self, attempt: u64) -> u64 {
        let id = mixed(self.drawn.wrapping_add((attempt + 1).wrapping_mul(GOLDEN)));
        if id == 0 { 1 } else { id }
    }

    /// The lower half of a trace id.
    #[inline(always)]
    fn trace_lo(&self) -> u64 {
        mixed(self.drawn)
    }

    /// The upper half: two hosts that draw the same number do so at different times of
    /// their clocks.
    #[inline(always)]
    fn trace_hi(&self) -> u64 {
        let id = mixed(mixed(self.now) ^ self.drawn.rotate_left(32));
        if id == 0 { 1 } else { id }
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of SplitMix64 (Steele, Lea, Flood 2014): one to one, and each bit of
/// the input changes half of the bits.
#[inline(always)]
fn mixed(number: u64) -> u64 {
    let z = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The context of a new trace, sampled by the ratio in force.
#[inline(always)]
pub(crate) fn new_trace(ids: &Ids) -> TraceContext {
    let trace_id_lo = ids.trace_lo();
    let threshold = match state::config() {
        Some(config) => config.sampling_threshold,
        None => 0,
    };
    TraceContext {
        trace_id_hi: ids.trace_hi(),
        trace_id_lo,
        span_id: ids.span(0),
        flags: if is_sampled_at(trace_id_lo, threshold) { FLAG_SAMPLED } else { 0 },
        pad: [0; 7],
    }
}

/// The one valid context in the head that was just read.
#[inline(always)]
fn context_in_head(stream: &Stream) -> Option<TraceContext> {
    let facts = stream.http1.facts();
    if facts & (FACT_TRACEPARENT | FACT_TRACEPARENT_REPEATED) != FACT_TRACEPARENT {
        return None;
    }
    stream.http1.traceparent().finish()
}

/// Whether there is no place for one more request in flight.
#[inline(always)]
pub(crate) fn is_full(connection: &Connection) -> bool {
    let in_flight = connection.opened.wrapping_sub(connection.answered);
    connection.overflow > 0 || in_flight >= PIPELINE_DEPTH as u32
}

/// One more request in flight that is not followed.
#[inline(always)]
pub(crate) fn refuse(connection: &mut Connection) {
    connection.overflow = connection.overflow.wrapping_add(1);
    count(Counter::DropPipelineFull);
}

/// Takes a place for the request whose head was just read.
#[inline(always)]
fn take_place(connection: &mut Connection) -> Option<&mut Exchange> {
    if is_full(connection) {
        refuse(connection);
        return None;
    }
    if connection.opened == connection.answered {
        connection.base = connection.opened;
    }
    let place = connection.place_of(connection.opened);
    connection.exchanges.get_mut(place)
}

/// The parent id that the application is shown, which is not that of its span's parent where a context came
/// beside the header; 0 for none.
#[inline(always)]
pub(crate) fn shown(in_head: Option<TraceContext>) -> u64 {
    match in_head {
        Some(context) => context.span_id,
        None => 0,
    }
}

/// A server received a request: its span starts, and an activity begins.
#[inline(always)]
pub(crate) fn open_server(drive: &mut Drive, stream: &mut Stream) {
    // SAFETY: live while the program runs.
    let connection = unsafe { &mut *drive.connection };
    let facts = stream.http1.facts();
    let ids = Ids::draw(drive.now);
    let in_head = context_in_head(stream);
    let handed = handover::room(drive);
    // SAFETY: live state, and the claimed buffer.
    let is_local =
        unsafe { handover::take(drive.connection, handed, handover::head_start(drive, stream), 0) };
    let (mut context, parent, correlation) = if is_local != 0 {
        // Before a header: where the client's end leaves a context, one in the head is older.
        // SAFETY: the claimed buffer, which `take` has written to; live state.
        let context = unsafe {
            let context = handed.read();
            tcp_option::discard(drive.connection, handed, handover::head_start(drive, stream));
            context
        };
        (context, context.span_id, Correlation::Local as u8)
    } else {
        let start = handover::head_start(drive, stream);
        // SAFETY: live state, and the claimed buffer.
        match unsafe { tcp_option::received(drive.connection, in_head, handed, start) } {
            (Some(received), rule) => (received, received.span_id, rule),
            (None, _) => (new_trace(&ids), 0, Correlation::None as u8),
        }
    };
    if is_full(connection) {
        refuse(connection);
        return;
    }
    context.span_id = activities::begin_activity(&ids, &context, shown(in_head));
    let Some(exchange) = take_place(connection) else { return };
    *exchange = Exchange {
        span_id: context.span_id,
        activity: 0,
        response_ns: 0,
        request_bytes: 0,
        flags: exchange_flags(facts, &context),
        request_id: 0,
        pad: [0; 2],
    };
    let origin = Origin { context, parent, activity: 0, correlation };
    opened(drive, stream, &origin, Outcome::NotApplicable as u8);
}

/// The request that came with the context that this one carries, if that is certain.
#[inline(always)]
fn origin_by_header(drive: &Drive, stream: &Stream, ids: &Ids) -> Option<Origin> {
    let sent = context_in_head(stream)?;
    // SAFETY: live state, and the claimed buffer, whose record is not written yet.
    unsafe {
        let room = handover::room(drive);
        room.write(sent);
        origin_in(shown_by(drive.connection, room), Correlation::PassedOn as u8, ids)
    }
}

/// The activity whose request came to the process with the context; 0 if that is not known.
///
/// # Safety
///
/// As for [`shown::shown_with`].
#[inline(always)]
pub(crate) unsafe fn shown_by(connection: *const Connection, sent: *const TraceContext) -> u64 {
    if !rule_is_on(Correlation::PassedOn) {
        return 0;
    }
    // SAFETY: the caller's promise.
    unsafe { shown::shown_with(connection, sent) }
}

/// Which activity sends this request, and so where it stands in its trace.
#[inline(always)]
fn origin_of_request(drive: &Drive, stream: &Stream) -> Origin {
    let ids = Ids::draw(drive.now);
    if let Some(origin) = origin_by_header(drive, stream, &ids) {
        return origin;
    }
    // SAFETY: live while the program runs.
    let connection = unsafe { &*drive.connection };
    let is_first = connection.opened == 0 && connection.overflow == 0;
    // Rule 3: the first request on a connection belongs to the activity that opened it.
    if is_first
        && rule_is_on(Correlation::Connect)
        && let Some(origin) = origin_in(connection.awaited_for, Correlation::Connect as u8, &ids)
    {
        return origin;
    }
    // Rules 1, 2 and 4 left the activity with the task.
    // In the room of the record, which is not written yet: the stack is short of it.
    // SAFETY: the claimed buffer, and live state.
    let (activity, rule) = unsafe {
        let found: *mut Work = (&raw mut (*drive.scratch).record).cast();
        if is_first && connection.awaited_for >= UNKNOWN_UNCOUNTED {
            // It was not known when the connection was opened, and is no better known now.
            found.write(Work::AMBIGUOUS);
        } else {
            work::work_of(drive.connection, drive.task, found);
        }
        let found = found.read();
        (found.activity, found.rule as u8)
    };
    if let Some(origin) = origin_in(activity, rule, &ids) {
        return origin;
    }
    let is_ambiguous = rule == Correlation::Ambiguous as u8;
    let correlation = if is_ambiguous { rule } else { Correlation::None as u8 };
    Origin { context: new_trace(&ids), parent: 0, activity: 0, correlation }
}

#[inline(always)]
pub(crate) fn origin_in(id: u64, correlation: u8, ids: &Ids) -> Option<Origin> {
    let activity = activities::activity(id)?;
    let context = TraceContext {
        trace_id_hi: activity.trace_id_hi,
        trace_id_lo: activity.trace_id_lo,
        span_id: ids.span(0),
        flags: activity.flags,
        pad: [0; 7],
    };
    Some(Origin { context, parent: id, activity: id, correlation })
}

/// What an application's own header means for a request that a client sends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnHeader {
    /// There is none.
    None,
    /// The header that the process received, passed on as it was.
    PassedOn,
    /// A valid header of the application's own tracing.
    Own,
    /// Something that is no valid context: left alone.
    Invalid,
}

/// Which activity sends the request whose head was just read, and what its own header means for that.
#[inline(always)]
pub(crate) fn origin_and_own_header(drive: &Drive, stream: &Stream) -> (Origin, OwnHeader) {
    let origin = origin_of_request(drive, stream);
    let own = own_header(stream, &origin);
    // SAFETY: the claimed buffer, whose record is written when the exchange is opened.
    unsafe {
        let own = match forgotten(drive.scratch, own as u64) {
            0 => OwnHeader::None,
            1 => OwnHeader::PassedOn,
            2 => OwnHeader::Own,
            _ => OwnHeader::Invalid,
        };
        (origin.forgotten(drive.scratch), own)
    }
}

/// Compares the header in the head, if any, with the one that the activity received.
#[inline(always)]
fn own_header(stream: &Stream, origin: &Origin) -> OwnHeader {
    if stream.http1.facts() & FACT_TRACEPARENT == 0 {
        return OwnHeader::None;
    }
    let Some(sent) = context_in_head(stream) else { return OwnHeader::Invalid };
    compare_contexts(&sent, origin)
}

/// Compares the context that an application sends with the one that its activity received.
#[inline(always)]
pub(crate) fn compare_contexts(sent: &TraceContext, origin: &Origin) -> OwnHeader {
    let Some(activity) = activities::activity(origin.activity) else { return OwnHeader::Own };
    let same_trace =
        sent.trace_id_hi == activity.trace_id_hi && sent.trace_id_lo == activity.trace_id_lo;
    if same_trace && sent.span_id == activity.shown_parent {
        return OwnHeader::PassedOn;
    }
    if same_trace {
        // The application went on with the trace by a span of its own: it has a server
        // span as well, and ours would stand beside it.
        activities::mark(origin.activity, ACTIVITY_OWN_TRACING);
    }
    OwnHeader::Own
}

/// A client sent a request: its span starts.
#[inline(always)]
pub(crate) fn open_client(
    drive: &mut Drive,
    stream: &mut Stream,
    origin: &Origin,
    outcome: u8,
    own: OwnHeader,
) {
    // SAFETY: live while the program runs.
    let connection = unsafe { &mut *drive.connection };
    let facts = stream.http1.facts();
    let own_tracing = own == OwnHeader::Own;
    let Some(exchange) = take_place(connection) else { return };
    let mut flags = exchange_flags(facts, &origin.context);
    if own_tracing {
        flags |= EXCHANGE_OWN_TRACING;
    }
    *exchange = Exchange {
        span_id: origin.context.span_id,
        activity: origin.activity,
        response_ns: 0,
        request_bytes: 0,
        flags,
        request_id: 0,
        pad: [0; 2],
    };
    // SAFETY: live state.
    unsafe {
        let (activity, rule) = (origin.activity, origin.correlation as u32);
        work::await_on(drive.connection, activity, rule, drive.task as u32);
    }
    if own_tracing {
        count(Counter::ExchangesOwnContext);
        connection.opened = connection.opened.wrapping_add(1);
        return;
    }
    let is_written = outcome == Outcome::Injected as u8 || outcome == Outcome::Rewritten as u8;
    if !is_written && own != OwnHeader::Invalid {
        let (left, start) = (handover::room(drive), handover::head_start(drive, stream));
        // SAFETY: live state, and the claimed buffer.
        unsafe {
            left.write(origin.context);
            handover::leave(drive.connection, left, start, 0, drive.now);
        }
    }
    opened(drive, stream, origin, outcome);
}

#[inline(always)]
fn exchange_flags(facts: u16, context: &TraceContext) -> u16 {
    let mut flags = 0;
    if context.is_sampled() {
        flags |= EXCHANGE_SAMPLED;
    }
    if facts & FACT_HEAD != 0 {
        flags |= EXCHANGE_HEAD;
    }
    if facts & FACT_CONNECT != 0 {
        flags |= EXCHANGE_CONNECT;
    }
    flags
}

/// Records that the exchange whose place was just taken has begun.
#[inline(always)]
fn opened(drive: &mut Drive, stream: &mut Stream, origin: &Origin, outcome: u8) {
    // SAFETY: live while the program runs.
    let connection = unsafe { &mut *drive.connection };
    let sequence = connection.opened;
    connection.opened = sequence.wrapping_add(1);
    if outcome != Outcome::NotApplicable as u8 {
        count_outcome(outcome);
    }
    if !origin.context.is_sampled() {
        count(Counter::ExchangesUnsampled);
        return;
    }
    count(Counter::ExchangesOpened);
    let head_len = stream.http1.head_len();
    // What the window holds of the head: its last piece, or all of it.
    let held = drive.at.wrapping_sub(drive.window_start);
    let head_offset = head_len.wrapping_sub(held);
    let wanted = head_offset < HEAD_CAPTURE && held <= head_len;
    let data_len = if wanted { held } else { 0 };
    // SAFETY: the claimed buffer is this program's.
    let record: &mut ExchangeOpened = unsafe { &mut (*drive.scratch).record };
    fill(record, connection, origin, outcome);
    record.header = emit::header(KIND_EXCHANGE_OPENED, data_len);
    record.started_ns = stream.started_ns;
    record.sequence = sequence;
    record.head_len = head_len;
    record.head_offset = head_offset;
    record.block = 0;
    emit::exchange_opened(drive.scratch, data_len, drive.now);
    if origin.correlation == Correlation::Ambiguous as u8 {
        // SAFETY: live state.
        unsafe {
            tell_candidates(drive.connection, sequence, drive.task as u32, drive.now);
        }
    }
}

/// Writes down who sends a request to whom, and its place in its trace: field by field, as a value
/// it would go over the stack, and the verifier says `combined stack size of 3 calls is 544. Too
/// large`.
#[inline(always)]
pub(crate) fn fill(
    record: &mut ExchangeOpened,
    connection: &Connection,
    origin: &Origin,
    outcome: u8,
) {
    record.connection = connection.cookie;
    record.trace_id_hi = origin.context.trace_id_hi;
    record.trace_id_lo = origin.context.trace_id_lo;
    record.span_id = origin.context.span_id;
    record.parent_span_id = origin.parent;
    record.cgroup_id = connection.cgroup_id;
    record.local_addr = connection.local_addr;
    record.remote_addr = connection.remote_addr;
    record.local_port = connection.local_port;
    record.remote_port = connection.remote_port;
    record.ip_version = connection.ip_version;
    record.role = connection.role;
    record.correlation = origin.correlation;
    record.outcome = outcome;
    record.tgid = connection.tgid;
    record.tid = connection.tid;
    record.flags = if connection.flags & CONN_TLS != 0 { OPENED_TLS } else { 0 };
    record.pad = 0;
}

/// After a request's head: its body, or the wait for an answer to `Upgrade` or `CONNECT`.
#[inline(always)]
pub(crate) fn request_body(connection: *mut Connection, stream: &mut Stream) {
    // Here, where each head comes by: whichever program read it, and whatever was done with it.
    distrust_if_doubtful(connection, stream);
    note_request_id(connection, stream);
    if stream.http1.begin_body(Body::Framed) == Event::MessageEnd {
        request_end(connection, stream);
    }
}

/// The number by which the answer to the request whose head was just read is known, where it came in records.
#[inline(always)]
fn note_request_id(connection: *mut Connection, stream: &Stream) {
    let request_id = stream.http1.request_id();
    // SAFETY: live while the program runs.
    let connection = unsafe { &mut *connection };
    if request_id == 0 || connection.overflow != 0 {
        return;
    }
    let place = connection.place_of(connection.opened.wrapping_sub(1));
    if let Some(exchange) = connection.exchanges.get_mut(place) {
        exchange.request_id = request_id;
    }
}

/// After a request that two readers could read differently it is not certain where the next one
/// starts, nor is it after a response that seems to fit.
#[inline(always)]
fn distrust_if_doubtful(connection: *mut Connection, stream: &mut Stream) {
    if stream.http1.is_doubtful() {
        stream.flags &= !TRUSTED;
        // SAFETY: live while the program runs.
        unsafe { (*connection).flags |= CONN_DISTRUSTED };
    }
}

/// A request was seen to its end.
#[inline(always)]
pub(crate) fn request_end(connection: *mut Connection, stream: &mut Stream) {
    // SAFETY: live while the program runs.
    let connection = unsafe { &mut *connection };
    let facts = stream.http1.facts();
    if connection.overflow == 0 {
        let place = connection.place_of(connection.opened.wrapping_sub(1));
        if let Some(exchange) = connection.exchanges.get_mut(place) {
            exchange.request_bytes = stream.http1.content();
            exchange.flags |= EXCHANGE_REQUEST_DONE;
        }
    }
    // Also the framing of its body may have been doubtful.
    distrust_if_doubtful(connection, stream);
    stream.http1.next_message();
    if facts & (FACT_UPGRADE | FACT_CONNECT) != 0 {
        stream.http1.hold();
    }
}
