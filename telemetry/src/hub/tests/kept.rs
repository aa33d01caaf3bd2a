//! What the hub makes of each op: a span or none, an exemplar or none, slow or not.

use super::*;
use crate::slow::SlowPolicy;

/// A trace that its caller records, or not.
fn caller(id: u8, is_sampled: bool) -> Option<TraceContext> {
    Some(TraceContext {
        trace_id: [id; 16],
        span_id: [1; 8],
        flags: is_sampled.into(),
    })
}

/// Records ops of one thread, one after the other, and ends; the exposition with exemplars.
fn exposed(config: TelemetryConfig, ops: &[(u64, Option<TraceContext>)]) -> (Telemetry, String) {
    let telemetry = Telemetry::new(config).unwrap();
    let mut recorder = telemetry.recorder();
    for (us, caller) in ops {
        let timeline = get(&mut recorder, *us, *caller);
        recorder.record(&timeline);
    }
    telemetry.shutdown(Duration::from_secs(1));
    let text = telemetry.render(Format::OpenMetrics);
    (telemetry, text)
}

/// Each exemplar's bucket and the first byte of its trace.
fn exemplars(text: &str) -> Vec<(String, u8)> {
    let with_exemplar = text.lines().filter(|line| line.contains(" # {"));
    let found = with_exemplar.map(|line| {
        let after = |start: &str| line.split(start).nth(1).unwrap();
        let bucket = after("le=\"").split('"').next().unwrap();
        let trace = u8::from_str_radix(&after("trace_id=\"")[..2], 16).unwrap();
        (bucket.to_owned(), trace)
    });
    found.collect()
}

#[test]
fn an_exemplar_is_the_newest_of_its_bucket_and_a_bound_belongs_to_the_bucket_below() {
    let ops = [
        (100, caller(1, true)),
        (128, caller(2, true)),
        (129, caller(3, true)),
        (40, caller(4, true)),
    ];
    let (_, text) = exposed(TelemetryConfig::new(Role::Server, "1"), &ops);
    let expected = [("0.000064", 4), ("0.000128", 2), ("0.000256", 3)];
    assert_eq!(
        exemplars(&text),
        expected.map(|(le, id)| (le.to_owned(), id))
    );
}

#[test]
fn a_trace_that_nobody_keeps_is_no_exemplar() {
    // Nothing is sent, so only what the caller records can be looked up.
    let slow = (50_000, caller(1, false));
    let quiet = TelemetryConfig::new(Role::Server, "1");
    let (telemetry, text) = exposed(quiet.clone(), &[slow]);
    assert_eq!(telemetry.spans(SpanDecision::Slow), 1);
    assert_eq!(exemplars(&text), []);
    // With a collector it is there; what the rate cap holds back isn't.
    let mut sending = quiet;
    sending.otlp = Some(OtlpConfig::new("http://127.0.0.1:9"));
    sending.spans_per_second = 1;
    let ops = [slow, (100_000, caller(2, false)), (10, caller(3, false))];
    let (telemetry, text) = exposed(sending, &ops);
    assert_eq!(telemetry.spans(SpanDecision::Slow), 1);
    assert_eq!(telemetry.spans(SpanDecision::Suppressed), 1);
    assert_eq!(telemetry.spans(SpanDecision::Unsampled), 1);
    assert_eq!(exemplars(&text), [("0.065536".to_owned(), 1)]);
}

#[test]
fn the_rate_cap_is_the_configured_one_and_what_it_holds_back_is_counted() {
    let mut config = TelemetryConfig::new(Role::Server, "1");
    config.spans_per_second = 3;
    config.sample_ratio = 1.0;
    let (telemetry, text) = exposed(config, &[(10, None); 10]);
    let kept = telemetry.spans(SpanDecision::Sampled);
    let held_back = telemetry.spans(SpanDecision::Suppressed);
    // All ten are recorded within far less than a second; a token may drip in.
    assert!((3..=5).contains(&kept), "{kept}");
    assert_eq!(kept + held_back, 10);
    let line = format!("memkv_spans_total{{decision=\"suppressed\"}} {held_back}\n");
    assert!(text.contains(&line), "{text}");
}

#[test]
fn slow_is_what_the_configuration_says() {
    let mut config = TelemetryConfig::new(Role::Server, "1");
    config.slow = SlowPolicy {
        base: Duration::from_micros(50),
        ..SlowPolicy::default()
    };
    let (telemetry, text) = exposed(config, &[(40, None), (60, None)]);
    assert_eq!(telemetry.slow_ops().newest.len(), 1);
    assert_eq!(telemetry.slow_ops().slowest.len(), 2, "slow or not");
    let line = "memkv_slow_ops_total{op=\"get\",blame=\"device\"} 1\n";
    assert!(text.contains(line), "{text}");
}

#[test]
fn a_stop_judges_what_was_recorded_just_before() {
    // The thread looks every 20 ms: what comes in between must not be lost.
    for _ in 0..5 {
        let slow = TelemetryConfig::new(Role::Server, "1");
        let (telemetry, _) = exposed(slow, &[(50_000, None); 7]);
        assert_eq!(telemetry.spans(SpanDecision::Slow), 7);
    }
}

#[test]
fn whatever_a_label_holds_stays_inside_its_quotes() {
    let telemetry = server();
    let drive = telemetry.engine_metrics().drive("a\"b\\c\nd");
    drive.set_up(true);
    let line = "memkv_drive_up{drive=\"a\\\"b\\\\c\\nd\"} 1";
    for format in [Format::Text, Format::OpenMetrics] {
        let text = telemetry.render(format);
        assert!(text.lines().any(|written| written == line), "{text}");
    }
}

#[test]
fn one_scrape_of_a_full_server_is_one_sample_each() {
    let telemetry = server();
    fill_server(&telemetry);
    for format in [Format::Text, Format::OpenMetrics] {
        let text = telemetry.render(format);
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        assert_eq!(samples.count(), lines(&text).len(), "no line occurs twice");
    }
}
