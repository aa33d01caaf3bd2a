//! Tail latency: where the slow operations spend their time, and whether telemetry can be trusted.

use crate::grafana::{Dashboard, Panel, Row, Shape, Unit};
use crate::promql::{Expr, Query};
use memkv_telemetry::metrics as s;

const Q: Query = Query::PANEL;
/// Grafana fills in the chosen operations.
const OP: (&str, &str) = ("op", "=~$op");

/// The dashboard.
pub(crate) fn tail_latency() -> Dashboard {
    let ops = format!(
        "label_values({}_count{{job=~\"$job\"}}, op)",
        s::OP_DURATION.name
    );
    Dashboard {
        uid: "memkv-tail-latency",
        title: "memkv / Tail latency",
        description: "Where slow operations spend their time, down to single traces.",
        variables: vec![("op", "Operation", ops)],
        rows: vec![
            Row {
                title: "Distribution",
                panels: distribution(),
            },
            Row {
                title: "Stages",
                panels: stages(),
            },
            Row {
                title: "Slow operations",
                panels: slow_ops(),
            },
            Row {
                title: "Under the stages",
                panels: causes(),
            },
            Row {
                title: "Telemetry itself",
                panels: telemetry(),
            },
        ],
    }
}

fn distribution() -> Vec<Panel> {
    vec![
        Panel::new(
            "Operation duration",
            Shape::Heatmap,
            Unit::Seconds,
            24,
            "How many operations took how long. A second band is a second population: another \
             tier, another size, or something that stalls. Points are single operations with a \
             trace: click one.",
        )
        .target("{{le}}", Q.buckets(&s::OP_DURATION, &[OP]))
        .with_exemplars(),
        Panel::new(
            "Quantiles",
            Shape::Lines,
            Unit::Seconds,
            12,
            "The same distribution as lines.",
        )
        .target("p50", quantile("0.5"))
        .target("p90", quantile("0.9"))
        .target("p99", quantile("0.99"))
        .target("p99.9", quantile("0.999"))
        .with_exemplars(),
        Panel::new(
            "p99 by tier",
            Shape::Lines,
            Unit::Seconds,
            12,
            "By the tier that the operation's slowest entry came from. RAM should not move when a \
             drive does.",
        )
        .target(
            "{{op}} {{tier}}",
            Q.quantile("0.99", &s::OP_DURATION, &["op", "tier"], &[OP]),
        ),
    ]
}

fn stages() -> Vec<Panel> {
    let per_op = Q
        .sum_rate(&s::STAGE_DURATION, &["stage"], &[OP])
        .per(Q.count_rate(&s::OP_DURATION, &[], &[OP]).scalar());
    vec![
        Panel::new(
            "Time per operation, by stage",
            Shape::Stack,
            Unit::Seconds,
            12,
            "Where the mean operation spends its time. A stage that doesn't occur isn't drawn; a \
             stage that wasn't measured is absent, never zero.",
        )
        .target("{{stage}}", per_op),
        Panel::new(
            "p99 of each stage",
            Shape::Lines,
            Unit::Seconds,
            12,
            "99 of 100 passages through a stage take less. Quantiles of stages don't add up to \
             the operation's: its slow tail is often one stage only.",
        )
        .target(
            "{{stage}}",
            Q.quantile("0.99", &s::STAGE_DURATION, &["stage"], &[OP]),
        ),
    ]
}

fn slow_ops() -> Vec<Panel> {
    vec![
        Panel::new(
            "Slow operations by blame",
            Shape::Stack,
            Unit::OpsPerSecond,
            12,
            "Operations above their bound (or 8 times the usual time of their kind and size), by \
             what explains most of the excess. `memkv slow` and /v1/slow list them one by one.",
        )
        .target("{{blame}}", Q.rate(&s::SLOW_OPS_TOTAL, &["blame"], &[OP])),
        Panel::new(
            "Slow share",
            Shape::Lines,
            Unit::Ratio,
            12,
            "Share of operations that were slow.",
        )
        .target(
            "{{op}}",
            Q.rate(&s::SLOW_OPS_TOTAL, &["op"], &[OP]).per(Q.count_rate(
                &s::OP_DURATION,
                &["op"],
                &[OP],
            )),
        ),
    ]
}

fn causes() -> Vec<Panel> {
    vec![
        Panel::new(
            "Drive I/O",
            Shape::Heatmap,
            Unit::Seconds,
            12,
            "How many requests to the drives took how long, from submission to completion.",
        )
        .target("{{le}}", Q.buckets(&s::DRIVE_IO_DURATION, &[])),
        Panel::new(
            "Wait for a slab",
            Shape::Heatmap,
            Unit::Seconds,
            12,
            "How many leases waited how long for memory.",
        )
        .target("{{le}}", Q.buckets(&s::SLAB_WAIT_SECONDS, &[])),
    ]
}

fn telemetry() -> Vec<Panel> {
    vec![
        Panel::new(
            "Timelines lost",
            Shape::Lines,
            Unit::CountsPerSecond,
            6,
            "Operations whose record found its ring full. They are in the histograms, but neither \
             in traces nor among the slow ones.",
        )
        .target(
            "{{instance}}",
            Q.rate(&s::TIMELINES_LOST_TOTAL, &["instance"], &[]),
        ),
        Panel::new(
            "Spans by decision",
            Shape::Stack,
            Unit::CountsPerSecond,
            6,
            "What became of operations that could have been exported as spans.",
        )
        .target("{{decision}}", Q.rate(&s::SPANS_TOTAL, &["decision"], &[])),
        Panel::new(
            "Dropped by exporters",
            Shape::Lines,
            Unit::CountsPerSecond,
            6,
            "Spans and log records that the collector didn't take in time, and sends that failed. \
             The data path never waits for it.",
        )
        .target(
            "dropped {{exporter}}",
            Q.rate(&s::EXPORTER_DROPPED_TOTAL, &["exporter"], &[]),
        )
        .target(
            "failed {{exporter}}",
            Q.rate(&s::EXPORTER_FAILURES_TOTAL, &["exporter"], &[]),
        ),
        Panel::new(
            "Scrape duration, p99",
            Shape::Lines,
            Unit::Seconds,
            6,
            "What rendering /v1/metrics takes.",
        )
        .target(
            "{{instance}}",
            Q.quantile("0.99", &s::SCRAPE_DURATION_SECONDS, &["instance"], &[]),
        ),
    ]
}

fn quantile(quantile: &str) -> Expr {
    Q.quantile(quantile, &s::OP_DURATION, &[], &[OP])
}
