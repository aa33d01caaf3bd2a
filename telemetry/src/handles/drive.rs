//! What one drive counts, and how many drives are exposed.

use std::borrow::Cow;
use std::sync::Arc;

use super::Count;
use crate::histogram::{Histogram, HistogramSnapshot, Scale};
use crate::labels::DriveOp;
use crate::metrics::{self, Series};
use crate::snapshot::{Family, Sample, Value};

/// What one drive counts.
#[derive(Clone, Debug)]
pub struct DriveMetrics(Arc<DriveCells>);

#[derive(Debug)]
struct DriveCells {
    name: Box<str>,
    io: [Histogram; DriveOp::COUNT],
    bytes: [Count; DriveOp::COUNT],
    errors: [Count; DriveOp::COUNT],
    up: Count,
    used_bytes: Count,
    capacity_bytes: Count,
    queue_depth: Count,
}

impl DriveMetrics {
    /// Counts that nobody scrapes.
    pub fn detached(name: &str) -> DriveMetrics {
        DriveMetrics(Arc::new(DriveCells {
            name: name.into(),
            io: std::array::from_fn(|_| Histogram::new(Scale::Time)),
            bytes: Default::default(),
            errors: Default::default(),
            up: Count::default(),
            used_bytes: Count::default(),
            capacity_bytes: Count::default(),
            queue_depth: Count::default(),
        }))
    }

    /// The drive's name, as configured.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// A request completed.
    pub fn io_done(&self, op: DriveOp, dur_ns: u64, bytes: u64) {
        self.0.io[op.idx()].observe_shared(dur_ns);
        self.0.bytes[op.idx()].add(bytes);
    }

    /// A request failed.
    pub fn io_failed(&self, op: DriveOp) {
        self.0.errors[op.idx()].add(1);
    }

    /// How many requests failed.
    pub fn errors(&self, op: DriveOp) -> u64 {
        self.0.errors[op.idx()].get()
    }

    /// Sets whether it serves.
    pub fn set_up(&self, is_up: bool) {
        self.0.up.set(u64::from(is_up));
    }

    /// Whether it serves.
    pub fn is_up(&self) -> bool {
        self.0.up.get() == 1
    }

    /// Sets how much live data it holds and how much it can hold.
    pub fn set_space(&self, used_bytes: u64, capacity_bytes: u64) {
        self.0.used_bytes.set(used_bytes);
        self.0.capacity_bytes.set(capacity_bytes);
    }

    /// Sets how many requests are in flight.
    pub fn set_queue_depth(&self, requests: u64) {
        self.0.queue_depth.set(requests);
    }

    /// The times of its requests so far.
    pub fn io_times(&self, op: DriveOp) -> HistogramSnapshot {
        self.0.io[op.idx()].snapshot()
    }
}

/// Drives that share a label are added up.
pub(super) fn drive_families(drives: &[DriveMetrics]) -> Vec<Family> {
    let mut groups: Vec<(Cow<'static, str>, Vec<&DriveCells>)> = Vec::new();
    for (idx, drive) in drives.iter().enumerate() {
        if idx < metrics::DRIVE_LABELS_MAX {
            groups.push((Cow::Owned(drive.0.name.to_string()), vec![&drive.0]));
        } else if idx == metrics::DRIVE_LABELS_MAX {
            groups.push((Cow::Borrowed(metrics::MORE), vec![&drive.0]));
        } else {
            groups[metrics::DRIVE_LABELS_MAX].1.push(&drive.0);
        }
    }
    let gauge = |series: &'static Series, get: fn(&DriveCells) -> &Count| Family {
        series,
        samples: groups
            .iter()
            .map(|(name, drives)| Sample {
                labels: vec![name.clone()],
                value: Value::Number(drives.iter().map(|drive| get(drive).get() as f64).sum()),
            })
            .collect(),
    };
    let counter = |series: &'static Series, get: fn(&DriveCells) -> &[Count; DriveOp::COUNT]| {
        let mut samples = Vec::new();
        for (name, drives) in &groups {
            for op in DriveOp::ALL {
                let total = drives
                    .iter()
                    .map(|drive| get(drive)[op.idx()].get() as f64)
                    .sum();
                let labels = vec![name.clone(), Cow::Borrowed(op.name())];
                samples.push(Sample {
                    labels,
                    value: Value::Number(total),
                });
            }
        }
        Family { series, samples }
    };
    let mut times = Family {
        series: &metrics::DRIVE_IO_DURATION,
        samples: Vec::new(),
    };
    for (name, drives) in &groups {
        for op in DriveOp::ALL {
            let mut total = HistogramSnapshot::new(Scale::Time);
            drives
                .iter()
                .for_each(|drive| drive.io[op.idx()].add_to(&mut total));
            if total.count() > 0 {
                let labels = vec![name.clone(), Cow::Borrowed(op.name())];
                times.samples.push(Sample {
                    labels,
                    value: Value::histogram(times.series, &total),
                });
            }
        }
    }
    vec![
        times,
        gauge(&metrics::DRIVE_UP, |drive| &drive.up),
        gauge(&metrics::DRIVE_USED_BYTES, |drive| &drive.used_bytes),
        gauge(&metrics::DRIVE_CAPACITY_BYTES, |drive| {
            &drive.capacity_bytes
        }),
        gauge(&metrics::DRIVE_QUEUE_DEPTH, |drive| &drive.queue_depth),
        counter(&metrics::DRIVE_BYTES_TOTAL, |drive| &drive.bytes),
        counter(&metrics::DRIVE_ERRORS_TOTAL, |drive| &drive.errors),
    ]
}
