//! Sessions from fixed nonces, and one message of every kind.

use memkv_proto::blocks::{ReplyBlocks, StageSummary, TraceContext};
use memkv_proto::connect::{Connect, ControlCarrier, FactTag, FactsBuf, RdmaTransport};
use memkv_proto::op::{Attrs, Class, Condition, ErrorCode, OpCode, Outcome, PutEntry, Segment};
use memkv_proto::reply::{self, CancelState, Failure, Pong, ServerState, WriteResult};
use memkv_proto::session::{
    AuthKey, ClientHandshake, Features, KeyRing, ServerHandshake, ServerIdentity, Session,
};
use memkv_proto::stat::StatKey;
use memkv_proto::{Flags, FrameHead, HEADER_BYTES, HmacSha256, request};

pub(crate) const NOW_NS: u64 = 1_700_000_000_000_000_000;
pub(crate) const KEY: [u8; 32] = [0x42; 32];

/// A client's and a server's session, and the three messages that made them.
pub(crate) struct Pair {
    pub(crate) client: Session<HmacSha256>,
    pub(crate) server: Session<HmacSha256>,
    pub(crate) messages: [Vec<u8>; 3],
}

/// Shakes hands with the given features, with nonces made of `seed`.
pub(crate) fn pair_with(client: Features, server: Features, seed: u8) -> Pair {
    let key = AuthKey::new(KEY);
    let (handshake, hello) =
        ClientHandshake::<HmacSha256>::start(&key, "client-1", client, NOW_NS, [seed; 32]).unwrap();
    let ring = KeyRing::new(key, None);
    let identity = ServerIdentity {
        node_id: "server-1:9900",
        features: server,
    };
    let nonce = [seed ^ 0xff; 32];
    let (reply, waiting) =
        ServerHandshake::on_hello(&hello, &ring, &identity, NOW_NS + 1000, nonce).unwrap();
    let (finish, client, _) = handshake.on_hello_reply(&reply, NOW_NS + 2000).unwrap();
    let server = waiting.on_finish(&finish, NOW_NS + 3000).unwrap();
    Pair {
        client,
        server,
        messages: [hello, reply, finish],
    }
}

pub(crate) fn pair() -> Pair {
    pair_with(Features::default(), Features::default(), 1)
}

/// Seals a control part into a whole frame, without payload.
pub(crate) fn seal(
    sealer: &mut memkv_proto::session::Sealer,
    head: &FrameHead,
    control: &[u8],
) -> Vec<u8> {
    let mut frame = vec![0; HEADER_BYTES];
    frame.extend_from_slice(control);
    sealer.seal_in_place(head, &mut frame);
    frame
}

pub(crate) fn trace() -> TraceContext {
    TraceContext {
        version: 0,
        trace_id: [0xa1; 16],
        span_id: [0xb2; 8],
        flags: 1,
    }
}

pub(crate) fn attrs() -> Attrs {
    Attrs {
        namespace: 7,
        type_tag: 2,
        flags: 0x1234,
        expiry_ms: 99,
        class: Class::Durable,
    }
}

fn connect(facts: &FactsBuf) -> Connect<'_> {
    Connect {
        version_min: 1,
        version_max: 1,
        transport: RdmaTransport::Rc,
        control: ControlCarrier::SendRecv,
        channel: 1,
        qp_num: 0x00ab_cdef,
        psn: 0x0012_3456,
        gid: [0xfe; 16],
        dc_key: 0,
        lid: 0,
        mtu: 4096,
        port: 1,
        max_rd_atomic: 16,
        max_dest_rd_atomic: 16,
        rail_idx: 2,
        facts: facts.as_facts(),
    }
}

fn facts() -> FactsBuf {
    let mut facts = FactsBuf::new();
    facts.push_number(FactTag::GidType, 2);
    facts.push_number(FactTag::Dscp, 26);
    facts.push_text(FactTag::Device, "mlx5_0");
    facts
}

/// One request of every op: name, head, control part.
pub(crate) fn requests() -> Vec<(&'static str, FrameHead, Vec<u8>)> {
    let put = PutEntry {
        key: b"prefix/0001",
        attrs: attrs(),
        condition: Condition::IfVersion(41),
        value_len: 4096,
        crc: 0xdead_beef,
    };
    let plain = PutEntry {
        key: &[0xff; 512],
        attrs: Attrs::default(),
        condition: Condition::IfAbsent,
        value_len: 0,
        crc: 0,
    };
    let keys: [&[u8]; 3] = [b"a", b"prefix/0001", &[0xee; 512]];
    let mut all = Vec::new();
    let mut add = |name, encode: &dyn Fn(&mut Vec<u8>) -> FrameHead| {
        let mut control = Vec::new();
        let head = encode(&mut control).with_request_id(0x1_0000 + all.len() as u64);
        all.push((name, head, control));
    };
    let context = trace();
    add("put", &|out| {
        request::encode_writes(out, OpCode::Put, Some(&context), [put])
            .unwrap()
            .with_deadline_us(30_000_000)
            .with_flags(Flags::WANT_STAGES)
    });
    add("batch_write", &|out| {
        request::encode_writes(out, OpCode::BatchWrite, None, [put, plain]).unwrap()
    });
    for (name, op) in [
        ("batch_read", OpCode::BatchRead),
        ("delete", OpCode::Delete),
        ("exists", OpCode::Exists),
    ] {
        add(name, &|out| {
            request::encode_keys(out, op, Some(&context), 7, keys).unwrap()
        });
    }
    add("get", &|out| {
        let head = request::encode_keys(out, OpCode::Get, None, 0, [&b"k"[..]]).unwrap();
        head.with_flags(Flags::PROBE)
    });
    add("connect", &|out| {
        request::encode_connect(out, None, &connect(&facts())).unwrap()
    });
    add("cancel", &|out| request::encode_cancel(out, 0x1_0000));
    add("ping", &|out| {
        request::encode_ping(out, 0x0102_0304_0506_0708)
    });
    add("stat", &|_| request::encode_stat());
    all
}

/// The segments of the golden replies: part of a value, an empty value, a miss, an error.
pub(crate) fn segments() -> Vec<Segment> {
    let part = Segment {
        entry_idx: 1,
        outcome: Outcome::Ok,
        attrs: attrs(),
        version: 42,
        value_len: 10_000,
        crc: 0xcafe_f00d,
        offset: 4096,
        chunk_len: 4096,
    };
    let empty = Segment {
        entry_idx: 0,
        value_len: 0,
        offset: 0,
        chunk_len: 0,
        crc: 0,
        ..part
    };
    let miss = Segment::without_value(2, Outcome::Miss);
    vec![
        part,
        empty,
        miss,
        Segment::without_value(3, Outcome::Error(ErrorCode::Busy)),
    ]
}

/// A reply of every kind: name, head, control part.
pub(crate) fn replies() -> Vec<(&'static str, FrameHead, Vec<u8>)> {
    let mut stages = StageSummary::EMPTY;
    stages.set(0, 1500);
    stages.set(5, u64::MAX);
    let full = ReplyBlocks {
        span_id: Some([0xc3; 8]),
        stages: Some(stages),
        is_kept: false,
    };
    let none = ReplyBlocks::default();
    let outcomes = [
        Outcome::Ok,
        Outcome::Miss,
        Outcome::Error(ErrorCode::BadKey),
    ];
    let results = outcomes.map(|outcome| WriteResult {
        outcome,
        version: 43,
    });
    let mut all = Vec::new();
    let mut add = |name, encode: &dyn Fn(&mut Vec<u8>) -> FrameHead| {
        let mut control = Vec::new();
        let head = encode(&mut control).with_request_id(0x1_0000 + all.len() as u64);
        all.push((name, head, control));
    };
    add("values_part", &|out| {
        let head = reply::encode_values(out, OpCode::BatchRead, &full, 0, &segments()).unwrap();
        head.with_flags(Flags::MORE)
    });
    add("values", &|out| {
        reply::encode_values(out, OpCode::Get, &none, 500, &segments()[2..3]).unwrap()
    });
    add("written", &|out| {
        reply::encode_written(out, OpCode::BatchWrite, &full, 250, results).unwrap()
    });
    add("deleted", &|out| {
        reply::encode_outcomes(out, OpCode::Delete, &none, 0, outcomes).unwrap()
    });
    add("exists", &|out| {
        reply::encode_outcomes(out, OpCode::Exists, &none, 0, outcomes).unwrap()
    });
    add("connected", &|out| {
        reply::encode_connected(out, &none, &connect(&facts())).unwrap()
    });
    add("cancelled", &|out| {
        reply::encode_cancelled(out, &none, CancelState::Stopped)
    });
    add("pong", &|out| {
        let pong = Pong {
            echo: 5,
            unix_ns: NOW_NS,
            state: ServerState::Draining,
        };
        reply::encode_pong(out, &none, &pong)
    });
    add("stat", &|out| {
        let fields = [(StatKey::UptimeMs, 12), (StatKey::Connections, 3)];
        reply::encode_stat(out, &none, &fields)
    });
    add("failed", &|out| {
        let failure = Failure {
            code: ErrorCode::Busy,
            retry_after_us: 2000,
            detail: "pool is full",
        };
        reply::encode_failed(out, OpCode::Put, &full, &failure)
    });
    add("kept", &|out| {
        let kept = ReplyBlocks {
            span_id: Some([0xd4; 8]),
            is_kept: true,
            ..none
        };
        reply::encode_outcomes(out, OpCode::Delete, &kept, 0, outcomes).unwrap()
    });
    all
}
