//! A pool on reserved huge pages, which the test reserves itself: root may.

use std::fs;

use memkv_tests::program::{Program, Setup};
use memkv_tests::tier::Tier;
use memkv_tests::wire::value;
use tempfile::TempDir;

const RESERVED: &str = "/proc/sys/vm/nr_hugepages";
const PAGES: u64 = 8;

/// Reserved pages; as many as before are left when dropped.
struct Reserved {
    before: u64,
}

impl Reserved {
    /// Eight more, if the kernel gives them.
    fn more() -> Option<Self> {
        let reserved = Self { before: count()? };
        let wanted = reserved.before + PAGES;
        fs::write(RESERVED, wanted.to_string()).ok()?;
        (count()? >= wanted).then_some(reserved)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let restored = fs::write(RESERVED, self.before.to_string());
        if let Err(error) = restored {
            eprintln!("{RESERVED} was {}: {error}", self.before);
        }
    }
}

fn count() -> Option<u64> {
    fs::read_to_string(RESERVED).ok()?.trim().parse().ok()
}

/// KiB that the process has mapped in pages of 2 MiB.
fn mapped(server: &Program) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{}/smaps", server.pid())).unwrap();
    let lines = maps.lines().filter_map(|line| line.split_once(':'));
    let huge = lines.filter(|(name, _)| matches!(*name, "Private_Hugetlb" | "Shared_Hugetlb"));
    huge.map(|(_, size)| size.trim().trim_end_matches(" kB").parse::<u64>().unwrap())
        .sum()
}

#[test]
fn a_pool_that_requires_huge_pages_lies_in_them() {
    let Some(_reserved) = Reserved::more() else {
        Tier::Block.skipped(&format!("{RESERVED} gives no {PAGES} pages of 2 MiB more"));
        return;
    };
    let home = TempDir::new().unwrap();
    let setup = Setup::new(home.path(), "64 MiB").pool("16 MiB\n  hugepages: required");
    let server = setup.start();
    let client = server.client();
    for number in 0..8 {
        let key = format!("key-{number}").into_bytes();
        client.put(&key, &value(number, 1 << 20)).unwrap();
        assert!(client.get(&key).unwrap() == Some(value(number, 1 << 20)));
    }
    assert!(mapped(&server) >= 2 << 10, "{} KiB", mapped(&server));
    let status = server.status();
    assert_eq!(status["memory"]["huge_pages"], true, "{status:#}");
    let findings = status["findings"].to_string();
    assert!(!findings.contains("huge pages"), "{findings}");
    server.stop();
}
