//! The admin listener: whether the relay lives, what it does, and the built-in stream.
//!
//! | path | answers |
//! |---|---|
//! | `GET /` | a page with the status and the stream as it comes |
//! | `GET /healthz` | 200 while the process answers at all |
//! | `GET /readyz` | 200 while the journal takes events, else 503 with the reason |
//! | `GET /metrics` | OpenMetrics; `docs/metrics.md` has every name |
//! | `GET /api/v1/status` | [`Status`] as JSON |
//! | `/api/v1/dead-letters…`, `quarantine…`, `replays…`, `gaps` | what an operator does: [`ops`] |
//! | `GET /stream?topic=…` | events as they come, and as they came: [`stream`] |
//!
//! Errors are `application/problem+json`. With `admin.tokens` all but the page, `/healthz` and
//! `/readyz` (which hold nothing to hide, and whose callers cannot send a header) want a bearer token.

mod auth;
mod health;
pub mod ops;
mod page;
mod start;
mod status;
pub mod stream;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::watch;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use warp::reply::{Reply as _, Response};

use crate::config::{AdminConfig, Config};
use crate::delivery::SinkStatus;
use crate::http::{Listener, Problem, Stopping, answer};
use crate::journal::Journal;
use crate::telemetry::Metrics;

pub use ops::Operations;
pub use status::{Ready, ReceiverStatus, Status};

/// The version that status, metrics and `--version` tell.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the media type of OpenMetrics 1.0 is (its specification, "Protocol Negotiation").
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Connections at a time; each stream takes one, and people and scrapers need few.
const CONNECTIONS_MAX: usize = stream::STREAMS_MAX + 128;

/// How long a request's header may take, and what is under way at the end.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What the listener shows: handles on what runs.
#[derive(Clone)]
pub struct State {
    pub config: Arc<Config>,
    pub journal: Arc<dyn Journal>,
    /// One per sink with a worker, in the configuration's order.
    pub sinks: Vec<Arc<SinkStatus>>,
    pub metrics: Arc<Metrics>,
    /// Turns true when the relay begins to stop, before its sinks are drained: it is then no
    /// longer ready, while status and metrics still answer.
    pub stopping: watch::Receiver<bool>,
    pub started: Instant,
    pub stream: stream::Options,
    pub operations: Arc<Operations>,
}

/// The admin listener could not be bound.
#[derive(Debug)]
pub struct BindError {
    pub listen: SocketAddr,
    pub cause: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {} (`admin.listen`): {}", self.listen, self.cause)
    }
}

impl std::error::Error for BindError {}

/// A bound listener, not yet answering.
pub struct Admin {
    listener: Listener,
    tokens: Arc<auth::Tokens>,
    state: State,
}

/// Binds the listener. To be called within a tokio runtime.
///
/// # Errors
/// [`BindError`]: the address is taken, or is not this machine's.
pub fn bind(config: &AdminConfig, state: State) -> Result<Admin, BindError> {
    let listen = config.listen;
    let listener = Listener::bind(listen, CONNECTIONS_MAX).map_err(|cause| BindError { listen, cause })?;
    Ok(Admin { listener, tokens: Arc::new(auth::Tokens::new(config.tokens.clone())), state })
}

impl Admin {
    /// The address it is bound to: the configured one, with the port that a `0` stood for.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Answers until `shutdown`, then ends the streams and finishes what is under way.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let (stop, stopped) = watch::channel(false);
        let shutdown = async {
            shutdown.await;
            stop.send_replace(true);
        };
        let routes = routes(self.state, self.tokens, stopped);
        let connection = |stream, _, stopping| connection(stream, routes.clone(), stopping);
        self.listener.serve(connection, shutdown, DRAIN_TIMEOUT).await;
    }
}

/// Answers one connection's requests.
async fn connection(stream: TcpStream, routes: BoxedFilter<(Response,)>, stopping: Stopping) {
    let service = TowerToHyperService::new(warp::service(routes));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = answer(connection, stopping).await {
        tracing::debug!(%error, "a connection to the admin listener ended early");
    }
}

fn routes(
    state: State,
    tokens: Arc<auth::Tokens>,
    stopped: watch::Receiver<bool>,
) -> BoxedFilter<(Response,)> {
    let streams = stream::Streams::new(&state, stopped);
    let state = Arc::new(state);
    let get = |path: &'static str| warp::path(path).and(warp::path::end()).and(warp::get());
    let operations = ops::routes(&state).recover(ops::foreign).unify();
    let with_state = move || {
        let state = Arc::clone(&state);
        warp::any().map(move || Arc::clone(&state))
    };
    let open = get("healthz")
        .map(health::alive)
        .or(get("readyz").and(with_state()).map(|state: Arc<State>| health::ready(&state)))
        .unify();
    let metrics = get("metrics").and(with_state()).map(|state: Arc<State>| metrics(&state));
    let status = warp::path!("api" / "v1" / "status")
        .and(warp::get())
        .and(with_state())
        .map(|state: Arc<State>| json(&Status::of(&state)));
    let stream = get("stream")
        .and(warp::header::optional::<String>("last-event-id"))
        .and(warp::query::<Vec<(String, String)>>())
        .map(move |last_id: Option<String>, query: Vec<(String, String)>| streams.answer(last_id, &query));
    let guarded = metrics.or(status).unify().or(stream).unify().or(operations).unify();
    page::routes().or(open).unify().or(auth::guard(tokens, guarded)).unify().recover(rejected).unify().boxed()
}

fn metrics(state: &State) -> Response {
    status::refresh_gauges(state);
    let text = state.metrics.render().expect("writing to a string does not fail");
    warp::reply::with_header(text, CONTENT_TYPE, OPENMETRICS).into_response()
}

/// Turns what no route took into a problem, so that every answer is one of ours.
async fn rejected(rejection: warp::Rejection) -> Result<Response, Infallible> {
    let (status, kind, title) = if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "This path does not take this method")
    } else if rejection.is_not_found() {
        (StatusCode::NOT_FOUND, "not-found", "No such path")
    } else {
        (StatusCode::BAD_REQUEST, "bad-request", "The request cannot be read")
    };
    let detail = "there are /, /healthz, /readyz, /metrics, /stream, and below /api/v1: status, dead-letters, \
                  quarantine, replays and gaps";
    Ok(Problem { status, kind, title, detail, sink: None }.into_response())
}

/// A value as JSON that no cache keeps.
fn json(value: &impl serde::Serialize) -> Response {
    warp::reply::with_header(warp::reply::json(value), CACHE_CONTROL, "no-store").into_response()
}
