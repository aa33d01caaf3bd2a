//! The HTTP(S) server under the admin routes: sockets, TLS, limits.
//!
//! Request heads and bodies are bounded in bytes and time, and so is the number of connections: the admin port must answer
//! a probe while somebody else floods it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use axum_server::{Address, Handle, Server};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::bounded::{Bounded, Entrance};
use crate::limits::Limits;

/// Why certificate and key can't serve HTTPS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of the two files can't be read as PEM.
    #[error("read {field} {path:?} as PEM; it must hold {expected}")]
    Read {
        /// The configuration key.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What belongs in it.
        expected: &'static str,
        /// What went wrong.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The certificate file holds none.
    #[error(
        "network.tls_cert {path:?} holds no certificate; it must hold the chain, the server's own first"
    )]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// They don't fit each other, or rustls doesn't take them.
    #[error("use certificate {cert:?} with key {key:?}; check that they belong together")]
    Mismatch {
        /// The certificate file.
        cert: PathBuf,
        /// The key file.
        key: PathBuf,
        /// What rustls said.
        #[source]
        source: rustls::Error,
    },
}

/// Reads a certificate chain and its key into what rustls serves with (ring, TLS 1.2 and 1.3, ALPN http/1.1).
pub(crate) fn load_tls(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let read = |field, path: &Path, expected| {
        let path = path.to_owned();
        move |source| TlsError::Read {
            field,
            path,
            expected,
            source,
        }
    };
    let cert_error = read("network.tls_cert", cert, "a certificate chain");
    let chain: Vec<_> = CertificateDer::pem_file_iter(cert)
        .and_then(|certificates| certificates.collect())
        .map_err(cert_error)?;
    if chain.is_empty() {
        return Err(TlsError::Empty {
            path: cert.to_owned(),
        });
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(read(
        "network.tls_key",
        key,
        "an unencrypted private key",
    ))?;
    let mismatch = |source| TlsError::Mismatch {
        cert: cert.to_owned(),
        key: key.to_owned(),
        source,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(chain, private)
        })
        .map_err(mismatch)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The running admin endpoint; HTTPS if `tls` is given. Resolves when it has been shut down through `handle`.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<RustlsConfig>,
    router: Router,
    limits: &Limits,
    handle: Handle<SocketAddr>,
) -> io::Result<()> {
    let router = router.layer(DefaultBodyLimit::max(limits.admin_request_bytes_max));
    let app = router.into_make_service_with_connect_info::<SocketAddr>();
    let app = Entrance::new(app, limits);
    let bounded = Bounded::new(limits);
    // HTTP/2 would have to be told from HTTP/1 by its first bytes, for which nothing sets a time limit.
    let server = axum_server::from_tcp(listener)?.http1_only();
    match tls {
        Some(tls) => {
            let acceptor = RustlsAcceptor::new(tls)
                .handshake_timeout(limits.admin_header)
                .acceptor(bounded);
            let server = within(server.acceptor(acceptor), limits);
            server.handle(handle).serve(app).await
        }
        None => {
            let server = within(server.acceptor(bounded), limits);
            server.handle(handle).serve(app).await
        }
    }
}

/// The same over the unix socket. Resolves when it has been shut down through `handle`.
pub(crate) async fn serve_socket(
    listener: UnixListener,
    router: Router,
    limits: &Limits,
    handle: Handle<UnixAddr>,
) -> io::Result<()> {
    let router = router.layer(DefaultBodyLimit::max(limits.admin_request_bytes_max));
    let server = axum_server::from_unix(listener)?.http1_only();
    let server = within(server.acceptor(Bounded::new(limits)), limits);
    let app = Entrance::new(router.into_make_service(), limits);
    server.handle(handle).serve(app).await
}

/// A server with the limits on what a request's head may be and take.
fn within<A: Address, S>(mut server: Server<A, S>, limits: &Limits) -> Server<A, S> {
    let http = server.http_builder();
    http.http1()
        .timer(hyper_util::rt::TokioTimer::new())
        .header_read_timeout(limits.admin_header)
        .max_buf_size(limits.admin_request_bytes_max.max(8192));
    server
}

#[cfg(test)]
mod tests;
