//! `GET /`: what there is, for a person with a browser.

use axum::response::Html;

/// One row per route: method, path, meaning. The router's test walks it.
pub(crate) const ROUTES: &[(&str, &str, &str)] = &[
    (
        "GET",
        "/v1/health",
        "liveness: status and drives; 503 when unhealthy",
    ),
    ("GET", "/v1/ready", "readiness: ok, or 503 and why not"),
    (
        "GET",
        "/v1/status",
        "everything the server knows of itself, with findings",
    ),
    (
        "GET",
        "/v1/metrics",
        "Prometheus text, or OpenMetrics with exemplars by Accept",
    ),
    (
        "GET",
        "/v1/slow",
        "slow operations taken apart; ?sort=newest|slowest&limit=N",
    ),
    (
        "POST",
        "/v1/admin/drain",
        "answer Draining to new operations (Bearer token)",
    ),
    (
        "POST",
        "/v1/admin/log-level",
        "change the log's level: {\"level\":\"debug\"} (Bearer token)",
    ),
];

pub(crate) async fn page() -> Html<String> {
    let mut rows = String::new();
    for (method, path, meaning) in ROUTES {
        let name = match *method {
            "GET" => format!("<a href=\"{path}\">{path}</a>"),
            _ => (*path).to_owned(),
        };
        rows.push_str(&format!("<tr><td>{method}<td>{name}<td>{meaning}\n"));
    }
    Html(format!(
        "<!doctype html><meta charset=utf-8><title>memkv</title>\n\
         <style>body{{font:16px/1.5 system-ui,sans-serif;margin:3rem auto;max-width:50rem;padding:0 1rem;\
         color-scheme:light dark}}td{{padding:.2rem .8rem .2rem 0;vertical-align:top}}</style>\n\
         <h1>memkv</h1>\n<p>A key-value server for KV-cache blocks.\n<table>\n{rows}</table>\n"
    ))
}
