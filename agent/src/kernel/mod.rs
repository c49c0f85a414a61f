//! The kernel half, from userspace: the only place that knows aya.

mod adopt;
pub(crate) mod blocked;
pub(crate) mod btf;
mod counts;
mod enrolment;
mod executable;
mod fionread;
mod goroutines;
mod inspected;
mod load;
mod looks;
mod messages;
mod ports;
pub(crate) mod proc_net;
mod programs;
mod python;
mod quiet;
mod reader;
mod requirements;
mod scope;
mod seccomp;
mod settings;
mod stats;
mod takeover;
mod tls;
mod tokio_tasks;
mod uprobes;

pub(crate) use adopt::Adopted;
pub(crate) use enrolment::Readability;
pub(crate) use load::Kernel;
pub(crate) use programs::try_all;
pub(crate) use reader::Records;
pub(crate) use requirements::requirements;
pub(crate) use scope::Scope;
pub(crate) use settings::{KernelSettings, Propagation};
pub(crate) use stats::ProgramRuns;
