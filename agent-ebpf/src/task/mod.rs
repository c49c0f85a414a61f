//! What happens to tasks.

pub(crate) mod birth;
pub(crate) mod candidates;
pub(crate) mod event_loop;
pub(crate) mod exec;
pub(crate) mod jobs;
pub(crate) mod scattered;
pub(crate) mod shown;
pub(crate) mod work;
