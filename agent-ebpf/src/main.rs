//! The kernel half of Tracewire. Each program is a thin entry: context in, verdict out.
//!
//! | program | hook | what it does |
//! | --- | --- | --- |
//! | `track_connection` | `sock_ops` | gives a connection its role, enrols client sockets |
//! | `carry_context` | `sock_ops` | takes and gives contexts in a TCP option |
//! | `note_opener4`, `note_opener6` | `cgroup/connect4`, `connect6` | remembers which activity opens a connection |
//! | `rewrite_request` | `sk_msg` | stays with a socket for its life; calls the next while an agent lives |
//! | `rewrite_stage` | tail call | reads what a client sends and writes the context into it |
//! | `rewrite_http2` | tail call of this | the same for HTTP/2 |
//! | `keep_readable` | `sk_skb` stream verdict | restores `FIONREAD` on kernels where the socket map breaks it |
//! | `read_egress`, `read_ingress` | `cgroup_skb` | reads messages off the packets and times them |
//! | `read_http2_egress`, `read_http2_ingress` | tail calls of these | the same for HTTP/2 |
//! | `associate_receiver` | tracepoint `sock_recv_length` or `tcp_rcv_space_adjust` | learns which task works on which exchange |
//! | `inherit_activity`, `note_exec`, `forget_task` | tracepoints `sched_process_*` | birth, new program and end of tasks |
//! | `note_go_call`, `note_go_birth` | uprobes in Go programs | calls of the HTTP client; births of goroutines |
//! | `note_python_entry`, `note_python_return` | uprobes in CPython | contexts as they are copied and entered; jobs that go through queues |
//! | `note_ruby_entry` | uprobe in processes of Ruby | which thread takes up which request |
//! | `read_tls_entry`, `read_tls_return` | uprobes in TLS libraries and Go programs | sessions as they are made and freed; the plaintext that goes in and comes out |
//! | `read_tls_http2_written`, `read_tls_http2_read` | tail calls of these | frames of HTTP/2 in it |

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod activities;
mod bounds;
mod emit;
mod golang;
mod http2;
mod node;
mod python;
mod ruby;
mod scratch;
mod socket;
mod state;
mod task;
mod tcp_option;
mod tls;
mod tokio;

use aya_ebpf::macros::{
    btf_tracepoint, cgroup_skb, cgroup_sock_addr, raw_tracepoint, sk_msg, sock_ops, stream_verdict,
    uprobe, uretprobe,
};
use aya_ebpf::programs::{
    BtfTracePointContext, ProbeContext, RawTracePointContext, RetProbeContext, SkBuffContext,
    SkMsgContext, SockAddrContext, SockOpsContext,
};

/// `sock_ops` programs answer 1: the return value of no callback used here matters.
const SOCK_OPS_OK: u32 = 1;
/// `cgroup/connect*` and `cgroup_skb`: let it pass.
const ALLOW: i32 = 1;
/// `sk_msg` and `sk_skb`: `SK_PASS`.
const SK_PASS: u32 = 1;

#[sock_ops]
fn track_connection(ctx: SockOpsContext) -> u32 {
    socket::track::on_event(&ctx);
    SOCK_OPS_OK
}

#[sock_ops]
fn carry_context(ctx: SockOpsContext) -> u32 {
    tcp_option::on_event(&ctx);
    SOCK_OPS_OK
}

#[cgroup_sock_addr(connect4)]
fn note_opener4(ctx: SockAddrContext) -> i32 {
    socket::connect::on_connect(&ctx);
    ALLOW
}

#[cgroup_sock_addr(connect6)]
fn note_opener6(ctx: SockAddrContext) -> i32 {
    socket::connect::on_connect(&ctx);
    ALLOW
}

#[sk_msg]
fn rewrite_request(ctx: SkMsgContext) -> u32 {
    socket::rewrite::enter(&ctx);
    SK_PASS
}

#[sk_msg]
fn rewrite_stage(ctx: SkMsgContext) -> u32 {
    socket::rewrite::on_send(&ctx)
}

#[sk_msg]
fn rewrite_http2(ctx: SkMsgContext) -> u32 {
    http2::rewrite::on_send(&ctx)
}

#[stream_verdict]
fn keep_readable(_ctx: SkBuffContext) -> u32 {
    SK_PASS
}

#[cgroup_skb(egress)]
fn read_egress(ctx: SkBuffContext) -> i32 {
    socket::packets::on_packet::<true>(&ctx);
    ALLOW
}

#[cgroup_skb(ingress)]
fn read_ingress(ctx: SkBuffContext) -> i32 {
    socket::packets::on_packet::<false>(&ctx);
    ALLOW
}

#[cgroup_skb(egress)]
fn read_http2_egress(ctx: SkBuffContext) -> i32 {
    http2::packets::on_packet::<true>(&ctx);
    ALLOW
}

#[cgroup_skb(ingress)]
fn read_http2_ingress(ctx: SkBuffContext) -> i32 {
    http2::packets::on_packet::<false>(&ctx);
    ALLOW
}

/// Of recvmsg(2): what is asked for are reports on sends, which carry no bytes
/// (include/linux/socket.h).
const MSG_ERRQUEUE: i32 = 0x2000;

#[btf_tracepoint(function = "sock_recv_length")]
fn associate_receiver(ctx: BtfTracePointContext) -> i32 {
    // TP_PROTO(struct sock *sk, int ret, int flags), include/trace/events/sock.h
    let (ret, flags): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    if ret > 0 {
        socket::receive::on_receive::<true>(ctx.arg(0));
    } else if ret == 0 && flags & MSG_ERRQUEUE == 0 {
        socket::receive::on_end(ctx.arg(0));
    }
    0
}

#[btf_tracepoint(function = "tcp_rcv_space_adjust")]
fn associate_receiver_adjust(ctx: BtfTracePointContext) -> i32 {
    // TP_PROTO(struct sock *sk), include/trace/events/tcp.h
    socket::receive::on_receive::<false>(ctx.arg(0));
    0
}

#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn inherit_activity(ctx: RawTracePointContext) -> i32 {
    // TP_PROTO(struct task_struct *parent, struct task_struct *child), include/trace/events/sched.h
    task::birth::on_fork(ctx.arg(1));
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn note_exec(ctx: RawTracePointContext) -> i32 {
    // TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)
    task::exec::on_exec(&ctx, ctx.arg(0), ctx.arg(2));
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn forget_task(_ctx: RawTracePointContext) -> i32 {
    task::birth::on_exit();
    0
}

#[uprobe]
fn note_go_call(ctx: ProbeContext) -> u32 {
    golang::on_call(&ctx);
    0
}

#[uprobe]
fn note_go_birth(ctx: ProbeContext) -> u32 {
    golang::on_birth(&ctx);
    0
}

#[uprobe]
fn note_python_entry(ctx: ProbeContext) -> u32 {
    python::on_entry(&ctx);
    golang::keep_own_stack(&ctx);
    0
}

#[uretprobe]
fn note_python_return(ctx: RetProbeContext) -> u32 {
    python::on_return(&ctx);
    golang::keep_own_stack(&ctx);
    0
}

#[uprobe]
fn note_node_entry(_ctx: ProbeContext) -> u32 {
    node::runs_timers(true);
    0
}

#[uretprobe]
fn note_node_return(_ctx: RetProbeContext) -> u32 {
    node::runs_timers(false);
    0
}

#[uprobe]
fn note_ruby_entry(ctx: ProbeContext) -> u32 {
    ruby::on_socket_option(&ctx);
    golang::keep_own_stack(&ctx);
    0
}

#[uprobe]
fn note_tokio_entry(ctx: ProbeContext) -> u32 {
    tokio::on_entry(&ctx);
    golang::keep_own_stack(&ctx);
    0
}

#[uretprobe]
fn note_tokio_return(ctx: RetProbeContext) -> u32 {
    tokio::on_return();
    golang::keep_own_stack(&ctx);
    0
}

#[uprobe]
fn read_tls_entry(ctx: ProbeContext) -> u32 {
    tls::calls::on_entry(&ctx);
    golang::keep_own_stack(&ctx);
    0
}

#[uretprobe]
fn read_tls_return(ctx: RetProbeContext) -> u32 {
    tls::calls::on_return(&ctx);
    golang::keep_own_stack(&ctx);
    0
}

#[uprobe]
fn read_tls_http2_written(ctx: ProbeContext) -> u32 {
    tls::http2::on_write();
    golang::keep_own_stack(&ctx);
    0
}

#[uretprobe]
fn read_tls_http2_read(ctx: RetProbeContext) -> u32 {
    tls::http2::on_read();
    golang::keep_own_stack(&ctx);
    0
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here panics; the compiler asks for the item all the same.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
