//! The fields of replies, as the page lists them, are those of the golden replies.

use super::fields::{SPAN, STAGES, Value, control, makes};
use super::{passage, section};
use crate::scenario::NOW_NS;

#[test]
fn replies_with_values_are_the_fields_of_their_sentence() {
    let text = passage(&section("### Replies"), "**Get, BatchRead**:");
    let segment = |entry: &'static [u8; 4], outcome: &'static [u8; 2]| -> Vec<Value<'static>> {
        vec![("entry", entry), ("outcome", outcome)]
    };
    let zeroes: [Value<'_>; 10] = [
        ("type tag", &[0]),
        ("class", &[0]),
        ("namespace", &[0; 4]),
        ("flags", &[0; 4]),
        ("expiry_ms", &[0; 8]),
        ("version", &[0; 8]),
        ("value length", &[0; 8]),
        ("offset", &[0; 8]),
        ("chunk length", &[0; 4]),
        ("CRC32C of the whole value", &[0; 4]),
    ];
    let attrs: [Value<'_>; 6] = [
        ("type tag", &[2]),
        ("class", &[1]),
        ("namespace", &[7, 0, 0, 0]),
        ("flags", &[0x34, 0x12, 0, 0]),
        ("expiry_ms", &[99, 0, 0, 0, 0, 0, 0, 0]),
        ("version", &[42, 0, 0, 0, 0, 0, 0, 0]),
    ];
    let place: [Value<'_>; 4] = [
        ("value length", &10_000u64.to_le_bytes()),
        ("offset", &4096u64.to_le_bytes()),
        ("chunk length", &4096u32.to_le_bytes()),
        ("CRC32C of the whole value", &0xcafe_f00du32.to_le_bytes()),
    ];
    let part = [
        segment(&[1, 0, 0, 0], &[0, 0]),
        attrs.to_vec(),
        place.to_vec(),
    ]
    .concat();
    let empty = [
        segment(&[0; 4], &[0, 0]),
        attrs.to_vec(),
        zeroes[6..].to_vec(),
    ]
    .concat();
    let miss = [segment(&[2, 0, 0, 0], &[1, 0]), zeroes.to_vec()].concat();
    let busy = [segment(&[3, 0, 0, 0], &[2, 0]), zeroes.to_vec()].concat();
    let head = |retry: &'static [u8; 4], count: &'static [u8; 4]| -> [Value<'static>; 2] {
        [("retry_after_us", retry), ("count", count)]
    };
    let rows: [&[Value<'_>]; 4] = [&part, &empty, &miss, &busy];
    let message = control("reply_values_part", SPAN + STAGES);
    makes(&text, &head(&[0; 4], &[4, 0, 0, 0]), &rows, &message);
    let message = control("reply_values", 0);
    makes(
        &text,
        &head(&[0xf4, 1, 0, 0], &[1, 0, 0, 0]),
        &[&miss],
        &message,
    );
}

#[test]
fn other_replies_are_the_fields_of_their_sentences() {
    let text = section("### Replies");
    let outcomes: [&[u8]; 3] = [&[0, 0], &[1, 0], &[4, 0]];
    let version = 43u64.to_le_bytes();
    let written = outcomes.map(|outcome| [("outcome", outcome), ("version", version.as_slice())]);
    let written: Vec<&[Value<'_>]> = written.iter().map(|row| row.as_slice()).collect();
    let three: Value<'_> = ("count", &[3, 0, 0, 0]);
    let head: [Value<'_>; 2] = [("retry_after_us", &250u32.to_le_bytes()), three];
    let message = control("reply_written", SPAN + STAGES);
    makes(
        &passage(&text, "**Put, BatchWrite**:"),
        &head,
        &written,
        &message,
    );
    let found = outcomes.map(|outcome| [("outcome", outcome)]);
    let found: Vec<&[Value<'_>]> = found.iter().map(|row| row.as_slice()).collect();
    let head: [Value<'_>; 2] = [("retry_after_us", &[0; 4]), three];
    for (name, blocks) in [
        ("reply_deleted", 0),
        ("reply_exists", 0),
        ("reply_kept", SPAN),
    ] {
        makes(
            &passage(&text, "**Delete, Exists**:"),
            &head,
            &found,
            &control(name, blocks),
        );
    }
    makes(
        &passage(&text, "**Cancel**:"),
        &[("state", &[0])],
        &[],
        &control("reply_cancelled", 0),
    );
    let head: [Value<'_>; 3] = [
        ("echo", &5u64.to_le_bytes()),
        ("server's clock", &NOW_NS.to_le_bytes()),
        ("state", &[2]),
    ];
    makes(
        &passage(&text, "**Ping**:"),
        &head,
        &[],
        &control("reply_pong", 0),
    );
    let rows: [&[Value<'_>]; 2] = [
        &[("key", &[1, 0]), ("value", &12u64.to_le_bytes())],
        &[("key", &[7, 0]), ("value", &3u64.to_le_bytes())],
    ];
    let stat = passage(&text, "**Stat**:");
    let stat = stat.split_once(';').unwrap().0;
    makes(
        stat,
        &[("count", &[2, 0])],
        &rows,
        &control("reply_stat", 0),
    );
    let head: [Value<'_>; 4] = [
        ("code", &[2, 0]),
        ("length of the detail", &[12, 0]),
        ("retry_after_us", &2000u32.to_le_bytes()),
        ("detail in UTF-8", b"pool is full"),
    ];
    let failed = passage(&text, "**Failed** (flag FAILED, any op):");
    makes(&failed, &head, &[], &control("reply_failed", SPAN + STAGES));
}
