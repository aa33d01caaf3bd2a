//! Turns a kept Timeline into spans: one for the op, and a child for each stage that was measured.
//!
//! Times are the Timeline's, put on the wall clock; nothing here reads a clock. A stage that came in
//! parts is one child, from its first start, as long as its parts together; where that is shorter than
//! from first start to last end, the parts were interleaved with other stages.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::SpanData;

use crate::clock::Anchor;
use crate::labels::{Blame, SpanDecision, Transport};
use crate::timeline::{Role, StageTime, Timeline};
use crate::trace::IdSource;

/// An op that becomes spans.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub(crate) timeline: Timeline,
    pub(crate) decision: SpanDecision,
    pub(crate) blame: Option<Blame>,
    pub(crate) anchor: Anchor,
}

/// What all spans of a process have in common.
#[derive(Clone, Debug)]
pub(crate) struct SpanShape {
    pub(crate) server_port: u16,
    /// A client's servers, `host:port`.
    pub(crate) servers: Vec<String>,
    pub(crate) error_name: fn(u16) -> &'static str,
    pub(crate) scope: InstrumentationScope,
}

/// The op's span, then its stages'.
pub(crate) fn spans(kept: &Kept, shape: &SpanShape, ids: &mut IdSource) -> Vec<SpanData> {
    let timeline = &kept.timeline;
    let op = SpanData {
        span_context: context(timeline, timeline.span_id),
        parent_span_id: SpanId::from_bytes(timeline.trace.span_id),
        parent_span_is_remote: timeline.role == Role::Server && timeline.trace.span_id != [0; 8],
        span_kind: match timeline.role {
            Role::Server => SpanKind::Server,
            Role::Client => SpanKind::Client,
        },
        name: timeline.op.span_name().into(),
        start_time: wall(kept.anchor.unix_ns(timeline.start)),
        end_time: wall(kept.anchor.unix_ns(timeline.end)),
        attributes: op_attributes(kept, shape),
        dropped_attributes_count: 0,
        events: Default::default(),
        links: Default::default(),
        status: match error_name(timeline, shape) {
            Some(name) => Status::error(name),
            None => Status::Unset,
        },
        instrumentation_scope: shape.scope.clone(),
    };
    let mut all = vec![op];
    for (name, time) in timeline.measured() {
        all.push(stage_span(kept, shape, ids.span_id(), name, time));
    }
    all
}

fn stage_span(
    kept: &Kept,
    shape: &SpanShape,
    span_id: [u8; 8],
    name: &'static str,
    time: StageTime,
) -> SpanData {
    let timeline = &kept.timeline;
    let start_ns = kept
        .anchor
        .unix_ns(timeline.start)
        .saturating_add(time.start_ns);
    let mut attributes = vec![KeyValue::new("memkv.stage", name)];
    if name == "device" && !timeline.is_probed {
        attributes.push(KeyValue::new("memkv.ebpf", "off"));
    }
    SpanData {
        span_context: context(timeline, span_id),
        parent_span_id: SpanId::from_bytes(timeline.span_id),
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: stage_span_name(timeline, name),
        start_time: wall(start_ns),
        end_time: wall(start_ns.saturating_add(time.dur_ns)),
        attributes,
        dropped_attributes_count: 0,
        events: Default::default(),
        links: Default::default(),
        status: Status::Unset,
        instrumentation_scope: shape.scope.clone(),
    }
}

fn stage_span_name(timeline: &Timeline, stage: &'static str) -> Cow<'static, str> {
    let name = match (timeline.role, stage) {
        (Role::Server, "receive") => "receive request",
        (Role::Server, "verify") => "verify frame",
        (Role::Server, "admit") => "wait for admission",
        (Role::Server, "lease") => "lease slab",
        (Role::Server, "index") => "look up index",
        (Role::Server, "transfer") => "transfer payload",
        (Role::Server, "queue") => "queue i/o",
        (Role::Server, "device") if timeline.op.is_write() => "write extent",
        (Role::Server, "device") => "read extent",
        (Role::Server, "complete") => "reap completion",
        (Role::Server, "reply") => "send reply",
        (Role::Client, "queue") => "wait for a lane",
        (Role::Client, "send") => "send request",
        (Role::Client, "wait") => "wait for reply",
        (Role::Client, "receive") => "receive reply",
        (Role::Client, "checksum") => "verify checksum",
        (_, other) => other,
    };
    name.into()
}

fn op_attributes(kept: &Kept, shape: &SpanShape) -> Vec<KeyValue> {
    let timeline = &kept.timeline;
    let int = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let mut attributes = vec![
        KeyValue::new("db.system.name", "memkv"),
        KeyValue::new("db.operation.name", timeline.op.span_name()),
        KeyValue::new("memkv.bytes", int(timeline.bytes())),
        KeyValue::new("memkv.hits", int(timeline.entries.hits())),
        KeyValue::new("memkv.misses", int(timeline.entries.miss.into())),
        KeyValue::new("memkv.tier", timeline.tier().name()),
        KeyValue::new("memkv.outcome", timeline.outcome().name()),
    ];
    let entries = timeline.entries.total();
    if entries > 1 {
        attributes.push(KeyValue::new("db.operation.batch.size", int(entries)));
    }
    match timeline.transport {
        Transport::Tcp => attributes.push(KeyValue::new("network.transport", "tcp")),
        Transport::Rdma => attributes.push(KeyValue::new("memkv.transport", "rdma")),
    }
    if timeline.role == Role::Server {
        attributes.push(KeyValue::new("server.port", i64::from(shape.server_port)));
        attributes.push(KeyValue::new(
            "memkv.connection",
            int(timeline.connection_id),
        ));
    } else if let Some(server) = shape.servers.get(usize::from(timeline.server_idx)) {
        attributes.extend(server_attributes(server));
    }
    if let Some(name) = error_name(timeline, shape) {
        attributes.push(KeyValue::new("error.type", name));
        attributes.push(KeyValue::new(
            "db.response.status_code",
            timeline.error_code.to_string(),
        ));
    }
    if let Some(drive_idx) = timeline.drive_idx {
        attributes.push(KeyValue::new("memkv.drive", i64::from(drive_idx)));
    }
    if timeline.io.count > 0 {
        let io = timeline.io;
        attributes.push(KeyValue::new("memkv.io.count", i64::from(io.count)));
        attributes.push(KeyValue::new(
            "memkv.io.device_sum_ns",
            int(io.device_sum_ns),
        ));
        attributes.push(KeyValue::new(
            "memkv.io.device_max_ns",
            int(io.device_max_ns),
        ));
    }
    if let Some(hash) = timeline.key_hash {
        attributes.push(KeyValue::new("memkv.key_hash", format!("{hash:016x}")));
    }
    if let Some(blame) = kept.blame {
        attributes.push(KeyValue::new("memkv.blame", blame.name()));
    }
    let by = if timeline.trace.is_sampled() {
        "head"
    } else {
        "tail"
    };
    attributes.push(KeyValue::new("memkv.sampled_by", by));
    attributes.push(KeyValue::new("memkv.kept_as", kept.decision.name()));
    attributes
}

fn server_attributes(server: &str) -> Vec<KeyValue> {
    let address_and_port = server.rsplit_once(':');
    match address_and_port.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?))) {
        Some((host, port)) => vec![
            KeyValue::new("server.address", host.trim_matches(['[', ']']).to_owned()),
            KeyValue::new("server.port", i64::from(port)),
        ],
        None => vec![KeyValue::new("server.address", server.to_owned())],
    }
}

fn error_name(timeline: &Timeline, shape: &SpanShape) -> Option<&'static str> {
    let is_failed = timeline.is_failed || timeline.entries.error > 0;
    is_failed.then(|| (shape.error_name)(timeline.error_code))
}

fn context(timeline: &Timeline, span_id: [u8; 8]) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(timeline.trace.trace_id),
        SpanId::from_bytes(span_id),
        TraceFlags::SAMPLED,
        false,
        TraceState::default(),
    )
}

fn wall(unix_ns: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(unix_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Tick;
    use crate::labels::{OpKind, OutcomeLabel, Stage, Step, Tier};
    use crate::trace::TraceContext;

    fn shape() -> SpanShape {
        SpanShape {
            server_port: 9900,
            servers: vec!["[::1]:9900".to_owned()],
            error_name: |_| "corrupt",
            scope: InstrumentationScope::builder("memkv").build(),
        }
    }

    fn kept(timeline: Timeline) -> Kept {
        Kept {
            timeline,
            decision: SpanDecision::Slow,
            blame: Some(Blame::Device),
            anchor: Anchor::take(),
        }
    }

    fn attribute(span: &SpanData, key: &str) -> Option<String> {
        let found = span
            .attributes
            .iter()
            .find(|attribute| attribute.key.as_str() == key);
        found.map(|attribute| attribute.value.as_str().into_owned())
    }

    #[test]
    fn an_op_is_a_server_span_under_the_callers_with_a_child_per_measured_stage() {
        let mut timeline = Timeline::begin(OpKind::BatchRead, Transport::Tcp, Tick(1_000_000));
        timeline.trace = TraceContext {
            trace_id: [7; 16],
            span_id: [8; 8],
            flags: 1,
        };
        timeline.span_id = [9; 8];
        timeline.stamp(Stage::Index, Tick(1_001_000), Tick(1_003_000));
        timeline.stamp(Stage::Device, Tick(1_003_000), Tick(1_053_000));
        timeline.count(Tier::Drive, OutcomeLabel::Ok, 64);
        timeline.finish(Tick(1_100_000));
        let spans = spans(&kept(timeline), &shape(), &mut IdSource::with_seed(1, 0.0));
        assert_eq!(
            spans.len(),
            3,
            "the op, index and device; what wasn't measured has no span"
        );
        let op = &spans[0];
        assert_eq!(op.name, "BATCH GET");
        assert_eq!(op.span_kind, SpanKind::Server);
        assert_eq!(op.parent_span_id, SpanId::from_bytes([8; 8]));
        assert_eq!(op.span_context.span_id(), SpanId::from_bytes([9; 8]));
        let took = op.end_time.duration_since(op.start_time).unwrap();
        assert_eq!(took, Duration::from_micros(100));
        assert_eq!(
            attribute(op, "db.operation.batch.size").as_deref(),
            Some("64")
        );
        assert_eq!(attribute(op, "memkv.blame").as_deref(), Some("device"));
        assert_eq!(attribute(op, "error.type"), None);
        for child in &spans[1..] {
            assert_eq!(child.parent_span_id, SpanId::from_bytes([9; 8]));
            assert_eq!(child.span_context.trace_id(), TraceId::from_bytes([7; 16]));
        }
        assert_eq!(spans[1].name, "look up index");
        assert_eq!(spans[2].name, "read extent");
        assert_eq!(attribute(&spans[2], "memkv.ebpf").as_deref(), Some("off"));
        let offset = spans[2].start_time.duration_since(op.start_time).unwrap();
        assert_eq!(offset, Duration::from_micros(3));
    }

    #[test]
    fn a_failed_op_says_what_failed() {
        let mut timeline = Timeline::begin(OpKind::Get, Transport::Tcp, Tick(0));
        timeline.fail(9);
        let spans = spans(&kept(timeline), &shape(), &mut IdSource::with_seed(1, 0.0));
        assert_eq!(spans[0].status, Status::error("corrupt"));
        assert_eq!(
            attribute(&spans[0], "error.type").as_deref(),
            Some("corrupt")
        );
        assert_eq!(
            attribute(&spans[0], "db.response.status_code").as_deref(),
            Some("9")
        );
        assert_eq!(attribute(&spans[0], "db.operation.batch.size"), None);
    }

    #[test]
    fn an_op_without_a_caller_is_a_root_and_says_who_chose_it() {
        let mut timeline = Timeline::begin(OpKind::Get, Transport::Tcp, Tick(1_000));
        timeline.span_id = [9; 8];
        timeline.is_probed = true;
        timeline.stamp(Stage::Device, Tick(2_000), Tick(5_000));
        timeline.finish(Tick(9_000));
        for (flags, by) in [(0, "tail"), (1, "head")] {
            timeline.trace = TraceContext {
                trace_id: [7; 16],
                span_id: [0; 8],
                flags,
            };
            let spans = spans(&kept(timeline), &shape(), &mut IdSource::with_seed(1, 0.0));
            assert_eq!(spans[0].parent_span_id, SpanId::INVALID);
            assert!(!spans[0].parent_span_is_remote);
            assert_eq!(
                attribute(&spans[0], "memkv.sampled_by").as_deref(),
                Some(by)
            );
            assert_eq!(
                attribute(&spans[0], "memkv.kept_as").as_deref(),
                Some("slow")
            );
            let took = spans[1].end_time.duration_since(spans[1].start_time);
            assert_eq!(took.unwrap(), Duration::from_micros(3));
            assert_eq!(
                attribute(&spans[1], "memkv.ebpf"),
                None,
                "the kernel's time"
            );
        }
    }

    #[test]
    fn a_clients_span_names_its_server_and_steps() {
        let mut timeline = Timeline::begin_client(OpKind::Put, Transport::Tcp, Tick(0));
        timeline.stamp_step(Step::Wait, Tick(0), Tick(5));
        let spans = spans(&kept(timeline), &shape(), &mut IdSource::with_seed(1, 0.0));
        assert_eq!(spans[0].span_kind, SpanKind::Client);
        assert_eq!(
            attribute(&spans[0], "server.address").as_deref(),
            Some("::1")
        );
        assert_eq!(attribute(&spans[0], "server.port").as_deref(), Some("9900"));
        assert_eq!(spans[1].name, "wait for reply");
    }
}
