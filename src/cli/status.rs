//! `relay status`.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use comfy_table::CellAlignment;

use super::Failure;
use super::client::{Client, ClientArgs};
use super::text::{table, time};
use crate::admin::Status;
use crate::config::{Size, Time};
use crate::delivery::{BreakerState, LastError, SinkSnapshot};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  relay status
  relay status --watch
  relay status --url http://relay.example:8081 --json | jq '.sinks[] | {name, lag_events}'
  relay status --ready        for a container's health check

Exits with 69 when no relay answers; with --ready, with 1 while the relay takes no events.")]
pub(super) struct Args {
    #[command(flatten)]
    client: ClientArgs,

    /// Print the answer of /api/v1/status as it is
    #[arg(long)]
    json: bool,

    /// Only ask whether events are taken, which needs no token
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    ready: bool,

    /// Show it again and again, every two seconds or as often as this says
    #[arg(long, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "2s", value_parser = Time::parse)]
    watch: Option<Time>,
}

pub(super) async fn run(args: &Args) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    if args.ready {
        client.get("/readyz", None).await?;
        return Ok(writeln!(std::io::stdout(), "ready")?);
    }
    let Some(interval) = args.watch else {
        return show(&client, args.json, "").await;
    };
    // On a terminal each showing replaces the last: home, and clear to the end.
    let clear = if std::io::stdout().is_terminal() && !args.json { "\x1b[H\x1b[J" } else { "" };
    let mut ticks = tokio::time::interval(interval.duration.max(Duration::from_millis(100)));
    loop {
        ticks.tick().await;
        show(&client, args.json, clear).await?;
    }
}

async fn show(client: &Client, json: bool, before: &str) -> Result<(), Failure> {
    let (bytes, status) = client.get_json::<Status>("/api/v1/status").await?;
    let mut out = std::io::stdout().lock();
    out.write_all(before.as_bytes())?;
    if json {
        out.write_all(&bytes)?;
        out.write_all(b"\n")?;
    } else {
        out.write_all(render(&status).as_bytes())?;
    }
    Ok(out.flush()?)
}

/// The status as a page of text.
fn render(status: &Status) -> String {
    let (receiver, journal) = (&status.receiver, &status.journal);
    let readiness = match &status.ready.reason {
        Some(reason) => format!("NOT READY: {reason}"),
        None => "ready".to_owned(),
    };
    let uptime = seconds(status.uptime_seconds);
    let mut out = format!("relay {} up {uptime}, {readiness}\n", status.version);
    out += &format!(
        "receiver  {}  {} received, {} duplicates, {} quarantined, {} connections open\n",
        receiver.listen, receiver.received, receiver.duplicates, receiver.quarantined, receiver.connections
    );
    out += &format!(
        "journal   offsets {}..{}  {} of {} in {} segments, {} damaged\n",
        journal.first,
        journal.next,
        bytesize::ByteSize(journal.bytes),
        Size(journal.bytes_max),
        journal.segments,
        journal.damaged
    );
    if let Some(sink) = &journal.held_by {
        out += &format!("          most of it is held by the backlog of sink `{sink}`\n");
    }
    out += &format!("streams   {} open\n\n", status.streams);
    if status.sinks.is_empty() {
        out += "no sinks but the built-in stream\n";
    } else {
        out += &sinks(&status.sinks);
    }
    for sink in status.sinks.iter().filter(|sink| sink.given_up > 0) {
        let (name, events) = (&sink.name, sink.given_up);
        out += &format!(
            "\n{name}: {events} events given up because of backlog_max; /api/v1/gaps has their offsets\n"
        );
    }
    for sink in &status.sinks {
        if let Some(error) = &sink.last_error {
            let when = when(error, sink.failures > 0);
            out += &format!("\n{}: {when}\n  {}\n", sink.name, error.text);
        }
    }
    out
}

fn sinks(sinks: &[SinkSnapshot]) -> String {
    let mut table = table([
        "SINK",
        "KIND",
        "TARGET",
        "STATE",
        "POSITION",
        "LAG",
        "AGE",
        "IN FLIGHT",
        "DELIVERED",
        "DEAD",
    ]);
    for sink in sinks {
        table.add_row([
            sink.name.clone(),
            sink.kind.clone(),
            sink.target.clone(),
            state(sink),
            sink.position.to_string(),
            sink.lag_events.to_string(),
            if sink.lag_events == 0 { "-".to_owned() } else { seconds(sink.lag_seconds) },
            sink.in_flight.to_string(),
            sink.delivered.to_string(),
            sink.dead_letters.to_string(),
        ]);
    }
    for column in 4..10 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}

/// A sink's state in a word or two.
fn state(sink: &SinkSnapshot) -> String {
    match (sink.disabled, sink.breaker, sink.connected) {
        (true, ..) => "disabled".to_owned(),
        (_, BreakerState::Open, _) => format!("open, {} failures", sink.failures),
        (_, BreakerState::HalfOpen, _) => "half-open".to_owned(),
        (_, BreakerState::Closed, true) => "ok".to_owned(),
        (_, BreakerState::Closed, false) => "connecting".to_owned(),
    }
}

/// When a sink last failed, and since when it has, if it still does.
fn when(error: &LastError, fails: bool) -> String {
    let (at, since) = (time(error.at), time(error.since));
    if fails { format!("fails since {since}, last at {at}") } else { format!("last failed at {at}") }
}

/// A duration to read: whole seconds, but tenths below ten of them.
fn seconds(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{seconds:.1}s");
    }
    Time { duration: Duration::from_secs(seconds as u64), unitless: false }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{Ready, ReceiverStatus};
    use crate::journal::JournalStats;

    fn sink(name: &str, breaker: BreakerState) -> SinkSnapshot {
        let (kind, target) = ("kafka".into(), "localhost:9092".into());
        SinkSnapshot { name: name.into(), kind, target, breaker, connected: true, ..SinkSnapshot::default() }
    }

    #[test]
    fn shows_who_fails_since_when_and_why() {
        let error = LastError { text: "connection refused".into(), at: 61_000_000, since: 1_000_000 };
        let bus = SinkSnapshot {
            lag_events: 12,
            lag_seconds: 3725.0,
            failures: 5,
            last_error: Some(error),
            ..sink("bus", BreakerState::Open)
        };
        let status = Status {
            version: "1.2.3".into(),
            uptime_seconds: 7.25,
            ready: Ready { ready: false, reason: Some("the journal is full".into()) },
            receiver: ReceiverStatus {
                listen: ([127, 0, 0, 1], 8080).into(),
                connections: 1,
                received: 40,
                duplicates: 2,
                quarantined: 0,
            },
            journal: JournalStats { first: 1, next: 41, bytes_max: 10 << 30, ..JournalStats::default() },
            sinks: vec![bus, sink("archive", BreakerState::Closed)],
            streams: 0,
        };
        insta::assert_snapshot!(render(&status), @r"
        relay 1.2.3 up 7.2s, NOT READY: the journal is full
        receiver  127.0.0.1:8080  40 received, 2 duplicates, 0 quarantined, 1 connections open
        journal   offsets 1..41  0 B of 10GiB in 0 segments, 0 damaged
        streams   0 open

         SINK     KIND   TARGET          STATE             POSITION  LAG     AGE  IN FLIGHT  DELIVERED  DEAD
         bus      kafka  localhost:9092  open, 5 failures         0   12  1h2m5s          0          0     0
         archive  kafka  localhost:9092  ok                       0    0       -          0          0     0

        bus: fails since 1970-01-01T00:00:01Z, last at 1970-01-01T00:01:01Z
          connection refused
        ");
    }
}
