//! Heads, as in the agent.

#[path = "../../../agent/src/assemble/fastcgi.rs"]
mod fastcgi;
#[path = "../../../agent/src/assemble/head.rs"]
mod head;
#[path = "../../../agent/src/assemble/http2/mod.rs"]
pub(crate) mod http2;
#[path = "../../../agent/src/assemble/redact.rs"]
mod redact;

pub(crate) use head::{head_of_fields, parse_head};
pub(crate) use redact::REDACTED;
