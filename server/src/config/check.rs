//! From the YAML as written to the configuration that runs: rules over several fields, refusals to
//! start, and what was detected.

mod memory;
mod network;
mod storage;
mod telemetry;

use std::time::Duration;

use memkv_settings::{
    ByteSize, Document, Effective, Environment, LoadOptions, Problem, Problems, Setting, Source,
    Value, effective_of, load_all,
};

use super::raw::{RawConfig, RawLimits, RawLogging, RawRdma, RdmaMode, StorageMode};
use super::{Config, Facts, Limits, Logging, Rdma};
use crate::env;
use memory::pool_field;
#[cfg(test)]
pub(super) use memory::{PoolRequest, judge_pool};
use telemetry::fall_back_to_otel;

pub(super) fn check(
    document: &Document,
    environment: &Environment,
    facts: &Facts,
    options: &LoadOptions,
) -> Result<Config, Problems> {
    let (loaded, problems) = load_all::<RawConfig>(Some(document), environment, options);
    let mut raw = loaded.value;
    let mut checker = Checker {
        effective: Vec::new(),
        warnings: Vec::new(),
        problems,
        facts,
    };
    checker.warnings.extend(
        loaded
            .warnings
            .iter()
            .map(|warning| format!("{warning} (ignored)")),
    );
    for (name, meant) in env::misspelt_variables(environment) {
        checker.warn(format!(
            "env {name} means nothing to memkv; did you mean {meant}?"
        ));
    }
    fall_back_to_otel(&mut raw, environment);
    checker.effective = effective_of(&raw);

    let RawConfig {
        network,
        memory,
        rdma,
        storage,
        limits,
        telemetry,
        logging,
        license,
    } = raw;
    if license.value.is_some() {
        checker.show("license", "(set, ignored)".to_owned(), license.source);
    }
    let storage_mode = storage.mode.value;
    let trace = env::slab_double_free_trace(environment);
    let network = checker.network(network);
    let drives = match storage_mode {
        StorageMode::Memory => 0,
        StorageMode::Direct | StorageMode::File => storage.drives.len(),
    };
    let memory = checker.memory(memory, &storage, drives, trace);
    let rdma = checker.rdma(rdma);
    let storage = checker.storage(storage);
    let limits = checker.limits(limits, memory.pool_bytes, pool_field(storage_mode));
    let telemetry = checker.telemetry(telemetry);
    let RawLogging { level, format } = logging;
    let logging = Logging {
        level: level.value,
        format: format.value,
    };
    match storage {
        Some(storage) if checker.problems.is_empty() => Ok(Config {
            network,
            memory,
            rdma,
            storage,
            limits,
            telemetry,
            logging,
            effective: checker.effective,
            warnings: checker.warnings,
            unknown_keys: loaded.warnings.len(),
        }),
        _ => Err(Problems(checker.problems)),
    }
}

struct Checker<'a> {
    effective: Vec<Effective>,
    warnings: Vec<String>,
    problems: Vec<Problem>,
    facts: &'a Facts,
}

impl Checker<'_> {
    fn refuse(&mut self, text: String) {
        self.problems.push(Problem::Refused(text));
    }

    fn warn(&mut self, text: String) {
        self.warnings.push(text);
    }

    /// Whether these fields could be read, so that a rule over them makes sense.
    fn sound(&self, fields: &[&str]) -> bool {
        let broken: Vec<_> = self.problems.iter().filter_map(Problem::field).collect();
        !fields.iter().any(|field| broken.contains(field))
    }

    /// Replaces what is shown of a field by what was made of it.
    fn show(&mut self, path: &str, value: String, source: Source) {
        let json = value.clone().into();
        let entry = Effective {
            path: path.to_owned(),
            value,
            json,
            source,
        };
        match self.effective.iter_mut().find(|shown| shown.path == path) {
            Some(shown) => *shown = entry,
            None => self.effective.push(entry),
        }
    }

    fn detected<T: Value>(&mut self, path: &str, value: &T, from: &str) {
        self.show(path, value.show(), Source::Detected(from.into()));
        if let Some(shown) = self.effective.iter_mut().find(|shown| shown.path == path) {
            shown.json = value.to_json();
        }
    }

    /// The power of two that slabs and extents need, so `4 MB` becomes 4 MiB; says so where that
    /// changed the value.
    fn power_of_two(&mut self, path: &str, size: &Setting<ByteSize>) -> u64 {
        let power = size.value.bytes().next_power_of_two();
        if power != size.value.bytes() {
            let note = format!("{} (rounded up from {})", ByteSize(power), size.value);
            self.show(path, note, size.source.clone());
        }
        power
    }

    fn rdma(&mut self, raw: RawRdma) -> Rdma {
        let RawRdma {
            enabled,
            device,
            port,
            gid_index,
            traffic_class,
            service_level,
            mtu,
            cq_depth,
            timeout,
            retry_count,
            num_dcis,
            dc_key,
            num_worker_threads,
            num_responder_threads,
        } = raw;
        match enabled.value {
            RdmaMode::True => self.refuse(format!(
                "{}: rdma.enabled is true, but this build has no RDMA; set it to auto to serve TCP",
                enabled.source
            )),
            RdmaMode::Auto => {
                let from = Source::Detected("this build has no RDMA".into());
                self.show("rdma.enabled", "auto: false".to_owned(), from);
                self.warn(
                    "this build has no RDMA; serving TCP (rdma.enabled: false silences this)"
                        .into(),
                );
            }
            RdmaMode::False => {}
        }
        Rdma {
            enabled: enabled.value,
            device: device.value,
            port: port.value,
            gid_index: gid_index.value,
            traffic_class: traffic_class.value,
            service_level: service_level.value,
            mtu: mtu.value,
            cq_depth: cq_depth.value,
            timeout: timeout.value,
            retry_count: retry_count.value,
            num_dcis: num_dcis.value,
            dc_key: dc_key.value,
            num_worker_threads: num_worker_threads.value,
            num_responder_threads: num_responder_threads.value,
        }
    }

    fn limits(&mut self, raw: RawLimits, pool_bytes: u64, pool_field: &str) -> Limits {
        let RawLimits {
            max_connections,
            max_in_flight,
            drain_seconds,
        } = raw;
        let max_in_flight_bytes = match max_in_flight.value.bytes() {
            0 => {
                let half = ByteSize(pool_bytes / 2);
                let from = format!("half of {pool_field}");
                self.detected("limits.max_in_flight", &half, &from);
                half.bytes()
            }
            bytes => bytes,
        };
        Limits {
            max_connections: max_connections.value,
            max_in_flight_bytes,
            drain: Duration::from_secs(drain_seconds.value.into()),
        }
    }
}
