//! `GET /v1/status`: everything the server knows of itself, for people and for `memkv admin status`.
//!
//! Sections and totals (`raw_bytes_total`, `usable_bytes_total`, `used_bytes_total`, bytes per device) are MemKV's; the
//! rest is ours. `findings` is what isn't as it should be, each with what to do; an empty list is good news.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use memkv_engine::{DriveState, DriveStatus, EngineStatus, Mode};
use memkv_telemetry::{AuthFailure, AuthKeyLabel, Exporter, RejectReason, SpanDecision};
use serde::Serialize;
use serde_json::{Value, json};

use super::health::Health;
use super::ready::reasons;
use crate::config::{PayloadMac, RdmaMode};
use crate::shared::{Life, Shared};

/// One thing that isn't as it should be.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Stable, for alerts and runbooks.
    id: &'static str,
    /// `info` or `warning`.
    severity: &'static str,
    /// What, and what to do.
    text: String,
}

impl Finding {
    fn new(id: &'static str, severity: &'static str, text: impl Into<String>) -> Self {
        Self {
            id,
            severity,
            text: text.into(),
        }
    }
}

pub(crate) async fn status(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(document(&shared))
}

fn document(shared: &Shared) -> Value {
    let engine = shared.store();
    let config = shared.config();
    let reasons = reasons(shared);
    json!({
        "status": Health::of(engine.as_ref()).word(),
        "ready": reasons.is_empty(),
        "not_ready_because": reasons,
        "version": shared.version(),
        "node_id": shared.node_id(),
        "uptime_seconds": shared.uptime().as_secs_f64(),
        "stage": life(shared.life()),
        "network": {
            "data_address": shared.data_address().to_string(),
            "admin_address": shared.admin_address().to_string(),
            "admin_https": config.network.tls.is_some(),
            "payload_mac": config.network.payload_mac == PayloadMac::Required,
            "threads": config.network.threads,
        },
        "memory": engine.as_ref().map(|engine| memory(shared, engine)),
        "storage": engine.as_ref().map(storage),
        "rdma": { "active": false, "enabled": rdma(config.rdma.enabled), "device": config.rdma.device },
        "connections": {
            "tcp": shared.connections(),
            "rdma": 0,
            "half_open": shared.half_open(),
            "max": config.limits.max_connections,
        },
        "requests": requests(shared),
        "keys": keys(shared),
        "telemetry": telemetry(shared),
        "findings": findings(shared, engine.as_ref()),
    })
}

fn life(life: Life) -> &'static str {
    match life {
        Life::Starting => "starting",
        Life::Serving => "serving",
        Life::Draining => "draining",
        Life::Stopped => "stopped",
    }
}

fn rdma(mode: RdmaMode) -> &'static str {
    match mode {
        RdmaMode::Auto => "auto",
        RdmaMode::True => "true",
        RdmaMode::False => "false",
    }
}

fn memory(shared: &Shared, engine: &EngineStatus) -> Value {
    json!({
        "pool_bytes": engine.pool_bytes,
        "pool_free_bytes": engine.pool_free_bytes,
        "pool_waiting": engine.pool_waiting,
        "block_bytes": shared.config().memory.block_bytes,
        "huge_pages": shared.config().memory.huge_pages,
        "hot_entries": engine.hot_entries,
        "hot_bytes": engine.hot_bytes,
        "in_flight_bytes": shared.admission().value_bytes(),
        "in_flight_bytes_max": shared.admission().value_bytes_max(),
        "request_bytes": shared.admission().control_bytes(),
    })
}

/// Memory mode has no devices; its totals are the pool's.
fn storage(engine: &EngineStatus) -> Value {
    let sum = |get: fn(&DriveStatus) -> u64| engine.drives.iter().map(get).sum::<u64>();
    let up = |get: fn(&DriveStatus) -> u64| {
        engine
            .drives
            .iter()
            .filter(|drive| drive.state == DriveState::Up)
            .map(get)
            .sum::<u64>()
    };
    let (raw, usable, used) = match engine.mode {
        Mode::Memory => (engine.pool_bytes, engine.pool_bytes, engine.hot_bytes),
        Mode::Direct | Mode::File => (
            sum(|drive| drive.capacity_bytes),
            up(|drive| drive.capacity_bytes),
            up(|drive| drive.used_bytes),
        ),
    };
    let devices: Vec<Value> = engine.drives.iter().map(device).collect();
    json!({
        "mode": match engine.mode {
            Mode::Direct => "direct",
            Mode::File => "file",
            Mode::Memory => "memory",
        },
        "raw_bytes_total": raw,
        "usable_bytes_total": usable,
        "used_bytes_total": used,
        "entries": engine.entries,
        "version": engine.version,
        "evictions": engine.evictions,
        "never_read_bytes": engine.never_read_bytes,
        "devices": devices,
    })
}

fn device(drive: &DriveStatus) -> Value {
    let (online, reason) = match &drive.state {
        DriveState::Up => (true, None),
        DriveState::Down(reason) => (false, Some(reason)),
    };
    json!({
        "media": drive.media.display().to_string(),
        "online": online,
        "offline_because": reason,
        "raw_bytes": drive.capacity_bytes,
        "usable_bytes": if online { drive.capacity_bytes } else { 0 },
        "used_bytes": drive.used_bytes,
        "journal_fill_ratio": drive.journal_fill,
        "errors": drive.errors,
        "corruptions": drive.corruptions,
        "written_bytes": drive.written_bytes,
        "read_bytes": drive.read_bytes,
        "direct_io": drive.direct_io,
    })
}

fn requests(shared: &Shared) -> Value {
    let rejected = RejectReason::ALL.iter().map(|reason| {
        (
            reason.name().to_owned(),
            shared.metrics().rejections(*reason).into(),
        )
    });
    json!({
        "in_flight": shared.requests_in_flight(),
        "rejected": rejected.collect::<serde_json::Map<_, _>>(),
        "summary": shared.telemetry().summary(),
    })
}

fn keys(shared: &Shared) -> Value {
    let uses = |key| shared.metrics().auth_key_uses(key);
    let (current, previous) = shared.key_ids();
    let failures = AuthFailure::ALL.iter().map(|reason| {
        (
            reason.name().to_owned(),
            shared.metrics().auth_failures(*reason).into(),
        )
    });
    json!({
        "current": { "id": current.to_string(), "uses": uses(AuthKeyLabel::Current) },
        "previous": previous
            .map(|id| json!({ "id": id.to_string(), "uses": uses(AuthKeyLabel::Previous) })),
        "failures": failures.collect::<serde_json::Map<_, _>>(),
    })
}

fn telemetry(shared: &Shared) -> Value {
    let telemetry = shared.telemetry();
    let dropped = Exporter::ALL.iter().map(|exporter| {
        (
            exporter.name().to_owned(),
            telemetry.exporter_dropped(*exporter).into(),
        )
    });
    let spans = SpanDecision::ALL.iter().map(|decision| {
        (
            decision.name().to_owned(),
            telemetry.spans(*decision).into(),
        )
    });
    json!({
        "otlp_endpoint": shared.config().telemetry.otlp_endpoint,
        "exporter_dropped": dropped.collect::<serde_json::Map<_, _>>(),
        "spans": spans.collect::<serde_json::Map<_, _>>(),
        "timelines_lost": telemetry.summary().timelines_lost,
        "probes": "off",
    })
}

fn findings(shared: &Shared, engine: Option<&EngineStatus>) -> Vec<Finding> {
    let config = shared.config();
    let network = &config.network;
    let address = shared.data_address().ip();
    let mut findings = network_findings(
        is_reachable(address),
        network.payload_mac == PayloadMac::Required,
        network.tls.is_some(),
    );
    if config.rdma.enabled == RdmaMode::Auto {
        findings.push(Finding::new(
            "transport.tcp",
            "info",
            "values move over TCP: this build has no RDMA; set rdma.enabled to false to say that this is meant",
        ));
    }
    if network.auth_key.is_none() {
        findings.push(Finding::new(
            "auth.dev_key",
            "warning",
            "the development key authenticates clients; set network.auth_key in production",
        ));
    }
    if network.auth_key_previous.is_some() {
        findings.push(Finding::new(
            "auth.previous_key",
            "info",
            "the previous key is still let in; remove network.auth_key_previous once its uses stop rising",
        ));
    }
    for identity in shared.mistaken_for() {
        let text = format!(
            "a client places this server's keys by the identity \"{identity}\", and it is \"{}\": check the client's \
             node_ids and servers, and network.node_id",
            shared.node_id()
        );
        findings.push(Finding::new("identity.mismatch", "warning", text));
    }
    let Some(engine) = engine else {
        return findings;
    };
    for text in &engine.findings {
        findings.push(Finding::new("engine", "warning", text.clone()));
    }
    for drive in &engine.drives {
        if let DriveState::Down(reason) = &drive.state {
            let text = format!("drive {} is offline: {reason}", drive.media.display());
            findings.push(Finding::new("storage.drive_offline", "warning", text));
        }
    }
    findings
}

/// What is odd about who may reach the server. Pure.
fn network_findings(reachable: bool, payload_mac: bool, https: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if reachable && !payload_mac {
        findings.push(Finding::new(
            "network.payload_mac",
            "warning",
            "values carry no MAC and the address is public; set network.payload_mac to required",
        ));
    }
    if reachable && !https {
        findings.push(Finding::new(
            "network.admin_http",
            "warning",
            "the admin endpoint speaks plain HTTP on a public address; set network.tls_cert and network.tls_key",
        ));
    }
    findings
}

/// Whether an address is one that others than this host's private networks may reach.
///
/// The wildcard is: it listens on whatever address this host has.
fn is_reachable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.is_loopback() || v4.is_private() || v4.is_link_local()),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_reachable(IpAddr::V4(v4)),
            None => !(v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_address_without_payload_mac_is_a_finding() {
        let ids = |reachable, mac, https| {
            let findings = network_findings(reachable, mac, https);
            findings
                .iter()
                .map(|finding| finding.id)
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(true, false, true), ["network.payload_mac"]);
        assert_eq!(ids(true, true, false), ["network.admin_http"]);
        assert!(ids(false, false, false).is_empty());
        assert!(ids(true, true, true).is_empty());
    }

    #[test]
    fn private_networks_and_loopback_are_not_public() {
        for (address, expected) in [
            ("127.0.0.1", false),
            ("10.0.0.1", false),
            ("192.168.1.1", false),
            ("::1", false),
            ("fd00::1", false),
            ("::ffff:10.0.0.1", false),
            ("0.0.0.0", true),
            ("::", true),
            ("203.0.113.9", true),
            ("2001:db8::1", true),
        ] {
            assert_eq!(
                is_reachable(address.parse().unwrap()),
                expected,
                "{address}"
            );
        }
    }
}
