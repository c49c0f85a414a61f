//! Faults of the agent, of its collector, of its memory and of the machine: traffic does not
//! notice, and what is lost of the traces is counted to the last one.
//!
//! With `TRACEWIRE_TEST_LONG` set each test runs in its long form: a minute where there
//! were seconds, a hundred thousand connections where there were thousands.

mod accounting;
mod agent;
mod bounds;
mod clock;
mod collector;
mod delivery;
mod machine;
mod memory;
mod scene;
mod span_ids;
