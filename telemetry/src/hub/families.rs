//! The snapshot: everything that a process counted, as families.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Hub;
use crate::exposition::is_exposed;
use crate::histogram::HistogramSnapshot;
use crate::labels::{OpKind, OutcomeLabel};
use crate::metrics;
use crate::recorder::Shard;
use crate::snapshot::{Cells, Family, Histograms, Sample, Value};
use crate::timeline::Role;

impl Hub {
    pub(crate) fn families(&self) -> Vec<Family> {
        let shards = self.recorders.shards();
        let mut families = self.op_families(&shards);
        match self.recorders.role() {
            Role::Server => {
                families.push(self.slow_ops.family());
                families.extend(self.server.families());
                families.extend(self.engine.families());
            }
            Role::Client => families.extend(self.client.families()),
        }
        let number = |series, labels, number| Family {
            series,
            samples: vec![Sample {
                labels,
                value: Value::Number(number),
            }],
        };
        let lost = self.recorders.lost() as f64;
        families.extend([
            self.spans.family(),
            number(&metrics::TIMELINES_LOST_TOTAL, Vec::new(), lost),
            self.export_counts.dropped.family(),
            self.export_counts.failures.family(),
            self.log_events.family(),
            self.scrape.family(),
            number(
                &metrics::BUILD_INFO,
                vec![Cow::Owned(self.config.version.clone())],
                1.0,
            ),
        ]);
        let role = self.recorders.role();
        debug_assert!(
            families
                .iter()
                .all(|family| is_exposed(family.series.scope, role))
        );
        families
    }

    fn op_families(&self, shards: &[Arc<Shard>]) -> Vec<Family> {
        let role = self.recorders.role();
        let (op, stage, batch, bytes) = match role {
            Role::Server => (
                &metrics::OP_DURATION,
                &metrics::STAGE_DURATION,
                &metrics::BATCH_ENTRIES,
                &metrics::BYTES_TOTAL,
            ),
            Role::Client => (
                &metrics::CLIENT_OP_DURATION,
                &metrics::CLIENT_STEP_SECONDS,
                &metrics::CLIENT_BATCH_ENTRIES,
                &metrics::CLIENT_BYTES_TOTAL,
            ),
        };
        let durations = Histograms::snapshots(op, shards.iter().map(|shard| &shard.op_duration));
        let mut op_family = Histograms::family_from(op, &durations);
        self.attach_exemplars(&mut op_family, &durations);
        let entries = match role {
            Role::Server => {
                let cells = shards.iter().map(|shard| &shard.entries);
                Cells::family_of(&metrics::ENTRIES_TOTAL, cells)
            }
            Role::Client => self.server_entries(shards),
        };
        vec![
            op_family,
            Histograms::family_of(stage, shards.iter().map(|shard| &shard.stage_duration)),
            Histograms::family_of(batch, shards.iter().map(|shard| &shard.batch_entries)),
            Cells::family_of(bytes, shards.iter().map(|shard| &shard.bytes)),
            entries,
        ]
    }

    /// A client's entries by server: only combinations that happened, as most never do.
    fn server_entries(&self, shards: &[Arc<Shard>]) -> Family {
        let mut family = Family {
            series: &metrics::CLIENT_ENTRIES_TOTAL,
            samples: Vec::new(),
        };
        for (server_idx, server) in self.client.servers().iter().enumerate() {
            for op in OpKind::ALL {
                for outcome in OutcomeLabel::ALL {
                    let by_op = server_idx * OpKind::COUNT + op.idx();
                    let idx = by_op * OutcomeLabel::COUNT + outcome.idx();
                    let counts = shards
                        .iter()
                        .map(|s| s.server_entries[idx].load(Ordering::Relaxed));
                    let total: u64 = counts.sum();
                    if total > 0 {
                        let labels = vec![server.clone(), op.name().into(), outcome.name().into()];
                        family.samples.push(Sample {
                            labels,
                            value: Value::Number(total as f64),
                        });
                    }
                }
            }
        }
        family
    }

    fn attach_exemplars(&self, family: &mut Family, durations: &[Option<HistogramSnapshot>]) {
        let exemplars = self.exemplars.lock();
        let present = (0..durations.len()).filter(|idx| durations[*idx].is_some());
        for (idx, sample) in present.zip(&mut family.samples) {
            if let Value::Histogram {
                exemplars: slots, ..
            } = &mut sample.value
            {
                let buckets = 0..=family.series.buckets.len();
                *slots = buckets
                    .map(|bucket| exemplars.get(&(idx, bucket)).copied())
                    .collect();
            }
        }
    }
}
