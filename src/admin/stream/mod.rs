//! The built-in stream: events over HTTP as server-sent events, with no broker at all.
//!
//! `GET /stream?topic=registry.push&topic=releases.**` answers `text/event-stream` (WHATWG HTML,
//! section 9.2). What it shows is what the routing table sends to sinks of type `stream`, under the
//! topic of the target at hand:
//!
//! ```text
//! id: 4711                  the event's offset in the journal
//! event: registry.push      its topic
//! data: {                   its own bytes, a `data` line for each of theirs:
//! data:    "id": "320678…   joined by line feeds, as every client does, they are the bytes
//! data: }                   that the registry sent
//! ```
//!
//! - `topic` may be given several times and be a glob: `*` within a word, `**` across words, `?`,
//!   `[…]`, `{a,b}`; words are separated by dots. None given: everything.
//! - A client that comes back with `Last-Event-ID` (or `?last_event_id=`) goes on after it, out of
//!   the journal: nothing is missed. One without starts at the head, or where `?from=` says:
//!   `beginning`, an offset, an RFC 3339 time, or an age (`10m`).
//! - `event: gap` says that offsets were lost in between: `{"lost": 12, "next": 4711}`.
//! - An event with several topics that a client asked for is sent once under each; only the last
//!   bears the id, so that a connection cut between them loses none.
//! - Where a registry's line ends are carriage returns, which the format cannot carry, the event
//!   comes compacted: the same JSON without white space.
//!
//! A client reads straight from the journal, at its own pace. A slow one lags by itself, and holds
//! at most a few chunks ([`Options::read_bytes_max`]) in memory.

mod frame;
mod pump;
mod topics;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, watch};
use warp::http::StatusCode;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use warp::reply::{Reply as _, Response};

use self::pump::Pump;
use self::topics::{Selector, Topics};
use super::State;
use super::start::Start;
use crate::config::Config;
use crate::http::Problem;
use crate::journal::Journal;
use crate::journal::local::now;
use crate::sinks::SinkOptions;
use crate::telemetry::Metrics;

/// Streams at a time, unless [`Options`] say otherwise.
pub const STREAMS_MAX: usize = 128;

/// What bounds the streams.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Clients at a time; a further one is answered 503.
    pub streams_max: usize,
    /// After so long without an event a comment is sent, for proxies and clients that give up on
    /// silent connections.
    pub heartbeat: Duration,
    /// How much one read takes from the journal, in bytes. A client holds at most three reads in
    /// memory: one being written, one waiting, one being made.
    pub read_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { streams_max: STREAMS_MAX, heartbeat: Duration::from_secs(15), read_bytes_max: 256 << 10 }
    }
}

/// Answers `GET /stream`.
#[derive(Clone)]
pub(super) struct Streams {
    config: Arc<Config>,
    journal: Arc<dyn Journal>,
    metrics: Arc<Metrics>,
    options: Options,
    permits: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
}

impl Streams {
    /// Streams that all end when `stopped` turns true.
    pub(super) fn new(state: &State, stopped: watch::Receiver<bool>) -> Self {
        Self {
            config: Arc::clone(&state.config),
            journal: Arc::clone(&state.journal),
            metrics: Arc::clone(&state.metrics),
            options: state.stream,
            permits: Arc::new(Semaphore::new(state.stream.streams_max)),
            stopped,
        }
    }

    /// A stream for one request, or a problem that says what is wrong with it.
    pub(super) fn answer(&self, last_id: Option<String>, query: &[(String, String)]) -> Response {
        match self.open(last_id, query) {
            Ok(response) => response,
            Err(refusal) => refusal.into_response(),
        }
    }

    fn open(&self, last_id: Option<String>, query: &[(String, String)]) -> Result<Response, Refusal> {
        let request = Request::parse(last_id, query).map_err(Refusal::BadRequest)?;
        if !has_stream_sink(&self.config) {
            return Err(Refusal::NoStreamSink);
        }
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        let permit = permit.map_err(|_| Refusal::TooMany(self.options.streams_max))?;
        // One frame waits here while hyper writes another: the bound on a slow client's memory.
        let (frames, body) = mpsc::channel(1);
        let pump = Pump {
            journal: Arc::clone(&self.journal),
            selector: Selector::new(Arc::clone(&self.config), request.topics),
            metrics: Arc::clone(&self.metrics),
            options: self.options,
            stopped: self.stopped.clone(),
            frames,
        };
        tokio::spawn(async move {
            pump.run(request.start, now()).await;
            drop(permit);
        });
        Ok(event_stream(body))
    }
}

/// What a client asked for.
struct Request {
    topics: Topics,
    start: Start,
}

impl Request {
    fn parse(last_id: Option<String>, query: &[(String, String)]) -> Result<Self, String> {
        let mut topics = Vec::new();
        let mut from = None;
        let mut last_id = last_id;
        for (name, value) in query {
            match name.as_str() {
                "topic" => topics.push(value.as_str()),
                "from" => from = Some(value.as_str()),
                // A browser keeps its URL when it comes back: the header knows better.
                "last_event_id" => last_id = last_id.or_else(|| Some(value.clone())),
                _ => {
                    return Err(format!("no parameter `{name}`; there are topic, from and last_event_id"));
                }
            }
        }
        let start = match (last_id, from) {
            (Some(id), _) => Start::after(&id)?,
            (None, Some(from)) => Start::parse(from)?,
            (None, None) => Start::Head,
        };
        Ok(Self { topics: Topics::parse(&topics)?, start })
    }
}

/// Why a stream is not begun.
enum Refusal {
    BadRequest(String),
    NoStreamSink,
    TooMany(usize),
}

impl Refusal {
    fn into_response(self) -> Response {
        let (status, kind, title) = match &self {
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad-request", "The request makes no sense"),
            Self::NoStreamSink => (StatusCode::NOT_FOUND, "no-stream", "There is nothing to stream"),
            Self::TooMany(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "too-many-streams", "There are too many streams")
            }
        };
        let detail = match &self {
            Self::BadRequest(what) => what.clone(),
            Self::NoStreamSink => {
                "the configuration has no sink of type `stream`; add one and route events to it".to_owned()
            }
            Self::TooMany(max) => format!("there are {max} already; try again later"),
        };
        let mut answer = Problem { status, kind, title, detail: &detail, sink: None }.into_response();
        if let Self::TooMany(_) = self {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        answer
    }
}

/// Whether there is anything to stream.
fn has_stream_sink(config: &Config) -> bool {
    config.sinks.iter().any(|sink| matches!(sink.options, SinkOptions::Stream) && !sink.disabled)
}

fn event_stream(mut body: mpsc::Receiver<Bytes>) -> Response {
    let frames = futures_util::stream::poll_fn(move |context| {
        body.poll_recv(context).map(|frame| frame.map(Ok::<Bytes, Infallible>))
    });
    let mut response = warp::reply::stream(frames).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx holds answers back to fill its buffers, unless it is told not to.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
