//! How keys and MACs come about: the page's formulas, written down a second time, give the golden proofs and tags.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use memkv_proto::session::{AuthKey, ClientHandshake, Features, HandshakeError};
use memkv_proto::{HEADER_BYTES, HmacSha256, request};
use sha2::{Digest, Sha256};

use super::says;
use crate::golden::golden;
use crate::scenario::{self, KEY, NOW_NS, Pair, pair, pair_with};

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    Sha256::digest(parts.concat()).into()
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// The page's `transcript` and `key(label, context)`.
struct Book {
    transcript: [u8; 32],
    hkdf: Hkdf<Sha256>,
}

impl Book {
    fn new(hello: &[u8], reply: &[u8]) -> Self {
        says("transcript = SHA-256(Hello ‖ HelloReply without its MAC)");
        says("prk = HKDF-Extract-SHA256(salt = transcript, input = shared key)");
        let transcript = sha256(&[hello, &reply[..reply.len() - 32]]);
        let hkdf = Hkdf::new(Some(&transcript), &KEY);
        Self { transcript, hkdf }
    }

    fn key(&self, label: &str, context: &[u8]) -> [u8; 32] {
        says("key(label, context) = HKDF-Expand(prk, \"memkv 1 \" ‖ label ‖ context, 32)");
        says(&format!("key(\"{label}\""));
        let mut out = [0; 32];
        let info = [b"memkv 1 ", label.as_bytes(), context].concat();
        self.hkdf.expand(&info, &mut out).unwrap();
        out
    }
}

#[test]
fn key_ids_and_proofs_are_those_of_the_formulas() {
    let [hello, reply, finish] =
        ["hello", "hello_reply", "finish"].map(|name| golden(&format!("session_{name}")));
    says("`key id` = first 8 bytes of HMAC-SHA256(shared key, `memkv key id`)");
    assert_eq!(hello[40..48], hmac_sha256(&KEY, b"memkv key id")[..8]);
    let book = Book::new(&hello, &reply);
    says("server's MAC = HMAC-SHA256(key(\"server hello\"), transcript)");
    let server = hmac_sha256(&book.key("server hello", &[]), &book.transcript);
    assert_eq!(reply[reply.len() - 32..], server);
    says("client's MAC = HMAC-SHA256(key(\"client finish\"), SHA-256(transcript ‖ server's MAC))");
    let message = sha256(&[&book.transcript, &server]);
    assert_eq!(
        finish[8..],
        hmac_sha256(&book.key("client finish", &[]), &message)
    );
    says("session id = first 16 bytes of key(\"session id\")");
    let (client, server) = (pair().client.info, pair().server.info);
    assert_eq!(client.session_id, book.key("session id", &[])[..16]);
    assert_eq!(client.session_id, server.session_id);
}

#[test]
fn headers_are_signed_as_the_formulas_say() {
    let book = Book::new(&golden("session_hello"), &golden("session_hello_reply"));
    let requests = scenario::requests()
        .into_iter()
        .map(|(name, ..)| format!("request_{name}"));
    let replies = scenario::replies()
        .into_iter()
        .map(|(name, ..)| format!("reply_{name}"));
    let directions: [(&str, Vec<String>); 2] =
        [("c2s", requests.collect()), ("s2c", replies.collect())];
    for (direction, names) in directions {
        let key = book.key(direction, &0u32.to_le_bytes());
        for (idx, name) in names.iter().enumerate() {
            let frame = golden(name);
            let (header, control) = frame.split_at(HEADER_BYTES);
            assert_eq!(header[72..], hmac_sha256(&key, &header[..72]), "{name}");
            assert_eq!(header[40..72], sha256(&[control]), "{name}");
            assert_eq!(header[16..24], (idx as u64 + 1).to_le_bytes(), "{name}");
        }
    }
}

#[test]
fn keys_of_a_channel_are_those_of_the_formulas() {
    let Pair {
        mut client,
        messages: [hello, reply, _],
        ..
    } = pair();
    let book = Book::new(&hello, &reply);
    says("Channel 0 is the TCP connection.");
    says("no key meets sequence 1 twice");
    says("frames = key(\"c2s\", channel 4), key(\"s2c\", channel 4)");
    let (mut sealer, _) = client.channels.open(0x0102_0304).unwrap();
    let mut control = Vec::new();
    let head = request::encode_ping(&mut control, 1);
    let header = sealer.seal(&head, &control);
    let key = book.key("c2s", &[4, 3, 2, 1]);
    assert_eq!(header[72..], hmac_sha256(&key, &header[..72]));
}

#[test]
fn payload_trailers_are_those_of_the_formulas() {
    says("payload MAC = key(\"payload c2s\", channel 4), key(\"payload s2c\", channel 4)");
    says(
        "BLAKE3 keyed with the direction's payload key, over the frame's header MAC (32 bytes) and the payload.",
    );
    let required = Features::requiring(Features::PAYLOAD_MAC);
    let Pair {
        mut client,
        mut server,
        messages: [hello, reply, _],
    } = pair_with(required, required, 1);
    let book = Book::new(&hello, &reply);
    let (_, put, put_control) = scenario::requests().swap_remove(0);
    let (_, values, values_control) = scenario::replies().swap_remove(0);
    for (label, sealer, head, control) in [
        ("payload c2s", &mut client.sealer, put, put_control),
        ("payload s2c", &mut server.sealer, values, values_control),
    ] {
        let header = sealer.seal(&head, &control);
        let mut mac = sealer.payload_key().unwrap().for_header(&header);
        mac.update(b"payload");
        let by_the_book = blake3::keyed_hash(
            &book.key(label, &0u32.to_le_bytes()),
            &[&header[72..], b"payload"].concat(),
        );
        assert_eq!(mac.finish(), *by_the_book.as_bytes(), "{label}");
    }
}

#[test]
fn a_client_refuses_a_version_that_it_does_not_speak_though_it_is_signed() {
    let key = AuthKey::new(KEY);
    for (versions, found) in [([2, 2], 2), ([0, 1], 1), ([1, 2], 2)] {
        let features = Features::default();
        let start =
            ClientHandshake::<HmacSha256>::start(&key, "client-1", features, NOW_NS, [1; 32]);
        let (client, hello) = start.unwrap();
        let mut reply = golden("session_hello_reply");
        reply[8..10].copy_from_slice(&versions);
        let book = Book::new(&hello, &reply);
        let mac = hmac_sha256(&book.key("server hello", &[]), &book.transcript);
        let at = reply.len() - 32;
        reply[at..].copy_from_slice(&mac);
        let refused = client.on_hello_reply(&reply, NOW_NS).unwrap_err();
        let expected = match versions[0] {
            0 => matches!(refused, HandshakeError::Malformed(_)),
            _ => refused == HandshakeError::UnsupportedVersion { found },
        };
        assert!(expected, "{versions:?}: {refused}");
    }
}
