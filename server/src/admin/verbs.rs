//! What changes something: `POST /v1/admin/drain`, `POST /v1/admin/log-level`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use tracing::info;

use super::guard::{Allowed, Refusal};
use crate::shared::Shared;

/// Answers `Draining` to new operations from now on. The process stays up until it is stopped.
pub(crate) async fn drain(State(shared): State<Arc<Shared>>, _: Allowed) -> &'static str {
    info!("drain asked for over the admin endpoint");
    shared.drain();
    "draining\n"
}

/// The body of a change of the log's level.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Level {
    level: String,
}

/// Changes the log's level until the next start.
pub(crate) async fn log_level(
    State(shared): State<Arc<Shared>>,
    _: Allowed,
    body: Bytes,
) -> Result<&'static str, Refusal> {
    let bad = (
        StatusCode::BAD_REQUEST,
        "the body is {\"level\": \"trace\" | \"debug\" | \"info\" | \"warn\" | \"error\"}\n",
    );
    let Level { level } = serde_json::from_slice(&body).map_err(|_| bad)?;
    let Some(setter) = shared.log_level() else {
        return Err((
            StatusCode::NOT_IMPLEMENTED,
            "this process's log has a fixed level\n",
        ));
    };
    if !setter.set(&level) {
        return Err(bad);
    }
    info!(level, "log level changed over the admin endpoint");
    Ok("changed\n")
}
