use super::*;

fn sample() -> (Header, Vec<u8>) {
    let attrs = Attrs {
        type_tag: 9,
        flags: 0xdead_beef,
        expiry_ms: 77,
        class: Class::Durable,
    };
    let header = Header {
        kind: Kind::Value,
        namespace: 3,
        attrs,
        version: 42,
        generation: 6,
        key_len: 5,
        body_len: 11,
        body_crc: 1,
        value_len: 11,
        value_crc: 2,
    };
    let mut bytes = vec![0; header.record_len()];
    header.encode(&[8; 16], b"hello", &mut bytes);
    (header, bytes)
}

#[test]
fn header_survives_encoding() {
    let (header, bytes) = sample();
    assert_eq!(
        Header::decode(&[8; 16], 6, &bytes),
        Some((header, &b"hello"[..]))
    );
    assert_eq!(bytes.len(), 80);
}

#[test]
fn damaged_foreign_or_stale_header_is_no_record() {
    let (_, bytes) = sample();
    for at in 0..HEADER + 5 {
        let mut bad = bytes.clone();
        bad[at] ^= 4;
        assert_eq!(Header::decode(&[8; 16], 6, &bad), None, "byte {at}");
    }
    assert_eq!(Header::decode(&[9; 16], 6, &bytes), None, "another drive");
    assert_eq!(
        Header::decode(&[8; 16], 7, &bytes),
        None,
        "another generation"
    );
    for len in 0..HEADER + 5 {
        assert_eq!(
            Header::decode(&[8; 16], 6, &bytes[..len]),
            None,
            "cut at {len}"
        );
    }
}
