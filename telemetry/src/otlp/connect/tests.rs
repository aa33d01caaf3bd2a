use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;
use crate::labels::Exporter;
use crate::{Role, Telemetry, TelemetryConfig};

#[test]
fn urls_name_the_signal_only_for_http() {
    let check = |endpoint: &str, protocol, expected: &str| {
        assert_eq!(url(endpoint, protocol, "logs"), expected);
    };
    check(
        "collector:4317",
        OtlpProtocol::Grpc,
        "http://collector:4317",
    );
    check(
        "http://c:4318/",
        OtlpProtocol::Http,
        "http://c:4318/v1/logs",
    );
    check(
        "http://c:4318/v1/traces",
        OtlpProtocol::Http,
        "http://c:4318/v1/logs",
    );
    check(
        "https://c/v1/metrics",
        OtlpProtocol::Http,
        "https://c/v1/logs",
    );
    check("https://c:4317", OtlpProtocol::Grpc, "https://c:4317");
}

/// A self-signed certificate for localhost, for these tests only.
const CERTIFICATE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/src/otlp/testdata/collector.crt"
);
/// Tells the test that it is the child, and where the collector is.
const COLLECTOR: &str = "MEMKV_TEST_HTTPS_COLLECTOR";

/// A collector behind TLS that takes everything; the first lines of what it was sent.
fn tls_collector() -> (u16, std::sync::mpsc::Receiver<String>) {
    let certificate = CertificateDer::from_pem_file(CERTIFICATE).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../testdata/collector.key")).unwrap();
    let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let tls = Arc::new(tls);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = ServerConnection::new(Arc::clone(&tls)).unwrap();
            let mut stream = StreamOwned::new(connection, stream);
            // The body may be on its way still; nobody here needs it.
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                head.push(byte[0]);
            }
            if head.is_empty() {
                continue; // The handshake failed.
            }
            let mut rest = [0; 64 << 10];
            _ = stream.read(&mut rest);
            _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            stream.conn.send_close_notify();
            _ = stream.flush();
            if sender
                .send(String::from_utf8_lossy(&head).into_owned())
                .is_err()
            {
                return;
            }
        }
    });
    (port, receiver)
}

/// Runs the named test of this binary again, with the certificate trusted or not.
fn run_again(test: &str, endpoint: &str, is_trusted: bool) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args([
            "--exact",
            &format!("otlp::connect::tests::{test}"),
            "--nocapture",
        ])
        .env(COLLECTOR, endpoint)
        .env_remove("SSL_CERT_DIR");
    match is_trusted {
        true => child.env("SSL_CERT_FILE", CERTIFICATE),
        // The key's file has no certificate: this process trusts nobody.
        false => child.env("SSL_CERT_FILE", CERTIFICATE.replace(".crt", ".key")),
    };
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

/// What a client whose collector is `endpoint` could not deliver; `None` where it isn't even started.
fn dropped(endpoint: &str) -> Option<u64> {
    let mut config = TelemetryConfig::new(Role::Client, "1");
    config.otlp = Some(OtlpConfig {
        protocol: OtlpProtocol::Http,
        timeout: Duration::from_secs(5),
        ..OtlpConfig::new(endpoint)
    });
    match Telemetry::new(config) {
        Ok(telemetry) => {
            telemetry.shutdown(Duration::from_secs(20));
            Some(telemetry.exporter_dropped(Exporter::Metrics))
        }
        Err(OtlpError::NoTrust { endpoint: named }) if named == endpoint => None,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn an_https_collector_that_is_trusted_is_sent_to() {
    if let Ok(endpoint) = std::env::var(COLLECTOR) {
        assert_eq!(dropped(&endpoint), Some(0));
        return;
    }
    let (port, received) = tls_collector();
    let endpoint = format!("https://localhost:{port}");
    run_again(
        "an_https_collector_that_is_trusted_is_sent_to",
        &endpoint,
        true,
    );
    let first = received.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(first, "POST /v1/metrics HTTP/1.1\r\n");
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    if let Ok(endpoint) = std::env::var(COLLECTOR) {
        assert_eq!(dropped(&endpoint), Some(1));
        return;
    }
    let (port, received) = tls_collector();
    // The certificate names localhost, and this isn't its name.
    let endpoint = format!("https://127.0.0.1:{port}");
    run_again("a_certificate_for_another_name_is_refused", &endpoint, true);
    assert!(received.try_recv().is_err());
}

#[test]
fn https_without_trusted_certificates_is_refused_at_start() {
    if let Ok(endpoint) = std::env::var(COLLECTOR) {
        assert_eq!(dropped(&endpoint), None);
        return;
    }
    run_again(
        "https_without_trusted_certificates_is_refused_at_start",
        "https://localhost:4318",
        false,
    );
}
