//! Node.js. Its event loop runs what timers are due between two looks at its sockets, and no system
//! call tells where that begins. What a timer has it send is not for what it received last.

use aya_ebpf::helpers::generated::bpf_get_current_pid_tgid;

use crate::state;

/// The thread at work begins to run timers (`true`), or has run them.
#[inline(always)]
pub(crate) fn runs_timers(runs: bool) {
    // SAFETY: no arguments.
    let tid = unsafe { bpf_get_current_pid_tgid() } as u32;
    // A thread that has received nothing yet is no loop yet.
    if let Some(state) = state::task(tid) {
        state.runs_timers = runs as u32;
    }
}
