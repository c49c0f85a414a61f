//! What happens to tasks.

pub(crate) mod birth;
pub(crate) mod exec;
pub(crate) mod work;
