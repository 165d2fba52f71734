//! An admin listener on a real journal, and a client that knows nothing of the relay's own.

// The command-line tests use a part of it.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use relay::admin::{self, Operations, stream};
use relay::config::Config;
use relay::delivery::{Replays, SinkStatus};
use relay::event::Event;
use relay::journal::local::{LocalJournal, Options};
use relay::journal::{Journal, Micros, Offset};
use relay::quarantine::Quarantine;
use relay::receiver::Intake;
use relay::telemetry::Metrics;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Longer than anything here takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a test wants to be different.
#[derive(Clone, Copy)]
pub struct Setup {
    pub tokens: &'static [&'static str],
    pub stream: stream::Options,
    pub journal_bytes_max: u64,
    pub segment_bytes: u64,
    pub retention: Micros,
    pub streams: bool,
    pub listen: SocketAddr,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            tokens: &[],
            stream: stream::Options::default(),
            journal_bytes_max: 64 << 20,
            segment_bytes: 1 << 20,
            retention: Micros::MAX,
            streams: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        }
    }
}

/// All that an admin listener shows, without receiver and workers.
pub struct Relay {
    pub addr: SocketAddr,
    pub journal: Arc<LocalJournal>,
    pub metrics: Arc<Metrics>,
    /// Of the sink `bus`.
    pub bus: Arc<SinkStatus>,
    pub stopping: watch::Sender<bool>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
    setup: Setup,
    folder: tempfile::TempDir,
}

/// A stream with topics of two routes, and a sink that needs no broker.
fn config(setup: &Setup) -> Config {
    let tokens = setup.tokens.join(", ");
    let (disabled, listen) = (!setup.streams, setup.listen);
    let text = format!(
        "receiver: {{listen: '127.0.0.1:8080'}}
admin: {{listen: '{listen}', tokens: [{tokens}]}}
sinks:
  - {{name: live, stream: {{}}, disabled: {disabled}}}
  - {{name: bus, stdout: {{}}, topic: elsewhere}}
routes:
  - {{name: all, to: [live, bus]}}
  - {{name: releases, match: {{tags: ['v*']}}, to: [{{sink: live, topic: 'releases.{{namespace}}'}}]}}
"
    );
    let around = relay::config::Surroundings { env: &|_| None, read: &|_| unreachable!("it names no file") };
    relay::config::parse(&text, "test", &around).expect("a configuration").config
}

impl Relay {
    pub async fn start(setup: Setup) -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder"), setup).await
    }

    async fn start_in(folder: tempfile::TempDir, setup: Setup) -> Self {
        let metrics = Arc::new(Metrics::new());
        let options = Options {
            folder: folder.path().to_owned(),
            bytes_max: setup.journal_bytes_max,
            segment_bytes: setup.segment_bytes,
            retention: setup.retention,
            deduplicate: 0,
        };
        let journal = Arc::new(LocalJournal::open(options, metrics.clone()).expect("a journal"));
        let config = Arc::new(config(&setup));
        let bus = Arc::new(SinkStatus::new("bus".into(), "stdout", "standard output".into(), false));
        let (stopping, stopping_seen) = watch::channel(false);
        let quarantine =
            Arc::new(Quarantine::open(folder.path().join("quarantine"), 1 << 20).expect("a folder"));
        let (no_letters, no_gaps) = (vec![None, None], vec![None, None]);
        let operations = Operations {
            replays: Arc::new(Replays::new(config.clone(), journal.clone(), metrics.clone(), no_letters)),
            gaps: no_gaps,
            intake: Arc::new(Intake::new(journal.clone(), quarantine.clone(), metrics.clone())),
            quarantine,
        };
        let state = admin::State {
            config: config.clone(),
            journal: journal.clone(),
            sinks: vec![bus.clone()],
            metrics: metrics.clone(),
            stopping: stopping_seen,
            started: Instant::now(),
            stream: setup.stream,
            operations: Arc::new(operations),
        };
        let listener = admin::bind(config.admin.as_ref().expect("an admin block"), state).expect("a port");
        let addr = listener.local_addr();
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(listener.serve(async { drop(stopped.await) }));
        Self { addr, journal, metrics, bus, stopping, stop, served, setup, folder }
    }

    /// Makes one event durable; answers its offset.
    pub async fn append(&self, json: &str) -> Offset {
        self.append_at(json, relay::journal::local::now()).await
    }

    /// Makes events durable together: one sync for all of them.
    pub async fn append_all(&self, jsons: impl IntoIterator<Item = String>) {
        let events = jsons.into_iter().map(|json| Event::parse(json.into()).expect("an event"));
        let now = relay::journal::local::now();
        self.journal.append(events.collect(), now).await.expect("room in the journal");
    }

    pub async fn append_at(&self, json: &str, arrived: Micros) -> Offset {
        let event = Event::parse(json.to_owned().into()).expect("an event");
        let offset = self.journal.head();
        self.journal.append(vec![event], arrived).await.expect("room in the journal");
        offset
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let response = request(self.addr, path, headers).await;
        let (parts, body) = response.into_parts();
        let body = within(body.collect()).await.expect("a whole body").to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Opens a stream that is granted.
    pub async fn stream(&self, query: &str) -> Client {
        self.stream_with(query, &[]).await
    }

    pub async fn stream_with(&self, query: &str, headers: &[(&str, &str)]) -> Client {
        let response = request(self.addr, &format!("/stream{query}"), headers).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Client { body: response.into_body(), buffer: BytesMut::new() }
    }

    /// Stops the listener as the relay does, and waits until it has.
    pub async fn stop(self) {
        self.stop.send(()).expect("it runs");
        within(self.served).await.expect("it does not panic");
    }

    /// Stops, and starts again on the same journal and port.
    pub async fn restart(self) -> Self {
        let Self { addr, stop, served, setup, folder, journal, .. } = self;
        stop.send(()).expect("it runs");
        within(served).await.expect("it does not panic");
        eventually("all readers have gone", || Arc::strong_count(&journal) == 1).await;
        drop(journal);
        Self::start_in(folder, Setup { listen: addr, ..setup }).await
    }
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: hyper::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The detail of a problem of this status.
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.json()["status"], status);
        assert!(self.json()["type"].as_str().is_some_and(|kind| kind.starts_with("urn:relay:problem:")));
        self.json()["detail"].as_str().expect("a detail").to_owned()
    }
}

/// One client of the stream.
pub struct Client {
    body: Incoming,
    buffer: BytesMut,
}

/// What stands between two empty lines of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Block {
    pub id: Option<Offset>,
    pub event: Option<String>,
    pub data: Option<String>,
    pub comment: Option<String>,
}

impl Client {
    /// The next block; `None` at the stream's regular end.
    pub async fn block(&mut self) -> Option<Block> {
        let mut scanned = 0;
        loop {
            if let Some(end) = self.buffer[scanned..].windows(2).position(|pair| pair == b"\n\n") {
                let end = scanned + end;
                let text = self.buffer.split_to(end + 2);
                return Some(Block::parse(std::str::from_utf8(&text[..end]).expect("UTF-8")));
            }
            scanned = self.buffer.len().saturating_sub(1);
            match within(self.body.frame()).await {
                Some(frame) => self.buffer.extend_from_slice(frame.expect("a whole frame").data_ref()?),
                None => {
                    assert!(self.buffer.is_empty(), "cut within a block");
                    return None;
                }
            }
        }
    }

    /// The next block with data.
    pub async fn event(&mut self) -> Option<Block> {
        loop {
            match self.block().await {
                Some(block) if block.data.is_none() => {}
                block => return block,
            }
        }
    }

    /// The topics and data of the next `count` events.
    pub async fn events(&mut self, count: usize) -> Vec<(String, String)> {
        let mut events = Vec::new();
        for _ in 0..count {
            let block = self.event().await.expect("one more event");
            events.push((block.event.unwrap_or_default(), block.data.unwrap_or_default()));
        }
        events
    }
}

impl Block {
    fn parse(text: &str) -> Self {
        let mut block = Self::default();
        for line in text.split('\n') {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" => block.comment = Some(value.to_owned()),
                "id" => block.id = Some(value.parse().expect("an offset")),
                "event" => block.event = Some(value.to_owned()),
                "data" => match &mut block.data {
                    Some(data) => *data = format!("{data}\n{value}"),
                    data => *data = Some(value.to_owned()),
                },
                "retry" => assert!(value.parse::<u32>().is_ok(), "{value}"),
                other => panic!("an unknown field {other:?}"),
            }
        }
        block
    }
}

async fn request(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Response<Incoming> {
    let mut request = Request::get(path).header("host", addr.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).expect("a request");
    // Little of a stream is to hide in the kernel's buffers.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(16 << 10).expect("a small buffer");
    let stream: TcpStream = within(socket.connect(addr)).await.expect("a connection");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    within(sender.send_request(request)).await.expect("an answer")
}

pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, holds).await.unwrap_or_else(|_| panic!("never: {what}"));
}
