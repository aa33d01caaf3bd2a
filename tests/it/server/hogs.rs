//! Clients that hold what others need: replies that they don't take, payloads that they don't finish.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use memkv_proto::op::{OpCode, Outcome};
use memkv_tests::http::metric;
use memkv_tests::poll::until;
use memkv_tests::server::{Builder, TestServer};
use memkv_tests::wire::{WireClient, entry, value};

const SOON: Duration = Duration::from_secs(10);

/// What a good client waits at most on an idle machine is 2 s; ours may have others to run.
const GOOD_WAITS_MAX: Duration = Duration::from_secs(4);

/// Values, and payloads, that fill a server's budget.
const BUDGET_MIB: usize = 32;
const MIB: usize = 1 << 20;

fn small_server() -> TestServer {
    Builder::memory("256 MiB")
        .limit(&format!("max_in_flight: {BUDGET_MIB} MiB"))
        .start()
}

fn stalled(server: &TestServer) -> f64 {
    metric(server, "memkv_protocol_faults_total{fault=\"stalled\"}")
}

/// Asks for a hundred large values, and never reads one.
fn asks_and_never_reads(client: &mut WireClient) {
    for id in 0..100 {
        let mut control = Vec::new();
        let head =
            memkv_proto::request::encode_keys(&mut control, OpCode::Get, None, 0, [&b"block"[..]]);
        let frame = client.seal(head.expect("a key").with_request_id(id), &control, &[]);
        if client.stream.write_all(&frame).is_err() {
            return;
        }
    }
}

/// Begins a put of 4 MiB, and sends half of one.
fn begins_and_never_ends(client: &mut WireClient) {
    let big = value(2, 4 * MIB);
    let mut control = Vec::new();
    let head =
        memkv_proto::request::encode_writes(&mut control, OpCode::Put, None, [entry(b"b", &big)]);
    let frame = client.seal(head.expect("an entry"), &control, &big);
    let _ = client.stream.write_all(&frame[..MIB / 2]);
}

/// Clients that misbehave until it is dropped; each comes back whenever it was thrown out.
struct Crowd {
    is_over: Arc<AtomicBool>,
    thrown_out: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
}

impl Crowd {
    fn of_fifty(address: SocketAddr, misbehave: fn(&mut WireClient)) -> Self {
        let (is_over, thrown_out) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let clients = (0..50).map(|_| {
            let (is_over, thrown_out) = (is_over.clone(), thrown_out.clone());
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let mut client = WireClient::connect(address);
                    misbehave(&mut client);
                    if is_thrown_out(&client, &is_over) {
                        thrown_out.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        });
        Self {
            clients: clients.collect(),
            is_over,
            thrown_out,
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}

/// Waits until the server has closed the connection, without reading from it; `false` if the test was over first.
fn is_thrown_out(client: &WireClient, is_over: &AtomicBool) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let step = Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    while !is_over.load(Ordering::Relaxed) {
        let mut polled = [PollFd::new(&client.stream, PollFlags::RDHUP)];
        if poll(&mut polled, Some(&step)).is_ok_and(|count| count > 0) {
            return true;
        }
    }
    false
}

/// How long a client needs until its put, and then its get, of 1 MiB is done, whatever it is refused before.
fn served_within(good: &mut WireClient, block: &[u8]) -> Duration {
    let started = Instant::now();
    let patience = Duration::from_secs(60);
    until("its put is taken", patience, || {
        (good.put(b"mine", block) == Outcome::Ok).then_some(())
    });
    until("its get is answered", patience, || {
        (good.get(b"mine") == Ok(Some(block.to_vec()))).then_some(())
    });
    started.elapsed()
}

/// A good client among fifty that `misbehave`, from the moment when they have all there is, for some seconds.
fn nobody_is_kept_out(what: &str, misbehave: fn(&mut WireClient)) {
    let server = small_server();
    let mut good = WireClient::connect(server.address());
    let block = value(1, MIB);
    assert_eq!(good.put(b"block", &block), Outcome::Ok);
    let crowd = Crowd::of_fifty(server.address(), misbehave);
    until("they have all there is", SOON, || {
        let full = ((BUDGET_MIB - 4) * MIB) as f64;
        (metric(&server, "memkv_admitted_bytes") > full).then_some(())
    });
    let (mut known, mut new) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(6) {
        known.push(served_within(&mut good, &block));
        let mut late = WireClient::connect(server.address());
        new.push(served_within(&mut late, &block));
    }
    let thrown_out = crowd.thrown_out.load(Ordering::Relaxed);
    println!("among {what}, of which {thrown_out} were thrown out, a put and a get took");
    for (who, waits, bound) in [
        ("a client that was there before", known, GOOD_WAITS_MAX),
        ("one that has just come", new, 2 * GOOD_WAITS_MAX),
    ] {
        let longest = waits.iter().max().expect("one at least");
        let (first, count) = (waits[0], waits.len());
        println!("  {who}: first {first:?}, longest of {count} {longest:?}");
        assert!(*longest <= bound, "{who} waited for {longest:?}");
    }
    assert!(thrown_out >= 1, "they had all there is");
    assert!(stalled(&server) >= 1.0);
    drop(crowd);
    until("nothing is held any more", SOON, || {
        (metric(&server, "memkv_admitted_bytes") == 0.0).then_some(())
    });
}

#[test]
fn fifty_clients_that_never_read_keep_nobody_out() {
    nobody_is_kept_out("clients that never read", asks_and_never_reads);
}

#[test]
fn fifty_clients_that_stop_within_a_put_keep_nobody_out() {
    nobody_is_kept_out("clients that stop within a put", begins_and_never_ends);
}

#[test]
fn a_slow_reader_among_clients_that_never_read_gets_all_of_its_values() {
    // 270 kB/s: its socket at the server is writable again only every three seconds.
    const SLOW_BYTES: usize = 5 << 18;
    const SLOW_BEFORE_BYTES: usize = 100 * STEP_BYTES;
    const STEP_BYTES: usize = 8 << 10;
    const STEP: Duration = Duration::from_millis(30);
    let server = small_server();
    let mut slow = WireClient::connect(server.address());
    // Its kernel confirms what it takes in steps that don't depend on how fast it once was.
    rustix::net::sockopt::set_socket_recv_buffer_size(&slow.stream, 256 << 10).expect("a size");
    let block = value(1, MIB);
    assert_eq!(slow.put(b"block", &block), Outcome::Ok);
    for _ in 0..8 {
        slow.send_keys(OpCode::Get, &[b"block"]);
    }
    let mut taken = 0;
    let mut take = |bytes: usize, pause: Duration| {
        for _ in 0..bytes / STEP_BYTES {
            let took = slow.stream.read_exact(&mut [0; STEP_BYTES]);
            took.unwrap_or_else(|error| panic!("thrown out after {taken} bytes: {error}"));
            taken += STEP_BYTES;
            std::thread::sleep(pause);
        }
    };
    take(2 * MIB, Duration::ZERO);
    // It is slow already when others begin to wait: nothing was written to its socket lately, and nobody has looked.
    take(SLOW_BEFORE_BYTES, STEP);
    let crowd = Crowd::of_fifty(server.address(), asks_and_never_reads);
    take(SLOW_BYTES, STEP);
    assert!(crowd.thrown_out.load(Ordering::Relaxed) >= 1);
    drop(crowd);
    take(6 * MIB - SLOW_BEFORE_BYTES - SLOW_BYTES, Duration::ZERO);
}

#[test]
fn a_slow_writer_among_clients_that_stop_within_a_put_is_not_taken_for_one() {
    // 270 kB/s: the chunk that the server would rather wait for takes it two seconds.
    const STEP_BYTES: usize = 8 << 10;
    const STEP: Duration = Duration::from_millis(30);
    let server = small_server();
    let mut slow = WireClient::connect(server.address());
    let block = value(1, MIB);
    let mut control = Vec::new();
    let entries = [entry(b"slow", &block)];
    let head = memkv_proto::request::encode_writes(&mut control, OpCode::Put, None, entries);
    let frame = slow.seal(head.expect("an entry"), &control, &block);
    let mut steps = frame.chunks(STEP_BYTES);
    slow.stream
        .write_all(steps.next().expect("a step"))
        .expect("it reads");
    until("its memory is held", SOON, || {
        (metric(&server, "memkv_admitted_bytes") > 0.0).then_some(())
    });
    let crowd = Crowd::of_fifty(server.address(), begins_and_never_ends);
    for step in steps {
        slow.stream.write_all(step).expect("it isn't thrown out");
        std::thread::sleep(STEP);
    }
    let reply = slow.receive().expect("it isn't thrown out");
    assert_eq!(memkv_tests::wire::written(&reply, 1), [Outcome::Ok]);
    assert!(crowd.thrown_out.load(Ordering::Relaxed) >= 1);
}

#[test]
fn a_client_thrown_out_for_never_reading_learns_of_it() {
    let server = Builder::memory("256 MiB")
        .limits(|limits| limits.reply_stall = Duration::from_millis(300))
        .start();
    let mut deaf = WireClient::connect(server.address());
    assert_eq!(deaf.put(b"block", &value(1, MIB)), Outcome::Ok);
    // All of them are read by the server: it is what was never sent that must not keep the connection half alive.
    asks_and_never_reads(&mut deaf);
    until("the connection is reset", SOON, || {
        deaf.stream.take_error().expect("a socket")
    });
    assert_eq!(stalled(&server), 1.0);
}

#[test]
fn a_greedy_client_leaves_a_modest_one_its_share() {
    let server = small_server();
    let block = value(1, MIB);
    let mut modest = WireClient::connect(server.address());
    assert_eq!(modest.put(b"block", &block), Outcome::Ok);
    let is_over = Arc::<AtomicBool>::default();
    // It reads all that it asks for, but always has twice as much as there is under way.
    let greedy = {
        let (is_over, address) = (is_over.clone(), server.address());
        std::thread::spawn(move || {
            let mut greedy = WireClient::connect(address);
            let ask = |greedy: &mut WireClient| greedy.send_keys(OpCode::Get, &[b"block"]);
            for _ in 0..2 * BUDGET_MIB {
                ask(&mut greedy);
            }
            while !is_over.load(Ordering::Relaxed) {
                assert!(greedy.receive_values(1)[0].is_ok());
                ask(&mut greedy);
            }
        })
    };
    until("it has all that one may have", SOON, || {
        let half = (BUDGET_MIB / 2 * MIB) as f64;
        (metric(&server, "memkv_admitted_bytes") >= half).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(modest.put(b"mine", &block), Outcome::Ok);
        assert!(modest.get(b"mine") == Ok(Some(block.clone())));
        assert!(
            modest
                .get_many(&[&b"block"[..]; 8])
                .iter()
                .all(|found| found.is_ok())
        );
    }
    is_over.store(true, Ordering::Relaxed);
    greedy.join().expect("it was served as well");
}
