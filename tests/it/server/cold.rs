//! Batches of long values that only a drive has: what is on its way from there counts as held.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use memkv_proto::op::{OpCode, Outcome};
use memkv_tests::http::metric;
use memkv_tests::poll::until;
use memkv_tests::server::{Builder, TestServer};
use memkv_tests::wire::{WireClient, value};

const MIB: usize = 1 << 20;

/// Half of the server's pool.
const IN_FLIGHT_MAX: usize = 32 * MIB;

/// What a read on its way may bring at most, as long as nobody knows its length.
const BLOCK: usize = 4 * MIB;

/// Values of 2 MiB, several times the pool.
const VALUES: u32 = 120;

/// What a good client waits at most on an idle machine is well below 1 s; ours may have others to run.
const GOOD_WAITS_MAX: Duration = Duration::from_secs(5);

fn key(number: u32) -> Vec<u8> {
    format!("cold{number}").into_bytes()
}

fn filled_server() -> TestServer {
    let server = Builder::file("1 GiB").pool("64 MiB").allow("").start();
    let mut client = WireClient::connect(server.address());
    let long = value(1, 2 * MIB);
    for number in 0..VALUES {
        until("a value is stored", Duration::from_secs(30), || {
            (client.put(&key(number), &long) == Outcome::Ok).then_some(())
        });
    }
    server
}

/// Asks for a thousand values at once; `false` if the connection is gone.
fn asks(client: &mut WireClient, first: u32) -> bool {
    let keys: Vec<_> = (0..1000).map(|at| key((first + at) % VALUES)).collect();
    let mut control = Vec::new();
    let keys = keys.iter().map(|key| &key[..]);
    let head = memkv_proto::request::encode_keys(&mut control, OpCode::BatchRead, None, 0, keys);
    let id = client.next_id();
    let frame = client.seal(head.expect("keys").with_request_id(id), &control, &[]);
    client.stream.write_all(&frame).is_ok()
}

/// Reads at about 100 MB/s.
fn reads(client: &mut WireClient, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) && client.receive().is_ok() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Reads nothing until it is thrown out.
fn is_deaf(client: &mut WireClient, is_over: &AtomicBool) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let step = Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    while !is_over.load(Ordering::Relaxed) {
        let mut polled = [PollFd::new(&client.stream, PollFlags::RDHUP)];
        if poll(&mut polled, Some(&step)).is_ok_and(|count| count > 0) {
            return;
        }
    }
}

/// Clients that ask for `batches` and then do with the replies what `then` does, and come back.
fn crowd(
    address: SocketAddr,
    (clients, batches): (u32, u32),
    is_over: &Arc<AtomicBool>,
    then: fn(&mut WireClient, &AtomicBool),
) -> Vec<JoinHandle<()>> {
    let one = |number: u32| {
        let is_over = is_over.clone();
        std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let mut client = WireClient::connect(address);
                if (0..batches).all(|_| asks(&mut client, number * 37)) {
                    then(&mut client, &is_over);
                }
            }
        })
    };
    (0..clients).map(one).collect()
}

/// Puts of a good client among others for some seconds: how long one took at most, whatever it was refused before, and
/// the most bytes that the server had admitted meanwhile.
fn among_others(server: &TestServer, good: &mut WireClient) -> (Duration, usize) {
    let (small, begun) = (value(3, 1000), Instant::now());
    let (mut longest, mut admitted) = (Duration::ZERO, 0);
    while begun.elapsed() < Duration::from_secs(6) {
        let started = Instant::now();
        until("a put is taken", Duration::from_secs(60), || {
            admitted = admitted.max(metric(server, "memkv_admitted_bytes") as usize);
            (good.put(b"mine", &small) == Outcome::Ok).then_some(())
        });
        longest = longest.max(started.elapsed());
    }
    (longest, admitted)
}

fn holds_its_share(clients: (u32, u32), then: fn(&mut WireClient, &AtomicBool)) {
    let server = filled_server();
    let mut good = WireClient::connect(server.address());
    let is_over = Arc::<AtomicBool>::default();
    let crowd = crowd(server.address(), clients, &is_over, then);
    until("values are read", Duration::from_secs(10), || {
        (metric(&server, "memkv_admitted_bytes") > 0.0).then_some(())
    });
    let (longest, admitted) = among_others(&server, &mut good);
    is_over.store(true, Ordering::Relaxed);
    for client in crowd {
        client.join().expect("a client");
    }
    println!("{admitted} bytes were admitted; a put took up to {longest:?}");
    let most = IN_FLIGHT_MAX + clients.0 as usize * BLOCK;
    assert!(admitted <= most, "{admitted} bytes were admitted of {most}");
    assert!(longest <= GOOD_WAITS_MAX, "a put took {longest:?}");
    until("nothing is held", Duration::from_secs(30), || {
        (metric(&server, "memkv_admitted_bytes") == 0.0).then_some(())
    });
}

#[test]
fn a_cold_batch_of_a_client_that_reads_leaves_room_for_others() {
    holds_its_share((1, 1), reads);
}

#[test]
fn cold_batches_of_clients_that_never_read_leave_room_for_others() {
    holds_its_share((4, 8), is_deaf);
}
