//! Requests in records of FastCGI: a context among the parameters that may be one that is passed on.

use std::ops::Range;

/// Bytes of a record's header ("FastCGI Specification", §3.3).
const RECORD_HEADER: usize = 8;

const BEGIN_REQUEST: u8 = 1;
const ABORT_REQUEST: u8 = 2;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;

const NAME: &[u8] = b"HTTP_TRACEPARENT";

/// A request, as far as the stream has it.
pub(super) struct Request {
    /// Where the value of its one context is, if it is whole in a record.
    pub(super) context: Option<Range<usize>>,
    /// Where its head ends.
    pub(super) head_end: usize,
    /// Where it ends itself, if it does.
    pub(super) end: Option<usize>,
    /// Whether the connection is to be kept behind it.
    pub(super) is_kept: bool,
    /// Whether a record ends in its parameters where none should.
    pub(super) is_doubtful: bool,
}

/// A record.
struct Record {
    kind: u8,
    id: u16,
    content: Range<usize>,
    end: usize,
}

/// The request that starts at `at`, if its head is whole and in good order.
pub(super) fn read(stream: &[u8], at: usize) -> Option<Request> {
    let begin = Record::read(stream, at)?;
    let is_kept = match stream.get(begin.content.clone())? {
        [0, 1, flags @ (0 | 1), 0, 0, 0, 0, 0] => *flags == 1,
        _ => return None,
    };
    if begin.kind != BEGIN_REQUEST || begin.id == 0 {
        return None;
    }
    let mut parameters = Parameters::default();
    let mut at = begin.end;
    let mut head_end = None;
    let mut end = None;
    while end.is_none() {
        let kind = if head_end.is_none() { PARAMS } else { STDIN };
        let fits = |record: &Record| {
            record.id == begin.id && (record.kind == kind || record.kind == ABORT_REQUEST)
        };
        let Some(record) = Record::read(stream, at).filter(fits) else { break };
        at = record.end;
        match record.kind {
            PARAMS if record.content.is_empty() => head_end = Some(at),
            PARAMS => parameters.read(stream, record.content)?,
            STDIN if record.content.is_empty() => end = Some(at),
            _ => {}
        }
    }
    let is_doubtful = parameters.is_doubtful;
    let context = parameters.value.filter(|_| parameters.contexts == 1 && !is_doubtful);
    Some(Request { context, head_end: head_end?, end, is_kept, is_doubtful })
}

impl Record {
    fn read(stream: &[u8], at: usize) -> Option<Self> {
        let [1, kind, id @ .., padding, _] = *stream.get(at..)?.first_chunk::<RECORD_HEADER>()?
        else {
            return None;
        };
        let [high, low, len_high, len_low] = id;
        let from = at + RECORD_HEADER;
        let content = from..from + usize::from(u16::from_be_bytes([len_high, len_low]));
        let end = content.end + usize::from(padding);
        let record = Self { kind, id: u16::from_be_bytes([high, low]), content, end };
        (end <= stream.len()).then_some(record)
    }
}

/// Names and values, over as many records as they take.
#[derive(Default)]
struct Parameters {
    contexts: usize,
    value: Option<Range<usize>>,
    /// Bytes of a name and a value that are still to come, and do not matter.
    rest: usize,
    is_doubtful: bool,
}

impl Parameters {
    /// Reads the content of a record. What records should not cut leaves a doubt, and all that comes
    /// behind it is not read.
    fn read(&mut self, stream: &[u8], content: Range<usize>) -> Option<()> {
        let mut at = content.start;
        while at < content.end && !self.is_doubtful {
            let over = self.rest.min(content.end - at);
            self.rest -= over;
            at += over;
            if at == content.end {
                break;
            }
            let (name, value) = (length(stream, &mut at), length(stream, &mut at));
            let (Some(name), Some(value)) = (name, value) else { return None };
            let Some(here) = stream.get(at..content.end) else {
                self.is_doubtful = true;
                break;
            };
            let here = &here[..here.len().min(name)];
            if name != NAME.len() || !NAME.starts_with(here) {
                self.rest = name + value;
            } else if here.len() < name {
                self.is_doubtful = true;
            } else {
                at += name;
                self.contexts += 1;
                self.value = Some(at..at + value);
                self.is_doubtful = at + value > content.end;
                at += value;
            }
        }
        Some(())
    }
}

/// A length of one byte or of four (§3.4).
fn length(stream: &[u8], at: &mut usize) -> Option<usize> {
    let first = *stream.get(*at)?;
    if first < 0x80 {
        *at += 1;
        return Some(first.into());
    }
    let bytes = *stream.get(*at..)?.first_chunk::<4>()?;
    *at += 4;
    usize::try_from(u32::from_be_bytes(bytes) & (u32::MAX >> 1)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn record(kind: u8, content: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(content.len()).unwrap_or(0).to_be_bytes();
        [&[1, kind, 0, 1, high, low, 3, 0], content, &[0; 3]].concat()
    }

    fn parameter(name: &[u8], value: &str) -> Vec<u8> {
        let lens = [name.len() as u8, value.len() as u8];
        [&lens, name, value.as_bytes()].concat()
    }

    /// A request whose parameters are in these records.
    fn request(parts: &[&[u8]], stdin: &[u8]) -> Vec<u8> {
        let mut stream = record(BEGIN_REQUEST, &[0, 1, 1, 0, 0, 0, 0, 0]);
        parts.iter().for_each(|part| stream.extend(record(PARAMS, part)));
        stream.extend(record(PARAMS, &[]));
        if !stdin.is_empty() {
            stream.extend(record(STDIN, stdin));
        }
        [stream, record(STDIN, &[])].concat()
    }

    #[test]
    fn the_only_context_of_a_request_is_found_if_it_is_whole_in_a_record() {
        let other = parameter(b"HTTP_TRACEPARENTS", VALUE);
        let context = parameter(NAME, VALUE);
        let both = [other.clone(), context.clone()].concat();
        for parts in [&[both.as_slice()][..], &[&other, &context], &[&both[..30], &both[30..]]] {
            let stream = [b"PREFIX", request(parts, b"body").as_slice()].concat();
            let request = read(&stream, 6).expect("a request");
            let value = request.context.expect("a context");
            assert_eq!(&stream[value], VALUE.as_bytes());
            assert_eq!(request.end, Some(stream.len()));
            assert_eq!(request.head_end, stream.len() - 11 - 15);
            assert!(request.is_kept && !request.is_doubtful);
        }
    }

    #[test]
    fn a_context_that_is_cut_leaves_a_doubt_and_two_are_none() {
        let context = parameter(NAME, VALUE);
        for cut in [10, 18, 19, 40] {
            let stream = request(&[&context[..cut], &context[cut..]], b"");
            let request = read(&stream, 0).expect("a request");
            assert!(request.is_doubtful && request.context.is_none(), "{cut}");
        }
        let stream = request(&[&context, &context], b"");
        let request = read(&stream, 0).expect("a request");
        assert!(!request.is_doubtful && request.context.is_none());
    }

    #[test]
    fn what_is_no_request_is_none() {
        let good = request(&[&parameter(NAME, VALUE)], b"");
        for (at, byte) in [(0, 2), (1, PARAMS), (3, 0), (9, 2), (10, 2)] {
            let mut stream = good.clone();
            stream[at] = byte;
            assert!(read(&stream, 0).is_none(), "{at}");
        }
        // Of the head nothing may be missing; behind it, anything.
        let head_end = good.len() - 11;
        assert!(read(&good[..head_end - 1], 0).is_none());
        assert!(read(&good[..head_end], 0).is_some_and(|request| request.end.is_none()));
    }
}
