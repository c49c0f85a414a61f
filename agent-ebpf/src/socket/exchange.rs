//! Exchanges: opened by the head of a request, closed by the end of its response.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use tracewire_common::config::PIPELINE_DEPTH;
use tracewire_common::connection::{
    Activity, CONN_OPAQUE, CONN_REPORTED, Connection, EXCHANGE_CONNECT, EXCHANGE_HEAD,
    EXCHANGE_OWN_TRACING, EXCHANGE_REQUEST_DONE, EXCHANGE_SAMPLED, Exchange,
};
use tracewire_common::context::{FLAG_SAMPLED, TraceContext, is_sampled_at};
use tracewire_common::counter::Counter;
use tracewire_common::outcome::{Correlation, EndReason, Outcome, Role};
use tracewire_common::parse::http1::{
    Body, Event, FACT_AMBIGUOUS, FACT_CONNECT, FACT_HEAD, FACT_TRACEPARENT,
    FACT_TRACEPARENT_REPEATED, FACT_UPGRADE,
};
use tracewire_common::records::{
    CLOSED_OWN_TRACING, ConnectionEvent, ExchangeOpened, KIND_CONNECTION_OPAQUE,
    KIND_EXCHANGE_CLOSED, KIND_EXCHANGE_OPENED,
};
use tracewire_common::stream::{Stream, TRUSTED};

use crate::emit;
use crate::socket::drive::Drive;
use crate::state::{self, count, count_outcome};

/// A request's place in its trace.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) context: TraceContext,
    pub(crate) parent: u64,
    pub(crate) activity: u64,
    pub(crate) correlation: Correlation,
}

#[inline(always)]
fn random_u64() -> u64 {
    // SAFETY: no arguments.
    let (hi, lo) = unsafe { (bpf_get_prandom_u32(), bpf_get_prandom_u32()) };
    ((hi as u64) << 32) | lo as u64
}

/// A random id; never zero (W3C Trace Context §3.2.2.4).
#[inline(always)]
fn new_id() -> u64 {
    let id = random_u64();
    if id == 0 { 1 } else { id }
}

/// The context of a new trace, sampled by the ratio in force.
#[inline(always)]
fn new_trace() -> TraceContext {
    let trace_id_lo = random_u64();
    let threshold = match state::config() {
        Some(config) => config.sampling_threshold,
        None => 0,
    };
    TraceContext {
        trace_id_hi: new_id(),
        trace_id_lo,
        span_id: new_id(),
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

/// Takes a place for the request whose head was just read.
#[inline(always)]
fn take_place(connection: &mut Connection) -> Option<&mut Exchange> {
    let in_flight = connection.opened.wrapping_sub(connection.answered);
    if connection.overflow > 0 || in_flight >= PIPELINE_DEPTH as u32 {
        connection.overflow = connection.overflow.wrapping_add(1);
        count(Counter::DropPipelineFull);
        return None;
    }
    let place = connection.opened as usize & (PIPELINE_DEPTH - 1);
    connection.exchanges.get_mut(place)
}

/// A server received a request: its span starts, and an activity begins.
#[inline(always)]
pub(crate) fn open_server(drive: &mut Drive, stream: &mut Stream) {
    // SAFETY: live while the program runs.
    let connection = unsafe { &mut *drive.connection };
    let facts = stream.http1.facts();
    let (mut context, parent, correlation) = match context_in_head(stream) {
        Some(received) => (received, received.span_id, Correlation::Wire),
        None => (new_trace(), 0, Correlation::None),
    };
    context.span_id = new_id();
    let Some(exchange) = take_place(connection) else { return };
    *exchange = Exchange {
        span_id: context.span_id,
        activity: 0,
        response_ns: 0,
        request_bytes: 0,
        flags: exchange_flags(facts, &context),
        pad: [0; 3],
    };
    let activity = Activity {
        trace_id_hi: context.trace_id_hi,
        trace_id_lo: context.trace_id_lo,
        received_parent: parent,
        flags: context.flags,
        own_tracing: 0,
        pad: [0; 6],
    };
    state::begin_activity(context.span_id, &activity);
    let origin = Origin { context, parent, activity: 0, correlation };
    opened(drive, stream, &origin, Outcome::NotApplicable);
}

/// Which activity sends this request, and so where it stands in its trace.
#[inline(always)]
pub(crate) fn origin_of_request(connection: &Connection, task: u64) -> Origin {
    let is_first = connection.opened == 0 && connection.overflow == 0;
    // Rule 3: the first request on a connection belongs to the activity that opened it.
    if is_first {
        if let Some(origin) = origin_in(connection.opener, Correlation::Connect) {
            return origin;
        }
    }
    // Rules 1, 2 and 4 left the activity with the task.
    if let Some(task) = state::task(task as u32) {
        let correlation = match Correlation::try_from(task.correlation) {
            Ok(correlation) => correlation,
            Err(_) => Correlation::None,
        };
        if let Some(origin) = origin_in(task.activity, correlation) {
            return origin;
        }
    }
    Origin { context: new_trace(), parent: 0, activity: 0, correlation: Correlation::None }
}

#[inline(always)]
fn origin_in(id: u64, correlation: Correlation) -> Option<Origin> {
    let activity = state::activity(id)?;
    let context = TraceContext {
        trace_id_hi: activity.trace_id_hi,
        trace_id_lo: activity.trace_id_lo,
        span_id: new_id(),
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

/// Compares the header in the head, if any, with the one that the activity received.
#[inline(always)]
pub(crate) fn own_header(stream: &Stream, origin: &Origin) -> OwnHeader {
    if stream.http1.facts() & FACT_TRACEPARENT == 0 {
        return OwnHeader::None;
    }
    let Some(sent) = context_in_head(stream) else { return OwnHeader::Invalid };
    let Some(activity) = state::activity(origin.activity) else { return OwnHeader::Own };
    let same_trace =
        sent.trace_id_hi == activity.trace_id_hi && sent.trace_id_lo == activity.trace_id_lo;
    if same_trace && sent.span_id == activity.received_parent {
        return OwnHeader::PassedOn;
    }
    if same_trace {
        // The application went on with the trace by a span of its own: it has a server
        // span as well, and ours would stand beside it.
        activity.own_tracing = 1;
    }
    OwnHeader::Own
}

/// A client sent a request: its span starts.
#[inline(always)]
pub(crate) fn open_client(
    drive: &mut Drive,
    stream: &mut Stream,
    origin: &Origin,
    outcome: Outcome,
    own_tracing: bool,
) {
    // SAFETY: live while the program runs.
    let connection = unsafe { &mut *drive.connection };
    let facts = stream.http1.facts();
    if facts & FACT_AMBIGUOUS != 0 {
        stream.flags &= !TRUSTED;
    }
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
        pad: [0; 3],
    };
    if own_tracing {
        count(Counter::ExchangesOwnContext);
        connection.opened = connection.opened.wrapping_add(1);
        return;
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
fn opened(drive: &mut Drive, stream: &mut Stream, origin: &Origin, outcome: Outcome) {
    // SAFETY: live while the program runs.
    let connection = unsafe { &mut *drive.connection };
    let sequence = connection.opened;
    connection.opened = sequence.wrapping_add(1);
    if outcome as u8 != Outcome::NotApplicable as u8 {
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
    let wanted = head_offset < tracewire_common::config::HEAD_CAPTURE && held <= head_len;
    let data_len = if wanted { held } else { 0 };
    // Field by field into the claimed buffer: as a value it would go over the stack,
    // and the verifier says `combined stack size of 3 calls is 544. Too large`.
    // SAFETY: the claimed buffer is this program's.
    let record: &mut ExchangeOpened = unsafe { &mut (*drive.scratch).record };
    record.header = emit::header(KIND_EXCHANGE_OPENED, data_len);
    record.connection = connection.cookie;
    record.started_ns = stream.started_ns;
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
    record.correlation = origin.correlation as u8;
    record.outcome = outcome as u8;
    record.sequence = sequence;
    record.tgid = connection.tgid;
    record.tid = connection.tid;
    record.head_len = head_len;
    record.head_offset = head_offset;
    record.pad = 0;
    emit::exchange_opened(drive.scratch, data_len);
}

/// After a request's head: its body, or the wait for an answer to `Upgrade` or `CONNECT`.
#[inline(always)]
pub(crate) fn request_body(connection: *mut Connection, stream: &mut Stream) {
    if stream.http1.begin_body(Body::Framed) == Event::MessageEnd {
        request_end(connection, stream);
    }
}

/// A request was seen to its end.
#[inline(always)]
pub(crate) fn request_end(connection: *mut Connection, stream: &mut Stream) {
    // SAFETY: live while the program runs.
    let connection = unsafe { &mut *connection };
    let facts = stream.http1.facts();
    if connection.overflow == 0 {
        let place = connection.opened.wrapping_sub(1) as usize & (PIPELINE_DEPTH - 1);
        if let Some(exchange) = connection.exchanges.get_mut(place) {
            exchange.request_bytes = stream.http1.content();
            exchange.flags |= EXCHANGE_REQUEST_DONE;
        }
    }
    if facts & FACT_AMBIGUOUS != 0 {
        // Found in the body's framing: where the next request starts is not certain.
        stream.flags &= !TRUSTED;
    }
    stream.http1.next_message();
    if facts & (FACT_UPGRADE | FACT_CONNECT) != 0 {
        stream.http1.hold();
    }
}

/// A response's head ended. Answers whether to go on.
#[inline(always)]
pub(crate) fn response_head(drive: &mut Drive, stream: &mut Stream) -> bool {
    // SAFETY: live while the program runs.
    let connection = unsafe { &mut *drive.connection };
    let status = stream.http1.status();
    let in_flight = connection.opened.wrapping_sub(connection.answered);
    let mut flags = 0;
    let place = connection.answered as usize & (PIPELINE_DEPTH - 1);
    if in_flight > 0 {
        if let Some(exchange) = connection.exchanges.get_mut(place) {
            flags = exchange.flags;
            connection.reply_activity = exchange.activity;
            if status >= 200 || status == 101 {
                exchange.response_ns = stream.started_ns;
            }
        }
    }
    let switched =
        status == 101 || (flags & EXCHANGE_CONNECT != 0 && status >= 200 && status < 300);
    if switched {
        close(drive, EndReason::Switched, status, 0);
        make_opaque(connection);
        drive.stop = 1;
        return false;
    }
    let no_body = flags & EXCHANGE_HEAD != 0 || status < 200 || status == 204 || status == 304;
    let body = if no_body { Body::None } else { Body::Framed };
    match stream.http1.begin_body(body) {
        Event::MessageEnd => response_end(drive, stream),
        Event::NotHttp => {
            lose::<false>(drive.connection, drive.now);
            drive.stop = 1;
            return false;
        }
        _ => {}
    }
    true
}

/// A response was seen to its end. An interim one (1xx) ends nothing.
#[inline(always)]
pub(crate) fn response_end(drive: &mut Drive, stream: &mut Stream) {
    let status = stream.http1.status();
    let content = stream.http1.content();
    stream.http1.next_message();
    if status < 200 {
        return;
    }
    close(drive, EndReason::Complete, status, content);
    // SAFETY: live while the program runs.
    let connection = unsafe { &mut *drive.connection };
    let idle = connection.opened == connection.answered && connection.overflow == 0;
    if connection.requests.http1.is_held() && idle {
        // Refused: HTTP goes on, and no byte has come in between.
        connection.requests.http1.next_message();
    }
    if idle && connection.requests.http1.is_at_start() && !connection.requests.http1.is_tentative()
    {
        // One whole exchange was followed, and nothing is in flight: what the client
        // sends next starts a request, also where the stream was found in the middle.
        if connection.flags & tracewire_common::connection::CONN_DISTRUSTED == 0 {
            connection.requests.flags |= TRUSTED;
        }
    }
}

/// Ends the oldest exchange in flight.
#[inline(always)]
pub(crate) fn close(drive: &mut Drive, reason: EndReason, status: u16, content: u64) {
    // SAFETY: live while the program runs.
    let connection = unsafe { &mut *drive.connection };
    if connection.opened == connection.answered {
        if connection.overflow > 0 {
            connection.overflow = connection.overflow.wrapping_sub(1);
        } else {
            count(Counter::ResponsesUnpaired);
        }
        return;
    }
    close_oldest(connection, drive.now, reason, status, content);
    follow_pipeline(connection, drive.task);
}

/// Ends the oldest exchange; the caller knows that there is one.
#[inline(always)]
fn close_oldest(
    connection: &mut Connection,
    now: u64,
    reason: EndReason,
    status: u16,
    content: u64,
) {
    let sequence = connection.answered;
    let place = sequence as usize & (PIPELINE_DEPTH - 1);
    let Some(exchange) = connection.exchanges.get(place) else { return };
    let exchange = *exchange;
    connection.answered = sequence.wrapping_add(1);
    let mut own = exchange.flags & EXCHANGE_OWN_TRACING != 0;
    if connection.role == Role::Server as u8 {
        if let Some(activity) = state::activity(exchange.span_id) {
            own = activity.own_tracing != 0;
        }
        state::end_activity(exchange.span_id);
    } else if own {
        // A client's exchange of the application's own tracing was never recorded.
        return;
    }
    if exchange.flags & EXCHANGE_SAMPLED == 0 {
        return;
    }
    count(Counter::ExchangesClosed);
    if reason as u8 != EndReason::Complete as u8 && reason as u8 != EndReason::Switched as u8 {
        count(Counter::ExchangesBroken);
    }
    let request_bytes = if exchange.flags & EXCHANGE_REQUEST_DONE != 0 {
        exchange.request_bytes
    } else {
        // Answered before its body was sent: what there was of it.
        connection.requests.http1.content()
    };
    emit::exchange_closed(|record| {
        record.header = emit::header(KIND_EXCHANGE_CLOSED, 0);
        record.connection = connection.cookie;
        record.response_ns = exchange.response_ns;
        record.ended_ns = now;
        record.span_id = exchange.span_id;
        record.request_body_bytes = request_bytes;
        record.response_body_bytes = content;
        record.cgroup_id = connection.cgroup_id;
        record.sequence = sequence;
        record.tgid = connection.tgid;
        record.tid = connection.tid;
        record.status = status;
        record.reason = reason as u8;
        record.flags = if own { CLOSED_OWN_TRACING } else { 0 };
    });
}

/// The task that answered one of several pipelined requests goes on with the next:
/// it has received that one already, and will not receive it again.
#[inline(always)]
fn follow_pipeline(connection: &mut Connection, task: u64) {
    if connection.role != Role::Server as u8 || connection.opened == connection.answered {
        return;
    }
    let last = connection.answered.wrapping_sub(1) as usize & (PIPELINE_DEPTH - 1);
    let next = connection.answered as usize & (PIPELINE_DEPTH - 1);
    let (Some(last), Some(next)) = (connection.exchanges.get(last), connection.exchanges.get(next))
    else {
        return;
    };
    let (last, next) = (last.span_id, next.span_id);
    if let Some(state) = state::task(task as u32) {
        if state.activity == last {
            state.activity = next;
            state.correlation = Correlation::Pipeline as u8;
        }
    }
}

/// What `lose` and `end_all` hand to their loops.
#[repr(C)]
struct Ending {
    connection: *mut Connection,
    now: u64,
    content: u64,
    reason: u32,
    status: u32,
}

unsafe extern "C" fn end_one(_index: u32, ending: *mut Ending) -> i64 {
    // SAFETY: `end_all` passes its own `ending`, whose connection is live.
    unsafe {
        let ending = &mut *ending;
        let connection = &mut *ending.connection;
        if connection.opened == connection.answered {
            return 1;
        }
        let reason = match EndReason::try_from(ending.reason as u8) {
            Ok(reason) => reason,
            Err(_) => EndReason::Lost,
        };
        close_oldest(connection, ending.now, reason, ending.status as u16, ending.content);
        ending.content = 0;
        ending.status = 0;
    }
    0
}

/// Ends every exchange in flight. `status` and `content` are of the oldest's response.
#[inline(always)]
pub(crate) fn end_all(
    connection: *mut Connection,
    now: u64,
    reason: EndReason,
    status: u16,
    content: u64,
) {
    let mut ending =
        Ending { connection, now, content, reason: reason as u32, status: status as u32 };
    // SAFETY: the callback gets the `ending` that it expects.
    unsafe {
        aya_ebpf::helpers::generated::bpf_loop(
            PIPELINE_DEPTH as u32 + 1,
            end_one as *mut aya_ebpf::cty::c_void,
            (&raw mut ending).cast(),
            0,
        );
        (*connection).overflow = 0;
    }
}

/// The position in one direction was lost. Where that is the responses', those in flight
/// are not known any more. Where it is the requests', those in flight still are.
#[inline(always)]
pub(crate) fn lose<const REQUESTS: bool>(connection: *mut Connection, now: u64) {
    // SAFETY: live while the program runs.
    unsafe { (*connection).requests.flags &= !TRUSTED };
    if !REQUESTS {
        end_all(connection, now, EndReason::Lost, 0, 0);
    }
}

/// Nothing of the connection is looked at any more.
#[inline(always)]
pub(crate) fn make_opaque(connection: &mut Connection) {
    connection.flags |= CONN_OPAQUE;
    connection.requests.http1.make_opaque();
    connection.responses.http1.make_opaque();
    count(Counter::ConnectionsOpaque);
    if connection.flags & CONN_REPORTED == 0 {
        connection.flags |= CONN_REPORTED;
        let record = ConnectionEvent {
            header: emit::header(KIND_CONNECTION_OPAQUE, 0),
            connection: connection.cookie,
        };
        // SAFETY: a whole record on the stack.
        unsafe { emit::output((&raw const record).cast(), size_of::<ConnectionEvent>() as u64) };
    }
}
