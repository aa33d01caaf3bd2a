//! The demo's data: sizes as KV-cache blocks have them, contents that can be told from any other block's.

/// One block: where it is kept, how long it is, what seeds its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) key: String,
    pub(super) bytes: usize,
    seed: u64,
}

/// All blocks in the order they are written.
#[derive(Debug)]
pub(super) struct Blocks {
    pub(super) all: Vec<Block>,
}

/// Sizes in turn: mostly whole blocks of an LLM's cache, some of small models, some manifests beside them.
const SIZES: [usize; 8] = [
    4 << 20,
    1 << 20,
    64 << 10,
    2 << 20,
    1000,
    320 << 10,
    4 << 20,
    16 << 10,
];

impl Blocks {
    /// Blocks of `total` bytes or a little more; at least one of each size.
    pub(super) fn plan(total: u64) -> Self {
        let mut all = Vec::new();
        let mut sum = 0;
        while sum < total || all.len() < SIZES.len() {
            let idx = all.len();
            let bytes = SIZES[idx % SIZES.len()];
            all.push(Block {
                key: format!("demo/block-{idx:06}"),
                bytes,
                seed: idx as u64 + 1,
            });
            sum += bytes as u64;
        }
        Self { all }
    }

    pub(super) fn bytes(&self) -> u64 {
        sum(&self.all)
    }

    /// The last blocks written, up to `bytes` of them.
    pub(super) fn newest(&self, bytes: u64) -> &[Block] {
        let mut start = self.all.len();
        while start > 0 && sum(&self.all[start - 1..]) <= bytes {
            start -= 1;
        }
        &self.all[start..]
    }

    /// The first blocks written, up to `bytes` of them.
    pub(super) fn oldest(&self, bytes: u64) -> &[Block] {
        let mut end = 0;
        while end < self.all.len() && sum(&self.all[..end + 1]) <= bytes {
            end += 1;
        }
        &self.all[..end]
    }
}

/// How many bytes they have.
pub(super) fn sum(blocks: &[Block]) -> u64 {
    blocks.iter().map(|block| block.bytes as u64).sum()
}

impl Block {
    /// Its bytes.
    pub(super) fn content(&self) -> Vec<u8> {
        let mut content = Vec::new();
        self.content_into(&mut content);
        content
    }

    /// Its bytes, in a buffer that is used again.
    pub(super) fn content_into(&self, content: &mut Vec<u8>) {
        content.clear();
        content.reserve(self.bytes + 8);
        // xorshift64*: no compressor or deduplicator shortens it, and it fills gigabytes per second.
        let mut state = self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        while content.len() < self.bytes {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            content.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
        }
        content.truncate(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_add_up_and_differ() {
        let blocks = Blocks::plan(64 << 20);
        assert!(blocks.bytes() >= 64 << 20 && blocks.bytes() < (64 << 20) + (4 << 20));
        assert_ne!(blocks.all[0].content(), blocks.all[6].content());
        assert_eq!(blocks.all[4].content().len(), 1000);
    }

    #[test]
    fn newest_and_oldest_are_bounded_and_apart() {
        let blocks = Blocks::plan(64 << 20);
        let (newest, oldest) = (blocks.newest(16 << 20), blocks.oldest(16 << 20));
        assert!(sum(newest) <= 16 << 20 && sum(newest) > 10 << 20);
        assert!(sum(oldest) <= 16 << 20 && sum(oldest) > 10 << 20);
        assert_eq!(oldest[0], blocks.all[0]);
        assert_eq!(newest.last(), blocks.all.last());
        assert!(blocks.newest(0).is_empty());
    }
}
