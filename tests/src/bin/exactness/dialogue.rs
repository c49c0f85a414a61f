//! What two ends say to each other, in turns.

use crate::plan::Side;

/// A conversation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dialogue {
    /// Who says what, in order; no two neighbours by the same side.
    pub(crate) turns: Vec<(Side, Vec<u8>)>,
    /// The status that each request of the client is answered with, if the server is one
    /// that answers requests.
    pub(crate) answers: Option<Vec<u16>>,
}

impl Dialogue {
    /// The client says something.
    pub(crate) fn client(&mut self, bytes: impl AsRef<[u8]>) {
        self.say(Side::Client, bytes.as_ref());
    }

    /// The server says something.
    pub(crate) fn server(&mut self, bytes: impl AsRef<[u8]>) {
        self.say(Side::Server, bytes.as_ref());
    }

    /// The server answers a request with a final status.
    pub(crate) fn answer(&mut self, status: u16, bytes: impl AsRef<[u8]>) {
        self.answers.get_or_insert_default().push(status);
        self.server(bytes);
    }

    fn say(&mut self, side: Side, bytes: &[u8]) {
        match self.turns.last_mut() {
            Some((last, so_far)) if *last == side => so_far.extend_from_slice(bytes),
            _ => self.turns.push((side, bytes.to_vec())),
        }
    }
}
