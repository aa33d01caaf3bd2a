use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsPartialSuccess;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    self as otlp, AggregationTemporality, metric, number_data_point,
};

use super::*;
use crate::clock::Tick;
use crate::labels::{OpKind, OutcomeLabel, Step, Tier, Transport};
use crate::metrics::{self, SERIES};
use crate::snapshot::{Family, Value};
use crate::{Format, Role, Telemetry, TelemetryConfig, Timeline};

/// Far enough that only the last snapshot, at shutdown, is sent.
const NEVER: Duration = Duration::from_secs(3600);

fn client_of(address: &str, every: Duration) -> Telemetry {
    let mut config = TelemetryConfig::new(Role::Client, "1.2.3");
    config.servers = vec!["10.0.0.1:9900".to_owned(), "10.0.0.2:9900".to_owned()];
    config.instance = "worker-7".to_owned();
    config.otlp = Some(OtlpConfig {
        protocol: OtlpProtocol::Http,
        timeout: Duration::from_secs(10),
        metrics_every: every,
        ..OtlpConfig::new(format!("http://{address}"))
    });
    Telemetry::new(config).unwrap()
}

fn record_gets(telemetry: &Telemetry, count: u64) {
    let mut recorder = telemetry.recorder();
    for n in 1..=count {
        let mut timeline = Timeline::begin_client(OpKind::Get, Transport::Tcp, Tick(1_000));
        timeline.stamp_step(Step::Wait, Tick(1_000), Tick(1_000 + n * 900));
        timeline.server_idx = (n % 2) as u16;
        timeline.count(Tier::None, OutcomeLabel::Ok, 1);
        timeline.bytes_out = 4096;
        timeline.finish(Tick(1_000 + n * 1_000));
        recorder.record(&timeline);
    }
}

/// Reads one request; its head in lower case, and its body.
fn read_request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let (mut all, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let n = stream.read(&mut piece).ok().filter(|n| *n > 0)?;
        all.extend_from_slice(&piece[..n]);
        let Some(end) = all.windows(4).position(|end| end == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&all[..end]).to_lowercase();
        let mut lines = head.lines();
        let length = lines.find_map(|line| line.strip_prefix("content-length: "))?;
        if all.len() >= end + 4 + length.parse::<usize>().ok()? {
            return Some((head, all[end + 4..].to_vec()));
        }
    }
}

/// A collector that decodes metrics and answers each request with `reply`.
fn collector(
    reply: ExportMetricsServiceResponse,
) -> (String, mpsc::Receiver<ExportMetricsServiceRequest>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, receiver) = mpsc::channel();
    let body = reply.encode_to_vec();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let Some((head, request)) = read_request(&mut stream) else {
                continue;
            };
            // The op's spans go to the same collector. What came is there before whoever sent it goes on.
            if head.starts_with("post /v1/metrics ") {
                assert!(
                    head.contains("content-type: application/x-protobuf"),
                    "{head}"
                );
                let decoded = ExportMetricsServiceRequest::decode(&request[..]).expect("a request");
                if sender.send(decoded).is_err() {
                    return;
                }
            }
            let length = body.len();
            _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
            );
            _ = stream.write_all(&body);
        }
    });
    (address, receiver)
}

fn metrics_of(request: &ExportMetricsServiceRequest) -> &[otlp::Metric] {
    &request.resource_metrics[0].scope_metrics[0].metrics
}

fn metric<'a>(request: &'a ExportMetricsServiceRequest, name: &str) -> &'a otlp::Metric {
    let found = metrics_of(request)
        .iter()
        .find(|metric| metric.name == name);
    found.unwrap_or_else(|| panic!("no {name}"))
}

fn texts(attributes: &[KeyValue]) -> Vec<(&str, &str)> {
    fn text(attribute: &KeyValue) -> Option<&str> {
        match &attribute.value.as_ref()?.value {
            Some(any_value::Value::StringValue(text)) => Some(text),
            _ => None,
        }
    }
    let pairs = attributes
        .iter()
        .map(|attribute| (attribute.key.as_str(), text(attribute).unwrap_or("?")));
    pairs.collect()
}

fn op_points(request: &ExportMetricsServiceRequest) -> &[otlp::HistogramDataPoint] {
    let name = metrics::CLIENT_OP_DURATION.name;
    match &metric(request, name).data {
        Some(metric::Data::Histogram(histogram)) => &histogram.data_points,
        other => panic!("{name} is {other:?}"),
    }
}

/// Label values and number of every sample, those of telemetry itself left out: they move by the export.
fn numbers(families: &[Family]) -> Vec<(String, Vec<String>, f64)> {
    let mut all = Vec::new();
    for family in families {
        for sample in &family.samples {
            if let Value::Number(number) = sample.value {
                let labels = sample.labels.iter().map(ToString::to_string).collect();
                all.push((family.series.name.to_owned(), labels, number));
            }
        }
    }
    all.retain(|(name, ..)| name.starts_with("memkv_client_"));
    all
}

fn otlp_numbers(request: &ExportMetricsServiceRequest) -> Vec<(String, Vec<String>, f64)> {
    let mut all = Vec::new();
    for metric in metrics_of(request) {
        let points = match &metric.data {
            Some(metric::Data::Sum(sum)) => {
                assert!(sum.is_monotonic, "{}", metric.name);
                assert_eq!(
                    sum.aggregation_temporality(),
                    AggregationTemporality::Cumulative
                );
                &sum.data_points
            }
            Some(metric::Data::Gauge(gauge)) => &gauge.data_points,
            _ => continue,
        };
        for point in points {
            let labels = texts(&point.attributes).into_iter();
            let labels = labels.map(|(_, value)| value.to_owned()).collect();
            let number = match point.value {
                Some(number_data_point::Value::AsInt(number)) => number as f64,
                Some(number_data_point::Value::AsDouble(number)) => number,
                None => panic!("{} has a point without a value", metric.name),
            };
            all.push((metric.name.clone(), labels, number));
        }
    }
    all.retain(|(name, ..)| name.starts_with("memkv_client_"));
    all
}

#[test]
fn a_clients_last_counts_reach_the_collector_at_shutdown() {
    let (address, received) = collector(ExportMetricsServiceResponse::default());
    let telemetry = client_of(&address, NEVER);
    record_gets(&telemetry, 100);
    telemetry
        .client_metrics()
        .connection_moved(0, None, Some(crate::ConnectionState::Ready));
    assert!(telemetry.shutdown(Duration::from_secs(20)));
    let request = received
        .try_recv()
        .expect("it was sent before shutdown returned");
    let expected = numbers(&telemetry.families());
    assert!(expected.len() > 10);
    assert_eq!(otlp_numbers(&request), expected);

    let resource = request.resource_metrics[0].resource.as_ref().unwrap();
    let resource = texts(&resource.attributes);
    assert!(
        resource.contains(&("service.name", "memkv-client")),
        "{resource:?}"
    );
    assert!(resource.contains(&("service.instance.id", "worker-7")));
    let scope = request.resource_metrics[0].scope_metrics[0].scope.as_ref();
    assert_eq!(scope.unwrap().version, "1.2.3");
    let dropped = telemetry.exporter_dropped(Exporter::Metrics);
    assert_eq!(dropped, 0, "nothing was lost");
}

#[test]
fn a_histogram_keeps_its_bounds_and_its_buckets_add_up() {
    let (address, received) = collector(ExportMetricsServiceResponse::default());
    let telemetry = client_of(&address, NEVER);
    record_gets(&telemetry, 100);
    telemetry.shutdown(Duration::from_secs(20));
    let request = received.try_recv().unwrap();
    let point = &op_points(&request)[0];
    assert_eq!(texts(&point.attributes), [("op", "get"), ("outcome", "ok")]);
    assert_eq!(point.explicit_bounds, metrics::CLIENT_OP_DURATION.buckets);
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    assert_eq!(point.bucket_counts.iter().sum::<u64>(), 100);
    assert_eq!(point.count, 100);
    // 1 + 2 + … + 100 µs.
    assert!(
        (point.sum.unwrap() - 5050e-6).abs() < 1e-9,
        "{:?}",
        point.sum
    );
    // Each of 1 to 100 µs once: a bucket has as many as it is wide.
    let (mut lower, mut expected) = (0.0, Vec::new());
    for bound in metrics::CLIENT_OP_DURATION.buckets {
        let us = (bound * 1e6f64).min(100.0).round();
        expected.push((us - lower) as u64);
        lower = us;
    }
    assert_eq!(point.bucket_counts[..expected.len()], expected);
    assert!(point.start_time_unix_nano > 0 && point.time_unix_nano >= point.start_time_unix_nano);
}

#[test]
fn every_metric_sent_is_declared_with_its_kind_and_unit() {
    let (address, received) = collector(ExportMetricsServiceResponse::default());
    let telemetry = client_of(&address, NEVER);
    record_gets(&telemetry, 1);
    telemetry.shutdown(Duration::from_secs(20));
    let request = received.try_recv().unwrap();
    for metric in metrics_of(&request) {
        let series = SERIES.iter().find(|series| series.name == metric.name);
        let series = series.unwrap_or_else(|| panic!("{} isn't declared", metric.name));
        let kind = match metric.data {
            Some(metric::Data::Sum(_)) => metrics::Kind::Counter,
            Some(metric::Data::Gauge(_)) => metrics::Kind::Gauge,
            Some(metric::Data::Histogram(_)) => metrics::Kind::Histogram,
            ref other => panic!("{} is {other:?}", metric.name),
        };
        assert_eq!(kind, series.kind, "{}", metric.name);
        assert_eq!(metric.description, series.help);
        let unit = match series.unit {
            metrics::Unit::Count => "",
            metrics::Unit::Bytes => "By",
            metrics::Unit::Seconds => "s",
        };
        assert_eq!(metric.unit, unit, "{}", metric.name);
    }
}

#[test]
fn metrics_are_sent_again_and_again_and_only_ever_rise() {
    let (address, received) = collector(ExportMetricsServiceResponse::default());
    let telemetry = client_of(&address, Duration::from_millis(50));
    let refreshed = Arc::new(AtomicUsize::new(0));
    let its_refreshed = Arc::clone(&refreshed);
    telemetry.before_scrape(move || _ = its_refreshed.fetch_add(1, Ordering::Relaxed));
    let next = || received.recv_timeout(Duration::from_secs(20)).unwrap();
    record_gets(&telemetry, 10);
    let first = std::iter::repeat_with(next)
        .find(|request| {
            metrics_of(request)
                .iter()
                .any(|m| m.name == "memkv_client_op_duration_seconds")
        })
        .unwrap();
    record_gets(&telemetry, 5);
    let later = std::iter::repeat_with(next)
        .find(|request| op_points(request)[0].count == 15)
        .unwrap();
    let (first, later) = (&op_points(&first)[0], &op_points(&later)[0]);
    assert_eq!(first.start_time_unix_nano, later.start_time_unix_nano);
    assert!(first.time_unix_nano < later.time_unix_nano);
    assert!(refreshed.load(Ordering::Relaxed) >= 2);
    telemetry.shutdown(Duration::from_secs(20));
}

#[test]
fn an_ops_trace_goes_with_its_bucket() {
    let (address, received) = collector(ExportMetricsServiceResponse::default());
    let telemetry = client_of(&address, NEVER);
    let mut recorder = telemetry.recorder();
    let caller = crate::TraceContext {
        trace_id: [0xab; 16],
        span_id: [1; 8],
        flags: 1,
    };
    let start = crate::clock::now();
    let mut timeline = recorder.begin_client(OpKind::Put, Transport::Tcp, start, Some(caller));
    timeline.count(Tier::None, OutcomeLabel::Ok, 1);
    timeline.finish(start.after(Duration::from_micros(100)));
    recorder.record(&timeline);
    telemetry.shutdown(Duration::from_secs(20));
    let request = received.try_recv().unwrap();
    let exemplar = &op_points(&request)[0].exemplars[0];
    assert_eq!(exemplar.trace_id, [0xab; 16]);
    assert_eq!(exemplar.span_id, timeline.span_id);
}

#[test]
fn a_server_is_scraped_and_sends_no_metrics() {
    let (address, received) = collector(ExportMetricsServiceResponse::default());
    let mut config = TelemetryConfig::new(Role::Server, "1");
    config.otlp = Some(OtlpConfig {
        protocol: OtlpProtocol::Http,
        metrics_every: Duration::from_millis(10),
        ..OtlpConfig::new(format!("http://{address}"))
    });
    let telemetry = Telemetry::new(config).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    telemetry.shutdown(Duration::from_secs(5));
    assert!(received.try_recv().is_err());
}

#[test]
fn a_snapshot_that_isnt_taken_whole_is_counted_as_dropped() {
    let rejects = ExportMetricsServiceResponse {
        partial_success: Some(ExportMetricsPartialSuccess {
            rejected_data_points: 3,
            error_message: "too old".to_owned(),
        }),
    };
    let (rejecting, _received) = collector(rejects);
    for address in [&rejecting, "127.0.0.1:9"] {
        for protocol in [OtlpProtocol::Http, OtlpProtocol::Grpc] {
            let mut config = TelemetryConfig::new(Role::Client, "1");
            config.otlp = Some(OtlpConfig {
                protocol,
                timeout: Duration::from_secs(2),
                metrics_every: NEVER,
                ..OtlpConfig::new(format!("http://{address}"))
            });
            let telemetry = Telemetry::new(config).unwrap();
            telemetry.shutdown(Duration::from_secs(20));
            let text = telemetry.render(Format::Text);
            for name in ["dropped", "failures"] {
                let line = format!("memkv_exporter_{name}_total{{exporter=\"otlp_metrics\"}} 1\n");
                assert!(text.contains(&line), "{protocol:?} {address} {name}");
            }
        }
    }
}

#[test]
fn a_collector_that_stalls_holds_up_neither_recording_nor_shutdown() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // Connections complete in the kernel's backlog; nobody ever reads them.
    let address = listener.local_addr().unwrap().to_string();
    let telemetry = client_of(&address, Duration::from_millis(1));
    std::thread::sleep(Duration::from_millis(50));
    record_gets(&telemetry, 10);
    let started = Instant::now();
    assert!(!telemetry.shutdown(Duration::from_millis(300)));
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(telemetry.summary().ops[0].count, 10);
}

#[test]
fn headers_are_read_as_opentelemetry_writes_them() {
    let parsed = headers("api-key=a%20b%2Fc, x-scope = team1,broken,bad name=1,k=%zz,k=%é");
    assert_eq!(parsed["api-key"], "a b/c");
    assert_eq!(parsed["x-scope"], "team1");
    assert_eq!(parsed.len(), 2);
    assert!(headers("").is_empty());
}
