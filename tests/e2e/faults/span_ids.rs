//! The span ids in an encoded `ExportTraceServiceRequest`.
//!
//! `resource_spans` is field 1 of the request, `scope_spans` field 2 of that, `spans` field
//! 2 of that, and `span_id` field 2 of that (opentelemetry-proto, `trace/v1/trace.proto`).

/// The field numbers on the way to an id.
const WAY: [u64; 4] = [1, 2, 2, 2];

/// Gives each id to `take`; nothing if the message is not well formed down to them.
pub(crate) fn collect(message: &[u8], take: &mut impl FnMut(u64)) -> Option<()> {
    below(message, &WAY, take)
}

fn below(mut message: &[u8], way: &[u64], found: &mut impl FnMut(u64)) -> Option<()> {
    let Some((wanted, rest_of_way)) = way.split_first() else {
        found(u64::from_be_bytes(message.try_into().ok()?));
        return Some(());
    };
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
                    below(field, rest_of_way, found)?;
                }
            }
            5 => drop(take(&mut message, 4)?),
            _ => return None,
        }
    }
    Some(())
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
