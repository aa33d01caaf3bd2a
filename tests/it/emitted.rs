//! Nothing is declared that nothing ever writes: a real server and a client are brought into the
//! situations that their series tell of, and each series has to tell of one.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use memkv_client::Client;
use memkv_proto::op::OpCode;
use memkv_proto::request::encode_writes;
use memkv_telemetry::metrics::{Kind, SERIES, Scope};
use memkv_telemetry::{Format, OtlpConfig, Role, Telemetry, TelemetryConfig};
use memkv_tests::load::{self, Load};
use memkv_tests::poll::until;
use memkv_tests::program::{Program, Setup};
use memkv_tests::wire::{self, WireClient};

/// Beyond this it won't come; the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(180);

/// Series of what never happens to a server that works, each with the test that makes it happen.
const ARTIFICIAL: [(&str, &str, &str); 3] = [
    (
        // A bug of ours; the test returns the memory by hand.
        "memkv_slab_double_frees_total",
        "engine/src/engine/tests.rs",
        "memory_freed_twice_is_given_out_once_counted_and_its_place_logged_eight_times",
    ),
    (
        // A bug of ours or the kernel's; the test completes what nobody asked for.
        "memkv_stale_completions_total",
        "engine/src/drive/ring/tests.rs",
        "a_completion_of_nothing_in_flight_is_counted_and_dropped",
    ),
    (
        // A telemetry thread that doesn't run for milliseconds; the test stops it.
        "memkv_timelines_lost_total",
        "telemetry/src/hub/tests.rs",
        "a_full_ring_loses_timelines_but_counts_them_and_their_ops",
    ),
];

#[test]
fn what_is_only_made_to_happen_by_a_test_has_that_test() {
    for (series, file, test) in ARTIFICIAL {
        let declared = SERIES.iter().any(|declared| declared.name == series);
        assert!(declared, "{series} isn't declared any more");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
        let source = fs::read_to_string(path).expect("the test's file");
        let is_there = source.contains(&format!("#[test]\nfn {test}()"));
        assert!(is_there, "{file} has no test {test}, which writes {series}");
    }
}

/// Names of the series that an exposition has a sample other than 0 of.
fn written(page: &str) -> BTreeSet<String> {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let isnt_zero = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        (value.parse() != Ok(0.0)).then(|| name.split('{').next().unwrap_or(name).to_owned())
    };
    samples.filter_map(isnt_zero).collect()
}

/// What isn't written yet, by name.
fn missing(server: &BTreeSet<String>, client: &BTreeSet<String>) -> Vec<&'static str> {
    let is_written = |name: &str, scope| match scope {
        Scope::Server => server.contains(name),
        Scope::Client => client.contains(name),
        Scope::Both => server.contains(name) || client.contains(name),
    };
    let is_artificial = |name: &str| ARTIFICIAL.iter().any(|(series, ..)| *series == name);
    let lacks = |series: &&&memkv_telemetry::metrics::Series| match series.kind {
        Kind::Histogram => !is_written(&format!("{}_count", series.name), series.scope),
        Kind::Counter | Kind::Gauge => !is_written(series.name, series.scope),
    };
    let missing = SERIES.iter().filter(lacks).map(|series| series.name);
    missing.filter(|name| !is_artificial(name)).collect()
}

/// Stands between a client and a server; cuts a connection at the next request once it is told to.
fn cutter(server: SocketAddr) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let cut = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&cut);
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(upstream) = TcpStream::connect(server) else {
                return;
            };
            let back = (upstream.try_clone(), client.try_clone());
            if let (Ok(from), Ok(to)) = back {
                std::thread::spawn(move || forward(from, to, &AtomicBool::new(false)));
            }
            let told = Arc::clone(&told);
            std::thread::spawn(move || forward(client, upstream, &told));
        }
    });
    (address, cut)
}

fn forward(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if cut.swap(false, Ordering::SeqCst) || to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // Either may be closed already.
    _ = from.shutdown(Shutdown::Both);
    _ = to.shutdown(Shutdown::Both);
}

/// Puts a value whose checksum is wrong.
fn put_damaged(server: SocketAddr) {
    let mut client = WireClient::connect(server);
    let mut entry = wire::entry(b"damaged", b"value");
    entry.crc ^= 1;
    let mut control = Vec::new();
    let head = encode_writes(&mut control, OpCode::Put, None, [entry]);
    let id = client.next_id();
    let head = head.expect("an encodable put").with_request_id(id);
    client.send(head, &control, b"value");
    client.receive().expect("an answer");
}

/// Asks for a value within a microsecond, which is over before the request is looked at.
fn ask_too_late(server: SocketAddr) {
    let mut client = WireClient::connect(server);
    let mut control = Vec::new();
    let keys = [b"key".as_slice()];
    let head = memkv_proto::request::encode_keys(&mut control, OpCode::Get, None, 0, keys);
    let id = client.next_id();
    let head = head.expect("an encodable get").with_request_id(id);
    client.send(head.with_deadline_us(1), &control, &[]);
    client.receive().expect("an answer");
}

/// What no client of ours does.
fn trouble(server: &Program) {
    put_damaged(server.data);
    ask_too_late(server.data);
    let mut stranger = wire::connect(server.data);
    stranger
        .write_all(b"GET / HTTP/1.0\r\n\r\n")
        .expect("the server reads");
    wire::read_to_close(&mut stranger);
}

fn client_telemetry(server: SocketAddr) -> Telemetry {
    let mut config = TelemetryConfig::new(Role::Client, "test");
    config.servers = vec![server.to_string()];
    config.otlp = Some(OtlpConfig::new("http://127.0.0.1:9"));
    Telemetry::new(config).expect("telemetry starts")
}

#[test]
fn every_declared_series_is_written_by_what_it_tells_of() {
    let home = tempfile::tempdir().expect("a temporary folder");
    // Small enough that values are evicted, wait for slabs and come from the drive; every op is
    // slow and traced, and nobody listens where spans go.
    let mut setup = Setup::new(home.path(), "256 MiB").pool("16 MiB");
    setup.sections = "telemetry:\n  slow: {base_ms: 0, per_mib_ms: 0}\n  sample_ratio: 1\n  \
                      otlp_endpoint: http://127.0.0.1:9\nsurprise: 1\n"
        .to_owned();
    // Clients expect it to be the address that they connect to.
    setup.network.push("node_id: kv-a".to_owned());
    setup.arguments = vec!["--allow-unknown-keys".to_owned()];
    setup.allowed.push(String::new()); // What happens here is what a log complains of.
    let server = setup.start();

    let telemetry = client_telemetry(server.data);
    let client = |address| {
        let mut config = load::config(address);
        config.retries = 3;
        Client::with_telemetry(config, telemetry.clone()).expect("a client can be made")
    };
    let busy = Load::mixed(client(server.data), 6);
    let strangers = Load::with_wrong_key(server.data);
    trouble(&server);
    let (address, cut) = cutter(server.data);
    let cut_off = client(address);
    cut_off.get(b"key").expect("the cutter forwards");
    cut.store(true, Ordering::SeqCst);
    cut_off.get(b"key").expect("a read is sent again");

    let started = Instant::now();
    let (mut by_server, mut by_client) = (BTreeSet::new(), BTreeSet::new());
    let mut scrape = || {
        by_server.extend(written(&server.page("/v1/metrics")));
        by_client.extend(written(&telemetry.render(Format::Text)));
        let missing = missing(&by_server, &by_client);
        // Shown where the test fails.
        println!("not written after {:?}: {missing:?}", started.elapsed());
        missing
    };
    until("all but a drive's errors are written", PATIENCE, || {
        let missing = scrape();
        (missing.len() <= 1).then_some(())
    });
    drop((busy, strangers));
    assert_eq!(scrape(), ["memkv_drive_errors_total"]);
    // What lay on the drive is gone, so that reads of it fail.
    let drive = fs::OpenOptions::new().write(true).open(setup.media(0));
    drive
        .and_then(|file| file.set_len(0))
        .expect("a drive's file");
    let reader = client(server.data);
    until("a drive's errors are written", PATIENCE, || {
        for round in 0..200 {
            _ = reader.get(format!("0/{round}/1").as_bytes());
        }
        scrape().is_empty().then_some(())
    });
    server.kill();
}
