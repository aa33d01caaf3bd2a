//! What a server's `/v1/metrics` says, read well enough to subtract two scrapes and take quantiles of a histogram.

use std::collections::BTreeMap;

/// Labels of a sample, sorted by name.
pub(crate) type Labels = BTreeMap<String, String>;

/// The samples of one scrape.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scrape {
    samples: BTreeMap<(String, Labels), f64>,
}

/// A histogram's cumulative buckets (upper bound in seconds, count), ascending; the last bound is infinite.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Histogram {
    pub(crate) buckets: Vec<(f64, f64)>,
    pub(crate) sum: f64,
}

impl Scrape {
    /// Reads the Prometheus text format; lines that are not samples are passed over.
    pub(crate) fn parse(text: &str) -> Self {
        Self {
            samples: text.lines().filter_map(sample).collect(),
        }
    }

    /// This scrape less an `earlier` one of the same server: what happened in between.
    ///
    /// A series that the earlier one lacks counts from 0. Only counters and histograms mean something afterwards.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let difference = |(key, value): (&(String, Labels), &f64)| {
            let before = earlier.samples.get(key).copied().unwrap_or(0.0);
            (key.clone(), value - before)
        };
        Self {
            samples: self.samples.iter().map(difference).collect(),
        }
    }

    /// Sum of all samples of `name` whose labels include all of `wanted`.
    pub(crate) fn sum(&self, name: &str, wanted: &[(&str, &str)]) -> f64 {
        self.matching(name, wanted).map(|(_, value)| value).sum()
    }

    /// The histogram `name` over all series whose labels include `wanted`.
    pub(crate) fn histogram(&self, name: &str, wanted: &[(&str, &str)]) -> Histogram {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (labels, value) in self.matching(&format!("{name}_bucket"), wanted) {
            let Some(bound) = labels.get("le").and_then(|le| number(le)) else {
                continue;
            };
            match buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, count)) => *count += value,
                None => buckets.push((bound, value)),
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        Histogram {
            buckets,
            sum: self.sum(&format!("{name}_sum"), wanted),
        }
    }

    fn matching(
        &self,
        name: &str,
        wanted: &[(&str, &str)],
    ) -> impl Iterator<Item = (&Labels, f64)> {
        self.samples
            .iter()
            .filter(move |((known, labels), _)| {
                known == name
                    && wanted
                        .iter()
                        .all(|(key, value)| labels.get(*key).is_some_and(|v| v == value))
            })
            .map(|((_, labels), value)| (labels, *value))
    }
}

impl Histogram {
    /// How many observations it holds.
    pub(crate) fn count(&self) -> f64 {
        self.buckets.last().map_or(0.0, |(_, count)| *count)
    }

    /// The value in seconds below which `q` (0 to 1) of the observations lie, interpolated within its bucket as
    /// PromQL's `histogram_quantile` does; `None` without observations. Above the last finite bound it is that bound.
    /// Never more than the sum, which is the one observation where there is but one.
    pub(crate) fn quantile(&self, q: f64) -> Option<f64> {
        if self.count() == 1.0 {
            return Some(self.sum);
        }
        self.interpolated(q).map(|found| found.min(self.sum))
    }

    fn interpolated(&self, q: f64) -> Option<f64> {
        let total = self.count();
        if total <= 0.0 {
            return None;
        }
        let rank = q * total;
        let (mut bound_before, mut count_before) = (0.0, 0.0);
        for &(bound, count) in &self.buckets {
            if count >= rank {
                if bound.is_infinite() {
                    return Some(bound_before);
                }
                let inside = if count > count_before {
                    (rank - count_before) / (count - count_before)
                } else {
                    1.0
                };
                return Some(bound_before + (bound - bound_before) * inside);
            }
            (bound_before, count_before) = (bound, count);
        }
        None
    }
}

/// `name{label="value",…} 1.5` → its parts.
fn sample(line: &str) -> Option<((String, Labels), f64)> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = match line.find('}') {
        Some(end) => (&line[..=end], line[end + 1..].trim()),
        None => line.split_once(' ')?,
    };
    // A time stamp or an exemplar may follow the value.
    let value = number(value.split_whitespace().next()?)?;
    let Some((name, rest)) = series.split_once('{') else {
        return Some(((series.to_owned(), Labels::new()), value));
    };
    Some(((name.to_owned(), labels(rest.strip_suffix('}')?)?), value))
}

fn labels(text: &str) -> Option<Labels> {
    let mut labels = Labels::new();
    let mut rest = text.trim_end_matches(',');
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"")?;
        let end = after.find('"')?;
        labels.insert(
            name.trim_start_matches(',').to_owned(),
            after[..end].to_owned(),
        );
        rest = after[end + 1..].trim_start_matches(',');
    }
    Some(labels)
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        other => other.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "# TYPE d histogram\nd_bucket{op=\"get\",le=\"0.001\"} 10\nd_bucket{op=\"get\",le=\"0.01\"} 10\n\
        d_bucket{op=\"get\",le=\"+Inf\"} 10\nd_sum{op=\"get\"} 0.005\n";
    const AFTER: &str = "d_bucket{op=\"get\",le=\"0.001\"} 60\nd_bucket{op=\"get\",le=\"0.01\"} 110\n\
        d_bucket{op=\"get\",le=\"+Inf\"} 110\nd_sum{op=\"get\"} 0.305\nup 1\n";

    #[test]
    fn quantiles_are_of_what_happened_between_two_scrapes() {
        let between = Scrape::parse(AFTER).since(&Scrape::parse(BEFORE));
        let histogram = between.histogram("d", &[("op", "get")]);
        assert_eq!(histogram.count(), 100.0);
        assert_eq!(histogram.quantile(0.5), Some(0.001));
        assert!((histogram.quantile(0.75).unwrap() - 0.0055).abs() < 1e-9);
        assert!((histogram.sum - 0.3).abs() < 1e-9);
    }

    #[test]
    fn labels_select_and_unlabelled_series_are_read() {
        let scrape = Scrape::parse(
            "a{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\na{x=\"2\"} 5 # {t=\"z\"} 1\nup 1\n",
        );
        assert_eq!(scrape.sum("a", &[("x", "1")]), 7.0);
        assert_eq!(scrape.sum("a", &[]), 12.0);
        assert_eq!(scrape.sum("up", &[]), 1.0);
    }

    #[test]
    fn a_single_observation_is_its_own_every_quantile() {
        let text = "d_bucket{le=\"0.016\"} 0\nd_bucket{le=\"0.033\"} 1\nd_bucket{le=\"+Inf\"} 1\nd_sum 0.02\n";
        let histogram = Scrape::parse(text).histogram("d", &[]);
        for q in [0.5, 0.99, 0.999] {
            assert_eq!(histogram.quantile(q), Some(0.02), "{q}");
        }
    }

    #[test]
    fn an_empty_histogram_has_no_quantile() {
        assert_eq!(Scrape::default().histogram("d", &[]).quantile(0.5), None);
    }

    #[test]
    fn text_that_is_no_sample_is_passed_over() {
        for text in ["", "garbage", "a{", "a{x=\"} 1", "a{x=\"1\"}", "a b"] {
            assert_eq!(Scrape::parse(text).sum("a", &[]), 0.0, "{text}");
        }
    }
}
