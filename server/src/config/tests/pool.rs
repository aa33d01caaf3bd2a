//! The pool and the pages under it.

use expect_test::expect;

use super::super::check::{PoolRequest, judge_pool};
use super::super::raw::{HugepageMode, StorageMode};
use super::*;

#[test]
fn blocks_become_powers_of_two_and_the_pool_whole_slabs() {
    let yaml = small("memory: { block_size: 2 MB, max_size: 101 MB }\n")
        .replace("mode: file", "mode: file\n  block_size: 4 MB");
    let config = load(&yaml, &Environment::default()).unwrap();
    assert_eq!(config.storage.extent_bytes, 4 << 20);
    assert_eq!(config.memory.block_bytes, 2 << 20);
    assert_eq!(config.memory.pool_bytes, 48 * (2 << 20));
    let shown = config
        .effective()
        .iter()
        .find(|v| v.path == "storage.block_size")
        .unwrap();
    assert_eq!(shown.value, "4 MiB (rounded up from 4 MB)");
    assert_eq!(config.limits.max_in_flight_bytes, 24 * (2 << 20));
    assert_eq!(config.telemetry.slow.base, Duration::from_millis(10));
}

#[test]
fn direct_mode_refuses_to_start_without_huge_pages_or_memlock() {
    let verdict = |mode, hugepages, free: u64, memlock| {
        let request = PoolRequest {
            pool_bytes: 8 << 30,
            mode,
            drives: if mode == StorageMode::Memory { 0 } else { 2 },
            hugepages,
        };
        let facts = Facts {
            hugepages_free_bytes: Some(free),
            memlock_bytes: memlock,
            ..plenty()
        };
        match judge_pool(request, &facts) {
            Ok(verdict) => {
                let pages = if verdict.huge_pages { "huge" } else { "plain" };
                format!("{pages}\n{}", verdict.findings.join("\n"))
            }
            Err(refusals) => format!("refused\n{}", refusals.join("\n")),
        }
    };
    use HugepageMode::{Auto, Off, Required};
    use StorageMode::{Direct, File, Memory};
    let enough = ByteSize::gib(8).bytes();
    let cases = [
        ("direct auto, enough", verdict(Direct, Auto, enough, None)),
        (
            "direct auto, short",
            verdict(Direct, Auto, enough - (2 << 20), None),
        ),
        (
            "direct auto, short of both",
            verdict(Direct, Auto, 0, Some(8 << 20)),
        ),
        ("direct off", verdict(Direct, Off, enough, None)),
        (
            "direct auto, memlock for one drive",
            verdict(Direct, Auto, enough, Some(enough + (12 << 20))),
        ),
        (
            "direct auto, memlock for both",
            verdict(Direct, Auto, enough, Some(2 * (enough + (12 << 20)))),
        ),
        (
            "file auto, short of both",
            verdict(File, Auto, 0, Some(8 << 20)),
        ),
        ("file required, short", verdict(File, Required, 0, None)),
        (
            "memory auto, nothing to lock",
            verdict(Memory, Auto, enough, Some(8 << 20)),
        ),
    ];
    let shown: String = cases
        .iter()
        .map(|(name, text)| format!("{name}: {text}\n"))
        .collect();
    expect![[r#"
        direct auto, enough: huge

        direct auto, short: refused
        memory.max_size is 8 GiB, but only 8190 MiB are free in huge pages; reserve them with: sysctl vm.nr_hugepages=4096, lower memory.max_size, or set memory.hugepages to off
        direct auto, short of both: refused
        memory.max_size is 8 GiB, but only 0 B are free in huge pages; reserve them with: sysctl vm.nr_hugepages=4096, lower memory.max_size, or set memory.hugepages to off
        memory.max_size is 8 GiB, which each drive locks with its own buffers (16408 MiB for 2), but this process may lock only 8 MiB; raise it with LimitMEMLOCK=infinity (systemd), ulimit -l unlimited, or CAP_IPC_LOCK
        direct off: plain

        direct auto, memlock for one drive: refused
        memory.max_size is 8 GiB, which each drive locks with its own buffers (16408 MiB for 2), but this process may lock only 8204 MiB; raise it with LimitMEMLOCK=infinity (systemd), ulimit -l unlimited, or CAP_IPC_LOCK
        direct auto, memlock for both: huge

        file auto, short of both: plain
        memory.max_size is 8 GiB, but only 0 B are free in huge pages; reserve them with: sysctl vm.nr_hugepages=4096; using plain pages
        memory.max_size is 8 GiB, which each drive locks with its own buffers (16408 MiB for 2), but this process may lock only 8 MiB; raise it with LimitMEMLOCK=infinity (systemd), ulimit -l unlimited, or CAP_IPC_LOCK; using unregistered buffers
        file required, short: refused
        memory.max_size is 8 GiB, but only 0 B are free in huge pages; reserve them with: sysctl vm.nr_hugepages=4096, or set memory.hugepages to auto
        memory auto, nothing to lock: huge

    "#]].assert_eq(&shown);
}

#[test]
fn a_value_holds_a_window_of_the_pool_where_it_streams_and_all_of_itself_in_memory_mode() {
    let pool = "memory: { block_size: 1 MiB, max_size: 64 MiB }\n";
    let file = load(&small(pool), &Environment::default()).unwrap();
    let yaml = format!(
        "network: {{ address: 127.0.0.1:9900 }}\nrdma: {{ enabled: false }}\n\
         storage: {{ mode: memory, max_size: 256 MiB }}\n{pool}"
    );
    let memory = load(&yaml, &Environment::default()).unwrap();
    let held = [1, 16 << 20, 40 << 20].map(|len| (file.bytes_held(len), memory.bytes_held(len)));
    assert_eq!(held, [(1, 1), (16 << 20, 16 << 20), (16 << 20, 40 << 20)]);
}

#[test]
fn in_memory_mode_the_pool_has_storage_max_size_and_memory_max_size_is_a_finding() {
    let yaml = |memory: &str, capacity: &str| {
        format!(
            "network: {{ address: 127.0.0.1:9900 }}\nrdma: {{ enabled: false }}\n\
             storage: {{ mode: memory, max_size: {capacity} }}\n{memory}"
        )
    };
    let both = yaml("memory: { max_size: 32 MiB }\n", "17 MiB");
    let config = load(&both, &Environment::default()).unwrap();
    assert_eq!(config.memory.pool_bytes, 16 << 20);
    let engine = config.engine();
    assert_eq!(engine.memory_bytes, 16 << 20, "whole slabs");
    assert_eq!(config.limits.max_in_flight_bytes, 8 << 20);
    let warned = config.warnings().join("\n");
    assert!(
        warned.contains("memory.max_size doesn't count in memory mode"),
        "{warned}"
    );

    let alone = load(&yaml("", "64 MiB"), &Environment::default()).unwrap();
    let named = |text: &String| text.contains("memory.max_size");
    assert!(!alone.warnings().iter().any(named), "it wasn't set");

    let few = Facts {
        hugepages_free_bytes: Some(20 << 20),
        ..plenty()
    };
    let request = PoolRequest {
        pool_bytes: alone.memory.pool_bytes,
        mode: StorageMode::Memory,
        drives: 0,
        hugepages: HugepageMode::Auto,
    };
    let verdict = judge_pool(request, &few).unwrap();
    let short = "storage.max_size is 64 MiB, but only 20 MiB are free in huge pages";
    assert!(
        verdict.findings[0].starts_with(short),
        "{:?}",
        verdict.findings
    );

    let tiny = load(&yaml("", "1 MiB"), &Environment::default()).unwrap_err();
    assert!(
        tiny.to_string().contains("storage.max_size is 1 MiB"),
        "{tiny}"
    );
}
