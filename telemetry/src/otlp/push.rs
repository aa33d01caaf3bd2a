//! Sends metrics to a collector at intervals, and once more at the end, from a thread of its own.
//!
//! There is no queue: a snapshot is taken when it is sent. One that can't be sent is dropped and counted;
//! as the numbers are cumulative, the next one has what it had.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use parking_lot::Mutex;
use prost::Message as _;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio::runtime::Runtime;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

use super::connect::{grpc_tls, http_client, url};
use super::{ExportCounts, ExporterThread, OtlpError, OtlpProtocol, endpoint_error, runtime};
use crate::hub::OtlpConfig;
use crate::labels::Exporter;

/// The most bytes of a collector's reply that are read: it only ever says what it rejected.
const REPLY_BYTES_MAX: usize = 64 << 10;

/// The thread, and how to stop it.
pub(crate) struct MetricWorker {
    /// Dropped to ask for the last snapshot and the end.
    stop: Mutex<Option<SyncSender<()>>>,
    thread: ExporterThread,
}

impl MetricWorker {
    /// Sends what `collect` returns every `config.metrics_every`; ends when it returns nothing.
    pub(crate) fn start(
        config: &OtlpConfig,
        counts: Arc<ExportCounts>,
        collect: impl FnMut() -> Option<ExportMetricsServiceRequest> + Send + 'static,
    ) -> Result<MetricWorker, OtlpError> {
        let runtime = runtime()?;
        let collector = {
            let _guard = runtime.enter();
            Collector::new(config)?
        };
        let (stop, stopped) = sync_channel(0);
        let pace = Pace {
            every: config.metrics_every,
            timeout: config.timeout,
        };
        let thread = ExporterThread::start(Exporter::Metrics, move || {
            pace.run(&stopped, &runtime, collector, &counts, collect);
        })?;
        Ok(MetricWorker {
            stop: Mutex::new(Some(stop)),
            thread,
        })
    }

    /// Asks for the last snapshot.
    pub(crate) fn close(&self) {
        drop(self.stop.lock().take());
    }

    /// Waits until it is sent; gives up at the deadline and says so by `false`.
    pub(crate) fn join(&self, deadline: Instant) -> bool {
        self.thread.join(deadline)
    }
}

struct Pace {
    every: Duration,
    timeout: Duration,
}

impl Pace {
    fn run(
        self,
        stopped: &Receiver<()>,
        runtime: &Runtime,
        mut collector: Collector,
        counts: &ExportCounts,
        mut collect: impl FnMut() -> Option<ExportMetricsServiceRequest>,
    ) {
        loop {
            let wait = stopped.recv_timeout(self.every);
            let Some(request) = collect() else {
                return; // Nobody counts any more.
            };
            let sent = runtime.block_on(async {
                tokio::time::timeout(self.timeout, collector.send(request)).await
            });
            if !matches!(sent, Ok(true)) {
                counts.failures.add(Exporter::Metrics.idx(), 1);
                counts.dropped.add(Exporter::Metrics.idx(), 1);
            }
            if wait != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }
}

enum Collector {
    Grpc {
        client: MetricsServiceClient<Channel>,
        metadata: MetadataMap,
    },
    Http {
        client: reqwest::Client,
        url: String,
        headers: HeaderMap,
    },
}

impl Collector {
    /// Connects when something is sent.
    fn new(config: &OtlpConfig) -> Result<Collector, OtlpError> {
        let url = url(&config.endpoint, config.protocol, "metrics");
        // The span exporter takes these by itself; the variables are OpenTelemetry's.
        let variable = std::env::var("OTEL_EXPORTER_OTLP_METRICS_HEADERS")
            .or_else(|_| std::env::var("OTEL_EXPORTER_OTLP_HEADERS"));
        let headers = headers(&variable.unwrap_or_default());
        match config.protocol {
            OtlpProtocol::Grpc => {
                let endpoint = Endpoint::from_shared(url);
                let mut endpoint = endpoint.map_err(|error| endpoint_error(config, &error))?;
                if let Some(tls) = grpc_tls(config)? {
                    let secured = endpoint.tls_config(tls);
                    endpoint = secured.map_err(|error| endpoint_error(config, &error))?;
                }
                let channel = endpoint.connect_timeout(config.timeout).connect_lazy();
                Ok(Collector::Grpc {
                    client: MetricsServiceClient::new(channel),
                    metadata: MetadataMap::from_headers(headers),
                })
            }
            OtlpProtocol::Http => {
                if let Err(error) = reqwest::Url::parse(&url) {
                    return Err(endpoint_error(config, &error));
                }
                Ok(Collector::Http {
                    client: http_client(config)?,
                    url,
                    headers,
                })
            }
        }
    }

    /// Whether the collector took all of it.
    async fn send(&mut self, request: ExportMetricsServiceRequest) -> bool {
        match self {
            Collector::Grpc { client, metadata } => {
                let request =
                    tonic::Request::from_parts(metadata.clone(), Default::default(), request);
                match client.export(request).await {
                    Ok(reply) => is_complete(reply.get_ref()),
                    Err(_) => false,
                }
            }
            Collector::Http {
                client,
                url,
                headers,
            } => {
                let post = client
                    .post(url.as_str())
                    .headers(headers.clone())
                    .header(CONTENT_TYPE, "application/x-protobuf")
                    .body(request.encode_to_vec());
                match post.send().await {
                    Ok(reply) if reply.status().is_success() => match body(reply).await {
                        Some(body) => ExportMetricsServiceResponse::decode(&body[..])
                            .map_or(true, |reply| is_complete(&reply)),
                        None => false,
                    },
                    _ => false,
                }
            }
        }
    }
}

/// The reply's body, `None` where it breaks off or is longer than any honest one.
async fn body(mut reply: reqwest::Response) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(piece) = reply.chunk().await.ok()? {
        body.extend_from_slice(&piece);
        if body.len() > REPLY_BYTES_MAX {
            return None;
        }
    }
    Some(body)
}

fn is_complete(reply: &ExportMetricsServiceResponse) -> bool {
    let partial = reply.partial_success.as_ref();
    partial.is_none_or(|partial| partial.rejected_data_points == 0)
}

/// Headers as OpenTelemetry's variables have them: `name=value` with percent encoding, between commas.
/// What isn't a header is left out.
fn headers(text: &str) -> HeaderMap {
    let pairs = text.split(',').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let name: HeaderName = name.trim().parse().ok()?;
        let value = HeaderValue::from_bytes(&percent_decoded(value.trim())?).ok()?;
        Some((name, value))
    });
    pairs.collect()
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        bytes.push(u8::from_str_radix(piece.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&piece.as_bytes()[2..]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
