//! Rule 3, connect: the first request on a new connection belongs to the activity
//! that opened it.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_get_current_pid_tgid};
use aya_ebpf::programs::SockAddrContext;
use tracewire_common::connection::CONN_OPAQUE;
use tracewire_common::counter::Counter;

use crate::activities;
use crate::golang::goroutine;
use crate::python::context;
use crate::state::{self, config, count};
use crate::task::work::{self, Work};
use crate::tokio;

const IPPROTO_TCP: u32 = 6;

/// A process connects a socket. Runs in the task that does.
#[inline(always)]
pub(crate) fn on_connect(ctx: &SockAddrContext) {
    let Some(config) = config() else { return };
    // SAFETY: the program's context; the socket is checked for null.
    unsafe {
        if (*ctx.sock_addr).protocol != IPPROTO_TCP {
            return;
        }
        let sk: *mut c_void = (*ctx.sock_addr).__bindgen_anon_1.sk.cast();
        if sk.is_null() {
            return;
        }
        let connection = state::connection_or_new(sk);
        if connection.is_null() {
            count(Counter::DropNoState);
            return;
        }
        let id = bpf_get_current_pid_tgid();
        let tgid = (id >> 32) as u32;
        if state::process_is_excluded(config, tgid) {
            (*connection).flags |= CONN_OPAQUE;
            return;
        }
        (*connection).tgid = tgid;
        (*connection).tid = id as u32;
        (*connection).cgroup_id = bpf_get_current_cgroup_id();
        if goroutine::process(tgid).is_some() {
            // Who dials is a goroutine made for that, and what it dials may be another's.
            return;
        }
        let mut known = Work::NONE;
        if context::work_here(id, &mut known) {
            // So it will be of who sends.
            return;
        }
        if tokio::task::connects(id) {
            return;
        }
        let port = u16::from_be((*ctx.sock_addr).user_port as u16);
        let found = work::of(id, port);
        let activity = if activities::is_going_on(found.activity) { found.activity } else { 0 };
        work::await_on(connection, activity, found.rule as u32, id as u32);
    }
}
