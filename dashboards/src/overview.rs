//! Overview: rate, errors, duration, and what runs out next.

mod clients;

use crate::grafana::{Dashboard, Panel, Row, Shape, Unit};
use crate::promql::{ERROR, Expr, HIT, Query, READS};
use memkv_telemetry::metrics as s;

const Q: Query = Query::PANEL;

/// The dashboard.
pub(crate) fn overview() -> Dashboard {
    Dashboard {
        uid: "memkv-overview",
        title: "memkv / Overview",
        description: "Rate, errors and duration of operations, and what runs out next.",
        variables: Vec::new(),
        rows: vec![
            Row {
                title: "At a glance",
                panels: at_a_glance(),
            },
            Row {
                title: "Rate",
                panels: rate(),
            },
            Row {
                title: "Errors",
                panels: errors(),
            },
            Row {
                title: "Duration",
                panels: duration(),
            },
            Row {
                title: "Memory and connections",
                panels: memory(),
            },
            Row {
                title: "Drives",
                panels: drives(),
            },
            Row {
                title: "Clients",
                panels: clients::clients(),
            },
            Row {
                title: "Instances",
                panels: instances(),
            },
        ],
    }
}

fn at_a_glance() -> Vec<Panel> {
    vec![
        Panel::new(
            "Operations",
            Shape::Stat,
            Unit::OpsPerSecond,
            4,
            "Operations per second over all chosen instances; a batch counts once.",
        )
        .target("ops", Q.count_rate(&s::OP_DURATION, &[], &[])),
        Panel::new(
            "Failed operations",
            Shape::Stat,
            Unit::Ratio,
            4,
            "Share of operations that ended in an error. A miss is no error.",
        )
        .target("failed", failed_ratio(&[]))
        .thresholds(0.001, 0.01),
        Panel::new(
            "Hit ratio",
            Shape::Stat,
            Unit::Ratio,
            4,
            "Share of the entries read that were there. Near zero with writes going on is a \
             client whose keys never match: compare how both sides hash.",
        )
        .target("hits", hit_ratio())
        .thresholds(0.5, 0.1),
        Panel::new(
            "p99",
            Shape::Stat,
            Unit::Seconds,
            4,
            "99 of 100 operations are answered within this time, from the frame's first byte to \
             the reply's last, as the server sees it.",
        )
        .target("p99", Q.quantile("0.99", &s::OP_DURATION, &[], &[])),
        Panel::new(
            "Drives up",
            Shape::Stat,
            Unit::Ratio,
            4,
            "Share of the configured drives that serve. Values on the others miss.",
        )
        .target("up", Q.gauge("avg", &s::DRIVE_UP, &[], &[]))
        .thresholds(1.0, 0.99),
        Panel::new(
            "Slabs free",
            Shape::Stat,
            Unit::Ratio,
            4,
            "Share of the pinned pool that could be leased at once. The hot tier gives slabs back \
             under pressure, so only a value near zero together with slab waits is a problem.",
        )
        .target("free", slabs_free()),
    ]
}

fn rate() -> Vec<Panel> {
    vec![
        Panel::new(
            "Operations by kind",
            Shape::Stack,
            Unit::OpsPerSecond,
            8,
            "Operations per second; a batch counts once, whatever it holds.",
        )
        .target("{{op}}", Q.count_rate(&s::OP_DURATION, &["op"], &[])),
        Panel::new(
            "Entries by outcome",
            Shape::Stack,
            Unit::CountsPerSecond,
            8,
            "Keys handled per second by how they ended and which tier answered.",
        )
        .target(
            "{{outcome}} {{tier}}",
            Q.rate(&s::ENTRIES_TOTAL, &["outcome", "tier"], &[]),
        ),
        Panel::new(
            "Bytes",
            Shape::Lines,
            Unit::BytesPerSecond,
            8,
            "Value bytes per second into and out of the server.",
        )
        .target(
            "{{direction}}",
            Q.rate(&s::BYTES_TOTAL, &["direction"], &[]),
        ),
        Panel::new(
            "Entries per operation",
            Shape::Lines,
            Unit::Short,
            12,
            "Mean number of keys in one operation. Clients that send batches of one pay the whole \
             cost of an operation for each key.",
        )
        .target("{{op}}", Q.mean(&s::BATCH_ENTRIES, &["op"], &[])),
        Panel::new(
            "Hit ratio by operation",
            Shape::Lines,
            Unit::Ratio,
            12,
            "Share of the entries read that were there.",
        )
        .target(
            "{{op}}",
            Q.rate(&s::ENTRIES_TOTAL, &["op"], HIT)
                .per(Q.rate(&s::ENTRIES_TOTAL, &["op"], READS)),
        ),
    ]
}

fn errors() -> Vec<Panel> {
    vec![
        Panel::new(
            "Failed entries",
            Shape::Lines,
            Unit::CountsPerSecond,
            8,
            "Keys per second that ended in an error. \"Refused work\" tells overload apart; a failed \
             operation's trace names the error, and the log what needs a human.",
        )
        .target("{{op}}", Q.rate(&s::ENTRIES_TOTAL, &["op"], ERROR)),
        Panel::new(
            "Failed operations by kind",
            Shape::Lines,
            Unit::Ratio,
            8,
            "Share of the operations of a kind that ended in an error.",
        )
        .target("{{op}}", failed_ratio(&["op"])),
        Panel::new(
            "Authentication failures",
            Shape::Lines,
            Unit::CountsPerSecond,
            8,
            "Refused sessions and frames by reason: a wrong key, a clock that is off, a replay.",
        )
        .target("{{reason}}", Q.rate(&s::AUTH_FAILURES_TOTAL, &["reason"], &[])),
        Panel::new(
            "Refused work",
            Shape::Lines,
            Unit::CountsPerSecond,
            8,
            "Operations and connections refused or dropped before they started, by reason: busy and \
             no_space are a server at its limits, deadline is a client that gave up.",
        )
        .target("{{reason}}", Q.rate(&s::REJECTED_TOTAL, &["reason"], &[])),
        Panel::new(
            "Protocol faults",
            Shape::Lines,
            Unit::CountsPerSecond,
            8,
            "Connections closed because what came wasn't the protocol, or came too slowly.",
        )
        .target("{{fault}}", Q.rate(&s::PROTOCOL_FAULTS_TOTAL, &["fault"], &[])),
        Panel::new(
            "Wrong checksums",
            Shape::Lines,
            Unit::CountsPerSecond,
            8,
            "Values whose checksum didn't match, by where it was noticed. put is damage on the way \
             here; read and recovery are damage on a drive or in memory.",
        )
        .target("{{source}}", Q.rate(&s::CRC_MISMATCHES_TOTAL, &["source"], &[])),
        Panel::new(
            "Log",
            Shape::Lines,
            Unit::CountsPerSecond,
            24,
            "Lines written per second by severity. An error needs a human.",
        )
        .target("{{level}}", Q.rate(&s::LOG_EVENTS_TOTAL, &["level"], &[])),
    ]
}

fn duration() -> Vec<Panel> {
    let quantile = |quantile, title, description| {
        Panel::new(title, Shape::Lines, Unit::Seconds, 8, description)
            .target(
                "{{op}}",
                Q.quantile(quantile, &s::OP_DURATION, &["op"], &[]),
            )
            .with_exemplars()
    };
    vec![
        quantile(
            "0.5",
            "p50 by operation",
            "Half of the operations are answered within this time.",
        ),
        quantile(
            "0.99",
            "p99 by operation",
            "99 of 100 operations are answered within this time. Points are single operations \
             with a trace: click one to see its stages.",
        ),
        quantile(
            "0.999",
            "p99.9 by operation",
            "999 of 1,000 operations are answered within this time. \"memkv / Tail latency\" takes \
             it apart.",
        ),
    ]
}

fn memory() -> Vec<Panel> {
    vec![
        Panel::new(
            "Slabs by state",
            Shape::Stack,
            Unit::Short,
            8,
            "The pinned pool; the states sum to its capacity.",
        )
        .target("{{state}}", Q.gauge("sum", &s::SLABS, &["state"], &[])),
        Panel::new(
            "Wait for a slab",
            Shape::Lines,
            Unit::Seconds,
            8,
            "Time that operations waited for memory. Long waits mean that more bytes are in flight \
             than memory.max_size holds.",
        )
        .target("p50", Q.quantile("0.5", &s::SLAB_WAIT_SECONDS, &[], &[]))
        .target("p99", Q.quantile("0.99", &s::SLAB_WAIT_SECONDS, &[], &[])),
        Panel::new(
            "Connections",
            Shape::Lines,
            Unit::Short,
            8,
            "Open connections by transport.",
        )
        .target(
            "{{transport}}",
            Q.gauge("sum", &s::CONNECTIONS, &["transport"], &[]),
        ),
        Panel::new(
            "Payload memory in flight",
            Shape::Lines,
            Unit::Bytes,
            6,
            "What admitted operations hold. At the bound, new ones wait or are told to come again.",
        )
        .target(
            "{{instance}}",
            Q.gauge("sum", &s::ADMITTED_BYTES, &["instance"], &[]),
        ),
        Panel::new(
            "Entries",
            Shape::Lines,
            Unit::Short,
            6,
            "Keys in the index.",
        )
        .target(
            "{{instance}}",
            Q.gauge("sum", &s::INDEX_ENTRIES, &["instance"], &[]),
        ),
        Panel::new(
            "Evictions",
            Shape::Lines,
            Unit::CountsPerSecond,
            6,
            "Entries dropped per second, by reason.",
        )
        .target("{{reason}}", Q.rate(&s::EVICTIONS_TOTAL, &["reason"], &[])),
        Panel::new(
            "Evicted without ever being read",
            Shape::Lines,
            Unit::BytesPerSecond,
            6,
            "Bytes per second that were written, stored and dropped for nothing: a cache that is \
             too small for its reuse distance, or clients whose keys never match.",
        )
        .target("bytes", Q.rate(&s::NEVER_READ_BYTES_TOTAL, &[], &[])),
    ]
}

fn drives() -> Vec<Panel> {
    vec![
        Panel::new(
            "Used of capacity",
            Shape::Lines,
            Unit::Ratio,
            8,
            "How full each drive is. With eviction on it stays near full by design.",
        )
        .target(
            "{{instance}} {{drive}}",
            Q.gauge("sum", &s::DRIVE_USED_BYTES, &["instance", "drive"], &[])
                .per(Q.gauge("sum", &s::DRIVE_CAPACITY_BYTES, &["instance", "drive"], &[])),
        ),
        Panel::new(
            "Drive I/O, p99",
            Shape::Lines,
            Unit::Seconds,
            8,
            "99 of 100 requests to a drive complete within this time.",
        )
        .target(
            "{{drive}} {{op}}",
            Q.quantile("0.99", &s::DRIVE_IO_DURATION, &["drive", "op"], &[]),
        ),
        Panel::new(
            "Drive errors",
            Shape::Lines,
            Unit::CountsPerSecond,
            8,
            "Requests that failed, per second. Any is worth a look at the drive.",
        )
        .target(
            "{{drive}} {{op}}",
            Q.rate(&s::DRIVE_ERRORS_TOTAL, &["drive", "op"], &[]),
        ),
        Panel::new(
            "Drive bytes",
            Shape::Lines,
            Unit::BytesPerSecond,
            8,
            "Bytes read from and written to the drives.",
        )
        .target(
            "{{drive}} {{op}}",
            Q.rate(&s::DRIVE_BYTES_TOTAL, &["drive", "op"], &[]),
        ),
        Panel::new(
            "Requests in flight",
            Shape::Lines,
            Unit::Short,
            8,
            "Depth of each drive's queue at the time of the scrape.",
        )
        .target(
            "{{drive}}",
            Q.gauge("sum", &s::DRIVE_QUEUE_DEPTH, &["drive"], &[]),
        ),
        Panel::new(
            "Drive state",
            Shape::Table,
            Unit::Short,
            8,
            "Each configured drive now.",
        )
        .target(
            "",
            Q.gauge("min", &s::DRIVE_UP, &["instance", "drive"], &[]),
        )
        .mapping(1, "up", "green")
        .mapping(0, "down", "red"),
    ]
}

fn instances() -> Vec<Panel> {
    vec![
        Panel::new(
            "Builds",
            Shape::Table,
            Unit::Short,
            8,
            "How many instances run which version.",
        )
        .target("", Q.gauge("count", &s::BUILD_INFO, &["version"], &[])),
        Panel::new(
            "Clock skew of clients",
            Shape::Lines,
            Unit::Seconds,
            8,
            "How far the clock of the latest client to connect was from the server's; below zero \
             where it was behind. Sessions are refused beyond 60 s.",
        )
        .target(
            "{{instance}}",
            Q.gauge("max", &s::CLOCK_SKEW_SECONDS, &["instance"], &[]),
        ),
        Panel::new(
            "Sessions by shared key",
            Shape::Lines,
            Unit::CountsPerSecond,
            8,
            "Which of the two valid keys new sessions used. Drop the previous key from the \
             configuration once nothing uses it.",
        )
        .target("{{key}}", Q.rate(&s::AUTH_KEY_USES_TOTAL, &["key"], &[])),
        Panel::new(
            "Transport of clients",
            Shape::Table,
            Unit::Short,
            8,
            "How many client processes use which transport. An unexpected tcp row is a downgrade.",
        )
        .target(
            "",
            Q.gauge("sum", &s::CLIENT_TRANSPORT_ACTIVE, &["transport"], &[]),
        ),
        Panel::new(
            "Unknown configuration keys",
            Shape::Lines,
            Unit::Short,
            8,
            "Keys that were let through by --allow-unknown-keys and mean nothing. One of them may \
             be a typo of one that matters.",
        )
        .target(
            "{{instance}}",
            Q.gauge("sum", &s::CONFIG_UNKNOWN_KEYS, &["instance"], &[]),
        ),
        Panel::new(
            "Faults of memkv itself",
            Shape::Lines,
            Unit::CountsPerSecond,
            8,
            "What can only happen through a bug of ours; each was noticed and contained.",
        )
        .target("double free", Q.rate(&s::SLAB_DOUBLE_FREES_TOTAL, &[], &[]))
        .target(
            "stale completion",
            Q.rate(&s::STALE_COMPLETIONS_TOTAL, &[], &[]),
        ),
    ]
}

fn failed_ratio(by: &[&str]) -> Expr {
    let all = Q.count_rate(&s::OP_DURATION, by, &[]);
    Q.count_rate(&s::OP_DURATION, by, ERROR)
        .or_zero_like(&all)
        .per(all)
}

fn hit_ratio() -> Expr {
    Q.rate(&s::ENTRIES_TOTAL, &[], HIT)
        .per(Q.rate(&s::ENTRIES_TOTAL, &[], READS))
}

fn slabs_free() -> Expr {
    Q.gauge("sum", &s::SLABS, &[], &[("state", "free")])
        .per(Q.gauge("sum", &s::SLABS, &[], &[]))
}
