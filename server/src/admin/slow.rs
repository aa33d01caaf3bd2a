//! `GET /v1/slow?sort=newest|slowest&limit=N`: slow operations, taken apart. Keys appear as hashes.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use memkv_telemetry::SlowOp;
use serde::Deserialize;

use crate::shared::Shared;

/// The parameters; an unknown one is refused, so that a typo doesn't sort by chance.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameters {
    sort: Option<String>,
    limit: Option<usize>,
}

pub(crate) async fn slow(
    State(shared): State<Arc<Shared>>,
    parameters: Result<Query<Parameters>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Vec<SlowOp>>, (StatusCode, String)> {
    let bad = |text: String| (StatusCode::BAD_REQUEST, text + "\n");
    let Query(parameters) = parameters.map_err(|error| bad(error.body_text()))?;
    let ops = shared.telemetry().slow_ops();
    let mut ops = match parameters.sort.as_deref() {
        None | Some("newest") => ops.newest,
        Some("slowest") => ops.slowest,
        Some(other) => return Err(bad(format!("sort is {other:?}; it is newest or slowest"))),
    };
    ops.truncate(parameters.limit.unwrap_or(usize::MAX));
    Ok(Json(ops))
}
