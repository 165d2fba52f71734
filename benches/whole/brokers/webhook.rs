//! A webhook: an endpoint that takes whatever is posted and counts it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use relay::event::Event;
use relay::sinks::format::{ENVELOPE_MEDIA_TYPE, envelope};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{Broker, Publisher};
use crate::rig::rate;

/// How many requests are on their way at once, the relay's and the reference's.
const CONCURRENCY: usize = 16;

/// What one path has taken.
#[derive(Default)]
struct Taken {
    requests: AtomicU64,
    listener: Mutex<Option<UnboundedSender<Instant>>>,
}

type Paths = Arc<Mutex<HashMap<String, Arc<Taken>>>>;

pub struct Webhook {
    address: SocketAddr,
    paths: Paths,
}

impl Webhook {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let paths = Paths::default();
        tokio::spawn(accept(listener, paths.clone()));
        Self { address, paths }
    }

    fn taken(&self, place: &str) -> Arc<Taken> {
        self.paths.lock().expect("no panic").entry(format!("/{place}")).or_default().clone()
    }
}

async fn accept(listener: TcpListener, paths: Paths) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let paths = paths.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request: Request<hyper::body::Incoming>| {
                let taken = paths.lock().expect("no panic").get(request.uri().path()).cloned();
                async move {
                    let read = request.into_body().collect().await;
                    if let (Ok(_), Some(taken)) = (read, taken) {
                        taken.requests.fetch_add(1, Ordering::Relaxed);
                        let listener = taken.listener.lock().expect("no panic").clone();
                        let _ = listener.map(|listener| listener.send(Instant::now()));
                    }
                    Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

impl Broker for Webhook {
    async fn prepare(&self, place: &str) {
        self.taken(place);
    }

    fn sink(&self, place: &str) -> String {
        format!("webhook: {{ url: \"http://{}/{place}\", concurrency: {CONCURRENCY} }}", self.address)
    }

    fn peer_output(&self, place: &str) -> String {
        format!("{{ http: {{ url: \"http://{}/{place}\" }} }}", self.address)
    }

    async fn publish(&self, place: &str, events: Arc<Vec<Event>>) -> f64 {
        let next = Arc::new(AtomicUsize::new(0));
        let began = Instant::now();
        let mut senders = Vec::new();
        for _ in 0..CONCURRENCY {
            let mut one = self.publisher(place).await;
            let (events, next) = (events.clone(), next.clone());
            senders.push(tokio::spawn(async move {
                while let Some(event) = events.get(next.fetch_add(1, Ordering::Relaxed)) {
                    one.publish(event.clone()).await;
                }
            }));
        }
        for sender in senders {
            sender.await.expect("a sender");
        }
        rate(events.len() as u64, began.elapsed())
    }

    type Publisher = One;

    async fn publisher(&self, place: &str) -> One {
        let stream = TcpStream::connect(self.address).await.expect("connect");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let (sender, connection) = client::handshake(TokioIo::new(stream)).await.expect("a connection");
        tokio::spawn(connection);
        One { sender, host: self.address.to_string(), path: format!("/{place}") }
    }

    async fn arrivals(&self, place: &str) -> UnboundedReceiver<Instant> {
        let (arrived, arrivals) = unbounded_channel();
        *self.taken(place).listener.lock().expect("no panic") = Some(arrived);
        arrivals
    }

    async fn count(&self, place: &str) -> u64 {
        self.taken(place).requests.load(Ordering::Relaxed)
    }

    async fn remove(&self, place: &str) {
        self.paths.lock().expect("no panic").remove(&format!("/{place}"));
    }
}

/// One connection of hyper's own client.
pub struct One {
    sender: client::SendRequest<Full<Bytes>>,
    host: String,
    path: String,
}

impl Publisher for One {
    async fn publish(&mut self, event: Event) {
        let body = envelope(std::slice::from_ref(event.raw()));
        let request = Request::post(&self.path)
            .header("host", &self.host)
            .header("content-type", ENVELOPE_MEDIA_TYPE)
            .header("relay-id", event.id())
            .body(Full::new(body))
            .expect("a request");
        self.sender.ready().await.expect("the connection goes on");
        let answer = self.sender.send_request(request).await.expect("an answer");
        assert!(answer.status().is_success());
        answer.into_body().collect().await.expect("the rest of the answer");
    }
}
