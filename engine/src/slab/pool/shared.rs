//! What all leases of a pool share: geometry, the locked state, counters.

use super::carve::classes;
use super::state::{Shape, State};
use super::*;

impl Shared {
    pub(super) fn new(
        config: PoolConfig,
        observer: Arc<dyn PoolObserver>,
    ) -> Result<Self, PoolError> {
        let slab_bytes = config.slab_bytes;
        if !(16 * PAGE_BYTES..=PIECE_BYTES).contains(&slab_bytes)
            || !slab_bytes.is_multiple_of(PAGE_BYTES)
        {
            return Err(PoolError::SlabBytes { bytes: slab_bytes });
        }
        let bytes = config
            .regions
            .iter()
            .map(|region| region.mapping.bytes())
            .sum();
        let mut regions = Vec::with_capacity(config.regions.len());
        let mut slab_count = 0usize;
        for RegionConfig { mapping, tier } in config.regions {
            let (whole, rest) = (mapping.bytes() / PIECE_BYTES, mapping.bytes() % PIECE_BYTES);
            let count = whole * (PIECE_BYTES / slab_bytes) + rest / slab_bytes;
            too_many(slab_count + count, "slabs", u32::MAX as usize - 1)?;
            regions.push(Region {
                mapping,
                tier,
                first_slab: slab_count as u32,
                slab_count: count as u32,
            });
            slab_count += count;
        }
        too_many(regions.len(), "regions", usize::from(u16::MAX))?;
        if slab_count == 0 {
            return Err(PoolError::NoSlab { bytes, slab_bytes });
        }
        let classes = classes(slab_bytes);
        assert!(
            classes.len() < usize::from(WHOLE_SLAB),
            "classes are numbered by a byte"
        );
        Ok(Self {
            slab_bytes,
            regions,
            state: Mutex::new(State::new(slab_count, classes.len())),
            classes,
            observer,
            double_free_trace: config.double_free_trace,
            traces: Mutex::new(Vec::new()),
            slab_count,
            frozen_slabs: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            leaked_bytes: AtomicUsize::new(0),
        })
    }

    pub(in crate::slab) fn slab_bytes(&self) -> usize {
        self.slab_bytes
    }

    pub(super) fn capacity_bytes(&self) -> usize {
        self.slab_count * self.slab_bytes
    }

    pub(super) fn class_bytes(&self, class: u8) -> u32 {
        self.classes[usize::from(class)]
    }

    /// What a lease of `len` bytes consists of.
    pub(super) fn shape(&self, len: usize) -> Result<Shape, LeaseError> {
        let (slabs, rest) = (len / self.slab_bytes, len % self.slab_bytes);
        // A long value's last piece is whole pages, as those before it.
        let rest = if slabs > 0 {
            rest.next_multiple_of(PAGE_BYTES)
        } else {
            rest
        };
        let class = self
            .classes
            .partition_point(|bytes| (*bytes as usize) < rest);
        let shape = match rest {
            0 => Shape { slabs, class: None },
            _ if class < self.classes.len() => Shape {
                slabs,
                class: Some(class as u8),
            },
            _ => Shape {
                slabs: slabs + 1,
                class: None,
            },
        };
        if shape.slabs + usize::from(shape.class.is_some()) > self.slab_count {
            return Err(LeaseError::TooLarge {
                len,
                max: self.capacity_bytes(),
            });
        }
        Ok(shape)
    }

    /// The piece of `capacity` bytes at `offset` in a slab.
    pub(super) fn piece(&self, slab_idx: u32, offset: u32, capacity: u32, class: u8) -> Piece {
        let last = self
            .regions
            .partition_point(|region| region.first_slab <= slab_idx)
            - 1;
        let region = &self.regions[last];
        let offset = self.slab_offset(region, slab_idx) + offset as usize;
        assert!(
            offset + capacity as usize <= region.mapping.bytes(),
            "a piece is in its region"
        );
        Piece {
            pointer: region.mapping.pointer_at(offset),
            offset: offset as u64,
            slab_idx,
            capacity,
            region_idx: last as u16,
            class,
        }
    }

    pub(super) fn offset_in_slab(&self, piece: &Piece) -> u32 {
        let region = &self.regions[usize::from(piece.region_idx)];
        (piece.offset - self.slab_offset(region, piece.slab_idx) as u64) as u32
    }

    /// Where a slab starts in its region: none crosses a 1 GiB boundary.
    fn slab_offset(&self, region: &Region, slab_idx: u32) -> usize {
        let idx = (slab_idx - region.first_slab) as usize;
        let per_piece = PIECE_BYTES / self.slab_bytes;
        idx / per_piece * PIECE_BYTES + idx % per_piece * self.slab_bytes
    }

    pub(super) fn own(self: &Arc<Self>, pieces: Pieces, len: usize) -> WriteMemory {
        WriteMemory::new(Held::new(Arc::clone(self), pieces, len))
    }

    /// Takes pieces back and serves those who wait.
    pub(in crate::slab) fn release(self: &Arc<Self>, pieces: &[Piece], frozen: bool) {
        if pieces.is_empty() {
            return;
        }
        let mut whole_count = 0;
        let mut twice_count = 0;
        let waiting = {
            let mut state = self.state.lock();
            for piece in pieces {
                whole_count += usize::from(piece.class == WHOLE_SLAB);
                twice_count += usize::from(!state.free(piece, self));
            }
            if frozen {
                self.frozen_slabs.fetch_sub(whole_count, Ordering::Relaxed);
            }
            !state.waiting.is_empty()
        };
        (0..twice_count).for_each(|_| self.observer.freed_twice());
        if twice_count > 0 {
            self.trace_double_free();
        }
        if waiting {
            self.deliver();
        }
    }

    /// Grants what can be granted, in order; returns at once if another thread is at it, which
    /// will then see what this one freed.
    pub(super) fn deliver(self: &Arc<Self>) {
        let mut delivering = false;
        loop {
            let next = {
                let mut state = self.state.lock();
                if state.delivering && !delivering {
                    return;
                }
                let next = state.next_grant(self);
                state.delivering = next.is_some();
                next
            };
            let Some((waiting, pieces)) = next else {
                return;
            };
            delivering = true;
            let waited_ns = self.observer.now_ns().saturating_sub(waiting.since_ns);
            self.observer.waited(waited_ns);
            let memory = self.own(pieces, waiting.len);
            let Waiter { sink, token } = waiting.waiter;
            sink.granted(Grant {
                token,
                memory,
                waited_ns,
            });
        }
    }

    pub(in crate::slab) fn set_owner(&self, piece: &Piece, owner: u64) {
        self.state.lock().set_owner(piece, owner, self);
    }

    /// A lease of whole slabs was frozen.
    pub(in crate::slab) fn count_frozen(&self, slab_count: usize) {
        if slab_count > 0 {
            // Under the lock, so that counts() sees states that sum up.
            let _state = self.state.lock();
            self.frozen_slabs.fetch_add(slab_count, Ordering::Relaxed);
        }
    }

    pub(in crate::slab) fn count_flight(&self, taken_off: bool) {
        match taken_off {
            true => self.in_flight.fetch_add(1, Ordering::Relaxed),
            false => self.in_flight.fetch_sub(1, Ordering::Relaxed),
        };
    }

    pub(in crate::slab) fn count_leak(&self, bytes: usize) {
        self.leaked_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> SlabCounts {
        let state = self.state.lock();
        let reading = self.frozen_slabs.load(Ordering::Relaxed);
        let (free, carved) = (state.free_count(), state.carved_count);
        SlabCounts {
            free,
            carved,
            writing: self.slab_count - free - carved - reading,
            reading,
            capacity: self.slab_count,
            slot_bytes: state.slot_bytes,
            in_flight: self.in_flight.load(Ordering::Relaxed),
            leaked_bytes: self.leaked_bytes.load(Ordering::Relaxed),
            waiting: state.waiting.len(),
        }
    }

    /// Says it in the log, with the place of the second return as far as tracing goes: the first
    /// few backtraces tell where, and a bug in a loop mustn't flood the log with more.
    #[cold]
    fn trace_double_free(&self) {
        let trace = self.double_free_trace.then(|| self.keep_trace()).flatten();
        match trace {
            Some(backtrace) => {
                tracing::error!(%backtrace, "slab memory freed twice; it was not given out again");
            }
            None => tracing::error!("slab memory freed twice; it was not given out again"),
        }
    }

    fn keep_trace(&self) -> Option<String> {
        let mut traces = self.traces.lock();
        if traces.len() == DOUBLE_FREE_TRACES_MAX {
            return None;
        }
        let trace = format!("{:?}", backtrace::Backtrace::new());
        traces.push(trace.clone());
        Some(trace)
    }
}

fn too_many(count: usize, what: &'static str, max: usize) -> Result<(), PoolError> {
    if count > max {
        Err(PoolError::TooMany { count, what, max })
    } else {
        Ok(())
    }
}
