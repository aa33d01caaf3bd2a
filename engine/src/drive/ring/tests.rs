use super::*;

fn ring(metrics: EngineMetrics) -> Ring {
    let file = tempfile::tempfile().expect("a file").into();
    let wake = Arc::new(Wake::new().expect("an eventfd"));
    let (ring, registered) = Ring::open(file, wake, 8, 1 << 20, &[], metrics).expect("a ring");
    drop(registered);
    ring
}

#[test]
fn a_completion_of_nothing_in_flight_is_counted_and_dropped() {
    let metrics = EngineMetrics::detached();
    let mut ring = ring(metrics.clone());
    ring.push(Io::Flush { id: IoId(1) });
    // Another's, one of a slot that there isn't, and ones of sequences that are over or to come.
    let slot_3_of = |sequence: u64| MAGIC << 48 | sequence << 16 | 3;
    for data in [7, MAGIC << 48 | 0x1234, slot_3_of(0), slot_3_of(1 << 20)] {
        let nothing = opcode::Nop::new().build().user_data(data);
        // SAFETY: a no-op names no memory.
        unsafe { ring.uring.submission().push(&nothing) }.expect("there is room");
    }
    let mut done = Vec::new();
    while metrics.stale_completions() < 4 || done.is_empty() {
        let waited = ring.wait(Duration::from_secs(20), &mut done);
        waited.expect("it completes at once");
    }
    let ids: Vec<IoId> = done.iter().map(|done| done.id).collect();
    assert_eq!((metrics.stale_completions(), ids), (4, vec![IoId(1)]));
    assert_eq!(ring.in_flight(), 0);
}
