//! A server that answers as a test says, and keeps what it took.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// A request as the server got it.
#[derive(Clone, Debug)]
pub struct Got {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub fn event_ids(&self) -> Vec<String> {
        let json: serde_json::Value = serde_json::from_slice(&self.body).expect("JSON");
        let events = json["events"].as_array().expect("an envelope");
        events.iter().map(|event| event["id"].as_str().expect("an id").to_owned()).collect()
    }
}

pub type Answer = Response<Full<Bytes>>;
type Handler = dyn Fn(&Got) -> Answer + Send + Sync;

pub fn status(code: u16) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::from_u16(code).expect("a status");
    answer
}

/// A server that answers as its handler says, and keeps what it answered with 2xx.
pub struct Server {
    pub address: String,
    taken: Arc<Mutex<Vec<Got>>>,
    requests: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub async fn start(handler: impl Fn(&Got) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_with(handler, None).await
    }

    pub async fn start_with(
        handler: impl Fn(&Got) -> Answer + Send + Sync + 'static,
        tls: Option<tokio_rustls::TlsAcceptor>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("an address").to_string();
        let (taken, requests) = (Arc::<Mutex<Vec<Got>>>::default(), Arc::<AtomicUsize>::default());
        let handler: Arc<Handler> = Arc::new(handler);
        let (kept, counted) = (Arc::clone(&taken), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (handler, kept, counted) =
                    (Arc::clone(&handler), Arc::clone(&kept), Arc::clone(&counted));
                let tls = tls.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        answer(request, Arc::clone(&handler), Arc::clone(&kept), Arc::clone(&counted))
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    match tls {
                        None => drop(http.serve_connection(TokioIo::new(stream), service).await),
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                drop(http.serve_connection(TokioIo::new(stream), service).await);
                            }
                        }
                    }
                });
            }
        });
        Self { address, taken, requests, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }

    pub fn taken(&self) -> Vec<Got> {
        self.taken.lock().expect("no panic").clone()
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    request: Request<Incoming>,
    handler: Arc<Handler>,
    taken: Arc<Mutex<Vec<Got>>>,
    requests: Arc<AtomicUsize>,
) -> Result<Answer, hyper::Error> {
    let (head, body) = request.into_parts();
    let headers = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let got = Got {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        headers: headers.collect(),
        body: body.collect().await?.to_bytes(),
    };
    requests.fetch_add(1, Ordering::Relaxed);
    let answer = handler(&got);
    if answer.status().is_success() {
        taken.lock().expect("no panic").push(got);
    }
    Ok(answer)
}
