//! What each value means: the numbers and bounds of the page are those of the code.

use std::panic::{AssertUnwindSafe, catch_unwind};

use memkv_proto::connect::{
    Connect, ControlCarrier, FACT_BYTES_MAX, FACT_CRITICAL, FACTS_MAX, FactTag, FactsBuf,
    RdmaTransport,
};
use memkv_proto::op::{Class, ErrorCode, OpCode, Outcome};
use memkv_proto::reply::{CancelState, ServerState};
use memkv_proto::request::{self, Request};
use memkv_proto::session::{
    AuthKey, ClientHandshake, Features, KeyRing, RefusalCode, ServerHandshake, ServerIdentity,
};
use memkv_proto::stat::StatKey;
use memkv_proto::{Flags, FrameHead, HmacSha256, VERSION_MAX, VERSION_MIN, limits};

use super::{in_brackets, numbered, passage, says, section, table};
use crate::scenario::{self, KEY, NOW_NS, pair};

/// The values that the page lists are those of `all`, by number and name.
#[track_caller]
fn lists<T>(text: &str, all: &[T], number: impl Fn(&T) -> u64, name: impl Fn(&T) -> String) {
    let expected: Vec<(u64, String)> = all
        .iter()
        .map(|value| (number(value), name(value)))
        .collect();
    assert_eq!(numbered(text), expected, "{text}");
}

/// `BatchWrite` as `batch_write`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

#[test]
fn ops_and_who_carries_payload_are_those_of_the_table() {
    let rows = table("too_large` first.");
    let listed: Vec<(String, &str, &str)> = rows
        .iter()
        .map(|row| (row[0].clone(), row[1].as_str(), row[2].as_str()))
        .filter(|(code, ..)| !code.is_empty())
        .map(|(code, name, payload)| (format!("{code} {}", snake(name)), name, payload))
        .collect();
    let ops: Vec<OpCode> = OpCode::ALL
        .iter()
        .copied()
        .filter(|op| op.is_frame())
        .collect();
    assert_eq!(listed.len(), ops.len());
    for ((code, _, payload), op) in listed.iter().zip(&ops) {
        assert_eq!(*code, format!("{:#04x} {op}", op.to_wire()));
        let carries = match (op.is_write(), op.is_read()) {
            (true, false) => "request",
            (false, true) => "reply",
            _ => "–",
        };
        assert_eq!(*payload, carries, "{op}");
    }
    let prefix = &table("## Handshake messages")[2][2];
    let handshake: Vec<OpCode> = OpCode::ALL
        .iter()
        .copied()
        .filter(|op| !op.is_frame())
        .collect();
    let expected: Vec<(u64, String)> = handshake
        .iter()
        .map(|op| (op.to_wire().into(), op.to_string()))
        .collect();
    let listed: Vec<(u64, String)> = numbered(prefix)
        .into_iter()
        .map(|(code, name)| (code, snake(&name)))
        .collect();
    assert_eq!(listed, expected);
}

#[test]
fn flags_are_those_of_the_table_and_go_only_where_it_says() {
    let known = [
        ("REPLY", Flags::REPLY),
        ("MORE", Flags::MORE),
        ("FAILED", Flags::FAILED),
        ("TRACE", Flags::TRACE),
        ("SPAN", Flags::SPAN),
        ("STAGES", Flags::STAGES),
        ("WANT_STAGES", Flags::WANT_STAGES),
        ("PROBE", Flags::PROBE),
        ("KEPT", Flags::KEPT),
    ];
    let rows = table("too_large` first.");
    let rows: Vec<&[String]> = rows
        .iter()
        .map(|row| &row[4..7])
        .filter(|row| !row[0].is_empty())
        .collect();
    assert_eq!(rows.len(), known.len());
    for (row, (name, flag)) in rows.iter().zip(known) {
        assert_eq!(
            (row[0].as_str(), 1 << row[1].parse::<u16>().unwrap()),
            (name, flag.bits())
        );
        let may = |is_reply: bool| {
            let base = if is_reply { Flags::REPLY } else { Flags::NONE };
            let head = FrameHead::new(OpCode::BatchRead, base | flag, 0, 0);
            let mut pair = pair();
            let sealer = if is_reply {
                &mut pair.server.sealer
            } else {
                &mut pair.client.sealer
            };
            catch_unwind(AssertUnwindSafe(|| sealer.seal(&head, &[]))).is_ok()
        };
        assert_eq!(
            (may(false), may(true)),
            (row[2] == "request", row[2] == "reply"),
            "{name}"
        );
    }
}

#[test]
fn outcomes_and_refusals_have_the_numbers_of_the_page() {
    let mut all = vec![Outcome::Ok, Outcome::Miss];
    all.extend(ErrorCode::ALL.iter().copied().map(Outcome::Error));
    let name = |outcome: &Outcome| match outcome {
        Outcome::Ok => "ok".to_owned(),
        Outcome::Miss => "miss".to_owned(),
        Outcome::Error(code) => code.to_string(),
    };
    let text = passage(&section("### Replies"), "Outcomes:");
    lists(&text, &all, |outcome| outcome.to_wire().into(), name);
    let text = passage(&section("## Handshake messages"), "Codes:");
    let codes = super::sentence(&text);
    lists(
        codes,
        RefusalCode::ALL,
        |code| code.to_wire().into(),
        ToString::to_string,
    );
}

#[test]
fn states_figures_and_facts_have_the_numbers_of_the_page() {
    let (requests, replies) = (section("### Requests"), section("### Replies"));
    let state = |label: &str| in_brackets(&replies, &format!("{label}state 1"));
    lists(
        &state("**Cancel**: "),
        CancelState::ALL,
        |v| v.to_wire().into(),
        ToString::to_string,
    );
    lists(
        &state("server's clock 8, "),
        ServerState::ALL,
        |v| v.to_wire().into(),
        ToString::to_string,
    );
    let figures = super::without_brackets(&passage(&replies, "unknown keys are skipped. "));
    lists(
        &figures,
        StatKey::ALL,
        |v| v.to_wire().into(),
        ToString::to_string,
    );
    let connect = passage(&requests, "**Connect**:");
    let transport = in_brackets(&connect, "transport 1");
    lists(
        &transport,
        RdmaTransport::ALL,
        |v| v.to_wire().into(),
        ToString::to_string,
    );
    let carrier = in_brackets(&connect, "control carrier 1");
    lists(
        &carrier,
        ControlCarrier::ALL,
        |v| v.to_wire().into(),
        ToString::to_string,
    );
    let facts =
        super::without_brackets(&passage(&connect, "Numbers have 8 bytes:")).replace("texts:", "");
    lists(
        &facts,
        FactTag::ALL,
        |v| v.to_wire().into(),
        ToString::to_string,
    );
    let classes = "class in the lower half: 0 evictable, 1 durable";
    says(classes);
    let names = numbered(classes.split_once(':').unwrap().1);
    let expected = Class::ALL
        .iter()
        .map(|class| (u64::from(class.to_wire()), class.to_string()));
    assert!(names.into_iter().eq(expected));
}

#[test]
fn mtu_codes_are_1_for_256_to_5_for_4096() {
    says("MTU code 1 (1 = 256 … 5 = 4096)");
    let (_, head, control) = scenario::requests()
        .into_iter()
        .find(|(name, ..)| *name == "connect")
        .unwrap();
    for code in 0..=6u8 {
        let mut control = control.clone();
        control[42] = code;
        let mtu = match Request::decode(&head, &control) {
            Ok((_, Request::Connect(connect))) => Some(connect.mtu),
            _ => None,
        };
        let expected = (1..=5).contains(&code).then(|| 128 << code);
        assert_eq!(mtu, expected, "code {code}");
    }
}

#[test]
fn bounds_are_those_of_the_page() {
    says(&format!("Version {VERSION_MAX}."));
    assert_eq!(VERSION_MIN, 1, "the page tells of one version");
    says(&format!(
        "Limits: key 1–{} bytes, {} entries, value {} GiB.",
        limits::KEY_BYTES_MAX,
        limits::BATCH_ENTRIES_MAX,
        limits::VALUE_BYTES_MAX >> 30,
    ));
    says(&format!(
        "length of the control part, at most {} MiB",
        limits::CONTROL_BYTES_MAX >> 20
    ));
    says(&format!(
        "length of the node identity, 0–{}",
        limits::NODE_BYTES_MAX
    ));
    says(&format!(
        "length of the detail 2 (at most {})",
        limits::DETAIL_BYTES_MAX
    ));
    says(&format!(
        "clock (±{} s)",
        limits::CLOCK_SKEW_NS_MAX / 1_000_000_000
    ));
    says(&format!(
        "by up to {} s without being refused",
        limits::CLOCK_SKEW_NS_MAX / 1_000_000_000
    ));
    says(&format!("number of facts 2 (at most {FACTS_MAX})"));
    says(&format!("length 2 (at most {FACT_BYTES_MAX}), value"));
    says(&format!(
        "Bit {} of a tag means",
        FACT_CRITICAL.trailing_zeros()
    ));
    says(&format!(
        "Bit {} is the payload MAC.",
        Features::PAYLOAD_MAC.trailing_zeros()
    ));
}

#[test]
fn a_hello_is_answered_with_at_most_the_bytes_that_the_page_admits() {
    let key = AuthKey::new(KEY);
    let node = "n".repeat(limits::NODE_BYTES_MAX);
    let features = Features::default();
    let start = ClientHandshake::<HmacSha256>::start(&key, &node, features, NOW_NS, [1; 32]);
    let (_, hello) = start.unwrap();
    let identity = ServerIdentity {
        node_id: &node,
        features,
    };
    let ring = KeyRing::new(key, None);
    let answer = ServerHandshake::<HmacSha256>::on_hello(&hello, &ring, &identity, NOW_NS, [2; 32]);
    let (reply, _) = answer.unwrap();
    says(&format!("at most {} bytes per connection", reply.len()));
}

/// A Connect whose facts are `facts`, as bytes.
fn connect_with(facts: &[(u16, &[u8])]) -> Vec<u8> {
    let (_, _, control) = scenario::requests()
        .into_iter()
        .find(|(name, ..)| *name == "connect")
        .unwrap();
    let mut out = control[..48].to_vec();
    out.extend_from_slice(&(facts.len() as u16).to_le_bytes());
    for (tag, value) in facts {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&(value.len() as u16).to_le_bytes());
        out.extend_from_slice(value);
    }
    out
}

fn read_connect(control: &[u8], check: impl FnOnce(&Connect<'_>)) -> Result<(), String> {
    let head = FrameHead::new(OpCode::Connect, Flags::NONE, control.len() as u32, 0);
    match Request::decode(&head, control) {
        Ok((_, Request::Connect(connect))) => {
            check(&connect);
            Ok(())
        }
        Ok((_, other)) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn facts_rise_unknown_ones_are_skipped_and_critical_ones_refused() {
    let unknown = 0x0abc;
    let listed = connect_with(&[(3, &[26, 0, 0, 0, 0, 0, 0, 0]), (unknown, b"later")]);
    read_connect(&listed, |connect| {
        assert_eq!(connect.facts.number(FactTag::Dscp), Some(26));
        assert_eq!(connect.facts.iter().count(), 2);
    })
    .unwrap();
    let critical = connect_with(&[(unknown | FACT_CRITICAL, b"")]);
    assert!(
        read_connect(&critical, |_| ())
            .unwrap_err()
            .contains("critical fact tag")
    );
    // One that is known may be marked as critical.
    let marked = connect_with(&[(3 | FACT_CRITICAL, &[26, 0, 0, 0, 0, 0, 0, 0])]);
    let number = |connect: &Connect<'_>| assert_eq!(connect.facts.number(FactTag::Dscp), Some(26));
    read_connect(&marked, number).unwrap();
    for order in [[3, 3], [4, 3], [3 | FACT_CRITICAL, 3]] {
        let listed = connect_with(&order.map(|tag| (tag, [0; 8].as_slice())));
        assert!(read_connect(&listed, |_| ()).is_err(), "{order:x?}");
    }
    let long = connect_with(&[(12, &[b'd'; FACT_BYTES_MAX + 1])]);
    assert!(
        read_connect(&long, |_| ())
            .unwrap_err()
            .contains("limit of 256")
    );
    let most: Vec<(u16, &[u8])> = (1..=FACTS_MAX as u16)
        .map(|tag| (tag, b"".as_slice()))
        .collect();
    read_connect(&connect_with(&most), |_| ()).unwrap();
    let more: Vec<(u16, &[u8])> = (1..=FACTS_MAX as u16 + 1)
        .map(|tag| (tag, b"".as_slice()))
        .collect();
    assert!(
        read_connect(&connect_with(&more), |_| ())
            .unwrap_err()
            .contains("fact count")
    );
}

#[test]
fn queue_pair_and_packet_numbers_have_24_bits() {
    says("QP number 4 (24 bits), PSN 4 (24 bits)");
    for (at, field) in [(8, "qp_num"), (12, "psn")] {
        let mut control = connect_with(&[]);
        control[at..at + 4].copy_from_slice(&0x00ff_ffffu32.to_le_bytes());
        read_connect(&control, |_| ()).unwrap();
        control[at + 3] = 1;
        assert!(read_connect(&control, |_| ()).unwrap_err().contains(field));
    }
    let facts = FactsBuf::new();
    let base = Connect {
        version_min: 1,
        version_max: 1,
        transport: RdmaTransport::Rc,
        control: ControlCarrier::Tcp,
        channel: 1,
        qp_num: 0,
        psn: 0,
        gid: [0; 16],
        dc_key: 0,
        lid: 0,
        mtu: 1024,
        port: 1,
        max_rd_atomic: 1,
        max_dest_rd_atomic: 1,
        rail_idx: 0,
        facts: facts.as_facts(),
    };
    for wrong in [
        Connect {
            qp_num: 1 << 24,
            ..base
        },
        Connect {
            psn: 1 << 24,
            ..base
        },
        Connect { mtu: 1000, ..base },
    ] {
        let mut out = vec![7];
        request::encode_connect(&mut out, None, &wrong).unwrap_err();
        assert_eq!(out, [7], "an encoder that refuses leaves the buffer alone");
    }
}

#[test]
fn the_answer_says_which_key_it_is() {
    says("0: your key is my current one, 1: my previous one");
    let (old, new) = (AuthKey::new(KEY), AuthKey::new([5; 32]));
    let features = Features::default();
    let identity = ServerIdentity {
        node_id: "server",
        features,
    };
    for (current, previous, told) in [(&old, None, 0), (&new, Some(old.clone()), 1)] {
        let ring = KeyRing::new(current.clone(), previous);
        let start = ClientHandshake::<HmacSha256>::start(&old, "c", features, NOW_NS, [1; 32]);
        let (_, hello) = start.unwrap();
        let answer =
            ServerHandshake::<HmacSha256>::on_hello(&hello, &ring, &identity, NOW_NS, [2; 32]);
        assert_eq!(answer.unwrap().0[11], told);
    }
}

#[test]
fn trace_contexts_of_another_version_are_bad_requests_and_bit_0_says_sampled() {
    says("version 1 (its value is 0; another is refused as bad_request)");
    says("flags 1 (bit 0 = sampled)");
    let (_, head, mut control) = scenario::requests().swap_remove(0);
    for flags in 0..=3 {
        control[25] = flags;
        let (trace, _) = Request::decode(&head, &control).unwrap();
        assert_eq!(trace.unwrap().is_sampled(), flags & 1 == 1);
    }
    control[0] = 1;
    let refused = Request::decode(&head, &control).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::BadRequest);
}

#[test]
fn a_version_without_its_condition_is_refused() {
    says("`if_version` is 0 unless the condition uses it.");
    says("expiry_ms 8 (Unix time; 0 = never)");
    let (_, head, control) = scenario::requests().swap_remove(0);
    // Behind the trace context and the count: if_version at 16, class and condition at 39.
    let (at, packed) = (26 + 4 + 16, 26 + 4 + 39);
    for (condition, if_version, ok) in [
        (0, 0, true),
        (1, 0, true),
        (2, 0, true),
        (2, 9, true),
        (0, 9, false),
        (1, 9, false),
        (3, 0, false),
    ] {
        let mut control = control.clone();
        control[at] = if_version;
        control[packed] = condition << 4 | 1;
        let decoded = Request::decode(&head, &control);
        assert_eq!(
            decoded.is_ok(),
            ok,
            "condition {condition}, version {if_version}"
        );
    }
}
