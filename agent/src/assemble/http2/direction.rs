//! What one end of a connection sends: its header blocks, of which parts may be missing.

use super::fields::Fields;
use super::hpack::{Stop, Table, decode};
use crate::metrics::{Metric, Metrics};

/// The most of a block that is decoded, in bytes; what is behind is as good as lost.
pub(super) const MAX_BLOCK: usize = 64 << 10;

/// A part of a header block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    /// The number of the block among those of its direction.
    pub(crate) block: u32,
    /// Where in the block the data belongs, in bytes.
    pub(crate) offset: u32,
    /// The bytes.
    pub(crate) data: &'a [u8],
    /// The length of the whole block, if it ends here.
    pub(crate) block_len: Option<u32>,
}

/// The state of one direction.
#[derive(Debug)]
pub(super) struct Direction {
    table: Table,
    /// The number of the block that is being received, or comes next; `None` where none is known.
    block: Option<u32>,
    /// What has come of that block, up to its first hole.
    bytes: Vec<u8>,
    /// Whether something behind that is missing.
    has_hole: bool,
}

impl Direction {
    /// A direction that is seen from its first byte.
    pub(super) fn from_start() -> Self {
        Self { table: Table::new(), block: Some(0), bytes: Vec::new(), has_hole: false }
    }

    /// A direction that is seen from some later point.
    pub(super) fn from_middle() -> Self {
        Self { table: Table::unknown(), block: None, ..Self::from_start() }
    }

    /// Bytes that it takes beside its fixed size.
    pub(super) fn kept(&self) -> usize {
        self.table.kept() + self.bytes.capacity()
    }

    /// Takes a part. If a block ends with it, its fields are put into `fields`, and the answer
    /// is whether they are all of the block's.
    pub(super) fn on_part(
        &mut self,
        part: &Part<'_>,
        fields: &mut Fields,
        metrics: &Metrics,
    ) -> Option<bool> {
        if self.block.is_some_and(|block| block != part.block) {
            // Blocks between, or the end of the one before, were lost with what they insert.
            self.lose(metrics);
            self.restart(part.block);
        }
        self.block = Some(part.block);
        let is_next = part.offset as usize == self.bytes.len();
        let fits = self.bytes.len() + part.data.len() <= MAX_BLOCK;
        self.has_hole |= !is_next || !fits;

        let Some(block_len) = part.block_len else {
            if !self.has_hole {
                self.bytes.extend_from_slice(part.data);
            }
            return None;
        };
        let collected = std::mem::take(&mut self.bytes);
        let block = match (self.has_hole, collected.is_empty()) {
            (true, _) => collected,
            (false, true) => return Some(self.decode(part.data, part, block_len, fields, metrics)),
            (false, false) => [&collected, part.data].concat(),
        };
        Some(self.decode(&block, part, block_len, fields, metrics))
    }

    fn decode(
        &mut self,
        bytes: &[u8],
        part: &Part<'_>,
        block_len: u32,
        fields: &mut Fields,
        metrics: &Metrics,
    ) -> bool {
        let is_whole = !self.has_hole && bytes.len() == block_len as usize;
        self.restart(part.block.wrapping_add(1));
        fields.clear();
        let decoded = decode(bytes, &mut self.table, fields);
        if is_whole && decoded.is_ok() {
            return true;
        }
        // A whole block that ends inside a field is as wrong as any other.
        if decoded == Err(Stop::Invalid) || is_whole {
            metrics.increment(Metric::HeaderBlocksInvalid);
        }
        fields.set_incomplete();
        self.lose(metrics);
        false
    }

    fn restart(&mut self, block: u32) {
        self.block = Some(block);
        self.bytes = Vec::new();
        self.has_hole = false;
    }

    fn lose(&mut self, metrics: &Metrics) {
        self.table.lose();
        metrics.increment(Metric::HeaderTablesLost);
    }
}
