//! Connections that do not carry HTTP/1.x, as far as they tell what an event loop works on: a
//! query to a database, and its reply.
//!
//! What such a connection carries is not looked at. Where one request sends on it, and nobody else
//! does until something was received, that is taken for its reply: so pools of connections to
//! databases are used, and TLS. Clients that send for several requests at once over one connection
//! are known by doing so, and nothing is made of that connection ever after.

use tracewire_common::connection::{Connection, TASK_MULTIPLEXES, UNKNOWN_UNCOUNTED};
use tracewire_common::outcome::Role;

use crate::state;
use crate::task::work::{self, Work};

/// In [`Connection::overflow`], which has no other use here: several requests share it.
const SHARED: u32 = 1;
/// In [`Connection::base`], likewise: something was sent.
const USED: u32 = u32::MAX;

/// An event loop sends on the connection. A global function: the verifier looks at it once, by
/// itself.
///
/// # Safety
///
/// The pointer must be null or valid: the verifier asks for no more.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) unsafe extern "C" fn opaque_sent(connection: *mut Connection, task: u64) -> u64 {
    if connection.is_null() {
        return 0;
    }
    // SAFETY: checked for null, and valid by the caller's promise.
    unsafe {
        let is_loop =
            state::task(task as u32).is_some_and(|state| state.flags & TASK_MULTIPLEXES != 0);
        if !is_loop || (*connection).overflow == SHARED {
            return 0;
        }
        let is_first = (*connection).base != USED;
        (*connection).base = USED;
        if is_first && (*connection).awaited_for != 0 {
            // For what it was opened, and may have waited long until it was.
            return 0;
        }
        let Work { activity, rule } = work::of(task, (*connection).remote_port);
        if (*connection).awaited_for != 0 && (*connection).awaited_for != activity {
            work::stop_waiting(&mut *connection, task as u32);
            is_shared(&mut *connection);
            return 0;
        }
        (*connection).tid = task as u32;
        (*connection).reply_activity = activity;
        work::await_on(connection, activity, rule as u32, task as u32);
    }
    0
}

/// Several requests share the connection: for which of them something is received on it is not known.
#[inline(always)]
pub(crate) fn is_shared(connection: &mut Connection) {
    connection.overflow = SHARED;
    connection.reply_activity = 0;
}

/// The task at work received something on the connection.
#[inline(always)]
pub(crate) fn received(connection: &mut Connection, tid: u32) {
    let Some(state) = state::task(tid) else { return };
    if state.flags & TASK_MULTIPLEXES == 0 {
        return;
    }
    let mut activity = 0;
    if connection.role == Role::Client as u8 && connection.overflow != SHARED {
        activity = connection.reply_activity;
        let awaited_for = connection.awaited_for;
        if awaited_for != 0 {
            if awaited_for < UNKNOWN_UNCOUNTED {
                activity = awaited_for;
            }
            work::stop_waiting(connection, tid);
        }
    }
    work::replied(tid, activity);
}
