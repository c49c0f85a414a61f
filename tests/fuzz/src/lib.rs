//! What the fuzz targets do with their input: the same modules that the ordinary
//! tests of the parsers are made of, which also replay the corpora.

#![expect(dead_code, reason = "of the agent's modules only the parsers are used here")]

#[path = "../../../agent-common/tests/parsers/bodies.rs"]
pub mod bodies;
#[path = "../../../agent-common/tests/parsers/http2/mod.rs"]
pub mod http2;
#[path = "../../../agent-common/tests/parsers/machine.rs"]
pub mod machine;
#[path = "../../../agent-common/tests/parsers/reference.rs"]
pub mod reference;

mod assemble;
#[path = "../../../agent/src/elf/mod.rs"]
mod elf;
#[path = "../../../agent/src/executables.rs"]
mod executables;
mod export;
#[path = "../../../agent/src/fuzzing.rs"]
pub mod fuzzing;
#[path = "../../../agent/src/golang/mod.rs"]
mod golang;
#[path = "../../../agent/src/grpc.rs"]
mod grpc;
mod kernel;
#[path = "../../../agent/src/metrics.rs"]
mod metrics;
#[path = "../../../agent/src/node.rs"]
mod node;
#[path = "../../../agent/src/python/mod.rs"]
mod python;
#[expect(unused_imports, reason = "the agent's other modules use them")]
#[path = "../../../agent/src/resolve/mod.rs"]
mod resolve;
#[path = "../../../agent/src/ruby.rs"]
mod ruby;
#[path = "../../../agent/src/span.rs"]
mod span;
#[path = "../../../agent/src/tls/mod.rs"]
mod tls;
#[path = "../../../agent/src/tokio_tasks/mod.rs"]
mod tokio_tasks;
