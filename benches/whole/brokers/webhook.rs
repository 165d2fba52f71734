//! A webhook: an endpoint that takes whatever is posted and counts it, in a process of its own, as an
//! endpoint is.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use relay::event::Event;
use relay::sinks::format::{ENVELOPE_MEDIA_TYPE, envelope};
use tokio::net::{TcpListener, TcpStream};

use super::Destination;
use crate::rig::rate;
use crate::support::Folder;
use crate::support::process::{Proc, accepts, free_ports};

/// How many requests are on their way at once, the relay's and the reference's.
const CONCURRENCY: usize = 16;

/// The first argument that makes the bench's binary the endpoint.
pub const ARGUMENT: &str = "endpoint";

/// A running endpoint; it ends with the value.
pub struct Webhook {
    address: SocketAddr,
    _process: Proc,
    _folder: Folder,
}

impl Webhook {
    pub async fn start() -> Self {
        let folder = Folder::new("endpoint");
        let [port] = free_ports();
        let address = format!("127.0.0.1:{port}");
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        command.args([ARGUMENT, &address]);
        let mut process = Proc::spawn(ARGUMENT, command, &folder.join("log"));
        process.ready("accepts connections", Duration::from_secs(60), || accepts(&address)).await;
        Self { address: address.parse().expect("an address"), _process: process, _folder: folder }
    }
}

impl Destination for Webhook {
    /// Paths are there once something is posted to them.
    async fn prepare(&self, _place: &str) {}

    fn sink(&self, place: &str) -> String {
        format!("webhook: {{ url: \"http://{}/{place}\", concurrency: {CONCURRENCY} }}", self.address)
    }

    async fn publish(&self, place: &str, events: Arc<Vec<Event>>) -> f64 {
        let next = Arc::new(AtomicUsize::new(0));
        let began = Instant::now();
        let mut senders = Vec::new();
        for _ in 0..CONCURRENCY {
            let mut one = One::connect(self.address, place).await;
            let (events, next) = (events.clone(), next.clone());
            senders.push(tokio::spawn(async move {
                while let Some(event) = events.get(next.fetch_add(1, Ordering::Relaxed)) {
                    one.post(event).await;
                }
            }));
        }
        for sender in senders {
            sender.await.expect("a sender");
        }
        rate(events.len() as u64, began.elapsed())
    }

    async fn count(&self, place: &str) -> u64 {
        let count = One::connect(self.address, place).await.exchange(Method::GET, Bytes::new(), "").await;
        std::str::from_utf8(&count).expect("text").parse().expect("a number")
    }

    async fn remove(&self, _place: &str) {}
}

/// One connection of hyper's own client.
struct One {
    sender: client::SendRequest<Full<Bytes>>,
    host: String,
    path: String,
}

impl One {
    async fn connect(to: SocketAddr, place: &str) -> Self {
        let stream = TcpStream::connect(to).await.expect("connect");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let (sender, connection) = client::handshake(TokioIo::new(stream)).await.expect("a connection");
        tokio::spawn(connection);
        Self { sender, host: to.to_string(), path: format!("/{place}") }
    }

    async fn post(&mut self, event: &Event) {
        self.exchange(Method::POST, envelope(std::slice::from_ref(event.raw())), event.id()).await;
    }

    async fn exchange(&mut self, method: Method, body: Bytes, id: &str) -> Bytes {
        let request = Request::builder()
            .method(method)
            .uri(&self.path)
            .header("host", &self.host)
            .header("content-type", ENVELOPE_MEDIA_TYPE)
            .header("relay-id", id)
            .body(Full::new(body))
            .expect("a request");
        self.sender.ready().await.expect("the connection goes on");
        let answer = self.sender.send_request(request).await.expect("an answer");
        assert!(answer.status().is_success());
        answer.into_body().collect().await.expect("the rest of the answer").to_bytes()
    }
}

/// How many requests came to each path.
type Counts = Arc<Mutex<HashMap<String, u64>>>;

/// Serves until killed: `endpoint ADDRESS`.
pub fn serve(arguments: &[String]) -> ! {
    let [address] = arguments else { panic!("usage: {ARGUMENT} ADDRESS") };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(listen(address));
    unreachable!("the listener goes on until the process is killed")
}

async fn listen(address: &str) {
    let listener = TcpListener::bind(address).await.expect("a listener");
    let counts = Counts::default();
    loop {
        let (stream, _) = listener.accept().await.expect("accept");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let counts = counts.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&counts, request));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Counts a POST; tells of a path's count otherwise.
async fn answer(counts: &Counts, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    if request.method() != Method::POST {
        let count = counts.lock().expect("no panic").get(&path).copied().unwrap_or_default();
        return Ok(Response::new(count.to_string().into()));
    }
    if request.into_body().collect().await.is_ok() {
        *counts.lock().expect("no panic").entry(path).or_default() += 1;
    }
    Ok(Response::default())
}
