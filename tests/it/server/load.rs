//! Many connections, slow ones, and ones that never read: memory stays bounded, and the others are served.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use memkv_proto::op::{OpCode, Outcome};
use memkv_proto::session::{Features, Refusal, RefusalCode};
use memkv_tests::http::metric;
use memkv_tests::poll::until;
use memkv_tests::server::{Builder, TestServer};
use memkv_tests::tier::Tier;
use memkv_tests::wire::{WireClient, closes_within, connect, read_to_close, shake_hands, value};

const SOON: Duration = Duration::from_secs(10);

fn stalled(server: &TestServer) -> f64 {
    metric(server, "memkv_protocol_faults_total{fault=\"stalled\"}")
}

fn impatient() -> Builder {
    Builder::memory("256 MiB").limits(|limits| {
        limits.handshake = Duration::from_millis(300);
        limits.frame_stall = Duration::from_millis(300);
        limits.reply_stall = Duration::from_millis(500);
    })
}

#[test]
fn a_connection_that_never_says_hello_is_closed() {
    let server = impatient().start();
    let mut silent = connect(server.address());
    let mut half = connect(server.address());
    half.write_all(b"MKV").unwrap();
    assert!(closes_within(&mut silent, SOON));
    assert!(closes_within(&mut half, SOON));
    assert_eq!(stalled(&server), 2.0);
}

#[test]
fn a_frame_that_trickles_is_closed_and_an_idle_session_is_not() {
    let server = impatient().start();
    let mut idle = WireClient::connect(server.address());
    let idle_since = Instant::now();
    let mut slow = WireClient::connect(server.address());
    let mut control = Vec::new();
    let head = memkv_proto::request::encode_ping(&mut control, 1);
    let frame = slow.seal(head, &control, &[]);
    // A byte every 50 ms makes progress, but not enough.
    let mut trickled = slow.stream.try_clone().unwrap();
    let trickler = std::thread::spawn(move || {
        for byte in frame {
            if trickled.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    assert!(closes_within(&mut slow.stream, SOON));
    trickler.join().unwrap();
    let mut stopped = WireClient::connect(server.address());
    stopped.stream.write_all(&[0x4d]).unwrap();
    assert!(closes_within(&mut stopped.stream, SOON));
    assert_eq!(stalled(&server), 2.0);
    assert!(
        idle_since.elapsed() > Duration::from_millis(600),
        "two stalls"
    );
    assert!(
        idle.is_alive(),
        "an idle session may be silent as long as it likes"
    );
}

#[test]
fn a_payload_that_stops_is_closed_and_gives_its_memory_back() {
    let server = impatient().start();
    let mut slow = WireClient::connect(server.address());
    let big = value(1, 8 << 20);
    let mut control = Vec::new();
    let entry = memkv_tests::wire::entry(b"big", &big);
    let head =
        memkv_proto::request::encode_writes(&mut control, OpCode::Put, None, [entry]).unwrap();
    let frame = slow.seal(head, &control, &big);
    slow.stream.write_all(&frame[..1 << 20]).unwrap();
    until("its memory is held", SOON, || {
        (metric(&server, "memkv_admitted_bytes") > 0.0).then_some(())
    });
    assert!(closes_within(&mut slow.stream, SOON));
    until("its memory is given back", SOON, || {
        (metric(&server, "memkv_admitted_bytes") == 0.0).then_some(())
    });
}

#[test]
fn a_large_value_that_arrives_slowly_but_steadily_is_stored() {
    let server = impatient().start();
    let mut slow = WireClient::connect(server.address());
    let big = value(1, 3 << 19);
    let mut control = Vec::new();
    let entry = memkv_tests::wire::entry(b"big", &big);
    let head =
        memkv_proto::request::encode_writes(&mut control, OpCode::Put, None, [entry]).unwrap();
    let frame = slow.seal(head, &control, &big);
    // Never silent for long, but the megabyte that the server would rather sleep for takes longer than a stall may.
    for piece in frame.chunks(64 << 10) {
        slow.stream.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    let reply = slow.receive().expect("the session lives");
    assert_eq!(memkv_tests::wire::written(&reply, 1), [Outcome::Ok]);
    assert!(slow.get(b"big") == Ok(Some(big)));
    assert_eq!(stalled(&server), 0.0);
}

#[test]
fn half_open_connections_are_bounded_and_the_oldest_makes_room() {
    let server = Builder::memory("64 MiB")
        .limits(|limits| limits.half_open_max = 8)
        .start();
    let mut session = WireClient::connect(server.address());
    assert!(session.is_alive(), "its handshake is over");
    let mut half_open: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = connect(server.address());
            stream.write_all(b"MKVS").unwrap();
            stream
        })
        .collect();
    let open = || metric(&server, "memkv_connections{transport=\"tcp\"}");
    until("all are counted", SOON, || (open() == 9.0).then_some(()));
    let mut late = WireClient::connect(server.address());
    assert_eq!(late.put(b"key", b"value"), Outcome::Ok);
    assert!(closes_within(&mut half_open[0], SOON), "the oldest went");
    assert_eq!(
        metric(&server, "memkv_rejected_total{reason=\"connections\"}"),
        1.0
    );
    assert_eq!(open(), 9.0, "seven without a session, two with one");
    // However many more come: nobody with a session is touched, and nobody is kept from one.
    let more: Vec<_> = (0..100).map(|_| connect(server.address())).collect();
    assert!(WireClient::connect(server.address()).is_alive());
    assert!(open() <= 8.0 + 3.0);
    assert!(session.is_alive() && late.is_alive());
    drop(more);
}

#[test]
fn a_connection_that_makes_room_is_told_that_the_server_is_busy() {
    let server = Builder::memory("64 MiB")
        .limits(|limits| limits.half_open_max = 1)
        .start();
    let mut oldest = connect(server.address());
    until("it is counted", SOON, || {
        (metric(&server, "memkv_connections{transport=\"tcp\"}") == 1.0).then_some(())
    });
    let _newest = connect(server.address());
    let said = read_to_close(&mut oldest);
    let refusal = Refusal::decode(&said).expect("a refusal");
    assert_eq!(refusal.code, RefusalCode::Busy);
}

#[test]
fn a_client_that_never_reads_is_bounded_then_closed_and_harms_nobody() {
    let server = impatient().start();
    let mut good = WireClient::connect(server.address());
    let big = value(1, 4 << 20);
    assert_eq!(good.put(b"big", &big), Outcome::Ok);
    assert_eq!(good.put(b"small", &value(2, 10_000)), Outcome::Ok);
    let mut deaf = WireClient::connect(server.address());
    deaf.stream
        .set_write_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    // As many requests as it gets rid of, each for far more than fits any buffer.
    let keys = [&b"big"[..], b"small"].repeat(256);
    let mut control = Vec::new();
    let head =
        memkv_proto::request::encode_keys(&mut control, OpCode::BatchRead, None, 0, keys).unwrap();
    for id in 0..2000 {
        let frame = deaf.seal(head.with_request_id(id), &control, &[]);
        if deaf.stream.write_all(&frame).is_err() {
            break;
        }
        assert!(
            good.get(b"big") == Ok(Some(big.clone())),
            "the others are served"
        );
    }
    let held = metric(&server, "memkv_admitted_bytes");
    assert!(held <= (64 << 20) as f64, "{held} bytes held for it");
    until("it is closed", SOON, || {
        (stalled(&server) == 1.0).then_some(())
    });
    until("it holds nothing any more", SOON, || {
        (metric(&server, "memkv_admitted_bytes") == 0.0).then_some(())
    });
    assert!(good.get(b"big") == Ok(Some(big)));
}

/// Raises the limit of open files as far as it goes; how many there may be.
fn raise_open_files(wanted: u64) -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        // The hard limit rises only with the privilege; the soft one up to it without.
        let all = Rlimit {
            current: Some(wanted),
            maximum: limit.maximum.map(|max| max.max(wanted)),
        };
        if setrlimit(Resource::Nofile, all).is_err() {
            let _ = setrlimit(
                Resource::Nofile,
                Rlimit {
                    current: limit.maximum,
                    ..limit
                },
            );
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// The test below, run as a program of its own: alone with the server, or holding the clients' ends.
fn again(variable: &str, value: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = "server::load::ten_thousand_idle_connections_cost_little";
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(variable, value);
    command
}

/// Opens that many sessions, says so, and holds them until its input ends.
fn hold(order: &str) {
    let (address, count) = order.split_once(' ').unwrap();
    let (address, count) = (address.parse().unwrap(), count.parse::<u64>().unwrap());
    raise_open_files(count + 500);
    let sessions: Vec<TcpStream> = (0..count)
        .map(|_| {
            let mut stream = connect(address);
            shake_hands(&mut stream, Features::default()).expect("a session");
            stream
        })
        .collect();
    println!("\nholding {}", sessions.len());
    let _ = std::io::stdin().read(&mut [0]);
}

/// A process that holds sessions; they end with it.
struct Holder {
    child: Child,
    /// Open as long as the child may write to it.
    said: BufReader<ChildStdout>,
}

impl Holder {
    fn start(server: &TestServer, count: u64) -> Self {
        let mut child = again(HOLDS, &format!("{} {count}", server.address()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let holds = said
            .by_ref()
            .lines()
            .map_while(Result::ok)
            .any(|line| line == format!("holding {count}"));
        assert!(holds, "the clients' process could not open its sessions");
        Self { child, said }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.said.read_to_end(&mut Vec::new());
        let _ = self.child.wait();
    }
}

const ALONE: &str = "MEMKV_TEST_ALONE";
const HOLDS: &str = "MEMKV_TEST_HOLDS";

#[test]
fn ten_thousand_idle_connections_cost_little() {
    if let Ok(order) = std::env::var(HOLDS) {
        return hold(&order);
    }
    // Alone in a process of its own: what is measured is the memory of the whole process.
    if std::env::var_os(ALONE).is_none() {
        let child = again(ALONE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        print!("{said}{}", String::from_utf8_lossy(&child.stderr));
        assert!(
            child.status.success() && said.contains("1 passed"),
            "the measurement failed"
        );
        return;
    }
    let server = TestServer::memory();
    let files = raise_open_files(10_700);
    let count = files.saturating_sub(700).min(10_000);
    if count < 10_000 {
        Tier::Connections.skipped(&format!("ulimit -n is {files}: only {count} connections"));
    } else {
        Tier::Connections.ran();
    }
    let warm_up = Holder::start(&server, 100);
    let before = resident_bytes();
    let connections = Holder::start(&server, count);
    let used = resident_bytes().saturating_sub(before);
    let each = used / count;
    println!("{count} idle connections: {each} bytes each");
    assert!(each <= 8 << 10, "{each} bytes for an idle connection");
    let open = metric(&server, "memkv_connections{transport=\"tcp\"}");
    assert_eq!(open as u64, count + 100);
    let mut client = WireClient::connect(server.address());
    assert_eq!(client.put(b"key", b"value"), Outcome::Ok);
    drop(connections);
    drop(warm_up);
    until("they are all forgotten", Duration::from_secs(30), || {
        (metric(&server, "memkv_connections{transport=\"tcp\"}") == 1.0).then_some(())
    });
}
