//! `GET /v1/ready`: may clients be sent here? `ok`, or 503 with a reason per line.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use memkv_engine::EngineStatus;

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
    if let Some(status) = shared.store() {
        let in_flight = shared.requests_in_flight();
        reasons.extend(of_store(
            &status,
            shared.admission().value_bytes(),
            in_flight,
        ));
    }
    reasons
}

/// Why a store can't serve, of which clients hold `admitted_bytes` in so many requests.
fn of_store(status: &EngineStatus, admitted_bytes: u64, in_flight: u64) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    if Health::of(Some(status)).word() == "unhealthy" {
        reasons.push("no drive serves; see storage.drives in /v1/status");
    }
    // Calls wait while nothing is free and no client holds anything: memory has been lost.
    let is_stuck = status.pool_waiting > 0 && status.pool_free_bytes == 0;
    if is_stuck && admitted_bytes == 0 && in_flight > 0 {
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

#[cfg(test)]
mod tests {
    use super::*;
    use memkv_engine::{DriveIdx, DriveState, DriveStatus, Mode};

    fn store(drives: Vec<DriveState>) -> EngineStatus {
        let drive = |(at, state)| DriveStatus {
            idx: DriveIdx(at),
            media: "/d".into(),
            state,
            capacity_bytes: 1,
            used_bytes: 0,
            journal_fill: 0.0,
            errors: 0,
            corruptions: 0,
            written_bytes: 0,
            read_bytes: 0,
            direct_io: false,
        };
        EngineStatus {
            mode: Mode::File,
            entries: 0,
            version: 0,
            hot_entries: 0,
            hot_bytes: 0,
            pool_bytes: 8,
            pool_free_bytes: 8,
            pool_waiting: 0,
            evictions: 0,
            never_read_bytes: 0,
            drives: (0..).zip(drives).map(drive).collect(),
            findings: Vec::new(),
        }
    }

    #[test]
    fn a_store_without_a_drive_that_serves_is_not_ready() {
        let down = || DriveState::Down("gone".into());
        assert!(of_store(&store(vec![DriveState::Up, down()]), 0, 0).is_empty());
        let reasons = of_store(&store(vec![down(), down()]), 0, 0);
        assert!(reasons[0].starts_with("no drive serves"), "{reasons:?}");
    }

    #[test]
    fn a_pool_that_is_exhausted_without_a_holder_is_not_ready_and_a_busy_one_is() {
        let mut status = store(vec![DriveState::Up]);
        assert!(of_store(&status, 0, 1).is_empty());
        (status.pool_waiting, status.pool_free_bytes) = (1, 0);
        assert!(of_store(&status, 8, 1).is_empty(), "clients hold it");
        assert!(of_store(&status, 0, 0).is_empty(), "nobody asks");
        let reasons = of_store(&status, 0, 1);
        assert!(
            reasons[0].starts_with("the pool is exhausted"),
            "{reasons:?}"
        );
    }
}
