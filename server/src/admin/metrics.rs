//! `GET /v1/metrics`: Prometheus text, or OpenMetrics with exemplars if `Accept` asks for it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use memkv_telemetry::Format;

use crate::shared::Shared;

pub(crate) async fn metrics(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
) -> impl IntoResponse {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    let format = Format::from_accept(accept.unwrap_or(""));
    // It walks every histogram of every thread: milliseconds, which the runtime's threads shouldn't spend.
    let text = tokio::task::spawn_blocking(move || shared.telemetry().render(format)).await;
    (
        [(header::CONTENT_TYPE, format.content_type())],
        text.unwrap_or_default(),
    )
}
