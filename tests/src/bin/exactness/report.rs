//! What one end says about one connection.

use std::collections::BTreeMap;

/// One end's report, a line of JSON.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Report {
    /// The connection's number.
    pub(crate) number: u64,
    /// Bytes that the kernel took by its own answers, and their digest.
    pub(crate) sent: (u64, u64),
    /// Bytes that came, without headers, and their digest.
    pub(crate) received: (u64, u64),
    /// How heads were sent that came with a header, by way, or with another one.
    pub(crate) changed: BTreeMap<String, u64>,
    /// Of these, those with a header that was passed on, and came with another parent.
    pub(crate) passed_on: u64,
    /// Heads that might have had one and had none.
    pub(crate) without: u64,
    /// Heads that must have had one and had none.
    pub(crate) missed: Vec<String>,
    /// Bytes sent, by way.
    pub(crate) ways: BTreeMap<String, u64>,
    /// Bytes received, by way.
    pub(crate) takes: BTreeMap<String, u64>,
    /// What calls did that they should not.
    pub(crate) oddities: BTreeMap<String, u64>,
    /// The longest wait in which nothing happened, in whole seconds.
    pub(crate) idle: u32,
    /// In which calls those were.
    pub(crate) idle_in: Vec<String>,
    /// What went wrong.
    pub(crate) failure: Option<String>,
}
