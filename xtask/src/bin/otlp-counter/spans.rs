//! Counts the spans of an `ExportTraceServiceRequest` without building them.
//!
//! `resource_spans` is field 1 of the request, `scope_spans` field 2 of that, and
//! `spans` field 2 of that (opentelemetry-proto, `trace/v1/trace.proto`).

/// The field numbers on the way to a span.
const WAY: [u64; 3] = [1, 2, 2];

/// The spans in an encoded request; nothing if it is not well formed down to them.
pub(crate) fn count(message: &[u8]) -> Option<u64> {
    below(message, &WAY)
}

fn below(mut message: &[u8], way: &[u64]) -> Option<u64> {
    let Some((wanted, rest_of_way)) = way.split_first() else {
        return Some(1);
    };
    let mut spans = 0;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        // The low three bits are the wire type (protobuf encoding, "Message Structure").
        match tag & 7 {
            0 => drop(varint(&mut message)?),
            1 => drop(take(&mut message, 8)?),
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                let field = take(&mut message, length)?;
                if tag >> 3 == *wanted {
                    spans += below(field, rest_of_way)?;
                }
            }
            5 => drop(take(&mut message, 4)?),
            _ => return None,
        }
    }
    Some(spans)
}

fn take<'a>(message: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = message.split_at_checked(length)?;
    *message = rest;
    Some(taken)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).expect("test content is short");
        assert!(length < 0x80);
        [&[number << 3 | 2, length], content].concat()
    }

    #[test]
    fn spans_are_counted_over_all_resources_and_scopes() {
        let span = field(2, &field(1, &[7; 16]));
        // The resource is field 1 of ResourceSpans, the scope field 1 of ScopeSpans.
        let scope = field(2, &[field(1, b"\x0a\x01s"), span.clone(), span.clone()].concat());
        let one = field(1, &[field(1, b""), scope.clone(), scope.clone()].concat());
        let other = field(1, &scope);
        assert_eq!(count(&[one, other].concat()), Some(6));
        assert_eq!(count(&[]), Some(0));
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        let whole = field(1, &field(2, &field(2, b"abc")));
        assert_eq!(count(&whole), Some(1));
        for cut in 1..whole.len() {
            assert_eq!(count(&whole[..cut]), None, "{cut}");
        }
    }
}
