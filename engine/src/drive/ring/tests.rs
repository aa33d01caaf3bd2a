use super::*;
use crate::mapping::{Mapping, MappingConfig, PagePolicy};
use crate::slab::{NoObserver, PoolConfig, RegionConfig, RegionTier};

fn ring(metrics: EngineMetrics, pools: &[&SlabPool]) -> (Ring, io::Result<()>) {
    let file = tempfile::tempfile().expect("a file").into();
    let wake = Arc::new(Wake::new().expect("an eventfd"));
    Ring::open(file, wake, 8, 1 << 20, pools, metrics).expect("a ring")
}

fn pool() -> SlabPool {
    let mapping = Mapping::new(&MappingConfig {
        bytes: 2 << 20,
        pages: PagePolicy::Plain,
        numa_node: None,
        prefault_threads: 0,
    });
    let region = RegionConfig {
        mapping: mapping.expect("memory"),
        tier: RegionTier::Fast,
    };
    let config = PoolConfig {
        slab_bytes: 64 << 10,
        regions: vec![region],
        double_free_trace: false,
    };
    SlabPool::new(config, Arc::new(NoObserver)).expect("a pool")
}

/// The kernel's numbers of the operations that name a registered buffer, and of those that don't.
const FIXED: [&str; 2] = ["op_code: 4", "op_code: 5"];
const PLAIN: [&str; 2] = ["op_code: 22", "op_code: 23"];

#[test]
fn io_of_a_pools_memory_names_the_buffer_that_it_is_registered_as() {
    let (registered, stranger) = (pool(), pool());
    let (mut ring, result) = ring(EngineMetrics::detached(), &[&registered]);
    let mut codes = |pool: &SlabPool| {
        let lease = || pool.try_lease(8192).expect("it fits").expect("it is free");
        let (id, offset) = (IoId(1), 0);
        let target = lease();
        ring.push(Io::Read { id, offset, target });
        let source = lease().freeze();
        ring.push(Io::Write { id, offset, source });
        let entries = ring.todo.drain(..).collect::<Vec<_>>();
        let entries = entries
            .iter()
            .map(|chunk| format!("{:?}", ring.entry(chunk)));
        entries.collect::<Vec<_>>()
    };
    let expect = |codes: &[String], expected: [&str; 2]| {
        assert_eq!(codes.len(), 2, "an I/O each");
        for (code, expected) in codes.iter().zip(expected) {
            assert!(code.contains(expected), "{code} isn't {expected}");
        }
    };
    // Where no memory may be locked it works all the same, and the engine has a finding.
    expect(
        &codes(&registered),
        if result.is_ok() { FIXED } else { PLAIN },
    );
    expect(&codes(&stranger), PLAIN);
}

#[test]
fn a_completion_of_nothing_in_flight_is_counted_and_dropped() {
    let metrics = EngineMetrics::detached();
    let (mut ring, _) = ring(metrics.clone(), &[]);
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
