//! A server's admin endpoint, as the verbs read it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::exit::{Exit, Failure};

/// Which admin endpoints to ask, and whom to believe that they are it.
#[derive(Debug, Clone, Args)]
pub(crate) struct Endpoints {
    /// Admin endpoints, comma-separated; a URL with https:// insists on TLS
    #[arg(
        long,
        env = "MEMKV_SERVERS",
        value_delimiter = ',',
        value_name = "HOST:PORT"
    )]
    servers: Vec<String>,
    /// Certificates (PEM) to trust beside the system's, such as the server's own
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl Endpoints {
    /// The endpoints that are meant; the local default where none is named.
    ///
    /// # Errors
    /// When an address has no port, or --ca can't be read.
    pub(crate) fn all(&self) -> Result<Vec<Admin>, Failure> {
        for (name, meant) in memkv_settings::misspelt_variables(&memkv_client::env::environment()) {
            crate::out::tell(format_args!(
                "memkv: warning: env {name} means nothing to memkv; did you mean {meant}?"
            ));
        }
        Admin::all(&self.servers, self.ca.as_deref())
    }
}

/// One admin endpoint: a base URL without a slash at its end.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    base: String,
    agent: ureq::Agent,
    /// What the agent gives one answer.
    timeout: Duration,
}

/// What one answer may take. An endpoint that is silent for as long is asked nothing else.
const TIMEOUT: Duration = Duration::from_secs(5);

impl Admin {
    /// The endpoints meant by `servers`: what was given on the command line, or `MEMKV_SERVERS`, or the local default.
    ///
    /// A bare `host:port` is first asked as an admin address and then, because the same variable names data addresses for
    /// clients, at the port above it; at each by HTTP and then by HTTPS.
    ///
    /// # Errors
    /// When an address has no port, `ca` can't be read, or whatever is there takes the question and stays silent.
    pub(crate) fn all(servers: &[String], ca: Option<&Path>) -> Result<Vec<Self>, Failure> {
        Self::all_within(servers, ca, TIMEOUT)
    }

    fn all_within(
        servers: &[String],
        ca: Option<&Path>,
        timeout: Duration,
    ) -> Result<Vec<Self>, Failure> {
        let agent = agent(ca, timeout)?;
        let at = |base: String| Self {
            base,
            agent: agent.clone(),
            timeout,
        };
        if servers.is_empty() {
            return Ok(vec![at("http://127.0.0.1:9901".to_owned()).or_by_tls()?]);
        }
        let find = |server: &String| {
            if server.starts_with("http://") || server.starts_with("https://") {
                return Ok(at(server.trim_end_matches('/').to_owned()));
            }
            let as_given = at(format!("http://{server}")).or_by_tls()?;
            match as_given.text("/v1/health") {
                Ok(_) => Ok(as_given),
                // Something speaks TLS there: what it lacks is our trust, which its own error says.
                Err(_) if as_given.base.starts_with("https://") => Ok(as_given),
                Err(_) => at(format!("http://{}", above(server)?)).or_by_tls(),
            }
        };
        servers.iter().map(find).collect()
    }

    /// The admin endpoint of the server whose data address is `server` (`host:port`): the port above it.
    ///
    /// # Errors
    /// When `server` has no port, or it is the last one there is.
    pub(crate) fn beside(server: &str) -> Result<Self, Failure> {
        let base = format!("http://{}", above(server)?);
        let agent = agent(None, TIMEOUT)?;
        let beside = Self {
            base,
            agent,
            timeout: TIMEOUT,
        };
        beside.or_by_tls()
    }

    /// This endpoint by HTTPS, where it answers that and not HTTP; an error where it says nothing at all.
    fn or_by_tls(self) -> Result<Self, Failure> {
        match self.call("/v1/health") {
            Ok(_) => return Ok(self),
            Err(error) if timed_out(&error) => return Err(self.silent(error)),
            Err(_) => {}
        }
        let by_tls = Self {
            base: self.base.replacen("http://", "https://", 1),
            agent: self.agent.clone(),
            timeout: self.timeout,
        };
        match by_tls.call("/v1/health") {
            Ok(_) => Ok(by_tls),
            Err(error) if distrusts(&error) => Ok(by_tls),
            Err(error) if timed_out(&error) => Err(by_tls.silent(error)),
            Err(_) => Ok(self),
        }
    }

    /// The failure of a verb whose endpoint didn't answer in time.
    fn silent(&self, error: ureq::Error) -> Failure {
        let text = format!(
            "{} did not answer within {} s; is the server stopped, overloaded, or behind a firewall?",
            self.base,
            self.timeout.as_secs_f64()
        );
        Failure::new(Exit::Unreachable, anyhow::Error::new(error).context(text))
    }

    fn call(&self, path: &str) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        self.agent.get(format!("{}{path}", self.base)).call()
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
        let unreachable = |error: anyhow::Error| Failure::new(Exit::Unreachable, error);
        let mut response = self.call(path).map_err(|error| {
            if timed_out(&error) {
                return self.silent(error);
            }
            let hint = if distrusts(&error) {
                "its certificate isn't trusted; name it, or the one that signed it, with --ca FILE or SSL_CERT_FILE"
            } else {
                "is the server up, and is this its admin address (data port + 1)?"
            };
            unreachable(anyhow::Error::new(error).context(format!("ask {url}; {hint}")))
        })?;
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

/// `host:port` with the port above.
fn above(server: &str) -> Result<String, Failure> {
    let (host, port) = server
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?.checked_add(1)?)))
        .ok_or_else(|| Failure::new(Exit::Usage, anyhow!("{server:?} is not host:port")))?;
    Ok(format!("{host}:{port}"))
}

/// Whether TLS was spoken, and we didn't believe it.
fn distrusts(error: &ureq::Error) -> bool {
    let certificate = |error: &rustls::Error| matches!(error, rustls::Error::InvalidCertificate(_));
    match error {
        ureq::Error::Rustls(error) => certificate(error),
        ureq::Error::Io(error) => {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
            inner.is_some_and(certificate)
        }
        _ => false,
    }
}

/// Whether nothing came in time.
fn timed_out(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Timeout(_) => true,
        ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::TimedOut,
        _ => false,
    }
}

fn agent(ca: Option<&Path>, timeout: Duration) -> Result<ureq::Agent, Failure> {
    // SSL_CERT_FILE and SSL_CERT_DIR name others. A broken one among many is no reason to stop.
    let system = rustls_native_certs::load_native_certs().certs;
    let mut roots: Vec<Certificate<'static>> = system
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect();
    if let Some(path) = ca {
        roots.extend(certificates(path).map_err(|error| Failure::new(Exit::Usage, error))?);
    }
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::from(roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    Ok(ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .tls_config(tls)
        .build()
        .into())
}

/// The certificates of a PEM file.
fn certificates(path: &Path) -> anyhow::Result<Vec<Certificate<'static>>> {
    let pem = std::fs::read(path).with_context(|| format!("read --ca {}", path.display()))?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        let item = item.with_context(|| format!("--ca {} isn't PEM", path.display()))?;
        if let PemItem::Certificate(certificate) = item {
            found.push(certificate);
        }
    }
    anyhow::ensure!(
        !found.is_empty(),
        "--ca {} holds no certificate; it must be PEM, as network.tls_cert is",
        path.display()
    );
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_port_is_the_one_above() {
        assert_eq!(above("127.0.0.1:9900").unwrap(), "127.0.0.1:9901");
        assert_eq!(above("[::1]:9900").unwrap(), "[::1]:9901");
        assert!(above("nowhere").is_err());
        assert!(above("host:65535").is_err());
    }

    #[test]
    fn a_silent_endpoint_is_asked_once_and_named_with_the_time() {
        // The kernel accepts for it; it never reads.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let timeout = Duration::from_millis(500);
        let started = std::time::Instant::now();
        let failure = Admin::all_within(std::slice::from_ref(&address), None, timeout).unwrap_err();
        assert!(started.elapsed() < timeout * 2, "{:?}", started.elapsed());
        assert_eq!(failure.exit, Exit::Unreachable);
        let text = failure.error.unwrap().to_string();
        for want in [address.as_str(), "within 0.5 s"] {
            assert!(text.contains(want), "{want}: {text}");
        }
    }

    #[test]
    fn a_url_is_taken_as_it_is() {
        let found = Admin::all(&["http://10.0.0.1:9901/".to_owned()], None).unwrap();
        assert_eq!(found[0].url(), "http://10.0.0.1:9901");
    }
}
