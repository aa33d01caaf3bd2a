//! HTTPS for real: a rustls client against a listening server. The certificates in `testdata` are good for nothing else.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::*;

fn testdata(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("src/admin/serve/testdata")
        .join(name)
}

fn pair(name: &str) -> Arc<ServerConfig> {
    load_tls(
        &testdata(&format!("{name}.cert.pem")),
        &testdata(&format!("{name}.key.pem")),
    )
    .unwrap()
}

/// GETs `/` over HTTPS, trusting only the certificate of `name`.
fn get(address: SocketAddr, name: &str) -> io::Result<String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(testdata(&format!("{name}.cert.pem"))).unwrap()
    {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerName::from(address.ip());
    let client = ClientConnection::new(Arc::new(config), server).unwrap();
    let stream = std::net::TcpStream::connect(address)?;
    let mut stream = StreamOwned::new(client, stream);
    stream.write_all(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    // The end of the body says enough; not every server says goodbye in TLS too.
    let _ = stream.read_to_end(&mut answer);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn https_serves_and_takes_new_certificates_while_it_runs() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let tls = RustlsConfig::from_config(pair("one"));
    let router = Router::new().route("/", axum::routing::get(|| async { "hello" }));
    let handle = Handle::new();
    let (serving, stopper) = (tls.clone(), handle.clone());
    runtime.spawn(async move {
        serve(listener, Some(serving), router, &Limits::default(), handle)
            .await
            .unwrap();
    });
    let answer = get(address, "one").unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"),
        "{answer}"
    );
    assert!(
        get(address, "two").is_err(),
        "a certificate that nobody trusts"
    );
    let mut plain = std::net::TcpStream::connect(address).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "plain HTTP isn't answered");
    tls.reload_from_config(pair("two"));
    assert!(get(address, "one").is_err());
    assert!(get(address, "two").unwrap().starts_with("HTTP/1.1 200"));
    stopper.shutdown();
}

#[test]
fn certificates_that_cant_serve_are_named_with_what_belongs_there() {
    let (cert, key) = (testdata("one.cert.pem"), testdata("one.key.pem"));
    let missing = load_tls(&testdata("none.pem"), &key).unwrap_err();
    assert!(
        missing.to_string().contains("network.tls_cert"),
        "{missing}"
    );
    let swapped = load_tls(&key, &cert).unwrap_err();
    assert!(matches!(swapped, TlsError::Empty { .. }), "{swapped}");
    let no_key = load_tls(&cert, &cert).unwrap_err();
    assert!(no_key.to_string().contains("network.tls_key"), "{no_key}");
    let strangers = load_tls(&cert, &testdata("two.key.pem")).unwrap_err();
    assert!(
        matches!(strangers, TlsError::Mismatch { .. }),
        "{strangers}"
    );
}

#[test]
fn handshakes_that_never_end_make_room_for_one_that_does() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/", axum::routing::get(|| async { "hello" }));
    let limits = Limits {
        admin_connections_max: 8,
        ..Limits::default()
    };
    let handle = Handle::new();
    let stopper = handle.clone();
    runtime.spawn(async move {
        let tls = Some(RustlsConfig::from_config(pair("one")));
        serve(listener, tls, router, &limits, handle).await.unwrap();
    });
    // The first bytes of a client's hello.
    let mut begun: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
            stream
        })
        .collect();
    let start = std::time::Instant::now();
    let answer = get(address, "one").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let soon = std::time::Duration::from_secs(2);
    assert!(start.elapsed() < soon, "{:?}", start.elapsed());
    begun[0].set_read_timeout(Some(soon)).unwrap();
    let end = begun[0].read(&mut [0]);
    let is_closed = matches!(&end, Ok(0))
        || matches!(&end, Err(error) if error.kind() == io::ErrorKind::ConnectionReset);
    assert!(is_closed, "the oldest goes: {end:?}");
    begun[1].set_nonblocking(true).unwrap();
    let end = begun[1].read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(end, Err(io::ErrorKind::WouldBlock), "the next stays");
    stopper.shutdown();
}
