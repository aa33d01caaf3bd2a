//! What the machine offers the pool, as data: read once, handed to the rules, fed by tests.

use std::fs;

/// What the machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Cores this process may use.
    pub cores: usize,
    /// Bytes in free huge pages of the default size; `None` where that can't be read.
    pub hugepages_free_bytes: Option<u64>,
    /// Bytes of one huge page.
    pub hugepage_bytes: u64,
    /// The most this process may lock; `None` is no limit.
    pub memlock_bytes: Option<u64>,
    /// RAM that could be had without swapping; `None` where that can't be read.
    pub ram_available_bytes: Option<u64>,
}

impl Facts {
    /// Asks the kernel.
    pub fn read() -> Self {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
        Self::from_texts(&meminfo, &status, limit)
    }

    /// Reads the kernel's texts; pure.
    fn from_texts(meminfo: &str, status: &str, memlock: Option<u64>) -> Self {
        let number = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':')
                .split_whitespace()
                .next()?
                .parse::<u64>()
                .ok()
        };
        let hugepage_bytes = number("Hugepagesize").map_or(2 << 20, |kib| kib << 10);
        // Reserved pages are promised to somebody else, though still counted as free.
        let free = number("HugePages_Free")
            .map(|free| free.saturating_sub(number("HugePages_Rsvd").unwrap_or(0)));
        let capabilities = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0);
        const CAP_IPC_LOCK: u64 = 1 << 14;
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            hugepages_free_bytes: free.map(|free| free.saturating_mul(hugepage_bytes)),
            hugepage_bytes,
            memlock_bytes: if capabilities & CAP_IPC_LOCK != 0 {
                None
            } else {
                memlock
            },
            ram_available_bytes: number("MemAvailable").map(|kib| kib << 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       65536000 kB\nMemAvailable:   32768000 kB\n\
        HugePages_Total:    1024\nHugePages_Free:      512\nHugePages_Rsvd:       12\n\
        Hugepagesize:       2048 kB\n";

    #[test]
    fn reserved_huge_pages_are_not_free() {
        let facts = Facts::from_texts(MEMINFO, "CapEff:\t0000000000000000\n", Some(8 << 20));
        assert_eq!(facts.hugepages_free_bytes, Some(500 * (2 << 20)));
        assert_eq!(facts.memlock_bytes, Some(8 << 20));
        assert_eq!(facts.ram_available_bytes, Some(32_768_000 << 10));
    }

    #[test]
    fn cap_ipc_lock_lifts_the_memlock_limit() {
        let facts = Facts::from_texts(MEMINFO, "CapEff:\t0000000000004000\n", Some(8 << 20));
        assert_eq!(facts.memlock_bytes, None);
    }

    #[test]
    fn an_unreadable_proc_leaves_facts_unknown() {
        let facts = Facts::from_texts("", "", None);
        assert_eq!(
            (facts.hugepages_free_bytes, facts.ram_available_bytes),
            (None, None)
        );
    }
}
