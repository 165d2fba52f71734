//! `relay dead-letters`.

use warp::http::Method;

use super::Failure;
use super::client::{Client, ClientArgs, Query};
use super::replay;
use super::text::{cell, table, time};
use crate::admin::ops::dead_letters::{Discarded, LetterList, LetterShown, ReplaysBegun};
use crate::config::Time;

const PATH: &str = "/api/v1/dead-letters";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  relay dead-letters list
  relay dead-letters list --sink bus --code too_large --json
  relay dead-letters show bus/17
  relay dead-letters replay --sink bus --newer-than 1h
  relay dead-letters discard --sink bus --id 17 --id 18

What is replayed is rendered by today's configuration; a dead letter goes once its event is
confirmed. Exits with 69 when no relay answers.")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List them: which events, to where, why not, and since when
    List {
        #[command(flatten)]
        client: ClientArgs,
        #[command(flatten)]
        filter: Filter,
        /// At most so many
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
        /// Begin behind this one, as the last list said
        #[arg(long, value_name = "SINK/ID")]
        after: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one, with its event
    Show {
        #[command(flatten)]
        client: ClientArgs,
        /// Which one, as `list` names it
        #[arg(value_name = "SINK/ID")]
        id: String,
        /// Print only the event, as the registry sent it
        #[arg(long, conflicts_with = "json")]
        event: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Send them again; without a filter, all of them
    Replay {
        #[command(flatten)]
        client: ClientArgs,
        #[command(flatten)]
        filter: Filter,
        /// Begin, print the replays' numbers, and do not wait for their end
        #[arg(long)]
        detach: bool,
        /// Print how it ended as JSON, a line a sink
        #[arg(long)]
        json: bool,
    },
    /// Discard them for good
    Discard {
        #[command(flatten)]
        client: ClientArgs,
        #[command(flatten)]
        filter: Filter,
        /// Yes, all of them: needed where nothing narrows it
        #[arg(long)]
        yes: bool,
    },
}

/// Which dead letters; all that is given must hold.
#[derive(Debug, clap::Args)]
struct Filter {
    /// Of this sink
    #[arg(long, value_name = "NAME")]
    sink: Option<String>,
    /// These; can be repeated
    #[arg(long = "id", requires = "sink", value_name = "ID")]
    ids: Vec<u64>,
    /// With this code, like too_large
    #[arg(long)]
    code: Option<String>,
    /// With this text in the reason
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Of these repositories
    #[arg(long, value_name = "GLOB")]
    repository: Option<String>,
    /// Last tried longer ago than this
    #[arg(long, value_name = "AGE", value_parser = Time::parse)]
    older_than: Option<Time>,
    /// Last tried within this
    #[arg(long, value_name = "AGE", value_parser = Time::parse)]
    newer_than: Option<Time>,
}

impl Filter {
    fn query(&self, path: &str) -> Query {
        Query::new(path)
            .with_all("sink", &self.sink)
            .with_all("id", &self.ids)
            .with_all("code", &self.code)
            .with_all("reason", &self.reason)
            .with_all("repository", &self.repository)
            .with_all("older_than", self.older_than)
            .with_all("newer_than", self.newer_than)
    }

    fn is_none(&self) -> bool {
        self.query("").as_str().is_empty()
    }
}

pub(super) async fn run(args: &Args) -> Result<(), Failure> {
    match &args.action {
        Action::List { client, filter, limit, after, json } => {
            let query = filter.query(PATH).with("limit", limit).with_all("after", after);
            list(&Client::new(client)?, &query, *json).await
        }
        Action::Show { client, id, event, json } => show(&Client::new(client)?, id, *event, *json).await,
        Action::Replay { client, filter, detach, json } => {
            replay(&Client::new(client)?, filter, *detach, *json).await
        }
        Action::Discard { client, filter, yes } => discard(&Client::new(client)?, filter, *yes).await,
    }
}

async fn list(client: &Client, query: &Query, json: bool) -> Result<(), Failure> {
    let (bytes, list) = client.get_json::<LetterList>(query.as_str()).await?;
    if json {
        println!("{}", String::from_utf8_lossy(&bytes));
        return Ok(());
    }
    println!("{}", render(&list));
    Ok(())
}

fn render(list: &LetterList) -> String {
    if list.dead_letters.is_empty() {
        return "no dead letters".to_owned();
    }
    let mut table =
        table(["ID", "CODE", "ACTION", "REPOSITORY", "TOPIC", "TRIES", "LAST", "BYTES", "REASON"]);
    for letter in &list.dead_letters {
        table.add_row([
            format!("{}/{}", letter.sink, letter.id),
            letter.code.clone(),
            cell(&letter.action),
            cell(&letter.repository),
            cell(&letter.topic),
            letter.attempts.to_string(),
            time(letter.last),
            letter.bytes.to_string(),
            cell(&letter.reason),
        ]);
    }
    let mut out = table.trim_fmt();
    if let Some(next) = &list.next {
        out += &format!("\nThere are more: --after {next}");
    }
    out
}

async fn show(client: &Client, id: &str, event: bool, json: bool) -> Result<(), Failure> {
    let wrong = || Failure::Other(format!("`{id}` is not SINK/ID, like bus/17"));
    let (sink, number) = id.rsplit_once('/').ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let path = format!("{PATH}/{}/{number}", super::client::query_value(sink));
    let (bytes, letter) = client.get_json::<LetterShown>(&path).await?;
    if json {
        println!("{}", String::from_utf8_lossy(&bytes));
    } else if event {
        println!("{}", letter.event);
    } else {
        println!("{}", details(&letter));
    }
    Ok(())
}

fn details(letter: &LetterShown) -> String {
    let LetterShown { summary, event } = letter;
    let mut table = table(["DEAD LETTER", &format!("{}/{}", summary.sink, summary.id)]);
    for (name, value) in [
        ("code", summary.code.clone()),
        ("reason", summary.reason.clone()),
        ("tries", summary.attempts.to_string()),
        ("arrived", time(summary.arrived)),
        ("first tried", time(summary.first)),
        ("last tried", time(summary.last)),
        ("topic", summary.topic.clone()),
        ("key", summary.key.clone()),
        ("event id", summary.event_id.clone()),
        ("action", summary.action.clone()),
        ("repository", summary.repository.clone()),
        ("offset", summary.offset.to_string()),
    ] {
        table.add_row([name, &value]);
    }
    format!("{}\n\n{event}", table.trim_fmt())
}

async fn replay(client: &Client, filter: &Filter, detach: bool, json: bool) -> Result<(), Failure> {
    let query = filter.query(&format!("{PATH}/replay"));
    let query = if filter.is_none() { query.with("all", true) } else { query };
    let (_, begun) = client.json::<ReplaysBegun>(Method::POST, query.as_str()).await?;
    if begun.replays.is_empty() {
        eprintln!("no dead letters");
    }
    // All of them have begun, so that one that fails must not keep the others from being told of.
    let mut failure = None;
    for replay in begun.replays {
        if detach {
            println!("{}", replay.id);
            continue;
        }
        let ended = replay::follow(client, replay.id).await?;
        failure = failure.or(replay::end(ended, json).err());
    }
    failure.map_or(Ok(()), Err)
}

async fn discard(client: &Client, filter: &Filter, yes: bool) -> Result<(), Failure> {
    let query = filter.query(&format!("{PATH}/discard"));
    let query = match (filter.is_none(), yes) {
        (false, _) => query,
        (true, true) => query.with("all", true),
        (true, false) => {
            let text = "this would discard every dead letter of every sink: narrow it, or say --yes";
            return Err(Failure::Other(text.to_owned()));
        }
    };
    let (_, Discarded { discarded }) = client.json(Method::POST, query.as_str()).await?;
    println!("{discarded} discarded");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::ops::dead_letters::LetterSummary;

    fn letter() -> LetterSummary {
        LetterSummary {
            sink: "bus".into(),
            id: 17,
            offset: 4711,
            code: "too_large".into(),
            reason: "MessageSizeTooLarge:\n2 MB".into(),
            attempts: 1,
            first: 0,
            last: 60_000_000,
            arrived: 0,
            topic: "registry.push".into(),
            key: "team/app".into(),
            event_id: "e-1".into(),
            action: "push".into(),
            repository: "team/app".into(),
            bytes: 2_000_000,
        }
    }

    #[test]
    fn a_list_is_a_line_each() {
        let list = LetterList { dead_letters: vec![letter()], next: Some("bus/17".into()) };
        insta::assert_snapshot!(render(&list), @r"
         ID      CODE       ACTION  REPOSITORY  TOPIC          TRIES  LAST                  BYTES    REASON
         bus/17  too_large  push    team/app    registry.push  1      1970-01-01T00:01:00Z  2000000  MessageSizeTooLarge: 2 MB
        There are more: --after bus/17
        ");
    }

    #[test]
    fn all_that_is_known_is_shown() {
        let shown = LetterShown { summary: letter(), event: "{\n   \"id\": \"e-1\"\n}".into() };
        insta::assert_snapshot!(details(&shown), @r#"
         DEAD LETTER  bus/17
         code         too_large
         reason       MessageSizeTooLarge:
                      2 MB
         tries        1
         arrived      1970-01-01T00:00:00Z
         first tried  1970-01-01T00:00:00Z
         last tried   1970-01-01T00:01:00Z
         topic        registry.push
         key          team/app
         event id     e-1
         action       push
         repository   team/app
         offset       4711

        {
           "id": "e-1"
        }
        "#);
    }
}
