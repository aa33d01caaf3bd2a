//! A server's admin endpoint, as the verbs read it.

use std::time::Duration;

use anyhow::{Context, anyhow};

use crate::exit::{Exit, Failure};

/// One admin endpoint: a base URL without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Admin {
    base: String,
}

const TIMEOUT: Duration = Duration::from_secs(5);

impl Admin {
    /// The endpoints meant by `servers`: what was given on the command line, or `MEMKV_SERVERS`, or the local default.
    ///
    /// A bare `host:port` is first asked as an admin address and then, because the same variable names data addresses for
    /// clients, at the port above it.
    ///
    /// # Errors
    /// When an address has no port.
    pub(crate) fn all(servers: &[String]) -> Result<Vec<Self>, Failure> {
        if servers.is_empty() {
            return Ok(vec![Self {
                base: "http://127.0.0.1:9901".to_owned(),
            }]);
        }
        servers.iter().map(|server| Self::find(server)).collect()
    }

    /// The admin endpoint of the server whose data address is `server` (`host:port`): the port above it.
    ///
    /// # Errors
    /// When `server` has no port, or it is the last one there is.
    pub(crate) fn beside(server: &str) -> Result<Self, Failure> {
        let (host, port) = server
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?.checked_add(1)?)))
            .ok_or_else(|| Failure::new(Exit::Usage, anyhow!("{server:?} is not host:port")))?;
        Ok(Self {
            base: format!("http://{host}:{port}"),
        })
    }

    fn find(server: &str) -> Result<Self, Failure> {
        if server.starts_with("http://") || server.starts_with("https://") {
            return Ok(Self {
                base: server.trim_end_matches('/').to_owned(),
            });
        }
        let as_given = Self {
            base: format!("http://{server}"),
        };
        match as_given.text("/v1/health") {
            Ok(_) => Ok(as_given),
            Err(_) => Self::beside(server),
        }
    }

    /// The base URL.
    pub(crate) fn url(&self) -> &str {
        &self.base
    }

    /// The body at `path`, whatever its status says about health.
    ///
    /// # Errors
    /// When nothing answers, or the answer is neither a success nor 503 (which health and readiness use).
    pub(crate) fn text(&self, path: &str) -> Result<String, Failure> {
        let url = format!("{}{path}", self.base);
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .build()
            .into();
        let unreachable = |error: anyhow::Error| Failure::new(Exit::Unreachable, error);
        let mut response = agent
            .get(&url)
            .call()
            .with_context(|| {
                format!(
                    "ask {url}; is the server up, and is this its admin address (data port + 1)?"
                )
            })
            .map_err(unreachable)?;
        let status = response.status().as_u16();
        let body = response
            .body_mut()
            .with_config()
            .limit(64 << 20)
            .read_to_string();
        let body = body
            .with_context(|| format!("read {url}"))
            .map_err(unreachable)?;
        if status != 503 && !(200..300).contains(&status) {
            return Err(Failure::new(
                Exit::Unreachable,
                anyhow!("{url} answered {status}: {}", body.trim()),
            ));
        }
        Ok(body)
    }

    /// The JSON at `path`.
    ///
    /// # Errors
    /// As [`Admin::text`], and when the body isn't JSON.
    pub(crate) fn json(&self, path: &str) -> Result<serde_json::Value, Failure> {
        let text = self.text(path)?;
        serde_json::from_str(&text).map_err(|error| {
            let error = anyhow::Error::new(error)
                .context(format!("{}{path} did not answer JSON", self.base));
            Failure::new(Exit::Unreachable, error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_port_is_the_one_above() {
        assert_eq!(
            Admin::beside("127.0.0.1:9900").unwrap().url(),
            "http://127.0.0.1:9901"
        );
        assert_eq!(
            Admin::beside("[::1]:9900").unwrap().url(),
            "http://[::1]:9901"
        );
        assert!(Admin::beside("nowhere").is_err());
        assert!(Admin::beside("host:65535").is_err());
    }

    #[test]
    fn a_url_is_taken_as_it_is() {
        let found = Admin::all(&["http://10.0.0.1:9901/".to_owned()]).unwrap();
        assert_eq!(found[0].url(), "http://10.0.0.1:9901");
    }
}
