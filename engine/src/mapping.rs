//! Maps the memory of one region: huge pages where they are reserved, else transparent ones,
//! else plain ones, and says which it got.
//!
//! A mapping is anonymous and private, is never inherited by a forked child (`MADV_DONTFORK`:
//! Valkey's BGSAVE forks, and a child that copied a pinned page would break DMA in the parent),
//! and lives until the last lease of its region is gone. It is zeroed by the kernel, so every
//! byte is initialised from the start. It doesn't lock pages: registering them with a ring or a
//! NIC does that.
//!
//! Aliasing: a `Mapping` hands out a base pointer and no reference. Disjoint ranges are the
//! slab pool's promise, and slices are made in `slab::lease` only.

use std::io;
use std::ptr::NonNull;

/// Size of a huge page that we ask for.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// What kind of pages a mapping stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Reserved 2 MiB pages (`MAP_HUGETLB`).
    Huge,
    /// Transparent huge pages (`MADV_HUGEPAGE`); the kernel gives them where it can.
    Transparent,
    /// Plain 4 KiB pages.
    Plain,
}

/// How much the caller insists on reserved huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PagePolicy {
    /// Take the best there is and say what it was.
    #[default]
    Prefer,
    /// Fail where too few 2 MiB pages are reserved (`direct` mode and RDMA).
    Require,
    /// Take transparent huge pages where the kernel gives them, and no reserved ones.
    Transparent,
    /// Never ask for huge pages of any kind.
    Plain,
}

/// What to map.
#[derive(Clone, Copy, Debug)]
pub struct MappingConfig {
    /// Size; rounded up to 2 MiB.
    pub bytes: usize,
    /// How much huge pages matter.
    pub pages: PagePolicy,
    /// NUMA node to prefer; `None` leaves it to the kernel.
    pub numa_node: Option<u16>,
    /// Threads that touch every page before use; 0 leaves pages to be faulted on first use.
    pub prefault_threads: usize,
}

/// What was wanted and what was got: material for the doctor and the log.
#[derive(Clone, Debug)]
pub struct MappingFinding {
    /// The pages that were got.
    pub pages: PageKind,
    /// Why no better pages were got; `None` where nothing better was wanted.
    pub degraded: Option<String>,
    /// Why the NUMA node could not be preferred.
    pub numa: Option<String>,
}

/// Why a region can't be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// Nothing, or more than an address space holds.
    #[error("mapping of {bytes} bytes: must be 1 byte to 2^46")]
    BadSize {
        /// Size asked for.
        bytes: usize,
    },
    /// Too few reserved 2 MiB pages, and the caller insists on them.
    #[error(
        "map {bytes} bytes of 2 MiB pages: needs {pages} free huge pages; \
         raise them with `sysctl vm.nr_hugepages={pages}` or lower memory.max_size"
    )]
    NoHugePages {
        /// Size asked for.
        bytes: usize,
        /// Huge pages that it takes.
        pages: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel has no such memory.
    #[error("map {bytes} bytes")]
    Map {
        /// Size asked for.
        bytes: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The mapping can't be kept from forked children.
    #[error("keep a mapping of {bytes} bytes from forked children")]
    DontFork {
        /// Size asked for.
        bytes: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// One anonymous mapping; unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    numa_node: Option<u16>,
    finding: MappingFinding,
}

// SAFETY: a mapping is plain memory owned by this value alone; it has no thread affinity, and
// no reference into it is made here.
unsafe impl Send for Mapping {}
// SAFETY: as for Send; shared access only reads the base pointer and the size.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps a region and touches its pages where asked to.
    ///
    /// Takes as long as the kernel needs to zero the memory: about 50 ms per GiB and thread
    /// with 2 MiB pages, several times that with plain ones.
    ///
    /// # Errors
    /// [`MapError`]; with [`PagePolicy::Require`] too few reserved pages are one.
    pub fn new(config: &MappingConfig) -> Result<Self, MapError> {
        let wanted = config.bytes;
        if wanted == 0 || wanted > 1 << 46 {
            return Err(MapError::BadSize { bytes: wanted });
        }
        let bytes = wanted.next_multiple_of(HUGE_PAGE_BYTES);
        let mut degraded = None;
        let mut mapping = match map_huge(bytes, config) {
            Ok(Some(base)) => Self::own(base, bytes, PageKind::Huge, config),
            Ok(None) => Self::own(map_plain(bytes)?, bytes, PageKind::Plain, config),
            Err(source) if config.pages == PagePolicy::Require => {
                let pages = bytes / HUGE_PAGE_BYTES;
                return Err(MapError::NoHugePages {
                    bytes,
                    pages,
                    source,
                });
            }
            Err(source) => {
                let pages = bytes / HUGE_PAGE_BYTES;
                degraded = Some(format!("{pages} reserved 2 MiB pages: {source}"));
                Self::own(map_plain(bytes)?, bytes, PageKind::Plain, config)
            }
        };
        mapping
            .advise(libc::MADV_DONTFORK)
            .map_err(|source| MapError::DontFork { bytes, source })?;
        if degraded.is_some() || config.pages == PagePolicy::Transparent {
            match mapping.transparent() {
                Ok(()) => mapping.finding.pages = PageKind::Transparent,
                Err(why) => {
                    let first = degraded.map(|first| first + "; ").unwrap_or_default();
                    degraded = Some(format!("{first}transparent: {why}"));
                }
            }
        }
        mapping.finding.degraded = degraded;
        if let Some(node) = config.numa_node {
            mapping.finding.numa = mapping.prefer_node(node).err().map(|why| why.to_string());
        }
        if config.prefault_threads > 0 {
            mapping.prefault(config.prefault_threads);
        }
        Ok(mapping)
    }

    fn own(base: NonNull<u8>, bytes: usize, pages: PageKind, config: &MappingConfig) -> Self {
        let finding = MappingFinding {
            pages,
            degraded: None,
            numa: None,
        };
        Self {
            base,
            bytes,
            numa_node: config.numa_node,
            finding,
        }
    }

    /// First byte; 2 MiB-aligned whatever the pages.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The byte at `offset`.
    ///
    /// # Panics
    /// If that is not within the mapping.
    pub fn pointer_at(&self, offset: usize) -> NonNull<u8> {
        assert!(
            offset < self.bytes,
            "offset {offset} of a mapping of {} bytes",
            self.bytes
        );
        // SAFETY: offset is within the mapping.
        unsafe { self.base.add(offset) }
    }

    /// Size in bytes, a multiple of 2 MiB.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The node that was asked for.
    pub fn numa_node(&self) -> Option<u16> {
        self.numa_node
    }

    /// What pages were got, and why no better ones.
    pub fn finding(&self) -> &MappingFinding {
        &self.finding
    }

    fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        advise(self.base, self.bytes, advice)
    }

    /// Asks for transparent huge pages. `never` in the kernel's setting accepts the advice and
    /// ignores it, so the setting is read too.
    fn transparent(&self) -> Result<(), String> {
        let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
            .unwrap_or_default();
        if setting.contains("[never]") {
            return Err("/sys/kernel/mm/transparent_hugepage/enabled is never".into());
        }
        self.advise(libc::MADV_HUGEPAGE)
            .map_err(|why| why.to_string())
    }

    fn prefer_node(&self, node: u16) -> io::Result<()> {
        const MPOL_PREFERRED: libc::c_int = 1;
        const MASK_WORDS: usize = 16;
        let bits = u64::BITS as usize;
        let mut mask = [0u64; MASK_WORDS];
        let word = mask
            .get_mut(usize::from(node) / bits)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        *word |= 1 << (usize::from(node) % bits);
        // SAFETY: the range is ours and the mask outlives the call; mbind writes no memory.
        let failed = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.base.as_ptr(),
                self.bytes,
                MPOL_PREFERRED,
                mask.as_ptr(),
                // The kernel takes one bit less than it is told.
                MASK_WORDS * bits + 1,
                0,
            )
        };
        if failed == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Populates every page from several threads; a kernel without `MADV_POPULATE_WRITE`
    /// (before 5.14) leaves them to be faulted on first use.
    fn prefault(&self, threads: usize) {
        let huge_pages = self.bytes / HUGE_PAGE_BYTES;
        let part_bytes = huge_pages.div_ceil(threads) * HUGE_PAGE_BYTES;
        std::thread::scope(|scope| {
            for start in (0..self.bytes).step_by(part_bytes) {
                let len = part_bytes.min(self.bytes - start);
                scope.spawn(move || {
                    // SAFETY: start + len is within the mapping, which outlives the scope.
                    let part = unsafe { self.base.add(start) };
                    let _ = advise(part, len, libc::MADV_POPULATE_WRITE);
                });
            }
        });
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and bytes are what mmap gave us, and nobody can hold a reference into the
        // mapping: leases keep their region alive.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

fn advise(base: NonNull<u8>, bytes: usize, advice: libc::c_int) -> io::Result<()> {
    // SAFETY: callers pass a range of a live mapping of ours; none of the advices that we use
    // discards contents.
    let failed = unsafe { libc::madvise(base.as_ptr().cast(), bytes, advice) };
    if failed == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn map(bytes: usize, flags: libc::c_int) -> io::Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice overlaps nothing.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

fn map_huge(bytes: usize, config: &MappingConfig) -> io::Result<Option<NonNull<u8>>> {
    if matches!(config.pages, PagePolicy::Plain | PagePolicy::Transparent) {
        return Ok(None);
    }
    map(bytes, libc::MAP_HUGETLB | libc::MAP_HUGE_2MB).map(Some)
}

/// Maps plain pages at a 2 MiB-aligned address, so that transparent huge pages fit: maps 2 MiB
/// too much and gives back both ends.
fn map_plain(bytes: usize) -> Result<NonNull<u8>, MapError> {
    let roomy = bytes + HUGE_PAGE_BYTES;
    let raw = map(roomy, libc::MAP_NORESERVE).map_err(|source| MapError::Map { bytes, source })?;
    let head = raw.as_ptr().align_offset(HUGE_PAGE_BYTES);
    let tail = roomy - head - bytes;
    // SAFETY: head ≤ 2 MiB and head + bytes + tail = roomy, so all three parts lie within the
    // mapping just made, and nothing refers to the two that are given back.
    unsafe {
        let base = raw.add(head);
        if head > 0 {
            libc::munmap(raw.as_ptr().cast(), head);
        }
        if tail > 0 {
            libc::munmap(base.add(bytes).as_ptr().cast(), tail);
        }
        Ok(base)
    }
}

#[cfg(test)]
mod tests;
