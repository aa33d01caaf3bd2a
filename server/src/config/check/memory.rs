//! The pool, and whether the machine can give it.

use memkv_settings::{ByteSize, Setting, Source};

use super::super::raw::{HugepageMode, RawMemory, RawStorage, StorageMode};
use super::super::{Facts, Memory};
use super::Checker;

/// What sizes the pool: in memory mode values lie in it, and nothing else has them.
pub(super) fn pool_field(mode: StorageMode) -> &'static str {
    match mode {
        StorageMode::Memory => "storage.max_size",
        StorageMode::Direct | StorageMode::File => "memory.max_size",
    }
}

impl Checker<'_> {
    pub(super) fn memory(
        &mut self,
        raw: RawMemory,
        storage: &RawStorage,
        drives: usize,
        double_free_trace: bool,
    ) -> Memory {
        let RawMemory {
            block_size,
            max_size,
            hugepages,
        } = raw;
        let block_bytes = self.power_of_two("memory.block_size", &block_size);
        let mode = storage.mode.value;
        let max_size = self.pool_size(max_size, storage);
        let blocks = max_size.value.bytes() / block_bytes.max(1);
        let pool_bytes = blocks.saturating_mul(block_bytes);
        let fields = [
            "memory.block_size",
            pool_field(mode),
            "memory.hugepages",
            "storage.mode",
        ];
        let mut huge_pages = false;
        if self.sound(&fields) {
            if blocks < 4 {
                self.refuse(format!(
                    "{}: {} is {}, but must be at least four blocks of {} (memory.block_size); raise it to {}",
                    max_size.source,
                    pool_field(mode),
                    max_size.value,
                    ByteSize(block_bytes),
                    ByteSize(block_bytes.saturating_mul(4)),
                ));
            } else {
                huge_pages = self.pages(PoolRequest {
                    pool_bytes,
                    mode,
                    drives,
                    hugepages: hugepages.value,
                });
            }
        }
        if double_free_trace {
            let source = Source::Env("MEMKV_SLAB_DOUBLE_FREE_TRACE");
            self.show("memory.double_free_trace", "true".to_owned(), source);
        }
        Memory {
            block_bytes,
            pool_bytes,
            hugepages: hugepages.value,
            huge_pages,
            double_free_trace,
        }
    }

    /// The size of the pool, and who says so.
    fn pool_size(
        &mut self,
        max_size: Setting<ByteSize>,
        storage: &RawStorage,
    ) -> Setting<ByteSize> {
        // Without a capacity memory mode is refused for that.
        let (StorageMode::Memory, Some(capacity)) = (storage.mode.value, storage.max_size.value)
        else {
            return max_size;
        };
        if max_size.source != Source::Default {
            let source = &max_size.source;
            self.warn(format!(
                "{source}: memory.max_size doesn't count in memory mode, where the pool has the {capacity} of \
                 storage.max_size; remove it"
            ));
        }
        Setting {
            value: capacity,
            source: storage.max_size.source.clone(),
        }
    }

    fn pages(&mut self, request: PoolRequest) -> bool {
        match judge_pool(request, self.facts) {
            Ok(verdict) => {
                self.warnings.extend(verdict.findings);
                if request.hugepages == HugepageMode::Auto {
                    let pages = if verdict.huge_pages {
                        "auto: huge"
                    } else {
                        "auto: plain"
                    };
                    self.show(
                        "memory.hugepages",
                        pages.to_owned(),
                        Source::Detected("/proc/meminfo".into()),
                    );
                }
                verdict.huge_pages
            }
            Err(refusals) => {
                for refusal in refusals {
                    self.refuse(refusal);
                }
                false
            }
        }
    }
}

/// What a pool asks of the machine.
#[derive(Debug, Clone, Copy)]
pub(in crate::config) struct PoolRequest {
    pub(in crate::config) pool_bytes: u64,
    pub(in crate::config) mode: StorageMode,
    /// How many register it.
    pub(in crate::config) drives: usize,
    pub(in crate::config) hugepages: HugepageMode,
}

/// What the machine can give it.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::config) struct PoolVerdict {
    pub(in crate::config) huge_pages: bool,
    pub(in crate::config) findings: Vec<String>,
}

/// Decides whether the pool gets huge pages and may be locked.
///
/// Direct mode refuses where either is missing, because raw NVMe without them runs at a third of
/// its speed and nobody would notice why; the other modes carry on with a finding.
pub(in crate::config) fn judge_pool(
    request: PoolRequest,
    facts: &Facts,
) -> Result<PoolVerdict, Vec<String>> {
    let PoolRequest {
        pool_bytes,
        mode,
        drives,
        hugepages,
    } = request;
    let (field, pool) = (pool_field(mode), ByteSize(pool_bytes));
    let direct = mode == StorageMode::Direct;
    let mut refusals = Vec::new();
    let mut findings = Vec::new();

    let free = facts.hugepages_free_bytes.unwrap_or(0);
    let enough = free >= pool_bytes;
    let pages = pool_bytes.div_ceil(facts.hugepage_bytes.max(1));
    let short = format!(
        "{field} is {pool}, but only {} are free in huge pages; reserve them with: sysctl vm.nr_hugepages={pages}",
        ByteSize(free)
    );
    let huge_pages = match hugepages {
        HugepageMode::Off => false,
        HugepageMode::Auto | HugepageMode::Required if enough => true,
        HugepageMode::Required => {
            refusals.push(format!("{short}, or set memory.hugepages to auto"));
            false
        }
        HugepageMode::Auto if direct => {
            refusals.push(format!(
                "{short}, lower memory.max_size, or set memory.hugepages to off"
            ));
            false
        }
        HugepageMode::Auto => {
            findings.push(format!("{short}; using plain pages"));
            false
        }
    };
    let locked = memkv_engine::locked_bytes(pool_bytes, drives);
    if let Some(limit) = facts.memlock_bytes.filter(|limit| *limit < locked) {
        let short = format!(
            "{field} is {pool}, which each drive locks with its own buffers ({} for {drives}), but \
             this process may lock only {}; raise it with LimitMEMLOCK=infinity (systemd), ulimit -l unlimited, or \
             CAP_IPC_LOCK",
            ByteSize(locked),
            ByteSize(limit)
        );
        if direct {
            refusals.push(short);
        } else {
            findings.push(format!("{short}; using unregistered buffers"));
        }
    }
    if refusals.is_empty() {
        Ok(PoolVerdict {
            huge_pages,
            findings,
        })
    } else {
        Err(refusals)
    }
}
