//! What librdkafka has said: the answers of a broker that it deals with by itself show nowhere else.
//!
//! A sink whose words are wanted has the property `debug: msg`.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cluster::BOUND;
use crate::support::process::eventually;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// To be called once, before any sink is made.
pub fn listen() {
    let librdkafka = Targets::new().with_target("librdkafka", LevelFilter::DEBUG);
    tracing_subscriber::registry().with(Keep.with_filter(librdkafka)).init();
}

/// Whether a batch for `topic` has met with an error of this name.
pub fn heard(topic: &str, error: &str) -> bool {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().any(|line| line.contains(topic) && line.contains(error))
}

/// Waits until it has.
pub async fn eventually_heard(topic: &str, error: &str) {
    eventually(error, BOUND, async || heard(topic, error).then_some(())).await;
}

struct Keep;

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        event.record(&mut Line);
    }
}

struct Line;

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" && text.contains("encountered error") {
            LINES.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        }
    }
}
