//! Dynamic tables (RFC 7541 §2.3.2), of which a part may not be known.
//!
//! An index counts from the newest entry backwards, so what an entry is does not depend on those
//! before it: after a loss the entries that were inserted since are known all the same. What they
//! push out is not, for sizes are lost with entries. That does no harm: an encoder names no entry
//! that has been pushed out, so one that is kept for too long is never asked for. For the same
//! reason an entry of unknown size counts as inserted, though one larger than the whole table is
//! not (§4.4): that leaves the table empty, and then nothing behind the entry is named either.

use super::super::fields::Name;
use super::Stop;
use super::static_table::ENTRIES as STATIC;
use std::collections::VecDeque;

/// The size of a table at the start of a connection, in bytes as RFC 7541 §4.1 counts
/// (RFC 9113 §6.5.2). Any other size is told in the blocks themselves (RFC 7541 §4.2).
const INITIAL_LIMIT: u32 = 4096;
/// The most that is kept of a table, in the same bytes; older entries are as good as not known.
pub(super) const MAX_KEPT: u32 = 64 << 10;
/// What an entry counts beside its name and value (RFC 7541 §4.1).
const OVERHEAD: u32 = 32;

/// An entry. Of a field of which nothing is kept, only the size.
#[derive(Debug)]
struct Entry {
    value: Option<Box<[u8]>>,
    /// As RFC 7541 §4.1 counts; the least that it can be, where the name is not known.
    size: u32,
    name_len: u16,
    name: Name,
}

/// Something that an index stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    pub(super) name: Name,
    pub(super) name_len: u32,
    pub(super) value: Option<&'a [u8]>,
}

/// One direction's table.
#[derive(Debug)]
pub(crate) struct Table {
    /// The newest first.
    entries: VecDeque<Entry>,
    /// The sum of the entries' sizes.
    size: u32,
    /// Bytes of the values that are kept.
    value_bytes: u32,
    /// The size that the encoder keeps to, if it is known.
    limit: Option<u32>,
    /// Whether the encoder may know entries behind the last one here.
    is_partial: bool,
}

impl Table {
    /// The table at the start of a connection: empty.
    pub(crate) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            value_bytes: 0,
            limit: Some(INITIAL_LIMIT),
            is_partial: false,
        }
    }

    /// A table of which nothing is known.
    pub(crate) fn unknown() -> Self {
        Self { limit: None, is_partial: true, ..Self::new() }
    }

    /// Forgets all: something was missed that may have changed it.
    pub(crate) fn lose(&mut self) {
        *self = Self::unknown();
    }

    /// Bytes that it takes beside its fixed size.
    pub(crate) fn kept(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>() + self.value_bytes as usize
    }

    /// Entries, and the sum of their sizes.
    #[cfg(test)]
    pub(crate) fn size(&self) -> (usize, u32) {
        (self.entries.len(), self.size)
    }

    /// What an index stands for (RFC 7541 §2.3.3).
    pub(super) fn get(&self, index: u32) -> Result<Found<'_>, Stop> {
        let at = index.checked_sub(1).ok_or(Stop::Invalid)? as usize;
        if let Some(&(name, value)) = STATIC.get(at) {
            let known = Name::of(name.as_bytes());
            // An index of such a field stands for an empty value, too.
            let value = known.is_kept().then_some(value.as_bytes());
            return Ok(Found { name: known, name_len: name.len() as u32, value });
        }
        match self.entries.get(at - STATIC.len()) {
            Some(entry) => Ok(Found {
                name: entry.name,
                name_len: u32::from(entry.name_len),
                value: entry.value.as_deref(),
            }),
            None if self.is_partial => Ok(Found { name: Name::Unknown, name_len: 0, value: None }),
            None => Err(Stop::Invalid),
        }
    }

    /// Inserts an entry (RFC 7541 §4.4). `name_len` is 0 where the name is not known; `value` is
    /// kept where the name is one that matters, and it is not too long.
    pub(super) fn insert(
        &mut self,
        name: Name,
        name_len: u32,
        value_len: u32,
        value: Option<&[u8]>,
    ) {
        let size = OVERHEAD.saturating_add(name_len).saturating_add(value_len);
        let room = self.limit.unwrap_or(u32::MAX).min(MAX_KEPT);
        self.shrink_to(room.saturating_sub(size));
        if size > room {
            // Where it is not the encoder's own limit that it passes, it is an entry for the
            // encoder, and so is all behind it.
            self.is_partial |= self.limit.is_none_or(|limit| size <= limit);
            return;
        }
        let Ok(name_len) = u16::try_from(name_len) else {
            // Longer than `MAX_KEPT` by itself; never here.
            return;
        };
        let value = value.map(Box::<[u8]>::from);
        self.size += size;
        self.value_bytes += value.as_ref().map_or(0, |value| value.len() as u32);
        self.entries.push_front(Entry { value, size, name_len, name });
    }

    /// Takes a change of the size that the encoder keeps to (RFC 7541 §4.3).
    pub(super) fn set_limit(&mut self, limit: u32) {
        self.limit = Some(limit);
        self.shrink_to(limit.min(MAX_KEPT));
        if limit == 0 {
            // Now it is certain that there is nothing.
            self.is_partial = false;
            self.entries = VecDeque::new();
        }
    }

    /// Pushes out the oldest entries until the size is at most this (RFC 7541 §4.3).
    fn shrink_to(&mut self, size: u32) {
        while self.size > size {
            let Some(oldest) = self.entries.pop_back() else { break };
            self.size -= oldest.size;
            self.value_bytes -= oldest.value.map_or(0, |value| value.len() as u32);
            // The encoder may keep more than is kept here.
            self.is_partial |= self.limit.is_none_or(|limit| limit > MAX_KEPT);
        }
    }
}
