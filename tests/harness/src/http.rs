//! Asking an admin endpoint.

use std::time::Duration;

use crate::server::TestServer;

/// What an endpoint answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// If it isn't.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(20)))
        .build()
        .into()
}

/// GETs a path, with headers.
///
/// # Panics
/// If nobody answers.
pub fn get(server: &TestServer, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = agent().get(server.url(path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    answer(request.call())
}

/// POSTs a body to a path, with headers.
///
/// # Panics
/// If nobody answers.
pub fn post(server: &TestServer, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = agent().post(server.url(path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    answer(request.send(body))
}

fn answer(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
    let mut response = result.expect("the admin endpoint answers");
    let content_type = response
        .headers()
        .get("content-type")
        .map_or(String::new(), |value| {
            value.to_str().unwrap_or("").to_owned()
        });
    Answer {
        status: response.status().as_u16(),
        content_type,
        body: response.body_mut().read_to_string().expect("text"),
    }
}

/// The value of one series, such as `memkv_connections{transport="tcp"}`; 0 where it isn't exposed.
///
/// # Panics
/// If the exposition is broken.
pub fn metric(server: &TestServer, series: &str) -> f64 {
    let text = get(server, "/v1/metrics", &[]).body;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().expect("a number"))
}
