//! `relay route`.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::tail::{printable, subject};
use super::{ConfigArg, Failure};
use crate::config::Config;
use crate::event::{Envelope, Event};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  relay route event.json
  relay route -c relay.yml - < events.jsonl
  relay route --json event.json | jq '.routes[] | select(.matched)'

The file may hold envelopes as a registry sends them, events, or any number of either.
Nothing is sent, and no relay need run.")]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArg,

    /// Print one JSON object an event
    #[arg(long)]
    json: bool,

    /// The events; `-` or none: standard input
    #[arg(value_name = "EVENT.json")]
    events: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let config = super::load(&args.config)?;
    let events = events(&read(args.events.as_deref())?)?;
    let mut out = std::io::stdout().lock();
    for (index, event) in events.iter().enumerate() {
        let routed = Routed::of(&config, event);
        if args.json {
            let json = serde_json::to_string(&routed).expect("strings and booleans are JSON");
            writeln!(out, "{json}")?;
        } else {
            write!(out, "{}{}", if index > 0 { "\n" } else { "" }, routed.page(event))?;
        }
    }
    Ok(())
}

fn read(path: Option<&Path>) -> Result<Bytes, Failure> {
    let (name, read) = match path.filter(|path| *path != Path::new("-")) {
        Some(path) => (path.display().to_string(), std::fs::read(path)),
        None => {
            let mut bytes = Vec::new();
            let read = std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes);
            ("standard input".to_owned(), read)
        }
    };
    read.map(Bytes::from).map_err(|error| Failure::Other(format!("cannot read {name}: {error}")))
}

/// All events of a text that holds envelopes or events, one after the other.
fn events(text: &Bytes) -> Result<Vec<Event>, Failure> {
    let mut events = Vec::new();
    for (index, document) in serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>().enumerate() {
        let which = |error: &dyn std::fmt::Display| {
            Failure::Other(format!("document {} of the input cannot be read: {error}", index + 1))
        };
        let document = document.map_err(|error| which(&error))?;
        let envelope = Envelope::parse(&text.slice_ref(document.get().as_bytes()));
        events.append(&mut envelope.map_err(|error| which(&error))?.events);
    }
    if events.is_empty() {
        return Err(Failure::Other("there is no event in the input".to_owned()));
    }
    Ok(events)
}

/// What the table makes of one event.
#[derive(Debug, Serialize)]
struct Routed<'a> {
    id: &'a str,
    action: &'a str,
    kind: &'a str,
    repository: &'a str,
    tag: &'a str,
    digest: &'a str,
    routes: Vec<RouteVerdict<'a>>,
}

#[derive(Debug, Serialize)]
struct RouteVerdict<'a> {
    name: &'a str,
    matched: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    targets: Vec<TargetVerdict<'a>>,
}

#[derive(Debug, Serialize)]
struct TargetVerdict<'a> {
    sink: &'a str,
    kind: &'a str,
    topic: String,
    key: String,
    sent: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl<'a> Routed<'a> {
    fn of(config: &'a Config, event: &'a Event) -> Self {
        let routes = config.table.routes();
        let any = routes.iter().any(|route| !route.otherwise && route.matcher.is_match(event));
        let verdict = |(index, route): (usize, &'a crate::route::Route)| {
            let reason = if route.otherwise && any {
                Some("is for events that no other route matched".to_owned())
            } else {
                route.matcher.mismatch(event)
            };
            let matched = reason.is_none();
            let targets = if matched { targets(config, index, event) } else { Vec::new() };
            RouteVerdict { name: &route.name, matched, reason, targets }
        };
        Self {
            id: event.id(),
            action: event.action(),
            kind: event.kind().as_str(),
            repository: event.repository(),
            tag: event.tag(),
            digest: event.digest(),
            routes: routes.iter().enumerate().map(verdict).collect(),
        }
    }

    fn page(&self, event: &Event) -> String {
        let mut out = format!("{} {} {}\n", printable(self.action), self.kind, subject(event));
        let width = self.routes.iter().map(|route| route.name.len()).max().unwrap_or(0);
        for route in &self.routes {
            let verdict = match &route.reason {
                None => "matches".to_owned(),
                Some(reason) => format!("no: {}", printable(reason)),
            };
            out += &format!("  {:width$}  {verdict}\n", route.name);
            for target in &route.targets {
                out += &target.line();
            }
        }
        if !self.routes.iter().any(|route| route.targets.iter().any(|target| target.sent)) {
            out += "  goes nowhere: it is journalled, and kept for a replay\n";
        }
        out
    }
}

impl TargetVerdict<'_> {
    fn line(&self) -> String {
        let (sink, kind) = (self.sink, self.kind);
        match self.reason {
            Some(reason) => format!("    x {sink} ({kind})  {reason}\n"),
            None => {
                let (topic, key) = (printable(&self.topic), printable(&self.key));
                format!("    > {sink} ({kind})  {topic}  key {key}\n")
            }
        }
    }
}

fn targets<'a>(config: &'a Config, route: usize, event: &Event) -> Vec<TargetVerdict<'a>> {
    let verdict = |target: &crate::route::Target| {
        let sink = &config.sinks[target.sink];
        let reason = config.table.filter(target.sink).reason(event);
        TargetVerdict {
            sink: &sink.name,
            kind: sink.options.key(),
            topic: target.topic.name(event, target.naming),
            key: target.key.text(event),
            sent: reason.is_none(),
            reason,
        }
    };
    config.table.targets_of(route).iter().map(verdict).collect()
}
