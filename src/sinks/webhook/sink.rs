//! The sink: hands messages to lanes, and says in order what became of them.

use std::sync::Arc;

use async_trait::async_trait;
use hyper::header::HeaderValue;
use tokio::net::TcpStream;
use tokio::task::yield_now;

use super::WebhookOptions;
use super::answer::Verdict;
use super::lane::{Crew, Done, Orders};
use super::lanes::{Content, Lanes};
use super::target::{Heads, Target};
use crate::sinks::format::percent_encoded;
use crate::sinks::{Context, Fault, Message, Settled, Sink};

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
    target: Option<Arc<Target>>,
    heads: Heads,
    lanes: Lanes,
    /// `None` while nothing is in flight that it was handed, after a failure.
    crew: Option<Crew>,
    /// Told once what was taken before it is told.
    fault: Option<Fault>,
}

impl WebhookSink {
    pub fn new(options: WebhookOptions, context: Context) -> Self {
        let lanes = Lanes::new(options.concurrency, options.batch);
        Self { options, context, target: None, heads: Heads::default(), lanes, crew: None, fault: None }
    }

    /// Forgets all that is in flight; requests on their way are given up, with their connections.
    fn forget(&mut self) {
        self.crew = None;
        self.lanes.clear();
        self.fault = None;
    }

    /// Forgets where to, too.
    fn disconnect(&mut self) {
        self.forget();
        self.target = None;
        self.heads = Heads::default();
    }

    fn push(&mut self, message: &Message) -> Result<(), Fault> {
        let target = self.target.as_ref().ok_or_else(|| Fault::disconnected("not connected"))?;
        let head = self.heads.of(message, target)?;
        let id = HeaderValue::from_str(&percent_encoded(&message.id)).ok();
        self.lanes.push(&message.key, Content { head, id, body: message.body.clone() });
        Ok(())
    }

    /// Hands the lanes all that they may have.
    fn start(&mut self) {
        let Some(target) = self.target.as_ref().filter(|_| self.fault.is_none()) else { return };
        let window = self.window();
        let crew = self.crew.get_or_insert_with(|| {
            let (target, reject) = (Arc::clone(target), self.options.reject.clone());
            let orders = Orders { target, reject, timeout: self.context.timeout };
            Crew::new(orders, self.lanes.count(), window)
        });
        for lane in 0..self.lanes.count() {
            while let Some(job) = self.lanes.next(lane) {
                crew.hand(job);
            }
        }
    }

    /// Hears of all that is done; answers how much it was.
    fn hear(&mut self) -> usize {
        let mut heard = 0;
        while let Some(done) = self.crew.as_mut().and_then(|crew| crew.done.try_recv().ok()) {
            self.note(done);
            heard += 1;
        }
        heard
    }

    /// Hears of what is about to be done too, up to an answer of each lane: for each call of `settle`
    /// the worker makes a round, which costs more than hearing does.
    async fn hear_out(&mut self) {
        let mut heard = 0;
        while heard < self.lanes.count() {
            yield_now().await;
            match self.hear() {
                0 => return,
                more => heard += more,
            }
        }
    }

    fn note(&mut self, (ticket, verdict): Done) {
        match verdict {
            Verdict::Taken => self.lanes.taken(ticket),
            Verdict::Rejected(rejection) => self.lanes.rejected(ticket, rejection),
            // The lane stays as it is: all is forgotten soon.
            Verdict::Fault(fault) => {
                self.fault.get_or_insert(fault);
            }
        }
    }
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
        for message in batch {
            self.push(message).inspect_err(|_| self.forget())?;
        }
        self.start();
        Ok(())
    }

    async fn settle(&mut self) -> Result<Settled, Fault> {
        loop {
            self.hear();
            self.start();
            if let Some(settled) = self.lanes.take_settled() {
                return Ok(settled);
            }
            if let Some(fault) = self.fault.take() {
                self.forget();
                return Err(fault);
            }
            let done = match &mut self.crew {
                Some(crew) => crew.done.recv().await,
                None => None,
            };
            self.note(done.ok_or_else(|| Fault::disconnected("not connected"))?);
            self.hear_out().await;
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
