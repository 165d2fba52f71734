//! The sink: hands messages to its crew, and says in order what became of them.

use std::sync::Arc;

use async_trait::async_trait;
use hyper::header::HeaderValue;
use tokio::net::TcpStream;

use super::WebhookOptions;
use super::lane::{Crew, Orders};
use super::queue::Content;
use super::target::{Heads, Target};
use crate::sinks::format::percent_encoded;
use crate::sinks::{Context, Fault, Message, Settled, Sink};

/// A key has one request at a time, and what is behind the oldest message is not settled: for each
/// request that can be on its way, so many may be in flight, or else a part of the lanes is idle.
const REQUESTS_WAITING: usize = 4;
/// And for each lane at least so many messages.
const MESSAGES_WAITING: usize = 32;
const WINDOW_MIN: usize = 64;

pub struct WebhookSink {
    options: WebhookOptions,
    context: Context,
    /// `None` until connected.
    target: Option<Arc<Target>>,
    heads: Heads,
    /// `None` while nothing is in flight that it was handed, after a failure.
    crew: Option<Crew>,
}

impl WebhookSink {
    pub fn new(options: WebhookOptions, context: Context) -> Self {
        Self { options, context, target: None, heads: Heads::default(), crew: None }
    }

    /// Forgets all that is in flight; requests on their way are given up, with their connections.
    fn forget(&mut self) {
        self.crew = None;
    }

    /// Forgets where to, too.
    fn disconnect(&mut self) {
        self.forget();
        self.target = None;
        self.heads = Heads::default();
    }

    fn push(&mut self, batch: &[Message]) -> Result<(), Fault> {
        let target = Arc::clone(self.target.as_ref().ok_or_else(not_connected)?);
        let mut messages = Vec::with_capacity(batch.len());
        for message in batch {
            let head = self.heads.of(message, &target)?;
            let id = HeaderValue::from_str(&percent_encoded(&message.id)).ok();
            messages.push((message.key.as_ref(), Content { head, id, body: message.body.clone() }));
        }
        let window = self.window();
        let (options, timeout) = (&self.options, self.context.timeout);
        let crew = self.crew.get_or_insert_with(|| {
            let orders =
                Orders { target, reject: options.reject.clone(), timeout, batch: options.batch, window };
            Crew::new(orders, options.concurrency)
        });
        crew.push(messages);
        Ok(())
    }
}

fn not_connected() -> Fault {
    Fault::disconnected("not connected")
}

#[async_trait]
impl Sink for WebhookSink {
    /// Reads the TLS files, and sees whether anybody listens. Whether we are let in shows at the first
    /// request.
    async fn connect(&mut self) -> Result<(), Fault> {
        self.disconnect();
        let target = Target::new(&self.options)?;
        let failed = |error| Fault::disconnected(format!("{}: {error}", target.name));
        drop(TcpStream::connect((target.host.as_str(), target.port)).await.map_err(failed)?);
        self.target = Some(Arc::new(target));
        Ok(())
    }

    async fn send(&mut self, batch: &[Message]) -> Result<(), Fault> {
        self.push(batch).inspect_err(|_| self.forget())
    }

    async fn settle(&mut self) -> Result<Settled, Fault> {
        loop {
            let crew = self.crew.as_ref().ok_or_else(not_connected)?;
            match crew.hear() {
                Some(Ok(settled)) => return Ok(settled),
                Some(Err(fault)) => {
                    self.forget();
                    return Err(fault);
                }
                None => crew.news().await,
            }
        }
    }

    async fn close(&mut self) {
        self.disconnect();
    }

    fn window(&self) -> usize {
        let a_lane = (self.options.batch * REQUESTS_WAITING).max(MESSAGES_WAITING);
        (self.options.concurrency * a_lane).max(WINDOW_MIN)
    }
}
