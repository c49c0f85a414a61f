//! Records off the ring buffer: decoded by checked reads, whatever the bytes are.

use crate::bodies;
use proptest::prelude::*;
use std::path::Path;
use tracewire_common::records::{
    ConnectionEvent, DecodeError, ExchangeCandidates, ExchangeClosed, ExchangeOpened, HeadFragment,
    HeaderBlock, KIND_CONNECTION_OPAQUE, KIND_EXCHANGE_CANDIDATES, KIND_EXCHANGE_CLOSED,
    KIND_EXCHANGE_OPENED, KIND_HEAD_FRAGMENT, KIND_HEADER_BLOCK, KIND_HTTP2_ENDED,
    KIND_HTTP2_STARTED, KIND_PROCESS_EXEC, KIND_PROCESS_EXIT, KIND_PROCESS_FORK,
    KIND_SOCKET_SPARED, KIND_STREAM_CLOSED, KIND_STREAM_OPENED, ProcessEvent, ProcessExec,
    RECORD_VERSION, Record, RecordHeader, decode,
};

/// Every kind, with the size of its fixed part and whether data follows.
const KINDS: [(u16, usize, bool); 14] = [
    (KIND_HEAD_FRAGMENT, size_of::<HeadFragment>(), true),
    (KIND_EXCHANGE_OPENED, size_of::<ExchangeOpened>(), true),
    (KIND_EXCHANGE_CLOSED, size_of::<ExchangeClosed>(), false),
    (KIND_EXCHANGE_CANDIDATES, size_of::<ExchangeCandidates>(), false),
    (KIND_PROCESS_EXEC, size_of::<ProcessExec>(), true),
    (KIND_PROCESS_FORK, size_of::<ProcessEvent>(), false),
    (KIND_PROCESS_EXIT, size_of::<ProcessEvent>(), false),
    (KIND_CONNECTION_OPAQUE, size_of::<ConnectionEvent>(), false),
    (KIND_SOCKET_SPARED, size_of::<ConnectionEvent>(), false),
    (KIND_STREAM_OPENED, size_of::<ExchangeOpened>(), true),
    (KIND_HEADER_BLOCK, size_of::<HeaderBlock>(), true),
    (KIND_STREAM_CLOSED, size_of::<ExchangeClosed>(), false),
    (KIND_HTTP2_STARTED, size_of::<ConnectionEvent>(), false),
    (KIND_HTTP2_ENDED, size_of::<ConnectionEvent>(), false),
];

fn header(kind: u16, version: u16, data_len: u32) -> Vec<u8> {
    let mut bytes = kind.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&version.to_ne_bytes());
    bytes.extend_from_slice(&data_len.to_ne_bytes());
    bytes
}

/// A record whose fixed part is `fill` after the header.
fn record(kind: u16, fixed: usize, data: &[u8], fill: u8) -> Vec<u8> {
    let mut bytes = header(kind, RECORD_VERSION, data.len() as u32);
    bytes.resize(fixed, fill);
    bytes.extend_from_slice(data);
    bytes
}

#[test]
fn an_opened_exchange_reads_back_as_it_was_written() {
    let mut bytes = header(KIND_EXCHANGE_OPENED, RECORD_VERSION, 5);
    for number in 1..=7u64 {
        bytes.extend_from_slice(&number.to_ne_bytes());
    }
    bytes.extend_from_slice(&[10; 16]);
    bytes.extend_from_slice(&[11; 16]);
    bytes.extend_from_slice(&80u16.to_ne_bytes());
    bytes.extend_from_slice(&4000u16.to_ne_bytes());
    bytes.extend_from_slice(&[4, 1, 2, 1]);
    for number in 20..=27u32 {
        bytes.extend_from_slice(&number.to_ne_bytes());
    }
    bytes.extend_from_slice(b"GET /");
    let expected = ExchangeOpened {
        header: RecordHeader { kind: KIND_EXCHANGE_OPENED, version: RECORD_VERSION, data_len: 5 },
        connection: 1,
        started_ns: 2,
        trace_id_hi: 3,
        trace_id_lo: 4,
        span_id: 5,
        parent_span_id: 6,
        cgroup_id: 7,
        local_addr: [10; 16],
        remote_addr: [11; 16],
        local_port: 80,
        remote_port: 4000,
        ip_version: 4,
        role: 1,
        correlation: 2,
        outcome: 1,
        sequence: 20,
        tgid: 21,
        tid: 22,
        head_len: 23,
        head_offset: 24,
        block: 25,
        flags: 26,
        pad: 27,
    };
    assert_eq!(decode(&bytes), Ok(Record::ExchangeOpened(expected, b"GET /")));
}

#[test]
fn arguments_and_environment_are_told_apart() {
    let mut bytes = record(KIND_PROCESS_EXEC, size_of::<ProcessExec>(), b"sh\0-c\0A=1\0", 0);
    let args_at = 28;
    bytes[args_at..args_at + 4].copy_from_slice(&6u32.to_ne_bytes());
    let Ok(Record::ProcessExec(fixed, args, env)) = decode(&bytes) else { panic!("no exec") };
    assert_eq!((fixed.args_len, args, env), (6, &b"sh\0-c\0"[..], &b"A=1\0"[..]));
    bytes[args_at..args_at + 4].copy_from_slice(&11u32.to_ne_bytes());
    assert_eq!(decode(&bytes), Err(DecodeError::Length), "more arguments than data");
    bytes[args_at..args_at + 4].copy_from_slice(&u32::MAX.to_ne_bytes());
    assert_eq!(decode(&bytes), Err(DecodeError::Length));
}

#[test]
fn every_kind_is_refused_when_it_is_cut_anywhere() {
    for (kind, fixed, has_data) in KINDS {
        let data: &[u8] = if has_data { b"data" } else { b"" };
        let bytes = record(kind, fixed, data, 0);
        assert!(decode(&bytes).is_ok(), "kind {kind}");
        for len in 0..bytes.len() {
            let wanted = if len < fixed { DecodeError::Truncated } else { DecodeError::Length };
            assert_eq!(decode(&bytes[..len]), Err(wanted), "kind {kind} cut to {len}");
        }
    }
}

#[test]
fn a_fuzzer_begins_with_a_record_of_each_kind() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/records_decode");
    for (kind, ..) in KINDS {
        let path = corpus.join(format!("kind-{kind}"));
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(bytes[..2], kind.to_ne_bytes(), "{}", path.display());
        assert!(decode(&bytes).is_ok(), "{}: {:?}", path.display(), decode(&bytes));
    }
}

#[test]
fn bytes_behind_the_data_are_ignored() {
    for (kind, fixed, _) in KINDS {
        let mut bytes = record(kind, fixed, b"", 0);
        bytes.extend_from_slice(&[0xff; 15]);
        assert!(decode(&bytes).is_ok(), "kind {kind}");
    }
}

#[test]
fn other_versions_are_refused_before_anything_else_is_read() {
    for version in [0, RECORD_VERSION + 1, u16::MAX] {
        assert_eq!(decode(&header(999, version, 0)), Err(DecodeError::Version(version)));
    }
}

#[test]
fn unknown_kinds_are_refused() {
    let known = KINDS.map(|(kind, ..)| kind);
    for kind in (0..=u16::MAX).filter(|kind| !known.contains(kind)) {
        assert_eq!(decode(&header(kind, RECORD_VERSION, 0)), Err(DecodeError::Kind(kind)));
    }
}

#[test]
fn a_length_larger_than_the_record_is_refused() {
    for (kind, fixed, has_data) in KINDS {
        for data_len in [1, 0x7fff_ffff, u32::MAX] {
            let mut bytes = header(kind, RECORD_VERSION, data_len);
            bytes.resize(fixed, 0);
            if has_data {
                assert_eq!(decode(&bytes), Err(DecodeError::Length), "kind {kind}");
            } else {
                assert!(decode(&bytes).is_ok(), "kind {kind} has no data to be short of");
            }
        }
    }
}

#[test]
fn integers_that_name_no_value_give_none() {
    let bytes = record(KIND_EXCHANGE_OPENED, size_of::<ExchangeOpened>(), b"", 0xff);
    let Ok(Record::ExchangeOpened(fixed, _)) = decode(&bytes) else { panic!("not opened") };
    assert_eq!((fixed.role(), fixed.correlation(), fixed.outcome()), (None, None, None));
    let bytes = record(KIND_EXCHANGE_CLOSED, size_of::<ExchangeClosed>(), b"", 0xff);
    let Ok(Record::ExchangeClosed(fixed)) = decode(&bytes) else { panic!("not closed") };
    assert_eq!(fixed.reason(), None);
}

#[test]
fn errors_say_what_is_wrong() {
    let text = DecodeError::Version(9).to_string();
    assert_eq!(text, format!("record version 9, expected {RECORD_VERSION}"));
    assert_eq!(DecodeError::Kind(77).to_string(), "unknown record kind 77");
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        bodies::records_decode(&bytes);
    }

    #[test]
    fn any_bytes_behind_a_valid_start_are_decoded_or_refused(
        kind in 0..=KINDS.len() as u16 + 1, data_len in prop_oneof![0..200u32, any::<u32>()],
        rest in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = header(kind, RECORD_VERSION, data_len);
        bytes.extend_from_slice(&rest);
        bodies::records_decode(&bytes);
    }
}
