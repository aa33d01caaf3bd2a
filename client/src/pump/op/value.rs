//! How one value comes in: announced by segments, received in pieces, checksummed, settled.

use std::sync::Arc;

use memkv_proto::checksum::Crc32c;
use memkv_proto::op::Segment;

use super::{Dest, Meta, ReadEntry, Receiving, Sink};
use crate::error::OpError;

impl ReadEntry<'_> {
    pub(super) fn begin(&mut self, segment: &Segment) -> Result<Sink, &'static str> {
        if self.result.is_some() {
            return Err("reply settles an entry twice");
        }
        let meta = Meta {
            version: segment.version,
            len: segment.value_len,
            crc: segment.crc,
            attrs: segment.attrs,
        };
        if matches!(self.state, Receiving::Nothing) {
            // The decoder has refused lengths above the protocol's limit.
            self.state = self.dest.prepare(meta);
        }
        let (Receiving::Into {
            meta: known,
            planned,
            ..
        }
        | Receiving::Discard {
            meta: known,
            planned,
            ..
        }) = &mut self.state
        else {
            return Err("value without a destination");
        };
        // A value that was overwritten half way must not be glued together from two versions.
        if *known != meta {
            return Err("segments of one value disagree about it");
        }
        if segment.offset != *planned || u64::from(segment.chunk_len) > meta.len - *planned {
            return Err("segment isn't the next one of its value");
        }
        *planned += u64::from(segment.chunk_len);
        Ok(if matches!(self.state, Receiving::Into { .. }) {
            Sink::Entry
        } else {
            Sink::Discard
        })
    }

    /// True when that settled the entry.
    pub(super) fn advance(&mut self, server: &Arc<str>, count: usize) -> bool {
        if self.result.is_some() {
            return false;
        }
        match &mut self.state {
            Receiving::Nothing => false,
            Receiving::Into { meta, got, crc, .. } => {
                let start = *got as usize;
                crc.update(&self.dest.as_slice()[start..start + count]);
                *got += count as u64;
                if *got < meta.len {
                    return false;
                }
                let have = crc.finish();
                self.result = Some(if have == meta.crc {
                    Ok(Some(*meta))
                } else {
                    Err(OpError::Corrupt {
                        server: Arc::clone(server),
                        want: meta.crc,
                        got: have,
                    })
                });
                true
            }
            Receiving::Discard { meta, got, .. } => {
                *got += count as u64;
                if *got < meta.len {
                    return false;
                }
                let have = self.dest.as_slice().len() as u64;
                self.result = Some(Err(OpError::BufferTooSmall {
                    need: meta.len,
                    have,
                }));
                true
            }
        }
    }
}

impl Dest<'_> {
    /// Makes room for a value whose length is authenticated and within the limit.
    fn prepare(&mut self, meta: Meta) -> Receiving {
        let fits = match self {
            Self::Vec(vec) => {
                // Zeroed pages come from the kernel; a copy-free uninitialised buffer would save one pass over small values.
                *vec = vec![0; meta.len as usize];
                true
            }
            Self::Slice(slice) => slice.len() as u64 >= meta.len,
            Self::Owned(buffer) => buffer.len() as u64 >= meta.len,
        };
        let (planned, got) = (0, 0);
        if fits {
            Receiving::Into {
                meta,
                planned,
                got,
                crc: Crc32c::new(),
            }
        } else {
            Receiving::Discard { meta, planned, got }
        }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Vec(vec) | Self::Owned(vec) => vec,
            Self::Slice(slice) => slice,
        }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        match self {
            Self::Vec(vec) | Self::Owned(vec) => vec,
            Self::Slice(slice) => slice,
        }
    }
}
