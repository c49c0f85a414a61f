//! Exchanges as they end: by the end of the response, or by that of the connection.

use tracewire_common::config::PIPELINE_DEPTH;
use tracewire_common::connection::{
    CONN_DISTRUSTED, CONN_OPAQUE, CONN_REPORTED, CONN_SWITCHED, CONN_TLS, Connection,
    EXCHANGE_CONNECT, EXCHANGE_HEAD, EXCHANGE_OWN_TRACING, EXCHANGE_REQUEST_DONE, EXCHANGE_SAMPLED,
};
use tracewire_common::counter::Counter;
use tracewire_common::outcome::{Correlation, EndReason, Role};
use tracewire_common::parse::http1::{Body, Event};
use tracewire_common::records::{
    CLOSED_OWN_TRACING, ConnectionEvent, EVENT_TLS, KIND_CONNECTION_OPAQUE, KIND_EXCHANGE_CLOSED,
};
use tracewire_common::stream::{Stream, TRUSTED, UNREAD};

use crate::activities;
use crate::emit;
use crate::python::context;
use crate::socket::drive::Drive;
use crate::socket::opaque;
use crate::state::{self, count};
use crate::task::work;

/// Whether the response can be that to the oldest request in flight: in records if that was, and of the same
/// number. In records, it is none where nothing was asked.
#[inline(always)]
fn answers(connection: &Connection, stream: &Stream) -> bool {
    if connection.opened == connection.answered {
        return !stream.http1.is_fastcgi();
    }
    let asked = connection.exchanges.get(connection.place_of(connection.answered));
    asked.is_some_and(|asked| asked.request_id == stream.http1.request_id())
}

/// The response is none to what was asked: whose it is, and where it ends, is not known.
#[inline(always)]
fn lose_answer(drive: &mut Drive, stream: &mut Stream) {
    stream.http1.lose();
    lose::<false>(drive.connection, drive.now);
    // SAFETY: live while the program runs.
    reply_is_for(unsafe { &mut *drive.connection }, 0);
    drive.stop = 1;
}

/// Who receives a response from now on goes on with this activity; 0 if that is not known.
#[inline(always)]
fn reply_is_for(connection: &mut Connection, activity: u64) {
    if connection.role == Role::Client as u8 {
        connection.reply_activity = activity;
    }
}

/// A response's head ended. Answers whether to go on.
#[inline(always)]
pub(crate) fn response_head(drive: &mut Drive, stream: &mut Stream) -> bool {
    // SAFETY: live while the program runs.
    let connection = unsafe { &mut *drive.connection };
    if !answers(connection, stream) {
        // Found in the middle of something else.
        lose_answer(drive, stream);
        return false;
    }
    let status = stream.http1.status();
    let in_flight = connection.opened.wrapping_sub(connection.answered);
    let (mut flags, mut span_id) = (0, 0);
    let place = connection.place_of(connection.answered);
    if in_flight > 0
        && let Some(exchange) = connection.exchanges.get_mut(place)
    {
        flags = exchange.flags;
        span_id = exchange.span_id;
        if status >= 200 || status == 101 {
            exchange.response_ns = stream.started_ns;
        }
        let activity = exchange.activity;
        reply_is_for(connection, activity);
    }
    if connection.role == Role::Server as u8 && status >= 200 {
        let is_own = (drive.task >> 32) as u32 == connection.tgid;
        activities::begin_answer(span_id, if is_own { drive.task as u32 } else { 0 });
        if is_own {
            context::answers(connection, drive.task);
        }
    }
    let switched = status == 101 || (flags & EXCHANGE_CONNECT != 0 && (200..300).contains(&status));
    if switched {
        close(drive, EndReason::Switched, status, 0);
        if status == 101 && may_be_http2_next(connection) {
            connection.flags |= CONN_SWITCHED;
            connection.requests.http1.make_opaque();
            connection.requests.flags |= UNREAD;
            stream.http1.make_opaque();
            // What follows is read by others, from its first byte on.
            drive.end = drive.at;
        } else {
            make_opaque(connection);
        }
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

/// Whether what a connection carries behind a 101 may be HTTP/2 (`Upgrade: h2c`, RFC 7540 §3.2): its first bytes
/// say whether it is. The client has sent nothing behind its request, and the connection is no session of TLS.
#[inline(always)]
fn may_be_http2_next(connection: &Connection) -> bool {
    connection.requests.http1.is_held()
        && connection.opened == connection.answered
        && connection.flags & CONN_TLS == 0
}

/// A response was seen to its end. An interim one (1xx) ends nothing.
#[inline(always)]
pub(crate) fn response_end(drive: &mut Drive, stream: &mut Stream) {
    let status = stream.http1.status();
    let content = stream.http1.content();
    // SAFETY: live while the program runs.
    let answers = answers(unsafe { &*drive.connection }, stream);
    if !answers && stream.http1.is_fastcgi() {
        lose_answer(drive, stream);
        return;
    }
    let is_fastcgi = stream.http1.is_fastcgi();
    stream.http1.next_message();
    if status < 200 {
        if is_fastcgi {
            // The record that ends it came, and no head before it.
            // SAFETY: live while the program runs.
            let connection = unsafe { &mut *drive.connection };
            let place = connection.place_of(connection.answered);
            let activity = connection.exchanges.get(place).map_or(0, |exchange| exchange.activity);
            reply_is_for(connection, activity);
            close(drive, EndReason::Closed, 0, 0);
        }
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
        if connection.flags & CONN_DISTRUSTED == 0 {
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
    let place = connection.place_of(sequence);
    let Some(exchange) = connection.exchanges.get(place) else { return };
    let exchange = *exchange;
    connection.answered = sequence.wrapping_add(1);
    let mut own = exchange.flags & EXCHANGE_OWN_TRACING != 0;
    if connection.role == Role::Server as u8 {
        if let Some(own_tracing) = activities::end_activity(exchange.span_id) {
            own = own_tracing;
        }
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
    emit::exchange_closed(now, |record| {
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
    let last = connection.place_of(connection.answered.wrapping_sub(1));
    let next = connection.place_of(connection.answered);
    let (Some(last), Some(next)) = (connection.exchanges.get(last), connection.exchanges.get(next))
    else {
        return;
    };
    let (last, next) = (last.span_id, next.span_id);
    if let Some(state) = state::task(task as u32)
        && state.activity == last
    {
        state.activity = next;
        state.correlation = Correlation::Pipeline as u8;
    }
}

/// What `end_all` hands to its loop.
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

/// The connection is closed by this end, or gone: what is in flight was never answered.
///
/// # Safety
///
/// `connection` must be live.
#[inline(always)]
pub(crate) unsafe fn abandon(connection: *mut Connection, now: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        work::stop_waiting(&mut *connection, (*connection).tid);
        if (*connection).opened == (*connection).answered {
            return;
        }
        let responses = &(*connection).responses.http1;
        let reason =
            if responses.is_until_close() { EndReason::Complete } else { EndReason::Aborted };
        let (status, content) = (responses.status(), responses.content());
        let is_known = !responses.is_at_start() && !responses.is_in_head();
        let (status, content) = if is_known { (status, content) } else { (0, 0) };
        end_all(connection, now, reason, status, content);
    }
}

/// Whether the records of requests, in which something came out of order, may be of several at once: some are in
/// flight, or one is that was not seen. Who gets the next one may still be at work on that.
#[inline(always)]
pub(crate) fn may_be_several(connection: &Connection, stream: &Stream) -> bool {
    if connection.opened == connection.answered {
        return stream.http1.is_without_head_of_records() && !stream.http1.is_tentative();
    }
    let oldest = connection.exchanges.get(connection.place_of(connection.answered));
    stream.http1.is_fastcgi() && oldest.is_some_and(|oldest| oldest.request_id != 0)
}

/// Whether a request has come in records while another was in flight: they may be answered in any order,
/// and at once.
#[inline(always)]
pub(crate) fn is_several_at_once(connection: *const Connection, stream: &Stream) -> bool {
    // SAFETY: live while the program runs.
    let (opened, answered) = unsafe { ((*connection).opened, (*connection).answered) };
    stream.http1.is_fastcgi() && opened != answered
}

/// What is in flight is not known any more, and nothing of the connection will be: several requests share it.
// Inlined it is too much for the stack: `combined stack size of 5 calls is 528. Too large`.
#[inline(never)]
pub(crate) fn give_up(connection: &mut Connection, now: u64) {
    end_all(connection, now, EndReason::Lost, 0, 0);
    if connection.role == Role::Client as u8 {
        work::stop_waiting(connection, connection.tid);
        opaque::is_shared(connection);
    }
    make_opaque(connection);
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
        tell_opaque(connection);
    }
}

/// Tells userspace so. With a stack of its own: the caller's is short, and the verifier of older
/// kernels says `combined stack size of 4 calls is 544. Too large`.
#[inline(never)]
fn tell_opaque(connection: &Connection) {
    let is_tls = connection.flags & CONN_TLS != 0;
    let record = ConnectionEvent {
        header: emit::header(KIND_CONNECTION_OPAQUE, 0),
        connection: connection.cookie,
        tgid: connection.tgid,
        flags: if is_tls { EVENT_TLS } else { 0 },
    };
    // SAFETY: a whole record on the stack.
    unsafe { emit::output((&raw const record).cast(), size_of::<ConnectionEvent>() as u64, 0) };
}
