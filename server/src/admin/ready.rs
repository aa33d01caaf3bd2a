//! `GET /v1/ready`: may clients be sent here? `ok`, or 503 with a reason per line.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;

use super::health::Health;
use crate::shared::{Life, Shared};

/// Why clients shouldn't be sent here; none if they may.
pub(crate) fn reasons(shared: &Shared) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    match shared.life() {
        Life::Starting => reasons.push("starting: the store is being opened and recovered"),
        Life::Serving => {}
        Life::Draining => reasons.push("draining: new operations are refused"),
        Life::Stopped => reasons.push("stopped"),
    }
    let Some(status) = shared.store() else {
        return reasons;
    };
    if Health::of(Some(&status)).word() == "unhealthy" {
        reasons.push("no drive serves; see storage.drives in /v1/status");
    }
    // Calls wait while nothing is free and no client holds anything: memory has been lost.
    let is_stuck = status.pool_waiting > 0 && status.pool_free_bytes == 0;
    if is_stuck && shared.admission().value_bytes() == 0 && shared.requests_in_flight() > 0 {
        reasons.push("the pool is exhausted; raise memory.max_size");
    }
    reasons
}

pub(crate) async fn ready(State(shared): State<Arc<Shared>>) -> (StatusCode, String) {
    let reasons = reasons(&shared);
    if reasons.is_empty() {
        return (StatusCode::OK, "ok".into());
    }
    let text = reasons.iter().map(|reason| format!("{reason}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, text)
}
