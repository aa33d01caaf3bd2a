//! Asks the CPU to fetch a line; changes nothing that a program can see.
//!
//! Aliasing: a prefetch neither reads nor writes as far as the memory model goes; the address
//! comes from a live reference, which it doesn't outlive.

/// Brings the first line of `target` into the cache.
#[inline]
pub(super) fn prefetch<T>(target: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of x86_64, and a prefetch faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(target).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = target;
}
