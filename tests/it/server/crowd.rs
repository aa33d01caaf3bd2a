//! The admin port, crowded by connections that ask for nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use memkv_tests::http::metric;
use memkv_tests::poll::until;
use memkv_tests::server::{Builder, TestServer};
use memkv_tests::wire::closes_within;

const SOON: Duration = Duration::from_secs(5);
const REQUEST: &[u8] = b"GET /v1/health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
const HALF_A_HEAD: &[u8] = b"GET /v1/status HTTP/1.1\r\nhost: 127.0.0.1\r\nx: ";

fn admin(server: &TestServer) -> SocketAddr {
    let url = server.url("");
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    address.parse().expect("host:port")
}

fn open(address: SocketAddr, said: &[u8]) -> Option<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.write_all(said).ok()?;
    stream.set_nonblocking(true).ok()?;
    Some(stream)
}

fn is_open(stream: &TcpStream) -> bool {
    matches!(stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

/// Keeps so many connections open that say this and no more, until told to stop; each that is closed comes back.
fn crowd(address: SocketAddr, said: &[u8], count: usize, opened: &AtomicUsize, stop: &AtomicBool) {
    let mut streams: Vec<_> = (0..count).map(|_| open(address, said)).collect();
    while !stop.load(Ordering::Relaxed) {
        for stream in &mut streams {
            if !stream.as_ref().is_some_and(is_open) {
                *stream = open(address, said);
                opened.fetch_add(1, Ordering::Relaxed);
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a path's answer begins with, and how long it took.
fn ask(address: SocketAddr, path: &str) -> (String, Duration) {
    let start = Instant::now();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
    let mut answer = Vec::new();
    // What was refused is an empty answer.
    let _ = stream.write_all(request.as_bytes());
    let _ = stream.read_to_end(&mut answer);
    answer.truncate(15);
    let begins = String::from_utf8_lossy(&answer).into_owned();
    (begins, start.elapsed())
}

#[test]
fn probes_are_answered_while_silent_and_half_sent_connections_come_and_come_back() {
    let server = TestServer::memory();
    let address = admin(&server);
    let (opened, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for said in [&b""[..], HALF_A_HEAD] {
            scope.spawn(|| crowd(address, said, 300, &opened, &stop));
        }
        let answers = std::panic::catch_unwind(|| {
            for round in 0..10 {
                let more = 100 * (round + 1);
                until("they come back", SOON, || {
                    (opened.load(Ordering::Relaxed) >= more).then_some(())
                });
                for path in ["/v1/health", "/v1/ready", "/v1/metrics"] {
                    let (answer, took) = ask(address, path);
                    assert_eq!(answer, "HTTP/1.1 200 OK", "{path} in round {round}");
                    assert!(took < Duration::from_secs(2), "{path} took {took:?}");
                }
            }
        });
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = answers {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A connection that has been answered, and waits for its next request.
fn answered(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    again(&mut stream);
    stream
}

fn again(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(REQUEST).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        let mut piece = [0; 1024];
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "closed after {answer:?}");
        answer.extend_from_slice(&piece[..read]);
    }
}

#[test]
fn admin_connections_are_bounded_and_who_asked_longest_ago_makes_room() {
    let server = Builder::memory("64 MiB")
        .limits(|limits| limits.admin_connections_max = 4)
        .start();
    let address = admin(&server);
    let mut first = answered(address);
    let mut second = answered(address);
    let mut silent = TcpStream::connect(address).unwrap();
    let mut half = TcpStream::connect(address).unwrap();
    half.write_all(HALF_A_HEAD).unwrap();
    // The first has just asked: now the second's head lies longest back.
    again(&mut first);

    let mut third = answered(address);
    assert!(
        closes_within(&mut silent, SOON),
        "the oldest without a head"
    );
    let mut fourth = answered(address);
    assert!(closes_within(&mut half, SOON), "then the next");
    for kept in [&mut second, &mut first, &mut third, &mut fourth] {
        again(kept);
    }
    let mut fifth = answered(address);
    assert!(closes_within(&mut second, SOON), "nobody else is without");
    for kept in [&mut first, &mut third, &mut fourth, &mut fifth] {
        again(kept);
    }
}

#[test]
fn who_never_reads_its_answers_makes_room_too() {
    let server = Builder::memory("64 MiB")
        .limits(|limits| limits.admin_connections_max = 4)
        .start();
    let address = admin(&server);
    let request = b"GET /v1/metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
    let mut deaf: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            let wait = Some(Duration::from_millis(200));
            stream.set_write_timeout(wait).unwrap();
            // As many requests as it gets rid of: the server waits for it to take the answers.
            while stream.write_all(request).is_ok() {}
            stream
        })
        .collect();
    assert_eq!(metric(&server, "memkv_connections{transport=\"tcp\"}"), 0.0);
    for stream in &mut deaf[1..] {
        assert_eq!(ask(address, "/v1/health").0, "HTTP/1.1 200 OK");
        stream.set_read_timeout(Some(SOON)).unwrap();
    }
}
