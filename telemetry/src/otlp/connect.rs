//! How exporters reach a collector: the URL of each signal, and TLS where the endpoint says `https`.
//!
//! TLS trusts what the machine trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` name something else), and its
//! cryptography is ring, whatever the process has as its default.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use tonic::transport::ClientTlsConfig;

use super::{OtlpError, OtlpProtocol, endpoint_error};
use crate::hub::OtlpConfig;

/// The URL to use for a signal (`traces`, `logs`, `metrics`).
pub(super) fn url(endpoint: &str, protocol: OtlpProtocol, signal: &str) -> String {
    let full = match endpoint.contains("://") {
        true => endpoint.to_owned(),
        false => format!("http://{endpoint}"),
    };
    let full = full.trim_end_matches('/');
    match protocol {
        OtlpProtocol::Grpc => full.to_owned(),
        OtlpProtocol::Http => {
            let signals = ["/v1/traces", "/v1/logs", "/v1/metrics"];
            let base = signals.iter().find_map(|path| full.strip_suffix(path));
            format!("{}/v1/{signal}", base.unwrap_or(full))
        }
    }
}

fn is_tls(endpoint: &str) -> bool {
    let scheme = endpoint.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
}

/// The certificates that this machine trusts; what it has that isn't one is passed over.
fn roots(config: &OtlpConfig) -> Result<RootCertStore, OtlpError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(OtlpError::NoTrust {
            endpoint: config.endpoint.clone(),
        });
    }
    Ok(roots)
}

/// TLS for gRPC, where the endpoint asks for it.
pub(super) fn grpc_tls(config: &OtlpConfig) -> Result<Option<ClientTlsConfig>, OtlpError> {
    if !is_tls(&config.endpoint) {
        return Ok(None);
    }
    let anchors = roots(config)?.roots;
    Ok(Some(ClientTlsConfig::new().trust_anchors(anchors)))
}

/// An HTTP client that does TLS where the endpoint asks for it.
pub(super) fn http_client(config: &OtlpConfig) -> Result<reqwest::Client, OtlpError> {
    // Without TLS nothing is trusted, and nothing has to be.
    let roots = match is_tls(&config.endpoint) {
        true => roots(config)?,
        false => RootCertStore::empty(),
    };
    // Handed over ready-made: by itself reqwest would want a default provider of the process's.
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| endpoint_error(config, &error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .timeout(config.timeout)
        .build()
        .map_err(|error| endpoint_error(config, &error))
}

#[cfg(test)]
mod tests;
