//! One shard of the hot tier: entries, their map, the heads of its queues.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::queue::{Fifo, Ghost, HashedMap, Links};
use super::{CacheCounts, CacheKey, Evicted, Hit};
use crate::index::KeyHash;
use crate::slab::{ReadMemory, SlabId};

/// Reads that count: two bits.
const READS_MAX: u8 = 3;
/// What an empty value counts for.
const EMPTY_BYTES: usize = 64;

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    Small,
    Main,
    /// In no queue: never evicted.
    Kept,
}

/// Which queue an entry went to, and where the one was that it replaced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) now: Queue,
    pub(super) before: Option<Queue>,
}

#[derive(Debug)]
pub(super) struct Entry<M> {
    hash: KeyHash,
    key: Box<[u8]>,
    memory: ReadMemory,
    meta: M,
    /// When it came into its queue.
    sequence: usize,
    namespace: u32,
    reads: u8,
    was_read: bool,
}

impl<M> Entry<M> {
    pub(super) fn new(key: &CacheKey<'_>, memory: ReadMemory, meta: M, sequence: usize) -> Self {
        let (hash, namespace) = (key.hash, key.namespace);
        let key = key.key.into();
        Self {
            hash,
            key,
            memory,
            meta,
            sequence,
            namespace,
            reads: 0,
            was_read: false,
        }
    }

    /// Bytes of pool memory that it occupies; an empty value counts as the smallest one, so that
    /// those are bounded as well.
    pub(super) fn bytes(&self) -> usize {
        self.memory.charged_bytes().max(EMPTY_BYTES)
    }

    /// Tells the pool that this entry can be evicted, or that it can't.
    pub(super) fn set_owner(&self, keep: bool) {
        self.memory
            .set_owner(if keep { 0 } else { self.hash.0 as u64 });
    }

    pub(super) fn is(&self, key: &CacheKey<'_>) -> bool {
        self.hash == key.hash && self.namespace == key.namespace && *self.key == *key.key
    }

    pub(super) fn into_hit(self) -> Hit<M> {
        Hit {
            memory: self.memory,
            meta: self.meta,
        }
    }

    pub(super) fn into_evicted(self) -> Evicted<M> {
        let Self {
            hash,
            key,
            memory,
            meta,
            namespace,
            was_read,
            ..
        } = self;
        Evicted {
            hash,
            namespace,
            key,
            memory,
            meta,
            was_read,
        }
    }
}

/// Room for an entry; its index stays while the entry does.
#[derive(Debug)]
struct Place<M> {
    links: Links,
    queue: Queue,
    entry: Option<Entry<M>>,
}

impl<M> AsMut<Links> for Place<M> {
    fn as_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

#[derive(Debug)]
struct State<M> {
    /// By the lower half of the hash. Two keys that agree in it take turns.
    map: HashedMap<u64, u32>,
    places: Vec<Place<M>>,
    vacant: Vec<u32>,
    small: Fifo,
    main: Fifo,
    ghost: Ghost,
    counts: CacheCounts,
}

/// A shard, on a line of its own.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Shard<M> {
    state: Mutex<State<M>>,
    /// Sequence numbers of the queues' heads, `usize::MAX` where they are empty: written under
    /// the lock, read without it to find the oldest entry of all shards.
    small_head: AtomicUsize,
    main_head: AtomicUsize,
}

/// What became of a queue's oldest entry.
#[derive(Debug)]
pub(super) enum Decision<M> {
    Evict(Entry<M>),
    /// It was read: it went to the main queue's tail; its bytes.
    ToMain(usize),
    Gone,
}

impl<M> State<M> {
    fn find(&self, key: &CacheKey<'_>) -> Option<u32> {
        let at = *self.map.get(&(key.hash.0 as u64))?;
        self.entry(at).is(key).then_some(at)
    }

    fn entry(&self, at: u32) -> &Entry<M> {
        self.places[at as usize]
            .entry
            .as_ref()
            .expect("mapped and linked places have entries")
    }

    fn entry_mut(&mut self, at: u32) -> &mut Entry<M> {
        self.places[at as usize]
            .entry
            .as_mut()
            .expect("mapped and linked places have entries")
    }

    fn push(&mut self, at: u32, queue: Queue) {
        self.places[at as usize].queue = queue;
        match queue {
            Queue::Small => self.small.push(&mut self.places, at),
            Queue::Main => self.main.push(&mut self.places, at),
            Queue::Kept => {}
        }
    }

    fn unlink(&mut self, at: u32) -> Queue {
        let queue = self.places[at as usize].queue;
        match queue {
            Queue::Small => self.small.unlink(&mut self.places, at),
            Queue::Main => self.main.unlink(&mut self.places, at),
            Queue::Kept => {}
        }
        queue
    }

    fn take(&mut self, at: u32) -> (Entry<M>, Queue) {
        let queue = self.unlink(at);
        let entry = self.places[at as usize].entry.take();
        let entry = entry.expect("mapped and linked places have entries");
        self.map.remove(&(entry.hash.0 as u64));
        self.vacant.push(at);
        (entry, queue)
    }

    fn head(&self, queue: Queue) -> u32 {
        match queue {
            Queue::Small => self.small.head,
            Queue::Main => self.main.head,
            Queue::Kept => super::queue::NONE,
        }
    }
}

fn fingerprint(hash: KeyHash) -> u32 {
    (hash.0 >> 96) as u32
}

impl<M: Clone> Shard<M> {
    /// Shows entries from a place on; returns where to go on when `left` has run out.
    pub(super) fn scan(
        &self,
        from: usize,
        left: &mut usize,
        visit: &mut dyn FnMut(CacheKey<'_>, &M),
    ) -> Option<usize> {
        let state = self.state.lock();
        for (at, place) in state.places.iter().enumerate().skip(from) {
            if *left == 0 {
                return Some(at);
            }
            if let Some(entry) = &place.entry {
                *left -= 1;
                let (hash, namespace) = (entry.hash, entry.namespace);
                visit(
                    CacheKey {
                        hash,
                        namespace,
                        key: &entry.key,
                    },
                    &entry.meta,
                );
            }
        }
        None
    }

    pub(super) fn new() -> Self {
        let state = State {
            map: HashedMap::default(),
            places: Vec::new(),
            vacant: Vec::new(),
            small: Fifo::default(),
            main: Fifo::default(),
            ghost: Ghost::default(),
            counts: CacheCounts::default(),
        };
        Self {
            state: Mutex::new(state),
            small_head: AtomicUsize::new(usize::MAX),
            main_head: AtomicUsize::new(usize::MAX),
        }
    }

    pub(super) fn head(&self, queue: Queue) -> usize {
        match queue {
            Queue::Small => self.small_head.load(Ordering::Relaxed),
            Queue::Main => self.main_head.load(Ordering::Relaxed),
            Queue::Kept => usize::MAX,
        }
    }

    fn publish_heads(&self, state: &State<M>) {
        let sequence = |queue| match state.head(queue) {
            super::queue::NONE => usize::MAX,
            at => state.entry(at).sequence,
        };
        self.small_head
            .store(sequence(Queue::Small), Ordering::Relaxed);
        self.main_head
            .store(sequence(Queue::Main), Ordering::Relaxed);
    }

    pub(super) fn get(&self, key: &CacheKey<'_>, note: bool) -> Option<Hit<M>> {
        let mut state = self.state.lock();
        let Some(at) = state.find(key) else {
            state.counts.misses += u64::from(note);
            return None;
        };
        state.counts.hits += u64::from(note);
        let entry = state.entry_mut(at);
        if note {
            entry.reads = (entry.reads + 1).min(READS_MAX);
            entry.was_read = true;
        }
        Some(Hit {
            memory: entry.memory.clone(),
            meta: entry.meta.clone(),
        })
    }

    /// Puts an entry and takes out the one with its hash. `count` is told of both under the
    /// lock, so that nobody counts the entry out before it was counted in.
    pub(super) fn insert(
        &self,
        mut entry: Entry<M>,
        keep: bool,
        count: &mut dyn FnMut(Placed, usize),
    ) -> Option<Entry<M>> {
        let state = &mut *self.state.lock();
        let before = state.map.get(&(entry.hash.0 as u64)).copied();
        let before = before.map(|at| state.take(at));
        let same = before.as_ref().is_some_and(|(old, _)| {
            old.namespace == entry.namespace && old.hash == entry.hash && old.key == entry.key
        });
        let mut queue = Queue::Small;
        if let Some((old, was)) = before.as_ref().filter(|_| same) {
            // A new version of a value that proved itself stays where it was.
            entry.reads = old.reads;
            queue = *was;
        }
        queue = match queue {
            _ if keep => Queue::Kept,
            Queue::Small if state.ghost.contains(fingerprint(entry.hash)) => Queue::Main,
            Queue::Kept => Queue::Small,
            queue => queue,
        };
        let hash = entry.hash.0 as u64;
        let place = Place {
            links: Links::default(),
            queue,
            entry: Some(entry),
        };
        let at = match state.vacant.pop() {
            Some(at) => {
                state.places[at as usize] = place;
                at
            }
            None => {
                state.places.push(place);
                state.places.len() as u32 - 1
            }
        };
        state.map.insert(hash, at);
        state.push(at, queue);
        let bytes_before = before.as_ref().map_or(0, |(old, _)| old.bytes());
        count(
            Placed {
                now: queue,
                before: before.as_ref().map(|(_, was)| *was),
            },
            bytes_before,
        );
        let before = before.map(|(old, _)| old);
        if let Some(other) = before.as_ref().filter(|_| !same) {
            count_eviction(&mut state.counts, other);
        }
        self.publish_heads(state);
        before
    }

    pub(super) fn remove_if(
        &self,
        key: &CacheKey<'_>,
        condition: impl FnOnce(&M) -> bool,
    ) -> Option<(Entry<M>, Queue)> {
        let mut state = self.state.lock();
        let at = state.find(key)?;
        if !condition(&state.entry(at).meta) {
            return None;
        }
        let taken = state.take(at);
        self.publish_heads(&state);
        Some(taken)
    }

    /// Decides on the oldest entry of a queue.
    pub(super) fn decide(&self, queue: Queue, sequence: usize) -> Decision<M> {
        let state = &mut *self.state.lock();
        let at = state.head(queue);
        if at == super::queue::NONE {
            return Decision::Gone;
        }
        let decision = if state.entry(at).reads > 0 {
            state.unlink(at);
            state.push(at, Queue::Main);
            let entry = state.entry_mut(at);
            // On probation one read is proof; in the main queue each read buys a round.
            entry.reads = if queue == Queue::Small {
                0
            } else {
                entry.reads - 1
            };
            entry.sequence = sequence;
            Decision::ToMain(entry.bytes())
        } else {
            let (entry, _) = state.take(at);
            if queue == Queue::Small {
                // As many ghosts as there are entries, and a few where there are hardly any.
                let len_max = state.map.len().max(8);
                state.ghost.add(fingerprint(entry.hash), len_max);
            }
            count_eviction(&mut state.counts, &entry);
            Decision::Evict(entry)
        };
        self.publish_heads(state);
        decision
    }

    /// Takes out the entry whose hash has this lower half, where its memory lies in that slab and
    /// it may be evicted.
    pub(super) fn evict_from_slab(&self, low: u64, slab: SlabId) -> Option<(Entry<M>, Queue)> {
        let state = &mut *self.state.lock();
        let at = *state.map.get(&low)?;
        let kept = state.places[at as usize].queue == Queue::Kept;
        if kept || state.entry(at).memory.carved_slab() != Some(slab) {
            return None;
        }
        let (entry, queue) = state.take(at);
        count_eviction(&mut state.counts, &entry);
        self.publish_heads(state);
        Some((entry, queue))
    }

    pub(super) fn add_counts(&self, sum: &mut CacheCounts) {
        let state = self.state.lock();
        sum.entries += state.map.len();
        sum.hits += state.counts.hits;
        sum.misses += state.counts.misses;
        sum.evictions += state.counts.evictions;
        sum.never_read_bytes += state.counts.never_read_bytes;
    }
}

fn count_eviction<M>(counts: &mut CacheCounts, entry: &Entry<M>) {
    counts.evictions += 1;
    if !entry.was_read {
        counts.never_read_bytes += entry.bytes() as u64;
    }
}
