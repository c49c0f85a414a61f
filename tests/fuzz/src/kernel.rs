//! What the agent reads of the kernel by itself, as in the agent.

#[path = "../../../agent/src/kernel/blocked.rs"]
pub(crate) mod blocked;
#[path = "../../../agent/src/kernel/btf.rs"]
pub(crate) mod btf;
#[path = "../../../agent/src/kernel/proc_net.rs"]
pub(crate) mod proc_net;
