//! Nothing is declared that nothing ever writes: a real server and a client are brought into the
//! situations that their series tell of, and each series has to tell of one.

use std::cell::RefCell;
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
use memkv_telemetry::metrics::{Kind, SERIES, Scope, Values};
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

/// Whether a file has a test of that name.
fn has_test(file: &str, test: &str) -> bool {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    let source = fs::read_to_string(path).expect("the test's file");
    let (before, name) = ("#[test]", format!("fn {test}()"));
    let mut lines = source.lines().map(str::trim);
    let mut next = lines.clone().skip(1);
    lines.any(|line| {
        next.next()
            .is_some_and(|next| line == before && next.starts_with(&name))
    })
}

#[test]
fn what_is_only_made_to_happen_by_a_test_has_that_test() {
    for (series, file, test) in ARTIFICIAL {
        let declared = SERIES.iter().any(|declared| declared.name == series);
        assert!(declared, "{series} isn't declared any more");
        assert!(
            has_test(file, test),
            "{file} has no test {test}, which writes {series}"
        );
    }
    for (series, label, values, by) in ELSEWHERE {
        let declared = SERIES.iter().find(|declared| declared.name == *series);
        let labels = declared.map_or(&[][..], |declared| declared.labels);
        let declared = labels.iter().find(|declared| declared.name() == *label);
        for value in *values {
            let is_declared = declared.is_some_and(|label| match label.values() {
                Values::Closed(all) => all.contains(value),
                Values::Configured(_) => false,
            });
            assert!(
                is_declared,
                "{series}{{{label}={value}}} isn't declared any more"
            );
        }
        if let Ok((file, test)) = by {
            assert!(
                has_test(file, test),
                "{file} has no test {test}, which writes {series} {values:?}"
            );
        }
    }
}

/// Label values that the run below doesn't write: series, label, values, and who writes them. A test, by its file and
/// name, makes it happen there, or shows that it would be written; without one there is a reason why nothing ever does.
#[rustfmt::skip]
const ELSEWHERE: &[(&str, &str, &[&str], Writer)] = &[
    ("memkv_op_duration_seconds", "transport", &["rdma"], Err(NO_RDMA)),
    ("memkv_connections", "transport", &["rdma"], Err(NO_RDMA)),
    ("memkv_client_transport_active", "transport", &["rdma"], Err(NO_RDMA)),
    ("memkv_bytes_total", "op", &["delete", "exists"], Err("they move no values")),
    ("memkv_client_bytes_total", "op", &["delete", "exists"], Err("they move no values")),
    ("memkv_drive_bytes_total", "op", &["flush"], Err("it moves nothing")),
    ("memkv_slow_ops_total", "blame", &["pause", "retransmit", "congestion", "reclaim"],
        Err("what measures that isn't built yet")),
    ("memkv_slow_ops_total", "blame", &["device", "block_queue", "cpu", "credit", "slab_wait", "peer"],
        Ok(("telemetry/src/slow/tests.rs", "every_stage_has_somebody_to_blame"))),
    ("memkv_slow_ops_total", "blame", &["unknown"],
        Ok(("telemetry/src/slow/tests.rs", "blame_is_unknown_where_nothing_explains_half"))),
    ("memkv_auth_failures_total", "reason", &["bad_mac"],
        Ok(("tests/it/server/attacks.rs", "a_frame_with_a_wrong_mac_closes_the_connection"))),
    ("memkv_auth_failures_total", "reason", &["clock_skew"],
        Ok(("tests/it/server/attacks.rs", "a_clock_more_than_a_minute_off_is_refused_and_counted"))),
    ("memkv_auth_failures_total", "reason", &["sequence"],
        Ok(("tests/it/server/attacks.rs", "a_frame_replayed_on_its_connection_closes_it"))),
    ("memkv_auth_failures_total", "reason", &["no_session"],
        Ok(("tests/it/server/attacks.rs", "an_op_before_the_handshake_is_refused"))),
    ("memkv_auth_failures_total", "reason", &["admin_token"],
        Ok(("tests/it/server/admin.rs", "verbs_that_change_something_need_token_and_host"))),
    ("memkv_auth_key_uses_total", "key", &["previous"],
        Ok(("tests/it/faults/signals.rs", "sighup_rotates_the_key_under_live_clients"))),
    ("memkv_protocol_faults_total", "fault", &["version"],
        Ok(("tests/it/server/attacks.rs", "a_frame_of_another_version_closes_the_connection"))),
    ("memkv_protocol_faults_total", "fault", &["header"],
        Ok(("tests/it/server/attacks.rs",
            "an_authentic_frame_above_the_limits_is_told_so_and_its_connection_closed"))),
    ("memkv_protocol_faults_total", "fault", &["digest"],
        Ok(("tests/it/server/attacks.rs", "an_altered_control_part_closes_the_connection"))),
    ("memkv_protocol_faults_total", "fault", &["truncated"],
        Ok(("tests/it/server/attacks.rs", "a_frame_cut_off_is_forgotten"))),
    ("memkv_protocol_faults_total", "fault", &["stalled"],
        Ok(("tests/it/server/load.rs", "a_connection_that_never_says_hello_is_closed"))),
    ("memkv_rejected_total", "reason", &["busy"],
        Ok(("tests/it/server/ops.rs", "overload_is_busy_soon_and_never_a_long_wait"))),
    ("memkv_rejected_total", "reason", &["connections"],
        Ok(("tests/it/server/load.rs", "half_open_connections_are_bounded_and_the_oldest_makes_room"))),
    ("memkv_rejected_total", "reason", &["no_space"],
        Ok(("tests/it/server/ops.rs", "a_store_that_may_not_evict_says_no_space_and_takes_deletes"))),
    ("memkv_rejected_total", "reason", &["draining", "too_large", "cancelled"],
        Ok(("server/src/status.rs", "every_refusal_of_an_op_counts_for_a_reason_of_its_name"))),
    ("memkv_slabs", "state", &["leased", "stored"],
        Ok(("engine/src/engine/memory/tests.rs", "slabs_are_counted_by_their_use_and_add_up_to_the_pool"))),
    ("memkv_evictions_total", "reason", &["expired"],
        Ok(("engine/src/engine/expiry_tests.rs",
            "an_expired_value_on_a_drive_is_counted_as_expired_when_its_room_is_reused"))),
    ("memkv_evictions_total", "reason", &["corrupt"],
        Ok(("engine/src/engine/fault_tests.rs", "corrupt_record_and_extent_are_typed_errors_then_misses"))),
    ("memkv_crc_mismatches_total", "source", &["read"],
        Ok(("tests/it/faults/corruption.rs", "a_damaged_extent_is_never_served"))),
    ("memkv_crc_mismatches_total", "source", &["recovery"],
        Ok(("engine/src/engine/fault_tests.rs", "record_that_recovery_finds_corrupt_is_counted_as_found_there"))),
    ("memkv_drive_errors_total", "op", &["write"],
        Ok(("tests/it/faults/space.rs", "a_drive_that_finds_no_room_while_running_refuses_puts_and_goes_on_reading"))),
    ("memkv_drive_errors_total", "op", &["flush"],
        Ok(("engine/src/engine/room_tests.rs", "flush_that_fails_takes_the_drive_out_and_acknowledges_nothing"))),
    ("memkv_client_connections", "state", &["connecting"], Err("it is over before a scrape comes by")),
    ("memkv_spans_total", "decision", &["sampled", "unsampled", "suppressed"],
        Ok(("telemetry/src/hub/tests/kept.rs", "a_trace_that_nobody_keeps_is_no_exemplar"))),
    ("memkv_exporter_dropped_total", "exporter", &["otlp_metrics"],
        Ok(("telemetry/src/otlp/push/tests.rs", "a_snapshot_that_isnt_taken_whole_is_counted_as_dropped"))),
    ("memkv_exporter_failures_total", "exporter", &["otlp_metrics"],
        Ok(("telemetry/src/otlp/push/tests.rs", "a_snapshot_that_isnt_taken_whole_is_counted_as_dropped"))),
    ("memkv_log_events_total", "level", &["debug", "trace"], Err("only where logging.level asks for them")),
];

/// A test by its file and name, or why there is none.
type Writer = Result<(&'static str, &'static str), &'static str>;

const NO_RDMA: &str = "RDMA isn't built yet";

/// Names of the series that an exposition has a sample other than 0 of.
fn written(page: &str) -> BTreeSet<String> {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let isnt_zero = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        (value.parse() != Ok(0.0)).then(|| name.split('{').next().unwrap_or(name).to_owned())
    };
    samples.filter_map(isnt_zero).collect()
}

/// A series, a label and a value of it.
type Place = (String, String, String);

/// Label values that an exposition has a sample other than 0 of.
fn written_values(page: &str, into: &mut BTreeSet<Place>) {
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((sample, number)) = line.rsplit_once(' ') else {
            continue;
        };
        let Some((name, labels)) = sample.split_once('{') else {
            continue;
        };
        if number.parse() == Ok(0.0) {
            continue;
        }
        let name = name.strip_suffix("_count").unwrap_or(name);
        let labels = labels.trim_end_matches("\"}").split("\",");
        let labels = labels.filter_map(|label| label.split_once("=\""));
        into.extend(labels.map(|(label, value)| (name.into(), label.into(), value.into())));
    }
}

/// Declared label values that weren't written, and that nobody else is said to write.
fn missing_values(written: &BTreeSet<Place>) -> Vec<Place> {
    let elsewhere = |(series, label, value): &Place| {
        let is_it = |row: &(&str, &str, &[&str], _)| {
            row.0 == series && row.1 == label && row.2.contains(&value.as_str())
        };
        ELSEWHERE.iter().any(is_it)
    };
    let mut missing = Vec::new();
    for series in SERIES {
        for label in series.labels {
            let Values::Closed(values) = label.values() else {
                continue;
            };
            let place = |value: &&str| (series.name.into(), label.name().into(), (*value).into());
            missing.extend(values.iter().map(place));
        }
    }
    missing.retain(|place| !written.contains(place) && !elsewhere(place));
    missing
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
                      otlp_endpoint: http://127.0.0.1:9\n  logs_otlp: true\nsurprise: 1\n"
        .to_owned();
    // Clients place its keys by the address that they connect to, and say so.
    setup.network.push("node_id: kv-a".to_owned());
    setup.arguments = vec!["--allow-unknown-keys".to_owned()];
    setup.allowed.push(String::new()); // What happens here is what a log complains of.
    let server = setup.start();

    let telemetry = client_telemetry(server.data);
    let client = |address| {
        let mut config = load::config(address);
        config.retries = 3;
        config.explicit_node_ids = true;
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
    let values = RefCell::new(BTreeSet::new());
    let mut scrape = || {
        let pages = [server.page("/v1/metrics"), telemetry.render(Format::Text)];
        by_server.extend(written(&pages[0]));
        by_client.extend(written(&pages[1]));
        for page in &pages {
            written_values(page, &mut values.borrow_mut());
        }
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
    // Its clients notice, and try again and again.
    until("every label's values are written", PATIENCE, || {
        _ = reader.get(b"key");
        let mut values = values.borrow_mut();
        written_values(&telemetry.render(Format::Text), &mut values);
        let missing = missing_values(&values);
        println!(
            "values not written after {:?}: {missing:?}",
            started.elapsed()
        );
        missing.is_empty().then_some(())
    });
}
