//! `relay replay`.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use warp::http::Method;

use super::Failure;
use super::client::{Client, ClientArgs, Query};
use super::text::{table, time};
use crate::admin::ops::replays::ReplayList;
use crate::delivery::{ReplayKind, ReplaySnapshot, ReplayState};

/// How often a running replay is asked how far it is.
const POLL: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  relay replay --sink bus --from 2026-11-20T10:00Z --to 2026-11-20T12:00Z
  relay replay --sink bus --from 1h --action push --repository 'prod/**'
  relay replay --sink bus --from 4711 --to 4800 --match '{kinds: [manifest], not: {tags: [latest]}}'
  relay replay --list
  relay replay --cancel 3

The events go to the sink as today's routes have it, beside the live flow, with the ids they had, so
that consumers can tell. It runs in the relay: Ctrl-C ends only the watching. It does not outlive the
relay. Exits with 69 when no relay answers.")]
pub(super) struct Args {
    #[command(flatten)]
    client: ClientArgs,

    /// The sink to deliver to
    #[arg(long, required_unless_present_any = ["list", "cancel"], value_name = "NAME")]
    sink: Option<String>,

    /// Where to begin: an offset, a time (2026-01-31T12:00:00Z), an age (10m) or `beginning`
    #[arg(long, required_unless_present_any = ["list", "cancel"], value_name = "WHEN")]
    from: Option<String>,

    /// Where to end, without what stands there; what is newest now, if not given
    #[arg(long, value_name = "WHEN")]
    to: Option<String>,

    /// Conditions as of a route's `match`
    #[arg(long = "match", value_name = "YAML")]
    conditions: Option<String>,

    /// Only these actions, which may be globs; can be repeated
    #[arg(long = "action", value_name = "ACTION")]
    actions: Vec<String>,

    /// Only these repositories, which may be globs; can be repeated
    #[arg(long = "repository", value_name = "GLOB")]
    repositories: Vec<String>,

    /// Only these tags, which may be globs; can be repeated
    #[arg(long = "tag", value_name = "GLOB")]
    tags: Vec<String>,

    /// At most so many events
    #[arg(long, value_name = "N")]
    limit: Option<u64>,

    /// Begin it, print its number, and do not wait for its end
    #[arg(long)]
    detach: bool,

    /// Print how it ended as JSON
    #[arg(long)]
    json: bool,

    /// Show the replays that run and those that ended lately
    #[arg(long, conflicts_with_all = ["sink", "from", "to", "cancel"])]
    list: bool,

    /// End this replay
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["sink", "from", "to"])]
    cancel: Option<u64>,
}

pub(super) async fn run(args: &Args) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    if args.list {
        return list(&client, args.json).await;
    }
    if let Some(id) = args.cancel {
        client.json::<ReplaySnapshot>(Method::DELETE, &format!("/api/v1/replays/{id}")).await?;
        return end(follow(&client, id).await?, args.json);
    }
    let query = Query::new("/api/v1/replays")
        .with_all("sink", &args.sink)
        .with_all("from", &args.from)
        .with_all("to", &args.to)
        .with_all("match", &args.conditions)
        .with_all("action", &args.actions)
        .with_all("repository", &args.repositories)
        .with_all("tag", &args.tags)
        .with_all("limit", args.limit);
    let (bytes, begun) = client.json::<ReplaySnapshot>(Method::POST, query.as_str()).await?;
    if args.detach {
        println!(
            "{}",
            if args.json { String::from_utf8_lossy(&bytes).into_owned() } else { begun.id.to_string() }
        );
        return Ok(());
    }
    end(follow(&client, begun.id).await?, args.json)
}

async fn list(client: &Client, json: bool) -> Result<(), Failure> {
    let (bytes, list) = client.get_json::<ReplayList>("/api/v1/replays").await?;
    if json {
        println!("{}", String::from_utf8_lossy(&bytes));
        return Ok(());
    }
    let mut table =
        table(["REPLAY", "SINK", "OF", "STATE", "FROM", "TO", "POSITION", "DELIVERED", "DEAD", "STARTED"]);
    for replay in list.replays {
        table.add_row([
            replay.id.to_string(),
            replay.sink.clone(),
            of(&replay).to_owned(),
            format!("{:?}", replay.state).to_lowercase(),
            replay.from.to_string(),
            replay.to.to_string(),
            replay.position.to_string(),
            replay.delivered.to_string(),
            replay.dead_lettered.to_string(),
            time(replay.started),
        ]);
    }
    println!("{}", table.trim_fmt());
    Ok(())
}

fn of(replay: &ReplaySnapshot) -> &'static str {
    match replay.kind {
        ReplayKind::Journal => "the journal",
        ReplayKind::DeadLetters => "dead letters",
    }
}

/// Shows a replay's progress until it has ended.
pub(super) async fn follow(client: &Client, id: u64) -> Result<ReplaySnapshot, Failure> {
    let path = format!("/api/v1/replays/{id}");
    let bar = bar();
    loop {
        let (_, replay) = client.get_json::<ReplaySnapshot>(&path).await?;
        bar.set_length(replay.to - replay.from);
        bar.set_position(replay.position.saturating_sub(replay.from));
        bar.set_message(message(&replay));
        if replay.state != ReplayState::Running {
            bar.finish_and_clear();
            return Ok(replay);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Hidden where standard error is no terminal.
fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {percent}% {msg} ({elapsed} gone, {eta} to go)");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

fn message(replay: &ReplaySnapshot) -> String {
    let mut message = format!("{} delivered", replay.delivered);
    if replay.dead_lettered > 0 {
        message += &format!(", {} dead letters", replay.dead_lettered);
    }
    if let Some(error) = replay.last_error.as_ref().filter(|_| !replay.connected) {
        message += &format!(", waits: {}", super::text::cell(&error.text));
    }
    message
}

/// Prints how a replay ended; one that did not come to its end is a failure.
pub(super) fn end(replay: ReplaySnapshot, json: bool) -> Result<(), Failure> {
    if json {
        let text = serde_json::to_string(&replay).map_err(|error| Failure::Other(error.to_string()))?;
        println!("{text}");
    } else {
        println!("{}", summary(&replay));
    }
    match replay.state {
        ReplayState::Running | ReplayState::Done => Ok(()),
        ReplayState::Cancelled => Err(Failure::Other(format!("replay {} was cancelled", replay.id))),
        ReplayState::Stopped => {
            let why = replay.last_error.map_or(String::new(), |error| format!(": {}", error.text));
            Err(Failure::Other(format!("replay {} broke off{why}", replay.id)))
        }
    }
}

fn summary(replay: &ReplaySnapshot) -> String {
    let mut out = format!("{}: {} delivered", replay.sink, replay.delivered);
    match replay.kind {
        ReplayKind::Journal if replay.dead_lettered > 0 => {
            out += &format!(", {} became dead letters", replay.dead_lettered);
        }
        ReplayKind::DeadLetters => {
            out += &format!(
                "; {} dead letters are gone, {} were refused again",
                replay.removed, replay.dead_lettered
            );
        }
        ReplayKind::Journal => {}
    }
    if replay.unrouted > 0 {
        out += &format!(", {} stay: no route sends them here any more", replay.unrouted);
    }
    if replay.lost > 0 {
        out += &format!(", {} offsets are no longer in the journal", replay.lost);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::BreakerState;

    fn replay(kind: ReplayKind) -> ReplaySnapshot {
        ReplaySnapshot {
            id: 3,
            sink: "bus".into(),
            kind,
            state: ReplayState::Done,
            from: 10,
            to: 20,
            position: 20,
            delivered: 7,
            retried: 0,
            dead_lettered: 1,
            lost: 0,
            removed: 7,
            unrouted: 0,
            started: 0,
            ended: Some(1),
            connected: false,
            breaker: BreakerState::Closed,
            last_error: None,
        }
    }

    #[test]
    fn says_what_became_of_it() {
        let journal = replay(ReplayKind::Journal);
        let lossy = ReplaySnapshot { lost: 5, dead_lettered: 0, ..journal.clone() };
        let letters = ReplaySnapshot { unrouted: 2, ..replay(ReplayKind::DeadLetters) };
        for (replay, expected) in [
            (journal, "bus: 7 delivered, 1 became dead letters"),
            (lossy, "bus: 7 delivered, 5 offsets are no longer in the journal"),
            (
                letters,
                "bus: 7 delivered; 7 dead letters are gone, 1 were refused again, 2 stay: no route sends \
                 them here any more",
            ),
        ] {
            assert_eq!(summary(&replay), expected);
        }
    }

    #[test]
    fn only_what_came_to_its_end_is_a_success() {
        for (state, good) in
            [(ReplayState::Done, true), (ReplayState::Cancelled, false), (ReplayState::Stopped, false)]
        {
            let replay = ReplaySnapshot { state, ..replay(ReplayKind::Journal) };
            assert_eq!(end(replay, true).is_ok(), good, "{state:?}");
        }
    }
}
