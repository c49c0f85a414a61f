//! Heads, as in the agent.

#[path = "../../../agent/src/assemble/head.rs"]
mod head;
#[path = "../../../agent/src/assemble/redact.rs"]
mod redact;

pub(crate) use head::parse_head;
pub(crate) use redact::REDACTED;
