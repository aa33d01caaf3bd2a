//! Properties: what goes in comes out, and nothing else comes out.

use memkv_proto::blocks::{ReplyBlocks, StageSummary, TraceContext};
use memkv_proto::op::{Attrs, Class, Condition, ErrorCode, OpCode, Outcome, PutEntry, Segment};
use memkv_proto::reply::{self, Failure, Reply, WriteResult};
use memkv_proto::request::{self, Request};
use memkv_proto::{DecodeError, EncodeError, FrameHead, HEADER_BYTES, fuzzing, limits};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::scenario::{self, pair, seal};

fn a_key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 1..40), Just(vec![1; 512]), Just(vec![2])]
}

fn a_trace() -> impl Strategy<Value = Option<TraceContext>> {
    proptest::option::of(any::<([u8; 16], [u8; 8], u8)>()).prop_map(|some| {
        let (trace_id, span_id, flags) = some?;
        Some(TraceContext {
            version: 0,
            trace_id,
            span_id,
            flags,
        })
    })
}

fn some_attrs() -> impl Strategy<Value = Attrs> {
    any::<(u32, u8, u32, u64, bool)>().prop_map(
        |(namespace, type_tag, flags, expiry_ms, durable)| {
            let class = if durable {
                Class::Durable
            } else {
                Class::Evictable
            };
            Attrs {
                namespace,
                type_tag,
                flags,
                expiry_ms,
                class,
            }
        },
    )
}

fn a_condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        Just(Condition::None),
        Just(Condition::IfAbsent),
        any::<u64>().prop_map(Condition::IfVersion)
    ]
}

fn an_outcome() -> impl Strategy<Value = Outcome> {
    let code = proptest::sample::select(ErrorCode::ALL);
    prop_oneof![
        Just(Outcome::Ok),
        Just(Outcome::Miss),
        code.prop_map(Outcome::Error)
    ]
}

fn some_blocks() -> impl Strategy<Value = ReplyBlocks> {
    any::<(Option<[u8; 8]>, Option<[u32; 10]>, bool)>().prop_map(|(span_id, ns, is_kept)| {
        ReplyBlocks {
            span_id,
            stages: ns.map(StageSummary),
            is_kept,
        }
    })
}

fn a_segment() -> impl Strategy<Value = Segment> {
    let place = (0..=limits::VALUE_BYTES_MAX, any::<(u64, u32)>());
    (
        0..1024u32,
        an_outcome(),
        some_attrs(),
        any::<(u64, u32)>(),
        place,
    )
        .prop_map(
            |(entry_idx, outcome, attrs, (version, crc), (value_len, (offset, chunk_len)))| {
                if outcome != Outcome::Ok {
                    return Segment::without_value(entry_idx, outcome);
                }
                let offset = offset % (value_len + 1);
                let chunk_len = u64::from(chunk_len).min(value_len - offset) as u32;
                Segment {
                    entry_idx,
                    outcome,
                    attrs,
                    version,
                    value_len,
                    crc,
                    offset,
                    chunk_len,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn keyed_requests_round_trip(
        keys in vec(a_key(), 1..50),
        namespace: u32,
        trace in a_trace(),
        op in proptest::sample::select(vec![OpCode::BatchRead, OpCode::Delete, OpCode::Exists]),
    ) {
        let mut out = vec![9; 3];
        let borrowed = keys.iter().map(Vec::as_slice);
        let head = request::encode_keys(&mut out, op, trace.as_ref(), namespace, borrowed).unwrap();
        prop_assert_eq!(&out[..3], &[9; 3], "an encoder appends");
        let (found, request) = Request::decode(&head, &out[3..]).unwrap();
        prop_assert_eq!(found, trace);
        prop_assert_eq!(request.op(), op);
        let (Request::BatchRead(entries) | Request::Delete(entries) | Request::Exists(entries)) =
            request else { panic!("another request") };
        prop_assert_eq!(entries.namespace(), namespace);
        prop_assert_eq!(entries.iter().len(), keys.len());
        prop_assert!(entries.iter().eq(keys.iter().map(Vec::as_slice)));
        for key in &entries {
            prop_assert!(out.as_ptr_range().contains(&key.as_ptr()), "keys aren't copied");
        }
    }

    #[test]
    fn writes_round_trip(
        entries in vec(
            (a_key(), some_attrs(), a_condition(), 0..=limits::VALUE_BYTES_MAX, any::<u32>()), 1..30),
        trace in a_trace(),
    ) {
        let entries: Vec<PutEntry<'_>> = entries
            .iter()
            .map(|(key, attrs, condition, value_len, crc)| PutEntry {
                key, attrs: *attrs, condition: *condition, value_len: *value_len, crc: *crc,
            })
            .collect();
        let mut out = Vec::new();
        let op = OpCode::BatchWrite;
        let head =
            request::encode_writes(&mut out, op, trace.as_ref(), entries.iter().copied()).unwrap();
        prop_assert_eq!(head.payload_len, entries.iter().map(|entry| entry.value_len).sum::<u64>());
        let (found, request) = Request::decode(&head, &out).unwrap();
        prop_assert_eq!(found, trace);
        let Request::BatchWrite(decoded) = request else { panic!("another request") };
        prop_assert!(decoded.iter().eq(entries.iter().copied()));
        let mut longer = head;
        longer.payload_len += 1;
        let is_mismatch =
            matches!(Request::decode(&longer, &out), Err(DecodeError::Mismatch { .. }));
        prop_assert!(is_mismatch, "payload of another length than its entries");
    }

    #[test]
    fn values_round_trip(
        segments in vec(a_segment(), 1..40), blocks in some_blocks(), retry: u32,
    ) {
        let mut out = Vec::new();
        let head =
            reply::encode_values(&mut out, OpCode::BatchRead, &blocks, retry, &segments).unwrap();
        let (found, reply) = Reply::decode(&head, &out).unwrap();
        prop_assert_eq!(found, blocks);
        let Reply::Values(decoded) = reply else { panic!("another reply") };
        prop_assert_eq!(decoded.retry_after_us(), retry);
        prop_assert!(decoded.iter().eq(segments.iter().copied()));
        let payload = segments.iter().map(|segment| u64::from(segment.chunk_len)).sum::<u64>();
        prop_assert_eq!(head.payload_len, payload);
    }

    #[test]
    fn outcomes_and_results_round_trip(
        outcomes in vec(an_outcome(), 1..600), blocks in some_blocks(), version: u64,
    ) {
        let mut out = Vec::new();
        let op = OpCode::Exists;
        let listed = outcomes.iter().copied();
        let head = reply::encode_outcomes(&mut out, op, &blocks, 7, listed).unwrap();
        let (_, Reply::Outcomes(decoded)) = Reply::decode(&head, &out).unwrap() else {
            panic!("another reply")
        };
        prop_assert!(decoded.iter().eq(outcomes.iter().copied()));
        out.clear();
        let results = outcomes.iter().map(|outcome| WriteResult { outcome: *outcome, version });
        let op = OpCode::Put;
        let head = reply::encode_written(&mut out, op, &blocks, 7, results.clone()).unwrap();
        let (_, Reply::Written(decoded)) = Reply::decode(&head, &out).unwrap() else {
            panic!("another reply")
        };
        prop_assert!(decoded.iter().eq(results));
    }

    #[test]
    fn failures_round_trip_with_their_detail_cut_to_its_limit(
        detail in "\\PC{0,400}", blocks in some_blocks(), retry_after_us: u32,
    ) {
        let mut out = Vec::new();
        let failure = Failure { code: ErrorCode::Draining, retry_after_us, detail: &detail };
        let head = reply::encode_failed(&mut out, OpCode::Get, &blocks, &failure);
        let (_, Reply::Failed(decoded)) = Reply::decode(&head, &out).unwrap() else {
            panic!("another reply")
        };
        prop_assert!(decoded.detail.len() <= limits::DETAIL_BYTES_MAX);
        prop_assert!(detail.starts_with(decoded.detail));
        prop_assert!(decoded.detail.len() + 4 > detail.len().min(limits::DETAIL_BYTES_MAX));
        prop_assert_eq!(decoded.retry_after_us, retry_after_us);
    }

    #[test]
    fn any_changed_byte_of_header_or_control_is_refused(at: usize, xor in 1..=255u8, which: usize) {
        let mut pair = pair();
        let mut all = scenario::requests();
        let (_, head, control) = all.swap_remove(which % all.len());
        let mut frame = seal(&mut pair.client.sealer, &head, &control);
        let at = at % frame.len();
        frame[at] ^= xor;
        let (header, control) = frame.split_first_chunk::<HEADER_BYTES>().unwrap();
        match pair.server.opener.open(header) {
            Err(_) => prop_assert!(at < HEADER_BYTES),
            Ok(head) => prop_assert!(pair.server.opener.check_control(&head, control).is_err()),
        }
        let header = *header;
        prop_assert!(pair.server.opener.open(&header).is_err(), "a refused session went on");
    }

    #[test]
    fn arbitrary_bytes_never_panic_a_decoder(data in vec(any::<u8>(), 0..600)) {
        for (_, target) in fuzzing::TARGETS {
            target(&data);
        }
    }

    #[test]
    fn altered_messages_decode_canonically_or_not_at_all(
        which: usize, changes in vec((any::<usize>(), any::<u8>()), 1..6),
    ) {
        let (requests, replies) = (scenario::requests(), scenario::replies());
        let which = which % (requests.len() + replies.len());
        let (all, target): (_, fuzzing::Target) = if which < requests.len() {
            (&requests, fuzzing::fuzz_request)
        } else {
            (&replies, fuzzing::fuzz_reply)
        };
        let (_, head, control) = &all[which % all.len()];
        let mut data = crate::corpus::seed(head, control);
        for (at, byte) in changes {
            let at = at % data.len();
            data[at] = byte;
        }
        target(&data);
    }
}

#[test]
fn every_truncation_of_every_message_is_refused() {
    for (name, head, control) in scenario::requests() {
        for len in 0..control.len() {
            assert!(
                Request::decode(&head, &control[..len]).is_err(),
                "{name} cut to {len}"
            );
        }
        let longer = [control.as_slice(), &[0]].concat();
        assert_eq!(
            Request::decode(&head, &longer),
            Err(DecodeError::Trailing(1)),
            "{name}"
        );
    }
    for (name, head, control) in scenario::replies() {
        for len in 0..control.len() {
            assert!(
                Reply::decode(&head, &control[..len]).is_err(),
                "{name} cut to {len}"
            );
        }
        let longer = [control.as_slice(), &[0]].concat();
        assert_eq!(
            Reply::decode(&head, &longer),
            Err(DecodeError::Trailing(1)),
            "{name}"
        );
    }
}

#[test]
fn counts_that_the_bytes_cannot_hold_are_refused_before_anything_is_sized_by_them() {
    let head = FrameHead::new(OpCode::Exists, Default::default(), 0, 0);
    let with_count = |count: u32| [[0; 4], count.to_le_bytes()].concat();
    let decode = |count| Request::decode(&head, &with_count(count)).unwrap_err();
    assert!(matches!(
        decode(1024),
        DecodeError::Truncated {
            need: 2048,
            have: 0,
            ..
        }
    ));
    assert!(matches!(decode(0), DecodeError::BadValue { .. }));
    for count in [1025, u32::MAX] {
        assert_eq!(decode(count).code(), ErrorCode::TooLarge);
    }
}

#[test]
fn keys_of_0_and_513_bytes_are_the_outcome_of_their_entry_and_512_passes() {
    for (len, expected) in [
        (0, Err(ErrorCode::BadKey)),
        (1, Ok(())),
        (512, Ok(())),
        (513, Err(ErrorCode::BadKey)),
    ] {
        let key = vec![5; len];
        assert_eq!(limits::check_key(&key), expected);
        let mut out = Vec::new();
        let encoded = request::encode_keys(&mut out, OpCode::Get, None, 0, [key.as_slice()]);
        assert_eq!(encoded.map_err(|error| error.code()).map(|_| ()), expected);
        // A foreign client may send it all the same: the request decodes, the entry says what is wrong with it.
        let mut control = [0u32.to_le_bytes(), 1u32.to_le_bytes()].concat();
        control.extend_from_slice(&(len as u16).to_le_bytes());
        control.extend_from_slice(&key);
        let head = FrameHead::new(OpCode::Get, Default::default(), control.len() as u32, 0);
        let (_, Request::Get(keys)) = Request::decode(&head, &control).unwrap() else {
            panic!()
        };
        assert_eq!(limits::check_key(keys.iter().next().unwrap()), expected);
    }
}

#[test]
fn batches_and_values_above_their_limits_are_too_large_and_leave_the_buffer_alone() {
    let mut out = vec![1];
    let keys = std::iter::repeat_n(&b"k"[..], 1025);
    let error = request::encode_keys(&mut out, OpCode::Exists, None, 0, keys).unwrap_err();
    assert!(
        matches!(
            error,
            EncodeError::TooLarge {
                value: 1025,
                bound: 1024,
                ..
            }
        ),
        "{error}"
    );
    let entry = PutEntry {
        key: b"k",
        attrs: Attrs::default(),
        condition: Condition::None,
        value_len: limits::VALUE_BYTES_MAX + 1,
        crc: 0,
    };
    let error = request::encode_writes(&mut out, OpCode::Put, None, [entry]).unwrap_err();
    assert_eq!(error.code(), ErrorCode::TooLarge);
    assert_eq!(entry.check(), Err(ErrorCode::TooLarge));
    let two = [&b"a"[..], b"b"];
    let error = request::encode_keys(&mut out, OpCode::Get, None, 0, two).unwrap_err();
    assert!(
        matches!(error, EncodeError::TooLarge { bound: 1, .. }),
        "a Get has one key"
    );
    assert_eq!(out, [1]);
}
