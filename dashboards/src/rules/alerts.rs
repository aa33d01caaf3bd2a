//! What somebody is told of. Each alert has a section in docs/alerts.md and a case in
//! dashboards/tests.

use super::recorded::{HIT_RATIO, OP_ERROR_RATIO, OP_P99, OP_RATE, SLOW_RATIO};
use super::{Alert, Severity};
use crate::promql::{Expr, Query};
use memkv_telemetry::metrics as s;

const Q: Query = Query::rule("5m");

/// All alerts, the most urgent first.
pub fn alerts() -> Vec<Alert> {
    let mut alerts = availability();
    alerts.extend(operations());
    alerts.extend(capacity());
    alerts.extend(security());
    alerts.extend(telemetry());
    alerts
}

fn availability() -> Vec<Alert> {
    vec![
        Alert {
            name: "MemkvTargetDown",
            severity: Severity::Critical,
            // `up` has no label that says memkv; the job's name has to.
            expr: Expr::raw("up{job=~\".*memkv.*\"} == 0"),
            hold: "2m",
            summary: "{{ $labels.instance }} doesn't answer Prometheus",
            description: "The server is down, or its admin port can't be reached. Clients get no \
                          hits for its share of the keys.",
        },
        Alert {
            name: "MemkvDriveDown",
            severity: Severity::Critical,
            expr: Q.gauge("min", &s::DRIVE_UP, &["drive"], &[]).below("1"),
            hold: "1m",
            summary: "drive {{ $labels.drive }} of {{ $labels.instance }} is down",
            description: "The drive was missing at start, was blacklisted, or failed. What it held \
                          misses until it is written anew.",
        },
        Alert {
            name: "MemkvDriveErrors",
            severity: Severity::Warning,
            expr: Query::rule("15m")
                .increase(&s::DRIVE_ERRORS_TOTAL, &["drive"], &[])
                .above("0"),
            hold: "0m",
            summary: "drive {{ $labels.drive }} of {{ $labels.instance }} reported errors",
            description: "Reads, writes or flushes failed within 15 minutes, and with them the \
                          operations that needed them. The drive is taken out when it goes on.",
        },
    ]
}

fn operations() -> Vec<Alert> {
    vec![
        Alert {
            name: "MemkvChecksumErrors",
            severity: Severity::Critical,
            expr: Query::rule("15m")
                .increase(&s::CRC_MISMATCHES_TOTAL, &["source"], &[])
                .above("0"),
            hold: "0m",
            summary: "{{ $labels.instance }} found damaged values: {{ $labels.source }}",
            description: "A checksum didn't match within 15 minutes. The value was refused or \
                          purged and nobody got it, but something damages data.",
        },
        Alert {
            name: "MemkvInternalFault",
            severity: Severity::Warning,
            expr: Query::rule("1h")
                .increase(&s::SLAB_DOUBLE_FREES_TOTAL, &[], &[])
                .plus(Query::rule("1h").increase(&s::STALE_COMPLETIONS_TOTAL, &[], &[]))
                .above("0"),
            hold: "0m",
            summary: "{{ $labels.instance }} noticed a fault of its own",
            description: "A slab was returned twice, or a drive's completion named an operation \
                          that wasn't in flight. It was contained; it is a bug of memkv.",
        },
        Alert {
            name: "MemkvErrorRatioHigh",
            severity: Severity::Warning,
            expr: Expr::raw(OP_ERROR_RATIO).above("0.01"),
            hold: "5m",
            summary: "{{ $value | humanizePercentage }} of {{ $labels.op }} fail on \
                      {{ $labels.instance }}",
            description: "More than 1 % of the operations ended in an error; misses are none.",
        },
        Alert {
            name: "MemkvSlowOps",
            severity: Severity::Warning,
            expr: Expr::raw(SLOW_RATIO).above("0.01"),
            hold: "10m",
            summary: "{{ $value | humanizePercentage }} of the operations on \
                      {{ $labels.instance }} are slow",
            description: "More than 1 % of the operations took longer than their bound or 8 times \
                          what is usual for their kind and size.",
        },
        Alert {
            name: "MemkvSlowOpsUnexplained",
            severity: Severity::Info,
            expr: Q
                .rate(&s::SLOW_OPS_TOTAL, &[], &[("blame", "unknown")])
                .per(Q.rate(&s::SLOW_OPS_TOTAL, &[], &[]))
                .above("0.5")
                .and(Q.rate(&s::SLOW_OPS_TOTAL, &[], &[]).above("0.1")),
            hold: "30m",
            summary: "most slow operations on {{ $labels.instance }} have no known cause",
            description: "For more than half of the slow operations no stage explains the excess.",
        },
        Alert {
            name: "MemkvTailRegression",
            severity: Severity::Warning,
            expr: Expr::raw(format!("{OP_P99} > 4 * avg_over_time({OP_P99}[1d])"))
                .and(Expr::raw(OP_RATE).above("10")),
            hold: "15m",
            summary: "p99 of {{ $labels.op }} on {{ $labels.instance }} is 4 times that of the \
                      last day",
            description: "Tail latency changed although traffic goes on: another mix of sizes, \
                          a drive that slows down, or a neighbour on this host.",
        },
        Alert {
            name: "MemkvNeverReadBytes",
            severity: Severity::Warning,
            expr: Q
                .rate(&s::NEVER_READ_BYTES_TOTAL, &[], &[])
                .per(Q.rate(&s::BYTES_TOTAL, &[], &[("direction", "in")]))
                .above("0.5")
                .and(Expr::raw(HIT_RATIO).below("0.1")),
            hold: "30m",
            summary: "{{ $labels.instance }} evicts most of what is written without a read",
            description: "Clients write and never hit: typically they hash keys differently when \
                          they read, or the cache is much smaller than its reuse distance.",
        },
        Alert {
            name: "MemkvIdentityMismatch",
            severity: Severity::Warning,
            expr: Q
                .gauge("max", &s::CLIENT_IDENTITY_MISMATCH, &["server"], &[])
                .above("0"),
            hold: "5m",
            summary: "{{ $labels.server }} isn't the node that {{ $labels.instance }} places its \
                      keys by",
            description: "Clients that place keys by another identity than others don't find what \
                          those wrote: node_ids and the servers' network.node_id disagree.",
        },
    ]
}

fn capacity() -> Vec<Alert> {
    vec![Alert {
        name: "MemkvSlabExhaustion",
        severity: Severity::Warning,
        expr: Q
            .quantile("0.99", &s::SLAB_WAIT_SECONDS, &[], &[])
            .above("0.01")
            .and(Q.count_rate(&s::SLAB_WAIT_SECONDS, &[], &[]).above("1")),
        hold: "5m",
        summary: "operations on {{ $labels.instance }} wait {{ $value | humanizeDuration }} for \
                  memory",
        description: "More bytes are in flight than the pinned pool holds: leases have to wait, \
                      more than one a second, and some longer than 10 ms.",
    }]
}

fn security() -> Vec<Alert> {
    vec![
        Alert {
            name: "MemkvAuthFailures",
            severity: Severity::Warning,
            expr: Q
                .rate(&s::AUTH_FAILURES_TOTAL, &["reason"], &[])
                .above("0.1"),
            hold: "5m",
            summary: "{{ $labels.instance }} refuses sessions: {{ $labels.reason }}",
            description: "More than one refusal in 10 s, for 5 minutes: a client with a wrong or \
                          outdated key, a clock that is off, or somebody who tries.",
        },
        Alert {
            name: "MemkvClockSkew",
            severity: Severity::Warning,
            expr: Q
                .gauge("max", &s::CLOCK_SKEW_SECONDS, &[], &[])
                .abs()
                .above("30"),
            hold: "5m",
            summary: "a client's clock is {{ $value }} s off that of {{ $labels.instance }}",
            description: "Sessions are refused beyond 60 s. One of the two hosts has lost its time \
                          source.",
        },
        Alert {
            name: "MemkvPreviousKeyInUse",
            severity: Severity::Info,
            expr: Query::rule("1h")
                .increase(&s::AUTH_KEY_USES_TOTAL, &[], &[("key", "previous")])
                .above("0"),
            hold: "1d",
            summary: "clients of {{ $labels.instance }} still use the previous shared key",
            description: "A key rotation was begun and isn't finished: some clients have not got \
                          the new key yet.",
        },
    ]
}

fn telemetry() -> Vec<Alert> {
    let rule = Query::rule("5m");
    vec![
        Alert {
            name: "MemkvTimelinesLost",
            severity: Severity::Warning,
            expr: rule.increase(&s::TIMELINES_LOST_TOTAL, &[], &[]).above("0"),
            hold: "5m",
            summary: "{{ $labels.instance }} loses records of operations",
            description: "The telemetry thread doesn't keep up with the data threads, so slow \
                          operations may be missing from traces and from /v1/slow. Histograms are \
                          complete.",
        },
        Alert {
            name: "MemkvExporterDrops",
            severity: Severity::Warning,
            expr: rule
                .increase(&s::EXPORTER_DROPPED_TOTAL, &[], &[])
                .above("0"),
            hold: "5m",
            summary: "{{ $labels.instance }} drops telemetry on its way to the collector",
            description: "The OTLP endpoint is gone or too slow. The data path isn't affected; \
                          traces are incomplete.",
        },
        Alert {
            name: "MemkvScrapeSlow",
            severity: Severity::Info,
            expr: rule
                .quantile("0.99", &s::SCRAPE_DURATION_SECONDS, &[], &[])
                .above("0.5"),
            hold: "15m",
            summary: "rendering the metrics of {{ $labels.instance }} takes \
                      {{ $value | humanizeDuration }}",
            description: "Metrics are late or missing when this nears the scrape timeout; the host \
                          is most likely out of CPU.",
        },
    ]
}
