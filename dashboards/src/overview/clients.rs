//! What processes that embed the client library expose.

use memkv_telemetry::metrics as s;

use super::Q;
use crate::grafana::{Panel, Shape, Unit};
use crate::promql::{Expr, HIT, READS};

pub(super) fn clients() -> Vec<Panel> {
    vec![
        Panel::new(
            "Client calls, p99",
            Shape::Lines,
            Unit::Seconds,
            8,
            "As the clients see it, network and their own waiting included. Compare with p99 by \
             operation: what only this one shows isn't the server.",
        )
        .target(
            "{{op}}",
            Q.quantile("0.99", &s::CLIENT_OP_DURATION, &["op"], &[]),
        ),
        Panel::new(
            "Time per call, by step",
            Shape::Stack,
            Unit::Seconds,
            8,
            "Where the mean call spends its time inside the client.",
        )
        .target("{{step}}", client_steps()),
        Panel::new(
            "Hit ratio by server",
            Shape::Lines,
            Unit::Ratio,
            8,
            "Share of the entries read that were there. One server far below the others is asked \
             for keys that were never written to it: clients disagree on node identities.",
        )
        .target(
            "{{server}}",
            Q.rate(&s::CLIENT_ENTRIES_TOTAL, &["server"], HIT)
                .per(Q.rate(&s::CLIENT_ENTRIES_TOTAL, &["server"], READS)),
        ),
        Panel::new(
            "Client connections",
            Shape::Lines,
            Unit::Short,
            6,
            "Connections to each server by state.",
        )
        .target(
            "{{server}} {{state}}",
            Q.gauge("sum", &s::CLIENT_CONNECTIONS, &["server", "state"], &[]),
        ),
        Panel::new(
            "Servers of another identity",
            Shape::Lines,
            Unit::Short,
            6,
            "Clients to whom a server says that it is another node than the one they place its keys \
             by: its keys are looked for in the wrong place. Check node_ids and servers.",
        )
        .target(
            "{{server}}",
            Q.gauge("sum", &s::CLIENT_IDENTITY_MISMATCH, &["server"], &[]),
        ),
        Panel::new(
            "Reads sent again",
            Shape::Lines,
            Unit::CountsPerSecond,
            6,
            "Writes are never sent again before the first attempt is known to be over.",
        )
        .target(
            "{{reason}}",
            Q.rate(&s::CLIENT_RETRIES_TOTAL, &["reason"], &[]),
        ),
        Panel::new(
            "Client bytes",
            Shape::Lines,
            Unit::BytesPerSecond,
            6,
            "Value bytes that clients sent (in) and received (out).",
        )
        .target(
            "{{direction}}",
            Q.rate(&s::CLIENT_BYTES_TOTAL, &["direction"], &[]),
        ),
        Panel::new(
            "Entries per request",
            Shape::Lines,
            Unit::Short,
            6,
            "Mean number of keys in one request frame, after batches were split by server.",
        )
        .target("{{op}}", Q.mean(&s::CLIENT_BATCH_ENTRIES, &["op"], &[])),
    ]
}

fn client_steps() -> Expr {
    let calls = Q.count_rate(&s::CLIENT_OP_DURATION, &[], &[]);
    Q.sum_rate(&s::CLIENT_STEP_SECONDS, &["step"], &[])
        .per(calls.scalar())
}
