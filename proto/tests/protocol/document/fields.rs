//! Where each field lies: the fields that the page lists, in its order and with its lengths, are the golden frames.

use memkv_proto::checksum::crc32c;
use memkv_proto::session::{AuthKey, MESSAGE_BYTES_MAX, PREFIX_BYTES, REFUSAL_BYTES};
use memkv_proto::{Flags, HEADER_BYTES};
use sha2::{Digest, Sha256};

use super::{Field, in_brackets, listed, passage, says, section, table};
use crate::golden::golden;
use crate::scenario::{KEY, NOW_NS};

/// A field's name on the page and its bytes in the golden message.
pub(super) type Value<'a> = (&'a str, &'a [u8]);

/// The fields of the page are `values`: same names, same order, same lengths.
#[track_caller]
fn match_up(fields: &[Field], values: &[Value<'_>]) -> Vec<u8> {
    let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    let expected: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, expected, "the page lists other fields");
    for ((name, length), (_, bytes)) in fields.iter().zip(values) {
        assert_eq!(
            length.unwrap_or(bytes.len()),
            bytes.len(),
            "bytes of {name}"
        );
    }
    values
        .iter()
        .flat_map(|(_, bytes)| *bytes)
        .copied()
        .collect()
}

/// `text` lists fields that make `message`: first those of `head`, then those of each of `rows`.
#[track_caller]
pub(super) fn makes(text: &str, head: &[Value<'_>], rows: &[&[Value<'_>]], message: &[u8]) {
    let fields = listed(text);
    let split = fields
        .iter()
        .position(|(name, _)| name.starts_with("then per"));
    let (first, repeated) = fields.split_at(split.unwrap_or(fields.len()));
    let mut bytes = match_up(first, head);
    if let Some(((_, length), each)) = repeated.split_first() {
        let sum = each.iter().map(|(_, bytes)| bytes.unwrap_or(0)).sum();
        assert_eq!(
            length.unwrap_or(sum),
            sum,
            "bytes of what repeats in: {text}"
        );
        for row in rows {
            bytes.extend(match_up(each, row));
        }
    }
    assert_eq!(bytes, message, "{text}");
}

/// The control part of a golden frame, behind `blocks` bytes.
pub(super) fn control(name: &str, blocks: usize) -> Vec<u8> {
    golden(name)[HEADER_BYTES + blocks..].to_vec()
}

const TRACE: usize = 26;
pub(super) const SPAN: usize = 8;
pub(super) const STAGES: usize = 40;

/// The rows of a table with offsets: each begins where the last one ended.
#[track_caller]
fn fields_of_table(label: &str, name: usize) -> Vec<Field> {
    let mut at = None;
    let rows = table(label);
    let field = |row: &Vec<String>| {
        let (start, bytes): (usize, usize) = (row[0].parse().ok()?, row[1].parse().ok()?);
        assert_eq!(at.unwrap_or(start), start, "offset of {}", row[name]);
        at = Some(start + bytes);
        // A colon or comma begins the explanation.
        let text = row[name].split([':', ',', ';']).next().unwrap_or("").trim();
        Some((text.to_owned(), Some(bytes)))
    };
    rows.iter().filter_map(field).collect()
}

#[test]
fn hellos_are_the_fields_of_the_tables() {
    let prefix = fields_of_table("## Handshake messages", 2);
    let key_id = AuthKey::new(KEY).id();
    for (column, name, op, node, (clock, nonce), trailer) in [
        (2, "session_hello", 1, "client-1", (NOW_NS, 1), 0),
        (
            3,
            "session_hello_reply",
            2,
            "server-1:9900",
            (NOW_NS + 1000, 0xfe),
            32,
        ),
    ] {
        let message = golden(name);
        let (fixed, rest) = message.split_at(80);
        let len = (message.len() as u16).to_le_bytes();
        let values: [Value<'_>; 4] = [
            ("magic `MKVS`", b"MKVS"),
            ("format of handshake messages", &[1]),
            ("op", &[op]),
            ("length of the whole message", &len),
        ];
        assert_eq!(match_up(&prefix, &values), fixed[..PREFIX_BYTES]);
        let fields = fields_of_table("**Hello** (client)", column);
        let values: [&[u8]; 10] = [
            &[1],
            &[1],
            &[node.len() as u8],
            &[0],
            &[0; 4],
            &1u64.to_le_bytes(),
            &0u64.to_le_bytes(),
            &clock.to_le_bytes(),
            &key_id.0,
            &[nonce; 32],
        ];
        // Each column has its own words for the same field; their number and lengths are what is compared.
        let values: Vec<Value<'_>> = fields
            .iter()
            .map(|field| field.0.as_str())
            .zip(values)
            .collect();
        assert_eq!(match_up(&fields, &values), fixed[PREFIX_BYTES..], "{name}");
        assert_eq!(rest.len(), node.len() + trailer, "{name}");
        assert!(rest.starts_with(node.as_bytes()), "{name}");
    }
    let words: Vec<Field> = fields_of_table("**Hello** (client)", 2);
    let words: Vec<&str> = words.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        words,
        [
            "oldest protocol version spoken",
            "newest",
            "length of the node identity",
            "0",
            "zero",
            "features it can",
            "features it insists on (also in the former)",
            "its clock",
            "id of the shared key",
            "random nonce",
        ]
    );
    let ends = table("**Hello** (client)").split_off(10);
    assert_eq!(ends[0][..3], ["80", "n", "node identity, UTF-8"]);
    assert_eq!(ends[1], ["80+n", "32", "–", "server's MAC"]);
    says(&format!("All start with {PREFIX_BYTES} bytes that"));
    says(&format!("at most {MESSAGE_BYTES_MAX} bytes long"));
    says("format of handshake messages, 1 |");
}

#[test]
fn finish_and_refusal_are_the_fields_of_their_sentences() {
    let text = section("## Handshake messages");
    let finish = golden("session_finish");
    let head: [Value<'_>; 2] = [
        ("prefix", b"MKVS\x01\x03\x28\0"),
        ("client's MAC", &finish[8..]),
    ];
    makes(&passage(&text, "**Finish**:"), &head, &[], &finish);
    let refusal = passage(&text, "**Refusal**, 32 bytes, never signed:");
    let head: [Value<'_>; 7] = [
        ("prefix", b"MKVS\x01\x04\x20\0"),
        ("code", &4u16.to_le_bytes()),
        ("oldest version", &[1]),
        ("newest version", &[1]),
        ("retry_after_us", &77u32.to_le_bytes()),
        ("server's clock", &NOW_NS.to_le_bytes()),
        ("skew_ns", &(-61_000_000_000i64).to_le_bytes()),
    ];
    makes(&refusal, &head, &[], &golden("session_refusal"));
    assert_eq!(REFUSAL_BYTES, 32);
}

#[test]
fn headers_are_the_fields_of_the_table() {
    let fields = fields_of_table("    header 104 | control part", 2);
    let request = Flags::TRACE | Flags::WANT_STAGES;
    let reply = Flags::REPLY | Flags::MORE | Flags::SPAN | Flags::STAGES;
    for (name, op, flags, deadline_us, payload) in [
        ("request_put", 0x20, request, 30_000_000u32, 4096u64),
        ("reply_values_part", 0x25, reply, 0, 4096),
    ] {
        let frame = golden(name);
        let (header, control) = frame.split_at(HEADER_BYTES);
        let digest = Sha256::digest(control);
        let values: [Value<'_>; 10] = [
            ("magic `MKVF`", b"MKVF"),
            ("version", &[1]),
            ("op", &[op]),
            ("flags", &flags.bits().to_le_bytes()),
            ("request id", &0x1_0000u64.to_le_bytes()),
            ("sequence", &1u64.to_le_bytes()),
            ("request", &deadline_us.to_le_bytes()),
            (
                "length of the control part",
                &(control.len() as u32).to_le_bytes(),
            ),
            ("length of the payload", &payload.to_le_bytes()),
            ("SHA-256 of the control part", &digest),
        ];
        let mac: Value<'_> = ("HMAC-SHA256 over bytes 0–71", &header[72..]);
        let values = [values.as_slice(), &[mac]].concat();
        assert_eq!(match_up(&fields, &values), header, "{name}");
    }
    says("sequence: 1, 2, 3 … per direction");
    says("deadline in µs from receipt, 0 = none; reply: 0");
    says(&format!(
        "header {HEADER_BYTES} | control part | payload | payload MAC 32"
    ));
}

#[test]
fn blocks_are_as_long_and_filled_as_the_page_says() {
    let text = section("### Blocks, in front of the control part");
    let fields = listed(&passage(&text, "Trace context of W3C, 26:"));
    let values: [Value<'_>; 4] = [
        ("version", &[0]),
        ("trace id", &[0xa1; 16]),
        ("span id", &[0xb2; 8]),
        ("flags", &[1]),
    ];
    let trace = match_up(&fields, &values);
    assert_eq!(trace.len(), TRACE);
    assert_eq!(golden("request_put")[HEADER_BYTES..][..TRACE], trace);
    assert!(text.contains("- Span id, 8:"));
    let reply = golden("reply_written").split_off(HEADER_BYTES);
    assert_eq!(reply[..SPAN], [0xc3; SPAN], "the span id comes first");
    let stages = passage(&text, "Stage summary, 40: ten times 4 bytes of ns for ");
    let (names, rest) = stages.split_once(';').unwrap();
    assert_eq!(names.split(", ").count() * 4, STAGES);
    assert_eq!(rest, " 2³²−1 = not measured; longer than 4.29 s = 2³²−2.");
    let mut expected = [u32::MAX; 10];
    (expected[0], expected[5]) = (1500, u32::MAX - 1);
    let expected = expected.map(u32::to_le_bytes).concat();
    assert_eq!(reply[SPAN..SPAN + STAGES], expected);
}

#[test]
fn requests_about_keys_are_the_fields_of_their_sentence() {
    let text = passage(
        &section("### Requests"),
        "**Get, BatchRead, Delete, Exists**:",
    );
    let short: [&[u8]; 1] = [b"k"];
    let three: [&[u8]; 3] = [b"a", b"prefix/0001", &[0xee; 512]];
    for (name, namespace, keys, blocks) in [
        ("request_get", 0u32, short.as_slice(), 0),
        ("request_batch_read", 7, &three, TRACE),
        ("request_delete", 7, &three, TRACE),
        ("request_exists", 7, &three, TRACE),
    ] {
        let (namespace, count) = (namespace.to_le_bytes(), (keys.len() as u32).to_le_bytes());
        let lengths: Vec<[u8; 2]> = keys
            .iter()
            .map(|key| (key.len() as u16).to_le_bytes())
            .collect();
        let rows: Vec<[Value<'_>; 2]> = keys
            .iter()
            .zip(&lengths)
            .map(|(key, len)| [("length", len.as_slice()), ("key", *key)])
            .collect();
        let rows: Vec<&[Value<'_>]> = rows.iter().map(|row| row.as_slice()).collect();
        let head: [Value<'_>; 2] = [("namespace", &namespace), ("count", &count)];
        makes(&text, &head, &rows, &control(name, blocks));
    }
}

#[test]
fn writes_are_the_fields_of_their_sentence() {
    let text = passage(&section("### Requests"), "**Put, BatchWrite**:");
    let first: [Value<'_>; 10] = [
        ("namespace", &7u32.to_le_bytes()),
        ("flags", &0x1234u32.to_le_bytes()),
        ("expiry_ms", &99u64.to_le_bytes()),
        ("if_version", &41u64.to_le_bytes()),
        ("value length", &4096u64.to_le_bytes()),
        ("CRC32C", &0xdead_beefu32.to_le_bytes()),
        ("key length", &11u16.to_le_bytes()),
        ("type tag", &[2]),
        ("class and condition", &[0x21]),
        ("key", b"prefix/0001"),
    ];
    let second: [Value<'_>; 10] = [
        ("namespace", &[0; 4]),
        ("flags", &[0; 4]),
        ("expiry_ms", &[0; 8]),
        ("if_version", &[0; 8]),
        ("value length", &[0; 8]),
        ("CRC32C", &crc32c(b"").to_le_bytes()),
        ("key length", &512u16.to_le_bytes()),
        ("type tag", &[0]),
        ("class and condition", &[0x10]),
        ("key", &[0xff; 512]),
    ];
    let count = |count: u32| count.to_le_bytes();
    makes(
        &text,
        &[("count", &count(1))],
        &[&first],
        &control("request_put", TRACE),
    );
    let both: [&[Value<'_>]; 2] = [&first, &second];
    makes(
        &text,
        &[("count", &count(2))],
        &both,
        &control("request_batch_write", 0),
    );
    assert_eq!(
        in_brackets(&text, "class and condition 1"),
        "class in the lower half: 0 evictable, 1 durable; condition in the upper half: 0 none, 1 if absent, 2 if version"
    );
}

#[test]
fn small_requests_are_the_fields_of_their_sentences() {
    let text = section("### Requests");
    let cancelled: Value<'_> = ("request id", &0x1_0000u64.to_le_bytes());
    makes(
        &passage(&text, "**Cancel**:"),
        &[cancelled],
        &[],
        &control("request_cancel", 0),
    );
    let echo: Value<'_> = ("echo", &0x0102_0304_0506_0708u64.to_le_bytes());
    makes(
        &passage(&text, "**Ping**:"),
        &[echo],
        &[],
        &control("request_ping", 0),
    );
    assert_eq!(passage(&text, "**Stat**:"), "nothing.");
    assert!(control("request_stat", 0).is_empty());
}

#[test]
fn connect_is_the_fields_of_its_sentence() {
    let text = passage(&section("### Requests"), "**Connect**:");
    let head: [Value<'_>; 16] = [
        ("oldest RDMA version", &[1]),
        ("newest RDMA version", &[1]),
        ("transport", &[1]),
        ("control carrier", &[2]),
        ("channel", &1u32.to_le_bytes()),
        ("QP number", &0x00ab_cdefu32.to_le_bytes()),
        ("PSN", &0x0012_3456u32.to_le_bytes()),
        ("GID", &[0xfe; 16]),
        ("DC key", &[0; 8]),
        ("LID", &[0; 2]),
        ("MTU code", &[5]),
        ("port", &[1]),
        ("max_rd_atomic", &[16]),
        ("max_dest_rd_atomic", &[16]),
        ("rail", &2u16.to_le_bytes()),
        ("number of facts", &3u16.to_le_bytes()),
    ];
    let rows: [&[Value<'_>]; 3] = [
        &[
            ("tag", &[1, 0]),
            ("length", &[8, 0]),
            ("value", &2u64.to_le_bytes()),
        ],
        &[
            ("tag", &[3, 0]),
            ("length", &[8, 0]),
            ("value", &26u64.to_le_bytes()),
        ],
        &[("tag", &[12, 0]), ("length", &[6, 0]), ("value", b"mlx5_0")],
    ];
    makes(&text, &head, &rows, &control("request_connect", 0));
    makes(&text, &head, &rows, &control("reply_connected", 0));
    let reply = passage(&section("### Replies"), "**Connect**:");
    assert_eq!(reply, "as the request; both versions are the chosen one.");
}
