//! What someone on the wire tries, and how it ends.

use memkv_proto::op::OpCode;
use memkv_proto::request;
use memkv_proto::session::{
    AuthKey, ClientHandshake, Features, HandshakeError, KeyRing, KeyUse, MessageError, OpenError,
    Opener, Refusal, RefusalCode, ServerHandshake, ServerIdentity, message_len,
};
use memkv_proto::{HEADER_BYTES, HmacSha256};

use crate::scenario::{KEY, NOW_NS, Pair, pair, pair_with};

type Client = ClientHandshake<HmacSha256>;
type Server = ServerHandshake<HmacSha256>;
const SECOND_NS: u64 = 1_000_000_000;

fn start(key: [u8; 32], features: Features, now_ns: u64) -> (Client, Vec<u8>) {
    Client::start(&AuthKey::new(key), "client", features, now_ns, [9; 32]).unwrap()
}

fn answer(hello: &[u8], ring: &KeyRing, features: Features) -> Result<(Vec<u8>, Server), Refusal> {
    let identity = ServerIdentity {
        node_id: "server",
        features,
    };
    Server::on_hello(hello, ring, &identity, NOW_NS, [8; 32])
}

fn ring() -> KeyRing {
    KeyRing::new(AuthKey::new(KEY), None)
}

fn ping(pair: &mut Pair, echo: u64) -> [u8; HEADER_BYTES] {
    let mut control = Vec::new();
    let head = request::encode_ping(&mut control, echo);
    pair.client.sealer.seal(&head, &control)
}

/// `opener` refuses `header` with `expected`, and everything after it.
fn refused(opener: &mut Opener, header: &[u8; HEADER_BYTES], expected: OpenError) {
    assert_eq!(opener.open(header), Err(expected));
    assert_eq!(
        opener.open(header),
        Err(OpenError::Closed),
        "a refused session went on"
    );
}

#[test]
fn frame_replayed_on_the_same_connection_is_refused() {
    let mut pair = pair();
    let header = ping(&mut pair, 1);
    assert_eq!(pair.server.opener.open(&header).unwrap().sequence(), 1);
    let expected = OpenError::Sequence {
        expected: 2,
        found: 1,
    };
    refused(&mut pair.server.opener, &header, expected);
}

#[test]
fn frame_replayed_on_another_connection_is_refused() {
    let header = ping(&mut pair(), 1);
    let mut other = pair_with(Features::default(), Features::default(), 2);
    refused(&mut other.server.opener, &header, OpenError::BadMac);
}

#[test]
fn handshake_replayed_to_a_server_with_a_fresh_nonce_is_refused() {
    let [hello, _, finish] = pair().messages;
    let (_, waiting) = answer(&hello, &ring(), Features::default()).unwrap();
    let refusal = waiting.on_finish(&finish, NOW_NS).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::BadMac);
}

#[test]
fn server_reply_replayed_to_another_client_is_refused() {
    let [_, reply, _] = pair().messages;
    let (client, _) = start(KEY, Features::default(), NOW_NS);
    assert_eq!(
        client.on_hello_reply(&reply, NOW_NS).unwrap_err(),
        HandshakeError::BadMac
    );
}

#[test]
fn reflected_frame_is_refused() {
    let mut pair = pair();
    let header = ping(&mut pair, 1);
    refused(&mut pair.client.opener, &header, OpenError::BadMac);
}

#[test]
fn reflected_hello_is_refused() {
    let (client, hello) = start(KEY, Features::default(), NOW_NS);
    let error = client.on_hello_reply(&hello, NOW_NS).unwrap_err();
    assert!(matches!(error, HandshakeError::Malformed(_)), "{error}");
}

#[test]
fn reordered_frames_are_refused() {
    let mut pair = pair();
    let (_first, second) = (ping(&mut pair, 1), ping(&mut pair, 2));
    let expected = OpenError::Sequence {
        expected: 1,
        found: 2,
    };
    refused(&mut pair.server.opener, &second, expected);
}

#[test]
fn frame_after_a_dropped_one_is_refused() {
    let mut pair = pair();
    let headers = [1, 2, 3].map(|echo| ping(&mut pair, echo));
    pair.server.opener.open(&headers[0]).unwrap();
    let expected = OpenError::Sequence {
        expected: 2,
        found: 3,
    };
    refused(&mut pair.server.opener, &headers[2], expected);
}

#[test]
fn mis_signed_header_is_refused_before_its_body_is_asked_for() {
    let mut pair = pair();
    let mut header = ping(&mut pair, 1);
    header[HEADER_BYTES - 1] ^= 1;
    refused(&mut pair.server.opener, &header, OpenError::BadMac);
}

#[test]
fn control_part_swapped_for_another_of_its_length_is_refused() {
    let mut pair = pair();
    let header = ping(&mut pair, 1);
    let head = pair.server.opener.open(&header).unwrap();
    let forged = 2u64.to_le_bytes();
    assert_eq!(
        pair.server.opener.check_control(&head, &forged),
        Err(OpenError::BadDigest)
    );
    let next = ping(&mut pair, 2);
    assert_eq!(pair.server.opener.open(&next), Err(OpenError::Closed));
}

#[test]
fn frame_of_another_version_is_refused_by_name() {
    let mut pair = pair();
    let mut header = ping(&mut pair, 1);
    header[4] = 9;
    refused(
        &mut pair.server.opener,
        &header,
        OpenError::WrongVersion {
            found: 9,
            agreed: 1,
        },
    );
}

#[test]
fn garbage_is_refused_as_no_frame_and_no_session() {
    let http = b"GET / HTTP/1.1\r\n";
    assert_eq!(message_len(http), Err(MessageError::NotASession));
    assert_eq!(message_len(b"G"), Err(MessageError::NotASession));
    assert_eq!(
        message_len(b"MKVS\x01\x01\xff\xff"),
        Err(MessageError::Length(65535))
    );
    assert_eq!(message_len(b"MKVS\x01"), Ok(None));
    let refusal = answer(http, &ring(), Features::default()).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Malformed);
    let header = [0x47; HEADER_BYTES];
    refused(
        &mut pair().server.opener,
        &header,
        OpenError::NotAFrame([0x47; 4]),
    );
}

#[test]
fn wrong_key_is_refused_at_the_hello_and_its_proof_never_passes() {
    let (client, hello) = start([1; 32], Features::default(), NOW_NS);
    let refusal = answer(&hello, &ring(), Features::default()).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::UnknownKey);
    // Who claims the right key's id without its bytes fails at the Finish.
    let (_, mut hello) = start([1; 32], Features::default(), NOW_NS);
    hello[40..48].copy_from_slice(&AuthKey::new(KEY).id().0);
    let (reply, waiting) = answer(&hello, &ring(), Features::default()).unwrap();
    assert!(matches!(
        client.on_hello_reply(&reply, NOW_NS),
        Err(HandshakeError::WrongKey { .. })
    ));
    let [_, _, finish] = pair().messages;
    assert_eq!(
        waiting.on_finish(&finish, NOW_NS).unwrap_err().code,
        RefusalCode::BadMac
    );
}

#[test]
fn both_keys_of_a_rotation_are_taken_and_told_apart() {
    let old = AuthKey::new(KEY);
    let ring = KeyRing::new(AuthKey::new([5; 32]), Some(old.clone()));
    for (key, key_use) in [([5; 32], KeyUse::Current), (KEY, KeyUse::Previous)] {
        let (client, hello) = start(key, Features::default(), NOW_NS);
        let (reply, waiting) = answer(&hello, &ring, Features::default()).unwrap();
        let (finish, _, told) = client.on_hello_reply(&reply, NOW_NS).unwrap();
        assert_eq!(told.key_use, key_use);
        let session = waiting.on_finish(&finish, NOW_NS).unwrap();
        assert_eq!(session.info.key_use, key_use);
        assert_eq!(ring.key_use(session.info.key_id), Some(key_use));
    }
    let without = KeyRing::new(AuthKey::new([5; 32]), None);
    assert_eq!(
        without.key_use(old.id()),
        None,
        "its sessions are to be closed"
    );
}

#[test]
fn clock_skew_is_measured_and_refused_beyond_60_s() {
    for (client_ns, ok) in [
        (NOW_NS + 60 * SECOND_NS, true),
        (NOW_NS - 60 * SECOND_NS, true),
        (NOW_NS + 60 * SECOND_NS + 1, false),
        (NOW_NS - 60 * SECOND_NS - 1, false),
        (0, false),
        (u64::MAX, false),
    ] {
        let (_, hello) = start(KEY, Features::default(), client_ns);
        match answer(&hello, &ring(), Features::default()) {
            Ok((_, waiting)) => {
                assert!(ok, "{client_ns} was accepted");
                let skew_ns = client_ns.cast_signed() - NOW_NS.cast_signed();
                assert_eq!(waiting.claimed().clock_skew_ns, skew_ns);
            }
            Err(refusal) => {
                assert!(!ok && refusal.code == RefusalCode::ClockSkew);
                assert!(refusal.skew_ns.unsigned_abs() > 60 * SECOND_NS);
            }
        }
    }
}

#[test]
fn client_takes_half_the_round_trip_off_the_skew() {
    let (client, hello) = start(KEY, Features::default(), NOW_NS - SECOND_NS);
    let (reply, _) = answer(&hello, &ring(), Features::default()).unwrap();
    let (_, session, told) = client
        .on_hello_reply(&reply, NOW_NS - SECOND_NS + 500)
        .unwrap();
    assert_eq!(told.clock_skew_ns, SECOND_NS.cast_signed() - 250);
    assert_eq!(session.info.clock_skew_ns, told.clock_skew_ns);
}

#[test]
fn unsupported_version_is_refused_by_name_with_the_ones_that_are() {
    for (min, max) in [(2, 9), (2, 2)] {
        let (_, mut hello) = start(KEY, Features::default(), NOW_NS);
        hello[8..10].copy_from_slice(&[min, max]);
        let refusal = answer(&hello, &ring(), Features::default()).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::UnsupportedVersion);
        assert_eq!((refusal.version_min, refusal.version_max), (1, 1));
        assert!(refusal.to_string().contains("unsupported_version"));
    }
    let (_, mut hello) = start(KEY, Features::default(), NOW_NS);
    hello[4] = 2;
    let refusal = answer(&hello, &ring(), Features::default()).unwrap_err();
    assert_eq!(
        refusal.code,
        RefusalCode::UnsupportedVersion,
        "a later handshake format"
    );
}

#[test]
fn forged_refusal_is_reported_as_unauthenticated() {
    for code in RefusalCode::ALL {
        let (client, _) = start(KEY, Features::requiring(Features::PAYLOAD_MAC), NOW_NS);
        let forged = Refusal::new(*code, NOW_NS);
        let error = client
            .on_hello_reply(&forged.to_bytes(), NOW_NS)
            .unwrap_err();
        assert_eq!(error, HandshakeError::Refused(forged));
        assert!(
            error.to_string().starts_with("unauthenticated refusal"),
            "{error}"
        );
    }
}

#[test]
fn refusal_in_place_of_a_frame_is_reported_as_unauthenticated() {
    let forged = Refusal::new(RefusalCode::BadMac, NOW_NS);
    assert_eq!(Refusal::sniff(&forged.to_bytes()), Some(forged));
    let mut header = [0; HEADER_BYTES];
    header[..32].copy_from_slice(&forged.to_bytes());
    let mut client = pair().client;
    assert!(
        OpenError::Refused(forged)
            .to_string()
            .starts_with("unauthenticated refusal")
    );
    refused(&mut client.opener, &header, OpenError::Refused(forged));
}

#[test]
fn features_stripped_on_the_way_break_the_handshake() {
    let required = Features::requiring(Features::PAYLOAD_MAC);
    // Stripped from the client's hello: both required bits and supported ones.
    let (client, mut hello) = start(KEY, required, NOW_NS);
    hello[16..32].fill(0);
    let (reply, waiting) = answer(&hello, &ring(), Features::default()).unwrap();
    assert!(
        !waiting.claimed().payload_mac(),
        "the server was fooled, but"
    );
    assert_eq!(
        client.on_hello_reply(&reply, NOW_NS).unwrap_err(),
        HandshakeError::BadMac
    );
    // Stripped from the server's.
    let (client, hello) = start(KEY, Features::default(), NOW_NS);
    let (mut reply, _) = answer(&hello, &ring(), required).unwrap();
    reply[16..32].fill(0);
    assert_eq!(
        client.on_hello_reply(&reply, NOW_NS).unwrap_err(),
        HandshakeError::BadMac
    );
}

#[test]
fn payload_mac_is_on_if_either_side_requires_it_and_both_know() {
    let (off, on) = (
        Features::default(),
        Features::requiring(Features::PAYLOAD_MAC),
    );
    for (client, server, expected) in [(off, off, false), (on, off, true), (off, on, true)] {
        let pair = pair_with(client, server, 3);
        for (info, key) in [
            (&pair.client.info, pair.client.sealer.payload_key()),
            (&pair.server.info, pair.server.opener.payload_key()),
        ] {
            assert_eq!((info.payload_mac(), key.is_some()), (expected, expected));
        }
    }
    let without = Features {
        supported: 0,
        required: 0,
    };
    let (_, hello) = start(KEY, without, NOW_NS);
    let refusal = answer(&hello, &ring(), on).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::MissingFeature);
}

#[test]
fn any_changed_byte_of_the_handshake_ends_it() {
    let messages = pair().messages;
    let key = AuthKey::new(KEY);
    let identity = ServerIdentity {
        node_id: "server-1:9900",
        features: Features::default(),
    };
    let on_hello =
        |hello: &[u8]| Server::on_hello(hello, &ring(), &identity, NOW_NS + 1000, [0xfe; 32]);
    for which in 0..3 {
        for at in 0..messages[which].len() {
            let mut altered = messages.clone();
            altered[which][at] ^= 0x01;
            let features = Features::default();
            let (client, _) = Client::start(&key, "client-1", features, NOW_NS, [1; 32]).unwrap();
            // The server sees the (altered) hello, the client the (altered) reply to it.
            let Ok((mut reply, waiting)) = on_hello(&altered[0]) else {
                continue;
            };
            if which == 1 {
                reply = altered[1].clone();
            }
            let Ok((mut finish, ..)) = client.on_hello_reply(&reply, NOW_NS + 2000) else {
                continue;
            };
            assert_eq!(
                which, 2,
                "byte {at} of message {which} was changed unnoticed"
            );
            finish[at] ^= 0x01;
            assert!(
                waiting.on_finish(&finish, NOW_NS).is_err(),
                "byte {at} of the Finish"
            );
        }
    }
}

#[test]
fn payload_trailer_of_another_frame_or_direction_does_not_verify() {
    let required = Features::requiring(Features::PAYLOAD_MAC);
    let mut pair = pair_with(required, required, 4);
    let entry = memkv_proto::op::PutEntry {
        key: b"k",
        attrs: Default::default(),
        condition: Default::default(),
        value_len: 4,
        crc: memkv_proto::checksum::crc32c(b"data"),
    };
    let mut control = Vec::new();
    let head = request::encode_writes(&mut control, OpCode::Put, None, [entry]).unwrap();
    let headers = [(); 2].map(|()| pair.client.sealer.seal(&head, &control));
    let trailers = headers.map(|header| {
        let mut mac = pair
            .client
            .sealer
            .payload_key()
            .unwrap()
            .for_header(&header);
        mac.update(b"data");
        mac.finish()
    });
    let first = pair.server.opener.open(&headers[0]).unwrap();
    assert_eq!(pair.server.opener.trailer_len(&first), 32);
    let check = |payload: &[u8], trailer: &[u8; 32]| {
        let mut mac = pair.server.opener.payload_key().unwrap().for_head(&first);
        mac.update(payload);
        mac.verify(trailer)
    };
    assert!(check(b"data", &trailers[0]));
    assert!(!check(b"date", &trailers[0]), "altered payload");
    assert!(!check(b"data", &trailers[1]), "trailer of the next frame");
    let mut reflected = pair
        .server
        .sealer
        .payload_key()
        .unwrap()
        .for_header(&headers[0]);
    reflected.update(b"data");
    assert_ne!(
        reflected.finish(),
        trailers[0],
        "trailer of the other direction"
    );
}

#[test]
fn channels_have_keys_of_their_own_and_are_opened_once() {
    let mut pair = pair();
    let (mut one, _) = pair.client.channels.open(1).unwrap();
    let (_, mut other_end) = pair.server.channels.open(1).unwrap();
    assert!(
        pair.client.channels.open(1).is_none(),
        "its sequences would start again"
    );
    let mut control = Vec::new();
    let head = request::encode_ping(&mut control, 1);
    let header = one.seal(&head, &control);
    refused(&mut pair.server.opener, &header, OpenError::BadMac);
    other_end.open(&header).unwrap();
    let (_, mut two) = pair.server.channels.open(2).unwrap();
    refused(&mut two, &header, OpenError::BadMac);
}
