//! Metrics of a witness, as Prometheus text at `GET /metrics`.
//!
//! Faults assumed: clients that are slow, silent or many; full means that further ones wait in the
//! kernel's queue.

use std::convert::Infallible;
use std::time::Duration;

use base::ids::NodeName;
use base::limits::{ADMIN_CONNECTION_TIMEOUT, ADMIN_CONNECTIONS_MAX};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::wire::{Question, Reply, Verdict};

const METADATA: Metadata<'static> = Metadata::new("stretch", Level::INFO, None);
/// Pause after accept(2) failed, for example without a free descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a witness counts.
#[derive(Debug)]
pub(super) struct Metrics {
    handle: PrometheusHandle,
    requests: [Counter; 5],
    verdicts: [Counter; 3],
    refused: Counter,
    rolled_back: Counter,
    groups: Gauge,
    tokens: Gauge,
    connections: Gauge,
    uptime: Gauge,
}

/// What is shown as it is now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) groups: usize,
    pub(super) tokens: usize,
    pub(super) connections: usize,
    pub(super) uptime: Duration,
}

impl Metrics {
    /// Empty, with `witness` as a label of everything.
    pub(super) fn new(witness: &NodeName) -> Self {
        let recorder =
            PrometheusBuilder::new().add_global_label("witness", witness.as_str()).build_recorder();
        let counters = Counters { recorder: &recorder };
        let requests = "stretch_witness_requests_total";
        let verdicts = "stretch_witness_verdicts_total";
        Self {
            handle: recorder.handle(),
            requests: ["create", "ping", "claim", "note", "who"].map(|question| {
                counters.counter(requests, "Requests of nodes", Some(("question", question)))
            }),
            verdicts: ["won", "lost", "unknown"].map(|verdict| {
                counters.counter(verdicts, "Answers to claims", Some(("verdict", verdict)))
            }),
            refused: counters.counter(
                "stretch_witness_refused_total",
                "Connections and requests that were refused",
                None,
            ),
            rolled_back: counters.counter(
                "stretch_witness_rollbacks_total",
                "Times that a node had seen more than this witness remembers",
                None,
            ),
            groups: counters.gauge("stretch_witness_groups", "Pairs that have asked"),
            tokens: counters.gauge("stretch_witness_tokens", "Tokens that are known"),
            connections: counters.gauge("stretch_witness_connections", "Connections of nodes"),
            uptime: counters.gauge("stretch_uptime_seconds", "Age of the process"),
        }
    }

    /// A request was answered.
    pub(super) fn count(&self, question: &Question, reply: &Reply) {
        let index = match question {
            Question::Create { .. } => 0,
            Question::Ping { .. } => 1,
            Question::Claim { .. } => 2,
            Question::Note(_) => 3,
            Question::Who => 4,
        };
        self.requests[index].increment(1);
        match reply {
            Reply::Verdict(Verdict::Won) => self.verdicts[0].increment(1),
            Reply::Verdict(Verdict::Lost { .. }) => self.verdicts[1].increment(1),
            Reply::Verdict(Verdict::Unknown) => self.verdicts[2].increment(1),
            Reply::Refused { .. } => self.count_refused(),
            Reply::Created { .. } | Reply::Pong(_) | Reply::Noted | Reply::Journal(_) => {}
        }
    }

    /// A connection was refused.
    pub(super) fn count_refused(&self) {
        self.refused.increment(1);
    }

    /// A rollback was noticed.
    pub(super) fn count_rollback(&self) {
        self.rolled_back.increment(1);
    }

    /// Shows what is there now.
    pub(super) fn show(&self, now: Now) {
        self.groups.set(now.groups as f64);
        self.tokens.set(now.tokens as f64);
        self.connections.set(now.connections as f64);
        self.uptime.set(now.uptime.as_secs_f64());
    }

    /// Renders the page whenever it is asked.
    pub(super) fn page(&self) -> PrometheusHandle {
        self.handle.clone()
    }
}

/// Makes counters and gauges with their descriptions.
struct Counters<'a> {
    recorder: &'a PrometheusRecorder,
}

impl Counters<'_> {
    fn counter(
        &self,
        name: &'static str,
        help: &'static str,
        label: Option<(&'static str, &'static str)>,
    ) -> Counter {
        assert!(name.starts_with("stretch_") && name.ends_with("_total"), "{name}");
        self.recorder.describe_counter(name.into(), None, help.into());
        let labels: Vec<Label> =
            label.map(|(key, value)| Label::new(key, value)).into_iter().collect();
        self.recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
    }

    fn gauge(&self, name: &'static str, help: &'static str) -> Gauge {
        assert!(name.starts_with("stretch_") && !name.ends_with("_total"), "{name}");
        self.recorder.describe_gauge(name.into(), None, help.into());
        self.recorder.register_gauge(&Key::from_name(name), &METADATA)
    }
}

/// Serves `GET /metrics` over plain HTTP until it is dropped.
pub(super) async fn serve(listener: TcpListener, page: PrometheusHandle) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= ADMIN_CONNECTIONS_MAX {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let served = serve_connection(stream, page.clone());
                connections.spawn_local(async move {
                    // A client that takes too long is closed.
                    let _ = tokio::time::timeout(ADMIN_CONNECTION_TIMEOUT, served).await;
                });
            }
            Err(error) => {
                tracing::warn!("metrics port: cannot accept a connection: {error}; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, page: PrometheusHandle) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let page = page.clone();
        async move { Ok::<_, Infallible>(answer(&request, &page)) }
    });
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await {
        tracing::debug!("an HTTP connection ended early: {error}");
    }
}

fn answer(request: &Request<Incoming>, page: &PrometheusHandle) -> Response<Full<Bytes>> {
    let there = request.uri().path() == "/metrics";
    let mut response = Response::new(Full::default());
    match (there, request.method()) {
        (true, &Method::GET) => {
            *response.body_mut() = Full::from(page.render());
            let kind = HeaderValue::from_static("text/plain; version=0.0.4");
            response.headers_mut().insert(CONTENT_TYPE, kind);
        }
        (true, _) => *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED,
        (false, _) => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    response
}
