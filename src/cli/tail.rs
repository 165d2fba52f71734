//! `relay tail`.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use warp::http::header::HeaderName;

use super::Failure;
use super::client::{Client, ClientArgs, query_value};
use super::sse::{Message, Parser};
use crate::event::Event;

/// How long to wait before trying again, once a connection was lost.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  relay tail                                    everything, as it comes
  relay tail registry.push registry.delete
  relay tail 'registry.*' --from beginning      from the oldest event kept
  relay tail --from 10m --json | jq .target.repository

A lost connection is taken up again where it ended; nothing is missed.
Exits with 69 when no relay answers at first.")]
pub(super) struct Args {
    /// Topics, which may be globs: `*` within a word, `**` across words; none: everything
    #[arg(value_name = "TOPIC")]
    topics: Vec<String>,

    #[command(flatten)]
    client: ClientArgs,

    /// Where to begin: head, beginning, an offset, a time (2026-01-31T12:00:00Z) or an age (10m)
    #[arg(long, default_value = "head")]
    from: String,

    /// Print each event's own JSON, as it came
    #[arg(long)]
    json: bool,

    /// End after so many events
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
}

pub(super) async fn run(args: &Args) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    let path = path(args);
    let mut printer = Printer::new(args);
    let mut parser = Parser::default();
    let mut stream = client.get(&path, None).await?.into_body();
    while !printer.done() {
        copy(&mut stream, &mut parser, &mut printer).await?;
        if printer.done() {
            break;
        }
        eprintln!("the connection to {} is lost; trying again", client.address());
        parser.restart();
        stream = reconnect(&client, &path, parser.last_id()).await?;
    }
    Ok(())
}

fn path(args: &Args) -> String {
    let mut path = format!("/stream?from={}", query_value(&args.from));
    for topic in &args.topics {
        path.push_str("&topic=");
        path.push_str(&query_value(topic));
    }
    path
}

/// Tries until a relay answers. What it then refuses would be refused for ever.
async fn reconnect(client: &Client, path: &str, last_id: Option<&str>) -> Result<Incoming, Failure> {
    loop {
        tokio::time::sleep(RETRY).await;
        let header = last_id.map(|id| (HeaderName::from_static("last-event-id"), id.to_owned()));
        match client.get(path, header).await {
            Ok(answer) => return Ok(answer.into_body()),
            Err(Failure::Unavailable(why)) => tracing::debug!("{why}"),
            Err(failure) => return Err(failure),
        }
    }
}

/// Prints what comes until the connection ends or enough was printed.
async fn copy(stream: &mut Incoming, parser: &mut Parser, printer: &mut Printer) -> Result<(), Failure> {
    while let Some(Ok(frame)) = stream.frame().await {
        let Some(bytes) = frame.data_ref() else { continue };
        parser.feed(bytes).map_err(|_| Failure::Other("what answers is no relay's stream".to_owned()))?;
        while let Some(message) = parser.next() {
            printer.print(message)?;
            if printer.done() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Prints events to standard output.
struct Printer {
    json: bool,
    colour: bool,
    /// How many more to print.
    left: Option<u64>,
}

impl Printer {
    fn new(args: &Args) -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { json: args.json, colour, left: args.count }
    }

    fn done(&self) -> bool {
        self.left == Some(0)
    }

    fn print(&mut self, message: Message) -> Result<(), Failure> {
        if message.event == "gap" {
            eprintln!("events were lost: {}", String::from_utf8_lossy(&message.data));
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        if self.json {
            out.write_all(&message.data)?;
            out.write_all(b"\n")?;
        } else {
            writeln!(out, "{}", line(message, self.colour))?;
        }
        out.flush()?;
        self.left = self.left.map(|left| left - 1);
        Ok(())
    }
}

/// An event on one line: when, topic, what, and by whom.
fn line(message: Message, colour: bool) -> String {
    let paint = |code: &str, text: &str| {
        if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    };
    let Ok(event) = Event::parse(Bytes::from(message.data)) else {
        return format!("{}  (unreadable)", message.event);
    };
    let mut line = format!("{}  {}", paint("2", &time(event.timestamp())), paint("36", &message.event));
    line += &format!("  {}  {}", event.kind().as_str(), paint("1", &subject(&event)));
    if !event.digest().is_empty() && !event.tag().is_empty() {
        line += &format!("  {}", short(event.digest()));
    }
    for (word, value) in [("by", event.actor()), ("at", event.source())] {
        if !value.is_empty() {
            line += &format!("  {word} {}", printable(value));
        }
    }
    line
}

/// What an event is about, as an image is named: `team/app:v1`, `team/app@sha256:…`.
pub(super) fn subject(event: &Event) -> String {
    let repository = printable(event.repository());
    match (event.tag(), event.digest()) {
        ("", "") => repository,
        ("", digest) => format!("{repository}@{}", short(digest)),
        (tag, _) => format!("{repository}:{}", printable(tag)),
    }
}

/// A digest by its algorithm and its first twelve digits, as is the custom.
fn short(digest: &str) -> String {
    let end = digest.find(':').map_or(12, |colon| colon + 13);
    printable(digest).chars().take(end).collect()
}

/// A registry's nanoseconds cut to milliseconds; what is no time stays as it is.
fn time(timestamp: &str) -> String {
    let time = timestamp.parse::<jiff::Timestamp>();
    time.map_or_else(|_| printable(timestamp), |time| format!("{time:.3}"))
}

/// What somebody else wrote, fit for a terminal: an event must not move its cursor.
pub(super) fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(json: serde_json::Value) -> String {
        line(Message { event: "registry.push".into(), data: json.to_string().into() }, false)
    }

    #[test]
    fn an_event_on_a_line() {
        let digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        assert_eq!(
            shown(serde_json::json!({
                "timestamp": "2026-01-31T12:00:00.123456789Z", "action": "push", "actor": {"name": "alice"},
                "source": {"addr": "registry:5000"},
                "target": {"repository": "team/app", "tag": "v1", "digest": digest}
            })),
            "2026-01-31T12:00:00.123Z  registry.push  manifest  team/app:v1  sha256:0123456789ab  by alice  at registry:5000"
        );
        assert_eq!(
            shown(serde_json::json!({"target": {"repository": "a\u{1b}[2J", "digest": digest}})),
            "  registry.push  manifest  a\u{fffd}[2J@sha256:0123456789ab"
        );
    }
}
