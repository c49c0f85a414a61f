//! What is expected next.

pub(super) const START: u8 = 0;
pub(super) const METHOD: u8 = 1;
pub(super) const TARGET: u8 = 2;
pub(super) const REQUEST_LINE: u8 = 3;
pub(super) const STATUS: u8 = 4;
pub(super) const LINE: u8 = 5;
pub(super) const LINE_START: u8 = 6;
pub(super) const NAME: u8 = 7;
pub(super) const LENGTH: u8 = 8;
pub(super) const CODING: u8 = 9;
pub(super) const TRACEPARENT: u8 = 10;
pub(super) const FIELD_END: u8 = 11;
pub(super) const EMPTY_LINE: u8 = 12;
pub(super) const HEAD_END: u8 = 13;
pub(super) const BODY: u8 = 14;
pub(super) const CHUNK_SIZE: u8 = 15;
pub(super) const CHUNK_LINE: u8 = 16;
pub(super) const CHUNK_DATA: u8 = 17;
pub(super) const CHUNK_END: u8 = 18;
pub(super) const TRAILER_START: u8 = 19;
pub(super) const TRAILER_LINE: u8 = 20;
pub(super) const TRAILER_END: u8 = 21;
pub(super) const UNTIL_CLOSE: u8 = 22;
pub(super) const MESSAGE_END: u8 = 23;
pub(super) const HELD: u8 = 24;
pub(super) const LOST: u8 = 25;
pub(super) const OPAQUE: u8 = 26;
/// Of a message in records of FastCGI: a record's header, its content, its padding.
pub(super) const RECORD: u8 = 27;
pub(super) const CONTENT: u8 = 28;
pub(super) const PADDING: u8 = 29;
