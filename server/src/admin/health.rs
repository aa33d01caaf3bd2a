//! `GET /v1/health`: is the process worth keeping? 503 only when no drive serves.
//!
//! Fields and words are MemKV's. A server that starts or drains is healthy: killing it would make it worse.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use memkv_engine::{DriveState, EngineStatus};
use serde::Serialize;

use crate::shared::Shared;

/// The body.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub(crate) struct Health {
    status: &'static str,
    rdma_active: bool,
    drives_online: usize,
    drives_offline: usize,
    drives_total: usize,
}

impl Health {
    pub(crate) fn of(status: Option<&EngineStatus>) -> Self {
        let drives = status.map_or(&[][..], |status| &status.drives);
        let up = drives
            .iter()
            .filter(|drive| matches!(drive.state, DriveState::Up))
            .count();
        Self::new(up, drives.len())
    }

    fn new(up: usize, total: usize) -> Self {
        let status = match (up, total) {
            (up, total) if up == total => "healthy",
            (0, _) => "unhealthy",
            _ => "degraded",
        };
        Self {
            status,
            rdma_active: false,
            drives_online: up,
            drives_offline: total - up,
            drives_total: total,
        }
    }

    fn code(&self) -> StatusCode {
        match self.status {
            "unhealthy" => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::OK,
        }
    }

    pub(crate) fn word(&self) -> &'static str {
        self.status
    }
}

pub(crate) async fn health(State(shared): State<Arc<Shared>>) -> (StatusCode, Json<Health>) {
    let status = shared.store();
    let health = Health::of(status.as_ref());
    (health.code(), Json(health))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_words_and_codes_follow_the_drives() {
        for (up, total, word, code) in [
            (0, 0, "healthy", 200),
            (2, 2, "healthy", 200),
            (1, 2, "degraded", 200),
            (0, 2, "unhealthy", 503),
        ] {
            let health = Health::new(up, total);
            assert_eq!(
                (health.word(), health.code().as_u16()),
                (word, code),
                "{up} of {total}"
            );
            assert_eq!(health.drives_offline, total - up);
        }
    }
}
