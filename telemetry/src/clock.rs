//! The clock of every time stamp on the data path: nanoseconds on the scale of `CLOCK_MONOTONIC`.
//!
//! eBPF programs stamp with `bpf_ktime_get_ns`, which is that clock, so their times and ours can be
//! subtracted. Where the processor's time stamp counter is constant and never stops, a reading is one
//! `rdtsc` and a multiplication (about half of `clock_gettime`'s cost, a fifth under some hypervisors);
//! everywhere else it is `clock_gettime`.
//!
//! The counter's rate is measured at first use, over 10 ms, and [`resync`] (called by the telemetry
//! thread) steers the scale towards the kernel's clock, so that the two never drift apart by more than
//! a few µs. A correction changes the rate and never the present reading, so that time can't step back.
//!
//! # Safety of this module
//!
//! There are two kinds of unsafe code here: the `rdtsc` and `cpuid` intrinsics, which have no memory
//! effects, and `clock_gettime`, which writes to a local `timespec`.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time: nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

impl Tick {
    /// Nanoseconds from `earlier` until here; 0 where `earlier` is later.
    pub fn since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The point `duration` after this one.
    #[must_use]
    pub fn after(self, duration: Duration) -> Tick {
        Tick(
            self.0
                .saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

/// Where a reading comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The processor's counter, calibrated against the kernel's clock.
    Tsc,
    /// `clock_gettime(CLOCK_MONOTONIC)`.
    Kernel,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Tsc => "tsc",
            Source::Kernel => "clock_gettime",
        })
    }
}

/// The present; 10 to 25 ns.
///
/// The first call of a process takes 10 ms, which calibrate the counter; [`source`] does that too.
#[inline]
pub fn now() -> Tick {
    match SCALE.get() {
        Some(scale) => scale.now(),
        None => Scale::get().now(),
    }
}

/// What [`now`] reads on this machine.
pub fn source() -> Source {
    if Scale::get().is_tsc {
        Source::Tsc
    } else {
        Source::Kernel
    }
}

/// The kernel's clock, by a system call or the vDSO.
pub fn kernel_now() -> Tick {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec that lives through the call, which only writes to it.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    assert_eq!(result, 0, "CLOCK_MONOTONIC is always there");
    Tick(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Nanoseconds since 1970, by the wall clock; it may step.
pub fn unix_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970, by the wall clock; it may step.
pub fn unix_ms() -> u64 {
    unix_ns() / 1_000_000
}

/// A pair of readings taken together, which puts ticks on the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Anchor {
    tick: Tick,
    unix_ns: u64,
}

impl Anchor {
    /// Reads both clocks.
    pub fn take() -> Anchor {
        Anchor {
            tick: now(),
            unix_ns: unix_ns(),
        }
    }

    /// Nanoseconds since 1970 of a tick, if the wall clock hasn't stepped in between.
    pub fn unix_ns(&self, tick: Tick) -> u64 {
        let ahead = tick.0.wrapping_sub(self.tick.0) as i64;
        self.unix_ns.saturating_add_signed(ahead)
    }
}

/// Steers the counter's scale towards the kernel's clock; returns how far it was off, in ns.
///
/// To be called about once a second by one thread; more callers do no harm.
pub fn resync() -> i64 {
    Scale::get().resync()
}

static SCALE: OnceLock<Scale> = OnceLock::new();

/// Nanoseconds per counter step are `mult / 2^SHIFT`.
const SHIFT: u32 = 32;

/// `ns = base_ns + (counter - base_counter) * mult >> SHIFT`, guarded by a sequence lock whose
/// odd values mean that it is being rewritten.
struct Scale {
    is_tsc: bool,
    sequence: AtomicU64,
    base_counter: AtomicU64,
    base_ns: AtomicU64,
    mult: AtomicU64,
}

impl Scale {
    fn get() -> &'static Scale {
        SCALE.get_or_init(|| {
            let scale = Scale {
                is_tsc: counter_is_steady(),
                sequence: AtomicU64::new(0),
                base_counter: AtomicU64::new(0),
                base_ns: AtomicU64::new(0),
                mult: AtomicU64::new(0),
            };
            if scale.is_tsc {
                scale.calibrate();
            }
            scale
        })
    }

    #[inline]
    fn now(&self) -> Tick {
        if !self.is_tsc {
            return kernel_now();
        }
        loop {
            let sequence = self.sequence.load(Ordering::Acquire);
            let counter = counter();
            let base_counter = self.base_counter.load(Ordering::Relaxed);
            let base_ns = self.base_ns.load(Ordering::Relaxed);
            let mult = self.mult.load(Ordering::Relaxed);
            std::sync::atomic::fence(Ordering::Acquire);
            if sequence & 1 == 0 && self.sequence.load(Ordering::Relaxed) == sequence {
                return Tick(project(counter, base_counter, base_ns, mult));
            }
            std::hint::spin_loop();
        }
    }

    fn calibrate(&self) {
        let (counter_start, ns_start) = paired_reading();
        std::thread::sleep(Duration::from_millis(10));
        let (counter_end, ns_end) = paired_reading();
        let steps = counter_end.wrapping_sub(counter_start).max(1);
        let mult = (u128::from(ns_end - ns_start) << SHIFT) / u128::from(steps);
        self.base_counter.store(counter_end, Ordering::Relaxed);
        self.base_ns.store(ns_end, Ordering::Relaxed);
        self.mult.store(mult as u64, Ordering::Release);
    }

    /// New base at the present reading, and a rate that closes the gap within the time since the
    /// last base, but at most 1/1000 faster or slower than measured.
    fn resync(&self) -> i64 {
        if !self.is_tsc {
            return 0;
        }
        let sequence = self.sequence.load(Ordering::Acquire);
        if sequence & 1 == 1 {
            return 0;
        }
        let (counter, kernel) = paired_reading();
        let base_counter = self.base_counter.load(Ordering::Relaxed);
        let base_ns = self.base_ns.load(Ordering::Relaxed);
        let mult = self.mult.load(Ordering::Relaxed);
        let ours = project(counter, base_counter, base_ns, mult);
        let off = kernel.wrapping_sub(ours) as i64;
        let elapsed = counter.wrapping_sub(base_counter);
        // Below 100 ms a reading's own error would be taken for drift.
        if kernel.saturating_sub(base_ns) < 100_000_000 {
            return off;
        }
        let bound = (mult / 1000) as i64;
        let step = ((i128::from(off) << SHIFT) / i128::from(elapsed.max(1))) as i64;
        let steered = mult.saturating_add_signed(step.clamp(-bound, bound));
        let is_ours = self
            .sequence
            .compare_exchange(sequence, sequence + 1, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        if is_ours {
            std::sync::atomic::fence(Ordering::Release);
            self.base_counter.store(counter, Ordering::Relaxed);
            self.base_ns.store(ours, Ordering::Relaxed);
            self.mult.store(steered, Ordering::Relaxed);
            self.sequence.store(sequence + 2, Ordering::Release);
        }
        off
    }
}

#[inline]
fn project(counter: u64, base_counter: u64, base_ns: u64, mult: u64) -> u64 {
    // A thread on another core may read a counter that is a few steps behind the base.
    let steps = (counter.wrapping_sub(base_counter) as i64).max(0) as u64;
    base_ns + ((u128::from(steps) * u128::from(mult)) >> SHIFT) as u64
}

/// The counter and the kernel's clock at nearly the same moment: the tightest of eight tries.
fn paired_reading() -> (u64, u64) {
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..8 {
        let before = counter();
        let kernel = kernel_now();
        let after = counter();
        let width = after.wrapping_sub(before);
        if width < best.0 {
            best = (width, before.wrapping_add(width / 2), kernel.0);
        }
    }
    (best.1, best.2)
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn counter() -> u64 {
    // SAFETY: rdtsc has no operands and no memory effects, and every x86_64 processor has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Whether the counter runs at one rate on all cores and in all power states, as the kernel sees it:
/// it keeps its flags and, where it has found the counter to be wrong, no longer uses it itself.
#[cfg(target_arch = "x86_64")]
fn counter_is_steady() -> bool {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = info
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or_default();
    let has = |flag| flags.split_ascii_whitespace().any(|word| word == flag);
    let sources = "/sys/devices/system/clocksource/clocksource0/available_clocksource";
    let kernel_trusts = std::fs::read_to_string(sources)
        .is_ok_and(|text| text.split_ascii_whitespace().any(|word| word == "tsc"));
    has("constant_tsc") && has("nonstop_tsc") && kernel_trusts
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> u64 {
    kernel_now().0
}

#[cfg(not(target_arch = "x86_64"))]
fn counter_is_steady() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_stay_near_the_kernels_clock() {
        now();
        for _ in 0..50 {
            let before = kernel_now();
            let ours = now();
            let after = kernel_now();
            // 10 ms of calibration leave an error of a few ppm; a busy machine may preempt between.
            assert!(
                ours.0 + 1_000_000 > before.0,
                "{ours:?} is before {before:?}"
            );
            assert!(ours.0 < after.0 + 1_000_000, "{ours:?} is after {after:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn time_never_steps_back_across_a_resync() {
        let mut last = now();
        for round in 0..20_000 {
            if round % 1000 == 0 {
                resync();
            }
            let next = now();
            assert!(next >= last);
            last = next;
        }
    }

    #[test]
    fn a_wrong_rate_is_steered_back() {
        let scale = Scale {
            is_tsc: counter_is_steady(),
            sequence: AtomicU64::new(0),
            base_counter: AtomicU64::new(0),
            base_ns: AtomicU64::new(0),
            mult: AtomicU64::new(0),
        };
        if !scale.is_tsc {
            return; // Nothing to steer: readings are the kernel's.
        }
        scale.calibrate();
        let mult = scale.mult.load(Ordering::Relaxed);
        scale.mult.store(mult + mult / 5000, Ordering::Relaxed); // 200 ppm too fast
        std::thread::sleep(Duration::from_millis(150));
        let off = scale.resync();
        assert!(
            off < -20_000,
            "200 ppm of 150 ms are 30 µs, but it saw {off} ns"
        );
        let steered = scale.mult.load(Ordering::Relaxed);
        assert!(
            steered < mult + mult / 10_000,
            "{steered} is still too fast against {mult}"
        );
    }

    #[test]
    fn an_anchor_puts_ticks_on_the_wall_clock() {
        let anchor = Anchor {
            tick: Tick(1_000),
            unix_ns: 5_000_000,
        };
        assert_eq!(anchor.unix_ns(Tick(1_500)), 5_000_500);
        assert_eq!(anchor.unix_ns(Tick(400)), 4_999_400);
    }

    #[test]
    fn differences_saturate() {
        assert_eq!(Tick(5).since(Tick(9)), 0);
        assert_eq!(Tick(9).since(Tick(5)), 4);
        assert_eq!(Tick(1).after(Duration::from_micros(2)), Tick(2001));
    }
}
