//! The harness of the end-to-end tests.
//!
//! A test makes a [`world::World`]: a cgroup of its own, a directory, an OTLP
//! receiver and, when asked for, an agent. Traffic is made by processes inside
//! that cgroup; the test process itself is never in it, so that nothing but the
//! scenario is traced. Everything that was made is removed again, also when a
//! test fails or is interrupted ([`cleanup`]).
//!
//! Three environment variables change a run:
//!
//! - `TRACEWIRE_BIN`: the agent to test (default: `target/release/tracewire`).
//! - `TRACEWIRE_TEST_CONTROL=1`: run the traffic without any agent, and check
//!   only that every byte arrives unchanged. It proves that a scenario itself holds.
//! - `TRACEWIRE_TEST_MAY_SKIP=1`: leave out what needs a package that is not installed, and say so.
//! - `TRACEWIRE_TEST_SLOW`: a whole number by which all limits on waiting are longer, for
//!   slow machines.

pub mod agent;
pub mod cgroup;
pub mod cleanup;
pub mod confine;
pub mod expect;
pub mod golang;
pub mod grpc;
pub mod http1;
pub mod http2;
pub mod kernel_programs;
pub mod needs;
pub mod netns;
pub mod otlp;
pub mod parents;
pub mod peer;
pub mod php;
pub mod probes;
pub mod process;
pub mod script;
pub mod services;
pub mod stream;
pub mod swarm;
pub mod tee;
pub mod trace_parent;
pub mod world;
