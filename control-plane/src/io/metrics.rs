//! Metrics of a node: what its threads measured, as Prometheus text at `GET /metrics`.
//!
//! A thread of the hot path owns a [`Latencies`] and touches nothing shared. Once a second its
//! shell swaps it for an empty one and hands the full one over to be folded in here.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use base::ids::{NodeName, VolumeName};
use base::time::Instant;
use datapath::outbox::Stages;
use hdrhistogram::Histogram;
use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use tokio::net::TcpListener;

use super::http_server::{accept_loop, serve_http};
use crate::state_word::StateWord;
use crate::status::NodeStatus;

/// Upper bounds of the classic buckets of `stretch_request_seconds`.
const BUCKETS_SECONDS: [f64; 17] = [
    50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0,
    2.5, 5.0, 10.0,
];
/// Longest time that a histogram of a thread tells apart, in microseconds; longer counts as this.
const MICROSECONDS_MAX: u64 = 100_000_000;
/// Significant decimal digits of a histogram of a thread.
const DIGITS: u8 = 2;

const TRANSITIONS: &str = "stretch_state_transitions_total";

const METADATA: Metadata<'static> = Metadata::new("stretch", Level::INFO, None);

/// A request of a host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Op {
    /// READ
    Read,
    /// WRITE
    Write,
    /// WRITE_ZEROES
    WriteZeroes,
    /// TRIM
    Trim,
    /// FLUSH
    Flush,
    /// CACHE
    Cache,
}

impl Op {
    /// Every one.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::Write, Self::WriteZeroes, Self::Trim, Self::Flush, Self::Cache];

    /// The label.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::WriteZeroes => "write_zeroes",
            Self::Trim => "trim",
            Self::Flush => "flush",
            Self::Cache => "cache",
        }
    }
}

/// A part of a request's life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Received, not yet admitted to a session.
    Queue,
    /// Admitted; a write waits for its place, a read for the writes that it overlaps, a flush for
    /// the one before it.
    Order,
    /// From there until this node's disk is done.
    Local,
    /// From there until the other node says that its copy has it.
    Peer,
    /// From the request to the reply.
    Total,
}

impl Phase {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Queue, Self::Order, Self::Local, Self::Peer, Self::Total];

    /// The label.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Order => "order",
            Self::Local => "local",
            Self::Peer => "peer",
            Self::Total => "total",
        }
    }
}

/// What one thread measured of one volume since it was last folded in.
#[derive(Debug)]
pub struct Latencies {
    histograms: Vec<Histogram<u32>>,
    bytes: [u64; Op::ALL.len()],
    errors: [u64; Op::ALL.len()],
}

impl Default for Latencies {
    fn default() -> Self {
        let empty = Histogram::new_with_bounds(1, MICROSECONDS_MAX, DIGITS)
            .expect("the bounds are constants that fit");
        Self {
            histograms: vec![empty; Op::ALL.len() * Phase::ALL.len()],
            bytes: [0; Op::ALL.len()],
            errors: [0; Op::ALL.len()],
        }
    }
}

impl Latencies {
    /// One request spent `time` in `phase`.
    fn record(&mut self, op: Op, phase: Phase, time: Duration) {
        let microseconds = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.histograms[op as usize * Phase::ALL.len() + phase as usize]
            .saturating_record(microseconds.max(1));
    }

    /// A request that was `begun` is answered `now`: how long each of its phases took.
    pub fn record_request(&mut self, op: Op, begun: Instant, stages: Stages, now: Instant) {
        let Stages { admitted, ordered, here, there } = stages;
        let phases = [
            (Phase::Queue, Some(begun), admitted),
            (Phase::Order, admitted, ordered),
            (Phase::Local, ordered, here),
            (Phase::Peer, ordered, there),
            (Phase::Total, Some(begun), Some(now)),
        ];
        for (phase, from, to) in phases {
            if let (Some(from), Some(to)) = (from, to) {
                self.record(op, phase, to.since(from));
            }
        }
    }

    /// A request moved `bytes` between a host and this volume.
    pub fn count_bytes(&mut self, op: Op, bytes: u64) {
        self.bytes[op as usize] += bytes;
    }

    /// A request was answered with an error.
    pub fn count_error(&mut self, op: Op) {
        self.errors[op as usize] += 1;
    }
}

/// The node's metrics.
#[derive(Debug)]
pub struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    volumes: BTreeMap<VolumeName, VolumeMetrics>,
}

#[derive(Debug)]
struct VolumeMetrics {
    seconds: Vec<metrics::Histogram>,
    bytes: Vec<Counter>,
    errors: Vec<Counter>,
}

impl Metrics {
    /// Empty, with `node` as a label of everything.
    pub fn new(node: &NodeName) -> Self {
        let recorder = PrometheusBuilder::new()
            .add_global_label("node", node.as_str())
            .set_buckets_for_metric(
                Matcher::Full("stretch_request_seconds".to_owned()),
                &BUCKETS_SECONDS,
            )
            .expect("there are buckets")
            .build_recorder();
        let help = |name: &'static str, unit, text: &'static str| {
            recorder.describe_histogram(name.into(), Some(unit), SharedString::from(text));
        };
        help(
            "stretch_request_seconds",
            Unit::Seconds,
            "Time of hosts' requests, by operation and phase",
        );
        let handle = recorder.handle();
        Self { recorder: Arc::new(recorder), handle, volumes: BTreeMap::new() }
    }

    /// Where changes of state are counted.
    pub fn transitions(&self) -> Transitions {
        let help = "Changes of the node's state";
        self.recorder.describe_counter(TRANSITIONS.into(), None, help.into());
        Transitions { recorder: self.recorder.clone() }
    }

    /// A value that goes up and down; `name` begins with `stretch_`.
    fn gauge(&self, name: &'static str, help: &'static str, labels: Vec<Label>) -> Gauge {
        assert!(name.starts_with("stretch_") && !name.ends_with("_total"), "{name}");
        self.recorder.describe_gauge(name.into(), None, help.into());
        self.recorder.register_gauge(&Key::from_parts(name, labels), &METADATA)
    }

    /// Adds what a thread measured and empties it.
    pub fn fold(&mut self, volume: &VolumeName, measured: &mut Latencies) {
        let recorder = &self.recorder;
        let volume = self
            .volumes
            .entry(volume.clone())
            .or_insert_with(|| VolumeMetrics::new(recorder, volume));
        for (histogram, seconds) in measured.histograms.iter_mut().zip(&volume.seconds) {
            if histogram.is_empty() {
                continue;
            }
            for step in histogram.iter_recorded() {
                let value = Duration::from_micros(step.value_iterated_to()).as_secs_f64();
                let count = usize::try_from(step.count_since_last_iteration())
                    .expect("counts of a second fit");
                seconds.record_many(value, count);
            }
            histogram.reset();
            // The recorder keeps every sample until this: bounded by one histogram's at a time.
            self.handle.run_upkeep();
        }
        for (count, counter) in measured.bytes.iter_mut().zip(&volume.bytes) {
            counter.increment(std::mem::take(count));
        }
        for (count, counter) in measured.errors.iter_mut().zip(&volume.errors) {
            counter.increment(std::mem::take(count));
        }
    }

    /// Shows `status` as gauges.
    pub fn show_status(&self, status: &NodeStatus) {
        let set = |name, help, value: f64| self.gauge(name, help, Vec::new()).set(value);
        for state in StateWord::ALL {
            let label = vec![Label::new("state", state.word())];
            let value = if state == status.state { 1.0 } else { 0.0 };
            self.gauge("stretch_state", "1 for the node's state, 0 for the others", label)
                .set(value);
        }
        let truth = |yes| if yes { 1.0 } else { 0.0 };
        set("stretch_serving", "1 while hosts are answered", truth(status.serving));
        set("stretch_session", "Number of the newest session", status.session.0 as f64);
        set("stretch_uptime_seconds", "Age of the process", seconds(status.uptime_ms));
        set("stretch_peer_reachable", "1 while the peer is heard", truth(status.peer.reachable));
        if let Some(ms) = status.peer.last_seen_ms {
            set("stretch_peer_silent_seconds", "Since the peer's last message", seconds(ms));
        }
        for volume in &status.volumes {
            let set = |name, help, value: u64| {
                let label = vec![Label::new("volume", volume.name.to_string())];
                self.gauge(name, help, label).set(value as f64);
            };
            set("stretch_volume_size_bytes", "Size of the volume", volume.size);
            set("stretch_clients", "Attached NBD connections", u64::from(volume.clients));
            if let Some(bytes) = volume.dirty_bytes {
                set("stretch_dirty_bytes", "Differs or may differ between the nodes", bytes);
            }
            let resync = volume.resync.as_ref();
            set(
                "stretch_resync_todo_bytes",
                "Still to compare in the copy under way",
                resync.map_or(0, |resync| resync.todo_bytes),
            );
        }
    }

    /// Renders the text of `GET /metrics` whenever it is asked.
    pub fn page(&self) -> MetricsPage {
        MetricsPage { handle: self.handle.clone() }
    }
}

/// Counts changes of state, on any thread.
#[derive(Clone, Debug)]
pub struct Transitions {
    recorder: Arc<PrometheusRecorder>,
}

impl Transitions {
    /// The node went from one state to another.
    pub fn count(&self, from: StateWord, to: StateWord) {
        let labels = vec![Label::new("from", from.word()), Label::new("to", to.word())];
        let key = Key::from_parts(TRANSITIONS, labels);
        self.recorder.register_counter(&key, &METADATA).increment(1);
    }
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

impl VolumeMetrics {
    fn new(recorder: &PrometheusRecorder, volume: &VolumeName) -> Self {
        let label = |key: &'static str, value: &'static str| Label::new(key, value);
        let of_volume = || Label::new("volume", volume.to_string());
        let counters = |name: &'static str, help: &'static str| {
            recorder.describe_counter(name.into(), None, help.into());
            let counter = |op: Op| {
                let key = Key::from_parts(name, vec![label("op", op.word()), of_volume()]);
                recorder.register_counter(&key, &METADATA)
            };
            Op::ALL.map(counter).to_vec()
        };
        let mut seconds = Vec::new();
        for op in Op::ALL {
            for phase in Phase::ALL {
                let labels =
                    vec![label("op", op.word()), label("phase", phase.word()), of_volume()];
                let key = Key::from_parts("stretch_request_seconds", labels);
                seconds.push(recorder.register_histogram(&key, &METADATA));
            }
        }
        Self {
            seconds,
            bytes: counters("stretch_request_bytes_total", "Bytes read and written by hosts"),
            errors: counters("stretch_request_errors_total", "Requests answered with an error"),
        }
    }
}

/// The text of `GET /metrics`.
#[derive(Clone, Debug)]
pub struct MetricsPage {
    handle: PrometheusHandle,
}

impl MetricsPage {
    /// Prometheus text, version 0.0.4.
    pub fn render(&self) -> String {
        self.handle.render()
    }
}

/// Serves `GET /metrics` over plain HTTP until it is dropped.
pub async fn serve_metrics(listener: TcpListener, page: MetricsPage) -> Infallible {
    let router = Router::new().route(
        "/metrics",
        get(move || {
            let page = page.clone();
            async move { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page.render()) }
        }),
    );
    let accept = async || Ok(listener.accept().await?.0);
    accept_loop("metrics port", accept, |stream| serve_http(stream, router.clone())).await
}

#[cfg(test)]
mod tests;
