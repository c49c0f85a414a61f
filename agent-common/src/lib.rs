//! What the two halves of Tracewire share.
//!
//! Everything here is `no_std`, allocates nothing and panics nowhere: the very
//! same code runs in the kernel, in the agent and in the tests.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod config;
pub mod connection;
pub mod context;
pub mod counter;
pub mod golang;
pub mod outcome;
pub mod parse;
pub mod python;
pub mod records;
pub mod stream;
pub mod tcp_option;
pub mod tls;
pub mod tokio;
