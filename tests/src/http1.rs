//! A small HTTP/1.1 reader for the peers: enough for what they send each other.

use std::io::{Error, ErrorKind, Read, Result};

/// The longest message that is read, in bytes.
const LIMIT: usize = 64 << 20;

/// A message: its head up to and with the empty line, and its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The head as received.
    pub head: Vec<u8>,
    /// The content, transfer coding taken off.
    pub body: Vec<u8>,
}

impl Message {
    /// The first value of a header, trimmed.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All headers in order.
    pub fn headers(&self) -> impl Iterator<Item = (String, String)> {
        let head = String::from_utf8_lossy(&self.head).into_owned();
        let lines: Vec<String> = head.split("\r\n").skip(1).map(str::to_owned).collect();
        lines.into_iter().filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        })
    }

    /// The `number`th word of the first line.
    pub fn start(&self, number: usize) -> String {
        let line = self.head.split(|b| *b == b'\r').next().unwrap_or_default();
        String::from_utf8_lossy(line).split(' ').nth(number).unwrap_or_default().to_owned()
    }
}

/// Reads messages off a stream, keeping what was read too far.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    ahead: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// A reader at the start of a message.
    pub fn new(source: R) -> Self {
        Self { source, ahead: Vec::new() }
    }

    fn more(&mut self) -> Result<bool> {
        let mut piece = [0; 16 * 1024];
        let len = self.source.read(&mut piece)?;
        self.ahead.extend_from_slice(&piece[..len]);
        if self.ahead.len() > LIMIT {
            return Err(Error::new(ErrorKind::InvalidData, "message too long"));
        }
        Ok(len > 0)
    }

    fn take(&mut self, len: usize) -> Result<Vec<u8>> {
        while self.ahead.len() < len {
            if !self.more()? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.ahead.drain(..len).collect())
    }

    fn take_through(&mut self, pattern: &[u8]) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = find(&self.ahead, pattern) {
                return self.take(at + pattern.len()).map(Some);
            }
            if !self.more()? {
                return if self.ahead.is_empty() {
                    Ok(None)
                } else {
                    Err(ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    /// The next message, or `None` if the stream ends before it.
    /// `to_end`: without a length, the content lasts until the stream ends (responses).
    ///
    /// # Errors
    ///
    /// If reading fails or the stream ends inside a message.
    pub fn next(&mut self, to_end: bool) -> Result<Option<Message>> {
        let Some(head) = self.take_through(b"\r\n\r\n")? else {
            return Ok(None);
        };
        let mut message = Message { head, body: Vec::new() };
        if let Some(length) = message.header("content-length") {
            let length = length.parse().map_err(|_| Error::from(ErrorKind::InvalidData))?;
            message.body = self.take(length)?;
        } else if message.header("transfer-encoding").is_some() {
            loop {
                let line = self.take_through(b"\r\n")?.ok_or(ErrorKind::UnexpectedEof)?;
                let size = String::from_utf8_lossy(&line);
                let size = usize::from_str_radix(size.trim(), 16)
                    .map_err(|_| Error::from(ErrorKind::InvalidData))?;
                let chunk = self.take(size + 2)?;
                message.body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    break;
                }
            }
        } else if to_end {
            while self.more()? {}
            message.body = std::mem::take(&mut self.ahead);
        }
        Ok(Some(message))
    }
}

/// Where `pattern` starts in `bytes`.
pub fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len().max(1)).position(|window| window == pattern)
}
