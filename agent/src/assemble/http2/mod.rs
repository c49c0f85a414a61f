//! Connections that carry HTTP/2: their compression tables, and so what their header blocks say.
//!
//! Each direction of a connection has a table that every header block on it changes, so every block
//! is decoded, whether its stream is traced or not. Pairing streams with their ends is the
//! same as for exchanges of HTTP/1.x and is done with them (`assemble::open`).

mod direction;
pub(crate) mod fields;
pub(crate) mod hpack;

pub(crate) use direction::Part;

use crate::metrics::{Metric, Metrics};
use direction::Direction;
use fields::Fields;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use tracewire_common::outcome::HeadKind;

/// The bounds of what is kept of connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Http2Limits {
    /// Connections.
    pub(crate) connections: usize,
    /// Bytes of their tables, and of blocks that are not whole yet, in all.
    pub(crate) kept: usize,
}

impl Default for Http2Limits {
    fn default() -> Self {
        Self { connections: 65_536, kept: 32 << 20 }
    }
}

/// A connection's two directions.
#[derive(Debug)]
struct Connection {
    request: Direction,
    response: Direction,
    /// Whether it was used since the last time that it was looked at for eviction.
    is_used: bool,
}

impl Connection {
    fn new(direction: fn() -> Direction) -> Self {
        Self { request: direction(), response: direction(), is_used: true }
    }

    fn kept(&self) -> usize {
        self.request.kept() + self.response.kept()
    }
}

/// A header block that has come to its end.
#[derive(Debug)]
pub(crate) struct Block<'a> {
    /// Its fields, as far as they are known.
    pub(crate) fields: &'a Fields,
    /// Whether all of the block was there to be decoded.
    pub(crate) is_whole: bool,
}

/// The connections. Beyond the bounds those go that were not used for the longest time, nearly: one
/// that was used since it was last looked at gets a second chance. What is gone begins
/// anew with tables of which nothing is known.
#[derive(Debug)]
pub(crate) struct Http2Connections {
    connections: FxHashMap<u64, Connection>,
    /// Connections in the order in which they are looked at for eviction, and some that have ended.
    order: VecDeque<u64>,
    /// Bytes that `connections` keep beside their fixed size.
    kept: usize,
    /// The fields of the last block.
    fields: Fields,
    limits: Http2Limits,
}

impl Http2Connections {
    /// None.
    pub(crate) fn new(limits: Http2Limits) -> Self {
        Self {
            connections: FxHashMap::default(),
            order: VecDeque::new(),
            kept: 0,
            fields: Fields::default(),
            limits,
        }
    }

    /// A connection begins with HTTP/2: both tables are empty.
    pub(crate) fn start(&mut self, connection: u64, metrics: &Metrics) {
        self.end(connection);
        self.insert(connection, Connection::new(Direction::from_start), metrics);
    }

    /// A connection is gone.
    pub(crate) fn end(&mut self, connection: u64) {
        if let Some(ended) = self.connections.remove(&connection) {
            self.kept -= ended.kept();
        }
        // Ended ones are left where they are, until they are half of all.
        if self.order.len() > 64 + 2 * self.connections.len() {
            self.order.retain(|known| self.connections.contains_key(known));
        }
    }

    /// Takes a part of a header block; answers the block, if it ends with this part.
    pub(crate) fn on_part(
        &mut self,
        connection: u64,
        sender: HeadKind,
        part: &Part<'_>,
        metrics: &Metrics,
    ) -> Option<Block<'_>> {
        if !self.connections.contains_key(&connection) {
            metrics.add(Metric::HeaderTablesLost, 2);
            self.insert(connection, Connection::new(Direction::from_middle), metrics);
        }
        let known = self.connections.get_mut(&connection)?;
        known.is_used = true;
        let before = known.kept();
        let direction = match sender {
            HeadKind::Request => &mut known.request,
            HeadKind::Response => &mut known.response,
        };
        let is_whole = direction.on_part(part, &mut self.fields, metrics);
        self.kept = self.kept - before + known.kept();
        while self.kept > self.limits.kept && self.evict(metrics) {}
        debug_assert!(self.kept <= self.limits.kept, "more is kept than connections keep");
        is_whole.map(|is_whole| Block { fields: &self.fields, is_whole })
    }

    fn insert(&mut self, connection: u64, state: Connection, metrics: &Metrics) {
        while self.connections.len() >= self.limits.connections && self.evict(metrics) {}
        self.kept += state.kept();
        self.connections.insert(connection, state);
        self.order.push_back(connection);
    }

    /// Forgets one connection; `false` if there is none.
    fn evict(&mut self, metrics: &Metrics) -> bool {
        while let Some(oldest) = self.order.pop_front() {
            match self.connections.get_mut(&oldest) {
                None => {}
                Some(known) if known.is_used => {
                    known.is_used = false;
                    self.order.push_back(oldest);
                }
                Some(_) => {
                    self.end(oldest);
                    metrics.increment(Metric::Http2Evicted);
                    return true;
                }
            }
        }
        false
    }

    /// Connections, and bytes that they keep.
    #[cfg(test)]
    fn size(&self) -> (usize, usize) {
        (self.connections.len(), self.kept)
    }
}

#[cfg(test)]
#[path = "http2_tests.rs"]
mod tests;
