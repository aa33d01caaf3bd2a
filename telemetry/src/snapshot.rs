//! What was counted at one time, in the shape of an exposition: families, samples, label values.
//!
//! Both encoders (text and OpenMetrics) work on this, so they can't disagree about numbers.

use std::borrow::Cow;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::histogram::{Histogram, HistogramSnapshot, Scale};
use crate::metrics::{Kind, Series, Unit, Values};

/// One series with its samples.
#[derive(Clone, Debug)]
pub struct Family {
    /// Its declaration.
    pub series: &'static Series,
    /// One per label combination.
    pub samples: Vec<Sample>,
}

/// One label combination's value.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Label values in the order of the declaration.
    pub labels: Vec<Cow<'static, str>>,
    /// The value.
    pub value: Value,
}

/// A sample's value.
#[derive(Clone, Debug)]
pub enum Value {
    /// A counter or a gauge.
    Number(f64),
    /// A histogram.
    Histogram {
        /// Cumulative counts at the declared bounds.
        cumulative: Vec<u64>,
        /// All observations.
        count: u64,
        /// Their sum.
        sum: f64,
        /// One per bucket, the infinite one included; empty where there are none at all.
        exemplars: Vec<Option<Exemplar>>,
    },
}

/// One observation that has a trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The span in it.
    pub span_id: [u8; 8],
    /// What was observed, in the series' unit.
    pub value: f64,
    /// When, in ms since 1970.
    pub unix_ms: u64,
}

impl Value {
    /// A histogram's value at the bounds of its series.
    pub fn histogram(series: &Series, snapshot: &HistogramSnapshot) -> Value {
        Value::Histogram {
            cumulative: snapshot.cumulative(series.buckets),
            count: snapshot.count(),
            sum: snapshot.sum(),
            exemplars: Vec::new(),
        }
    }
}

/// Sizes of a series' closed labels, and the label values of a position.
fn combination(series: &Series, mut idx: usize) -> Vec<Cow<'static, str>> {
    let mut labels = Vec::with_capacity(series.labels.len());
    for label in series.labels.iter().rev() {
        let Values::Closed(values) = label.values() else {
            panic!("{} has a label that isn't closed", series.name);
        };
        labels.push(Cow::Borrowed(values[idx % values.len()]));
        idx /= values.len();
    }
    labels.reverse();
    labels
}

fn combinations(series: &Series) -> usize {
    series
        .labels
        .iter()
        .map(|label| label.count_max())
        .product()
}

/// Counters or gauges of one series, one cell per combination of its closed labels.
#[derive(Debug)]
pub(crate) struct Cells {
    series: &'static Series,
    values: Box<[AtomicU64]>,
}

impl Cells {
    pub(crate) fn new(series: &'static Series) -> Cells {
        let values = (0..combinations(series))
            .map(|_| AtomicU64::new(0))
            .collect();
        Cells { series, values }
    }

    /// Adds from any thread.
    #[inline]
    pub(crate) fn add(&self, idx: usize, n: u64) {
        self.values[idx].fetch_add(n, Ordering::Relaxed);
    }

    /// Adds from the only thread that writes.
    #[inline]
    pub(crate) fn add_owned(&self, idx: usize, n: u64) {
        let value = &self.values[idx];
        value.store(
            value.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    #[inline]
    pub(crate) fn sub(&self, idx: usize, n: u64) {
        self.values[idx].fetch_sub(n, Ordering::Relaxed);
    }

    /// Sets a gauge; a gauge of seconds is set in ns.
    #[inline]
    pub(crate) fn set(&self, idx: usize, value: i64) {
        self.values[idx].store(value as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, idx: usize) -> u64 {
        self.values[idx].load(Ordering::Relaxed)
    }

    /// Every cell's present number, in exposed units.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = f64> + '_ {
        let is_ns = self.series.unit == Unit::Seconds;
        let is_signed = self.series.kind == Kind::Gauge;
        self.values.iter().map(move |value| {
            let raw = value.load(Ordering::Relaxed);
            let number = if is_signed {
                raw as i64 as f64
            } else {
                raw as f64
            };
            if is_ns { number / 1e9 } else { number }
        })
    }

    /// The family of several threads' cells, added up.
    pub(crate) fn family_of<'a>(
        series: &'static Series,
        all: impl Iterator<Item = &'a Cells>,
    ) -> Family {
        let mut totals = vec![0.0; combinations(series)];
        for cells in all {
            for (total, number) in totals.iter_mut().zip(cells.numbers()) {
                *total += number;
            }
        }
        let samples = totals.iter().enumerate().map(|(idx, total)| Sample {
            labels: combination(series, idx),
            value: Value::Number(*total),
        });
        Family {
            series,
            samples: samples.collect(),
        }
    }

    pub(crate) fn family(&self) -> Family {
        Cells::family_of(self.series, std::iter::once(self))
    }
}

/// Histograms of one series, one per combination of its closed labels, made when first needed.
#[derive(Debug)]
pub(crate) struct Histograms {
    series: &'static Series,
    cells: Box<[OnceLock<Box<Histogram>>]>,
}

impl Histograms {
    pub(crate) fn new(series: &'static Series) -> Histograms {
        let cells = (0..combinations(series)).map(|_| OnceLock::new()).collect();
        Histograms { series, cells }
    }

    fn scale(series: &Series) -> Scale {
        if series.unit == Unit::Seconds {
            Scale::Time
        } else {
            Scale::Count
        }
    }

    #[inline]
    pub(crate) fn at(&self, idx: usize) -> &Histogram {
        self.cells[idx].get_or_init(|| Box::new(Histogram::new(Histograms::scale(self.series))))
    }

    /// Several threads' histograms added up, by combination; `None` where nothing was counted.
    pub(crate) fn snapshots<'a>(
        series: &'static Series,
        all: impl Iterator<Item = &'a Histograms>,
    ) -> Vec<Option<HistogramSnapshot>> {
        let mut totals: Vec<Option<HistogramSnapshot>> = vec![None; combinations(series)];
        for histograms in all {
            for (total, cell) in totals.iter_mut().zip(&histograms.cells) {
                if let Some(histogram) = cell.get() {
                    let empty = || HistogramSnapshot::new(Histograms::scale(series));
                    histogram.add_to(total.get_or_insert_with(empty));
                }
            }
        }
        totals
    }

    pub(crate) fn family_of<'a>(
        series: &'static Series,
        all: impl Iterator<Item = &'a Histograms>,
    ) -> Family {
        Histograms::family_from(series, &Histograms::snapshots(series, all))
    }

    pub(crate) fn family_from(
        series: &'static Series,
        snapshots: &[Option<HistogramSnapshot>],
    ) -> Family {
        let samples = snapshots.iter().enumerate().filter_map(|(idx, snapshot)| {
            let value = Value::histogram(series, snapshot.as_ref()?);
            Some(Sample {
                labels: combination(series, idx),
                value,
            })
        });
        Family {
            series,
            samples: samples.collect(),
        }
    }

    pub(crate) fn family(&self) -> Family {
        Histograms::family_of(self.series, std::iter::once(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::{OpKind, OutcomeLabel, Tier};
    use crate::metrics;

    #[test]
    fn positions_and_label_values_agree() {
        let idx = (OpKind::Get.idx() * Tier::COUNT + Tier::Drive.idx()) * OutcomeLabel::COUNT
            + OutcomeLabel::Miss.idx();
        assert_eq!(
            combination(&metrics::ENTRIES_TOTAL, idx),
            ["get", "drive", "miss"]
        );
    }

    #[test]
    fn a_gauge_goes_below_zero_and_back() {
        let cells = Cells::new(&metrics::CLOCK_SKEW_SECONDS);
        cells.set(0, -1_500_000_000);
        assert_eq!(cells.numbers().next(), Some(-1.5));
        let cells = Cells::new(&metrics::CONNECTIONS);
        cells.add(0, 2);
        cells.sub(0, 1);
        assert_eq!(cells.numbers().next(), Some(1.0));
    }
}
