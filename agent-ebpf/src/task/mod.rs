//! What happens to tasks.

pub(crate) mod birth;
pub(crate) mod exec;
