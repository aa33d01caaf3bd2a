//! What a peer may say and what not, rule by rule: each rule is tried at its edge, and just beyond it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use memkv_proto::op::{ErrorCode, OpCode};
use memkv_proto::reply::Reply;
use memkv_proto::request::{self, Request};
use memkv_proto::session::{
    AuthKey, ClientHandshake, Features, HandshakeError, KeyRing, MESSAGE_BYTES_MAX, MessageError,
    OpenError, Refusal, RefusalCode, ServerHandshake, ServerIdentity, message_len,
};
use memkv_proto::{DecodeError, Flags, FrameHead, HmacSha256, limits};

use crate::scenario::{self, KEY, NOW_NS, pair, pair_with};

const MINUTE_NS: u64 = 60_000_000_000;

fn hello() -> Vec<u8> {
    let [hello, _, _] = pair().messages;
    hello
}

fn answer(hello: &[u8], features: Features) -> Result<Vec<u8>, RefusalCode> {
    let ring = KeyRing::new(AuthKey::new(KEY), None);
    let identity = ServerIdentity {
        node_id: "server",
        features,
    };
    ServerHandshake::<HmacSha256>::on_hello(hello, &ring, &identity, NOW_NS, [8; 32])
        .map(|(reply, _)| reply)
        .map_err(|refusal| refusal.code)
}

/// Whether one side may send that head, which is what the other side would take.
fn may_send(head: FrameHead, is_reply: bool) -> bool {
    let mut pair = pair();
    let sealer = if is_reply {
        &mut pair.server.sealer
    } else {
        &mut pair.client.sealer
    };
    catch_unwind(AssertUnwindSafe(|| sealer.seal(&head, &[]))).is_ok()
}

#[test]
fn a_hello_is_checked_for_form_then_versions_then_key_then_clock_then_features() {
    let mut hello = hello();
    let without = Features {
        supported: 0,
        required: 0,
    };
    // Everything is wrong; then one thing after the other is mended.
    hello[12] = 1;
    hello[8..10].copy_from_slice(&[2, 3]);
    hello[40] ^= 1;
    hello[32..40].copy_from_slice(&(NOW_NS + 2 * MINUTE_NS).to_le_bytes());
    hello[24] = 1;
    let mut told = Vec::new();
    for mend in 0..6 {
        match mend {
            1 => hello[12] = 0,
            2 => hello[8..10].copy_from_slice(&[1, 3]),
            3 => hello[40] ^= 1,
            4 => hello[32..40].copy_from_slice(&NOW_NS.to_le_bytes()),
            5 => hello[24] = 0,
            _ => {}
        }
        told.push(answer(&hello, without).err());
    }
    let order = [
        RefusalCode::Malformed,
        RefusalCode::UnsupportedVersion,
        RefusalCode::UnknownKey,
        RefusalCode::ClockSkew,
        RefusalCode::MissingFeature,
    ];
    let mut expected: Vec<_> = order.into_iter().map(Some).collect();
    expected.push(None);
    assert_eq!(told, expected);
}

#[test]
fn hellos_that_contradict_themselves_are_malformed() {
    type Alter<'a> = &'a dyn Fn(&mut Vec<u8>);
    let altered = |alter: Alter<'_>| {
        let mut hello = hello();
        alter(&mut hello);
        answer(&hello, Features::default()).unwrap_err()
    };
    let cases: [(&str, Alter<'_>); 7] = [
        ("oldest version 0", &|hello| hello[8] = 0),
        ("newest before oldest", &|hello| {
            hello[8..10].copy_from_slice(&[2, 1])
        }),
        ("a reply's field", &|hello| hello[11] = 1),
        ("reserved byte", &|hello| hello[15] = 9),
        ("insists on what it can't", &|hello| hello[24] = 2),
        ("length of another message", &|hello| hello[6] += 1),
        ("a byte behind the end", &|hello| {
            hello.push(0);
            hello[6] += 1;
        }),
    ];
    for (name, alter) in cases {
        assert_eq!(altered(alter), RefusalCode::Malformed, "{name}");
    }
}

#[test]
fn the_newest_version_that_both_speak_is_chosen() {
    let mut hello = hello();
    hello[9] = 200;
    let reply = answer(&hello, Features::default()).unwrap();
    assert_eq!(reply[8..10], [1, 1]);
}

#[test]
fn a_handshake_message_has_8_to_512_bytes() {
    let len = |len: u16| {
        let [low, high] = len.to_le_bytes();
        message_len(&[b'M', b'K', b'V', b'S', 1, 1, low, high])
    };
    assert_eq!(len(7), Err(MessageError::Length(7)));
    assert_eq!(len(8), Ok(Some(8)));
    assert_eq!(len(512), Ok(Some(MESSAGE_BYTES_MAX)));
    assert_eq!(len(513), Err(MessageError::Length(513)));
}

#[test]
fn a_client_refuses_a_server_whose_clock_is_more_than_60_s_off() {
    // The server saw no skew; by the client's clock the answer took minutes, the middle of which is compared.
    for (took, skew_ns) in [
        (2 * MINUTE_NS, None),
        (2 * MINUTE_NS + 2, Some(-60_000_000_001)),
    ] {
        let key = AuthKey::new(KEY);
        let start =
            ClientHandshake::<HmacSha256>::start(&key, "c", Features::default(), NOW_NS, [1; 32]);
        let (client, hello) = start.unwrap();
        let reply = answer(&hello, Features::default()).unwrap();
        let refused = client.on_hello_reply(&reply, NOW_NS + took).err();
        assert_eq!(
            refused,
            skew_ns.map(|skew_ns| HandshakeError::ClockSkew { skew_ns })
        );
    }
}

#[test]
fn only_payload_has_a_trailer() {
    let required = Features::requiring(Features::PAYLOAD_MAC);
    let mut pair = pair_with(required, required, 1);
    for (name, head, control) in scenario::requests() {
        let header = pair.client.sealer.seal(&head, &control);
        let head = pair.server.opener.open(&header).unwrap();
        let expected = if head.payload_len > 0 { 32 } else { 0 };
        assert_eq!(pair.server.opener.trailer_len(&head), expected, "{name}");
    }
}

#[test]
fn flags_and_fields_go_only_where_they_mean_something() {
    let reply = |op, flags| FrameHead::new(op, Flags::REPLY | flags, 0, 0);
    assert!(may_send(reply(OpCode::Get, Flags::MORE), true));
    assert!(may_send(reply(OpCode::Get, Flags::FAILED), true));
    for op in [OpCode::Put, OpCode::Exists, OpCode::Stat] {
        assert!(
            !may_send(reply(op, Flags::MORE), true),
            "{op} has one reply frame"
        );
    }
    assert!(
        !may_send(reply(OpCode::Get, Flags::MORE | Flags::FAILED), true),
        "nothing follows a failure"
    );
    let late = reply(OpCode::Get, Flags::NONE).with_deadline_us(1);
    assert!(!may_send(late, true), "a reply has no deadline");
    let failed = FrameHead::new(OpCode::Get, Flags::REPLY | Flags::FAILED, 0, 1);
    assert!(!may_send(failed, true), "a failure has no payload");
    let request = |op, payload| FrameHead::new(op, Flags::NONE, 0, payload);
    assert!(may_send(
        request(OpCode::Put, limits::PAYLOAD_BYTES_MAX),
        false
    ));
    assert!(!may_send(
        request(OpCode::Put, limits::PAYLOAD_BYTES_MAX + 1),
        false
    ));
    assert!(!may_send(request(OpCode::Get, 1), false));
}

/// The reply with one whole value of 4 bytes, after `alter` changed its control part, decoded with `payload` bytes.
fn values(payload: u64, alter: impl Fn(&mut Vec<u8>)) -> Result<(), DecodeError> {
    let segment = memkv_proto::op::Segment {
        value_len: 4,
        offset: 0,
        chunk_len: 4,
        ..scenario::segments()[0]
    };
    let mut control = Vec::new();
    let none = Default::default();
    let op = OpCode::BatchRead;
    let mut head =
        memkv_proto::reply::encode_values(&mut control, op, &none, 0, &[segment]).unwrap();
    alter(&mut control);
    head.payload_len = payload;
    Reply::decode(&head, &control).map(drop)
}

#[test]
fn segments_stay_within_their_value_their_batch_and_the_frame() {
    /// Where a segment's fields lie in a control part without blocks.
    const ENTRY: usize = 8;
    const OUTCOME: usize = 12;
    const VALUE_LEN: usize = 40;
    const OFFSET: usize = 48;
    const CHUNK_LEN: usize = 56;
    let set = |at: usize, value: u64, len: usize| {
        move |control: &mut Vec<u8>| {
            control[at..at + len].copy_from_slice(&value.to_le_bytes()[..len])
        }
    };
    values(4, |_| ()).unwrap();
    values(4, set(ENTRY, 1023, 4)).unwrap();
    values(4, set(VALUE_LEN, 1 << 30, 8)).unwrap();
    values(4, set(VALUE_LEN, 5, 8)).unwrap();
    let field = |result: Result<(), DecodeError>| match result.unwrap_err() {
        DecodeError::TooLarge { field, .. } | DecodeError::Mismatch { field, .. } => field,
        other => panic!("{other}"),
    };
    assert_eq!(field(values(4, set(ENTRY, 1024, 4))), "entry_idx");
    assert_eq!(
        field(values(4, set(VALUE_LEN, (1 << 30) + 1, 8))),
        "value_len"
    );
    assert_eq!(field(values(4, set(VALUE_LEN, 3, 8))), "end of segment");
    assert_eq!(field(values(4, set(OFFSET, 1, 8))), "end of segment");
    assert_eq!(field(values(4, set(OFFSET, u64::MAX, 8))), "end of segment");
    assert_eq!(
        field(values(4, set(OUTCOME, 1, 2))),
        "value_len",
        "a miss has no value"
    );
    assert_eq!(field(values(3, |_| ())), "payload_len");
    assert_eq!(field(values(5, |_| ())), "payload_len");
    assert_eq!(field(values(4, set(CHUNK_LEN, 3, 4))), "payload_len");
}

#[test]
fn puts_and_gets_have_one_entry() {
    let (two_keys, mut control) = ([b"a".as_slice(), b"b"], Vec::new());
    let read = request::encode_keys(&mut control, OpCode::BatchRead, None, 0, two_keys).unwrap();
    let write = scenario::requests()
        .into_iter()
        .find(|(name, ..)| *name == "batch_write")
        .map(|(_, head, control)| (head, control))
        .unwrap();
    for (single, (head, control)) in [(OpCode::Get, (read, control)), (OpCode::Put, write)] {
        assert!(Request::decode(&head, &control).is_ok());
        let head = FrameHead::new(single, head.flags, head.control_len, head.payload_len);
        let refused = Request::decode(&head, &control).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::TooLarge, "{single}");
    }
}

#[test]
fn values_have_0_bytes_to_1_gib() {
    assert_eq!(limits::check_value_len(0), Ok(()));
    assert_eq!(limits::check_value_len(1 << 30), Ok(()));
    assert_eq!(
        limits::check_value_len((1 << 30) + 1),
        Err(ErrorCode::TooLarge)
    );
}

#[test]
fn the_detail_of_a_failure_has_at_most_512_bytes() {
    let head = FrameHead::new(OpCode::Get, Flags::REPLY | Flags::FAILED, 0, 0);
    for (len, ok) in [(0u16, true), (512, true), (513, false)] {
        let mut control = [2u16.to_le_bytes(), len.to_le_bytes()].concat();
        control.extend_from_slice(&[0; 4]);
        control.resize(8 + usize::from(len), b'd');
        assert_eq!(Reply::decode(&head, &control).is_ok(), ok, "{len} bytes");
    }
}

#[test]
fn figures_of_a_stat_rise() {
    let head = FrameHead::new(OpCode::Stat, Flags::REPLY, 0, 0);
    for (keys, ok) in [
        ([1u16, 2], true),
        ([1, 0x7777], true),
        ([2, 2], false),
        ([2, 1], false),
        ([0, 1], false),
    ] {
        let mut control = 2u16.to_le_bytes().to_vec();
        for key in keys {
            control.extend_from_slice(&key.to_le_bytes());
            control.extend_from_slice(&7u64.to_le_bytes());
        }
        assert_eq!(Reply::decode(&head, &control).is_ok(), ok, "{keys:?}");
    }
}

#[test]
fn refused_frames_have_the_reasons_that_metrics_count() {
    let sequence = OpenError::Sequence {
        expected: 1,
        found: 2,
    };
    let version = OpenError::WrongVersion {
        found: 2,
        agreed: 1,
    };
    let refusal = Refusal::new(RefusalCode::Busy, 0);
    for (error, reason) in [
        (OpenError::BadMac, "bad_mac"),
        (OpenError::BadDigest, "bad_mac"),
        (sequence, "replay"),
        (version, "version"),
        (OpenError::Refused(refusal), "refused"),
        (OpenError::NotAFrame([0; 4]), "malformed"),
        (OpenError::Closed, "malformed"),
    ] {
        assert_eq!(error.reason(), reason, "{error}");
    }
}
