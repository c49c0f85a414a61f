//! What the fuzz targets do with their input: the same modules that the ordinary
//! tests of the parsers are made of, which also replay the corpora.

#[path = "../../../agent-common/tests/parsers/bodies.rs"]
pub mod bodies;
#[path = "../../../agent-common/tests/parsers/machine.rs"]
pub mod machine;
#[path = "../../../agent-common/tests/parsers/reference.rs"]
pub mod reference;
