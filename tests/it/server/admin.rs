//! The admin endpoint.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use memkv_tests::http::{get, metric, post};
use memkv_tests::server::{Builder, TOKEN, TestServer};
use memkv_tests::wire::closes_within;

#[test]
fn health_and_ready_say_what_probes_expect() {
    let server = TestServer::memory();
    let health = get(&server, "/v1/health", &[]);
    assert_eq!(health.status, 200);
    let expected = serde_json::json!({
        "status": "healthy",
        "rdma_active": false,
        "drives_online": 0,
        "drives_offline": 0,
        "drives_total": 0,
    });
    assert_eq!(health.json(), expected);
    let ready = get(&server, "/v1/ready", &[]);
    assert_eq!((ready.status, ready.body.as_str()), (200, "ok"));
}

#[test]
fn the_front_page_lists_routes_that_all_answer() {
    let server = TestServer::memory();
    let page = get(&server, "/", &[]);
    assert!(page.content_type.starts_with("text/html"));
    let mut links = 0;
    for link in page.body.split("href=\"").skip(1) {
        let path = link.split('"').next().unwrap();
        assert_eq!(get(&server, path, &[]).status, 200, "{path}");
        links += 1;
    }
    assert!(links >= 5);
    assert_eq!(get(&server, "/v1/nothing", &[]).status, 404);
}

#[test]
fn metrics_come_in_the_form_that_was_asked_for() {
    let server = TestServer::memory();
    let text = get(&server, "/v1/metrics", &[]);
    assert!(
        text.content_type.starts_with("text/plain; version=0.0.4"),
        "{}",
        text.content_type
    );
    assert!(text.body.contains("memkv_build_info"));
    let open = get(
        &server,
        "/v1/metrics",
        &[("accept", "application/openmetrics-text; version=1.0.0")],
    );
    assert!(
        open.content_type
            .starts_with("application/openmetrics-text")
    );
    assert!(open.body.ends_with("# EOF\n"));
}

#[test]
fn verbs_that_change_something_need_token_and_host() {
    let server = TestServer::memory();
    let bearer = format!("Bearer {TOKEN}");
    let authorization = ("authorization", bearer.as_str());
    assert_eq!(post(&server, "/v1/admin/drain", &[], "").status, 401);
    assert_eq!(
        post(
            &server,
            "/v1/admin/drain",
            &[("authorization", "Bearer x")],
            ""
        )
        .status,
        401
    );
    let evil = [authorization, ("host", "evil.example")];
    assert_eq!(post(&server, "/v1/admin/drain", &evil, "").status, 421);
    assert_eq!(
        get(&server, "/v1/admin/drain", &[authorization]).status,
        405
    );
    assert_eq!(
        metric(&server, "memkv_auth_failures_total{reason=\"admin_token\"}"),
        3.0
    );
    assert_eq!(
        get(&server, "/v1/ready", &[]).status,
        200,
        "nothing was changed"
    );
    let level = "{\"level\": \"debug\"}";
    assert_eq!(
        post(&server, "/v1/admin/log-level", &[authorization], level).status,
        501
    );
    assert_eq!(
        post(&server, "/v1/admin/log-level", &[authorization], "debug").status,
        400
    );
    assert_eq!(
        post(&server, "/v1/admin/drain", &[authorization], "").status,
        200
    );
    let ready = get(&server, "/v1/ready", &[]);
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("draining"), "{}", ready.body);
}

#[test]
fn slow_refuses_parameters_that_it_doesnt_know() {
    let server = TestServer::memory();
    assert_eq!(
        get(&server, "/v1/slow?sort=newest&limit=5", &[]).status,
        200
    );
    for bad in ["sort=fastest", "limit=many", "order=newest"] {
        assert_eq!(
            get(&server, &format!("/v1/slow?{bad}"), &[]).status,
            400,
            "{bad}"
        );
    }
}

#[test]
fn an_oversized_or_slow_request_head_is_refused() {
    let server = Builder::memory("64 MiB")
        .limits(|limits| limits.admin_header = Duration::from_millis(300))
        .start();
    let address = server.running().admin_address();
    let mut large = TcpStream::connect(address).unwrap();
    large
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let head = format!(
        "GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n",
        "a".repeat(256 << 10)
    );
    // The server may close before it has read everything.
    let _ = large.write_all(head.as_bytes());
    let mut answer = Vec::new();
    let _ = large.read_to_end(&mut answer);
    assert!(
        !answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    let mut slow = TcpStream::connect(address).unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    assert!(closes_within(&mut slow, Duration::from_secs(10)));
    let mut silent = TcpStream::connect(address).unwrap();
    assert!(closes_within(&mut silent, Duration::from_secs(10)));
    assert_eq!(get(&server, "/v1/health", &[]).status, 200);
}

/// POSTs without a token over a unix socket; what comes back.
fn post_over(socket: &std::path::Path, path: &str, body: &str) -> String {
    let mut stream = UnixStream::connect(socket).expect("the server listens");
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n");
    let request = format!("{head}connection: close\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

#[test]
fn over_the_unix_socket_verbs_need_no_token_and_only_the_servers_user_can_open_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let socket = dir.path().join("admin.sock");
    let line = format!("admin_socket: {}", socket.display());
    // What a server that was killed has left.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("a free path"));
    let server = Builder::memory("64 MiB").network(&line).start();
    let mode = std::fs::metadata(&socket).expect("it is there").mode();
    assert_eq!(mode & 0o777, 0o600);
    let refused = Builder::memory("64 MiB")
        .network(&line)
        .try_start("127.0.0.1:0");
    let refused = refused
        .err()
        .expect("another server listens there")
        .to_string();
    assert!(
        refused.contains("is in use by another process"),
        "{refused}"
    );

    let answer = post_over(&socket, "/v1/admin/log-level", "{}");
    assert!(
        answer.starts_with("HTTP/1.1 400"),
        "let in, and not understood: {answer}"
    );
    let answer = post_over(&socket, "/v1/admin/drain", "");
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("draining\n"),
        "{answer}"
    );
    assert_eq!(get(&server, "/v1/ready", &[]).status, 503);
    assert_eq!(
        metric(&server, "memkv_auth_failures_total{reason=\"admin_token\"}"),
        0.0
    );
    server.stop();
    assert!(
        !socket.exists(),
        "a server that stops takes its socket with it"
    );
}

#[test]
fn a_file_in_the_place_of_the_unix_socket_is_left_alone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let socket = dir.path().join("admin.sock");
    std::fs::write(&socket, "precious").expect("is written");
    let line = format!("admin_socket: {}", socket.display());
    let refused = Builder::memory("64 MiB")
        .network(&line)
        .try_start("127.0.0.1:0");
    let refused = refused.err().expect("there is a file").to_string();
    assert!(refused.contains("isn't a socket"), "{refused}");
    assert_eq!(
        std::fs::read(&socket).expect("it is still there"),
        b"precious"
    );
}
