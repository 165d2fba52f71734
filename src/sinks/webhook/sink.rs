//! Requests, each one attempt.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Client, Identity, Url, redirect};
use tokio::net::TcpStream;

use super::answer::{Verdict, verdict};
use super::lanes::{Lanes, Ticket};
use super::{WebhookOptions, WebhookTls};
use crate::sinks::format::percent_encoded;
use crate::sinks::{Context, Fault, Message, Settled, Sink};

const RELAY_ID: HeaderName = HeaderName::from_static("relay-id");
/// How much of an answer's body is read, so that its connection can be used again.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Lanes fill unevenly, and what is behind the slowest one's oldest message is not settled: for each
/// request that can be on its way, so many may be in flight, or else a part of the lanes is idle.
const REQUESTS_WAITING: usize = 4;
/// And for each lane at least so many messages.
const MESSAGES_WAITING: usize = 32;
const WINDOW_MIN: usize = 64;

pub struct WebhookSink {
    options: WebhookOptions,
    context: Context,
    /// `None` until connected.
    client: Option<(Client, Url)>,
    lanes: Lanes,
    /// Requests on their way. They are driven by `settle`, which is always awaited while there are
    /// some, and end when they are dropped.
    running: FuturesUnordered<BoxFuture<'static, (Ticket, Verdict)>>,
    /// Told once what was taken before it is told.
    fault: Option<Fault>,
}

impl WebhookSink {
    pub fn new(options: WebhookOptions, context: Context) -> Self {
        let lanes = Lanes::new(options.concurrency, options.batch);
        Self { options, context, client: None, lanes, running: FuturesUnordered::new(), fault: None }
    }

    /// Forgets all that is in flight; requests on their way are given up.
    fn forget(&mut self) {
        self.running.clear();
        self.lanes.clear();
        self.fault = None;
    }

    /// Starts what can be started.
    fn start(&mut self) {
        let Some((client, url)) = &self.client else { return };
        while self.fault.is_none()
            && let Some(mut job) = self.lanes.next()
        {
            if job.count > 1 {
                // The events in it have ids of their own.
                job.headers.remove(RELAY_ID);
            }
            let ticket = job.ticket();
            let request = client.post(url.clone()).headers(job.headers).body(job.body);
            let (endpoint, reject) = (self.options.url.to_string(), self.options.reject.clone());
            let attempt = async move { (ticket, attempt(request, &endpoint, &reject).await) };
            self.running.push(attempt.boxed());
        }
    }

    fn finish(&mut self, (ticket, verdict): (Ticket, Verdict)) {
        match verdict {
            Verdict::Taken => self.lanes.taken(ticket),
            Verdict::Rejected(rejection) => self.lanes.rejected(ticket, rejection),
            // The lane stays as it is: all is forgotten soon.
            Verdict::Fault(fault) => {
                self.fault.get_or_insert(fault);
            }
        }
        self.start();
    }
}

#[async_trait]
impl Sink for WebhookSink {
    /// Reads the TLS files, and sees whether anybody listens. Whether we are let in shows at the first
    /// request.
    async fn connect(&mut self) -> Result<(), Fault> {
        self.forget();
        self.client = None;
        let url = self.options.url.parsed().ok_or_else(|| Fault::refused("not an address"))?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(80);
        let failed = |error| Fault::disconnected(format!("{}: {error}", self.options.url));
        drop(TcpStream::connect((host, port)).await.map_err(failed)?);
        let client = client(&self.options, self.context.timeout)?;
        self.client = Some((client, url));
        Ok(())
    }

    async fn send(&mut self, batch: &[Message]) -> Result<(), Fault> {
        for message in batch {
            let headers = headers(message);
            let headers = headers.inspect_err(|_| self.forget())?;
            self.lanes.push(&message.key, headers, message.body.clone());
        }
        self.start();
        Ok(())
    }

    async fn settle(&mut self) -> Result<Settled, Fault> {
        loop {
            // Whatever has its answer already, so that one call settles much.
            while let Some(Some(finished)) = self.running.next().now_or_never() {
                self.finish(finished);
            }
            if let Some(settled) = self.lanes.take_settled() {
                return Ok(settled);
            }
            if let Some(fault) = self.fault.take() {
                self.forget();
                return Err(fault);
            }
            let Some(finished) = self.running.next().await else {
                return Err(Fault::disconnected("not connected"));
            };
            self.finish(finished);
        }
    }

    async fn close(&mut self) {
        self.forget();
        self.client = None;
    }

    fn window(&self) -> usize {
        let a_lane = (self.options.batch * REQUESTS_WAITING).max(MESSAGES_WAITING);
        (self.options.concurrency * a_lane).max(WINDOW_MIN)
    }
}

/// One request, to its answer.
async fn attempt(request: reqwest::RequestBuilder, endpoint: &str, reject: &[u16]) -> Verdict {
    let mut answer = match request.send().await {
        Ok(answer) => answer,
        Err(error) => return Verdict::Fault(transport(endpoint, error)),
    };
    let verdict = verdict(endpoint, answer.status(), answer.headers(), reject, SystemTime::now());
    let mut read = 0;
    while let (true, Ok(Some(part))) = (read <= ANSWER_BYTES_MAX, answer.chunk().await) {
        read += part.len();
    }
    verdict
}

/// What it means that there was no answer. The client's text is used without its URL, which may hold
/// a secret.
fn transport(endpoint: &str, error: reqwest::Error) -> Fault {
    if error.is_timeout() {
        return Fault::disconnected(format!("{endpoint}: no answer in time"));
    }
    let is_ours = error.is_builder();
    let error = error.without_url();
    // The innermost cause says what happened; those around it only that something did.
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let text = format!("{endpoint}: {cause}");
    if is_ours { Fault::refused(text) } else { Fault::disconnected(text) }
}

/// A message's headers. A content type among the configured ones takes the place of the format's.
fn headers(message: &Message) -> Result<HeaderMap, Fault> {
    let mut headers = HeaderMap::with_capacity(message.headers.len() + 2);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(message.content_type));
    for (name, value) in &message.headers {
        let refused = || Fault::refused(format!("header `{name}`: HTTP does not allow its name or value"));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused())?;
        headers.insert(name, HeaderValue::from_str(value).map_err(|_| refused())?);
    }
    if let Ok(id) = HeaderValue::from_str(&percent_encoded(&message.id)) {
        headers.insert(RELAY_ID, id);
    }
    Ok(headers)
}

fn client(options: &WebhookOptions, timeout: Duration) -> Result<Client, Fault> {
    let mut builder = Client::builder()
        .user_agent(concat!("relay/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .pool_max_idle_per_host(options.concurrency)
        .connect_timeout(timeout)
        .timeout(timeout);
    if let Some(tls) = &options.tls {
        builder = with_tls(builder, tls)?;
    }
    builder.build().map_err(|error| Fault::refused(format!("{}: {error}", options.url)))
}

fn with_tls(mut builder: reqwest::ClientBuilder, tls: &WebhookTls) -> Result<reqwest::ClientBuilder, Fault> {
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|error| Fault::refused(format!("{}: {error}", path.display())))
    };
    if let Some(path) = &tls.ca {
        let unread = |error| Fault::refused(format!("{}: {error}", path.display()));
        builder = builder.tls_certs_only(Certificate::from_pem_bundle(&read(path)?).map_err(unread)?);
    }
    if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        let unread = |error| Fault::refused(format!("{}: {error}", cert.display()));
        let both = [read(cert)?, b"\n".to_vec(), read(key)?].concat();
        builder = builder.identity(Identity::from_pem(&both).map_err(unread)?);
    }
    Ok(builder)
}
