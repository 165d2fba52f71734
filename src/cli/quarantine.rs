//! `relay quarantine`.

use std::io::Write as _;

use http_body_util::BodyExt as _;
use indicatif::ProgressBar;
use warp::http::Method;

use super::Failure;
use super::client::{Client, ClientArgs, Query};
use super::text::{cell, table, time};
use crate::admin::ops::dead_letters::Discarded;
use crate::admin::ops::quarantine::{BodiesReplayed, BodyList, BodyShown};
use crate::config::{Size, Time};
use crate::journal::Micros;
use crate::quarantine::Id;

const PATH: &str = "/api/v1/quarantine";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  relay quarantine list
  relay quarantine show 1764000000000000
  relay quarantine show 1764000000000000 --body > body.json
  relay quarantine replay --newer-than 1h
  relay quarantine discard --id 1764000000000000

What is replayed goes the way of any request; a body that still cannot be read stays.
Exits with 69 when no relay answers.")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List them: when they came, from where, and what is wrong with them
    List {
        #[command(flatten)]
        client: ClientArgs,
        #[command(flatten)]
        filter: Filter,
        /// At most so many
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
        /// Begin behind this one, as the last list said
        #[arg(long, value_name = "ID")]
        after: Option<Id>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one
    Show {
        #[command(flatten)]
        client: ClientArgs,
        /// Which one, as `list` names it
        id: Id,
        /// Print only the body, byte for byte
        #[arg(long, conflicts_with = "json")]
        body: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Try to read them again; without a filter, all of them
    Replay {
        #[command(flatten)]
        client: ClientArgs,
        #[command(flatten)]
        filter: Filter,
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

/// Which bodies; all that is given must hold.
#[derive(Debug, clap::Args)]
struct Filter {
    /// These; can be repeated
    #[arg(long = "id", value_name = "ID")]
    ids: Vec<Id>,
    /// With this text in what is wrong with them
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// That came longer ago than this
    #[arg(long, value_name = "AGE", value_parser = Time::parse)]
    older_than: Option<Time>,
    /// That came within this
    #[arg(long, value_name = "AGE", value_parser = Time::parse)]
    newer_than: Option<Time>,
}

impl Filter {
    fn query(&self, path: &str) -> Query {
        Query::new(path)
            .with_all("id", &self.ids)
            .with_all("reason", &self.reason)
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
            let query = filter.query(PATH).with("limit", limit).with_all("after", *after);
            list(&Client::new(client)?, &query, *json).await
        }
        Action::Show { client, id, body, json } => show(&Client::new(client)?, *id, *body, *json).await,
        Action::Replay { client, filter } => replay(&Client::new(client)?, filter).await,
        Action::Discard { client, filter, yes } => discard(&Client::new(client)?, filter, *yes).await,
    }
}

async fn list(client: &Client, query: &Query, json: bool) -> Result<(), Failure> {
    let (bytes, list) = client.get_json::<BodyList>(query.as_str()).await?;
    if json {
        println!("{}", String::from_utf8_lossy(&bytes));
        return Ok(());
    }
    println!("{}", render(&list));
    Ok(())
}

fn render(list: &BodyList) -> String {
    let stats = &list.stats;
    let mut out = format!(
        "{} bodies, {} of {}\n",
        stats.bodies,
        bytesize::ByteSize(stats.bytes),
        Size(stats.bytes_max)
    );
    if list.quarantine.is_empty() {
        return out.trim_end().to_owned();
    }
    let mut table = table(["ID", "CAME", "BYTES", "FROM", "PATH", "WHAT IS WRONG"]);
    for entry in &list.quarantine {
        let note = entry.note.as_ref();
        table.add_row([
            entry.id.to_string(),
            came(entry.id),
            entry.bytes.to_string(),
            note.and_then(|note| note.remote.clone()).unwrap_or_else(|| "-".to_owned()),
            note.map_or_else(|| "-".to_owned(), |note| cell(&note.path)),
            note.map_or_else(|| "its file is damaged".to_owned(), |note| cell(&note.reason)),
        ]);
    }
    out += &table.trim_fmt();
    if let Some(next) = &list.next {
        out += &format!("\nThere are more: --after {next}");
    }
    out
}

/// An id is when the body came.
fn came(id: Id) -> String {
    time(Micros::try_from(id.0).unwrap_or(Micros::MAX))
}

async fn show(client: &Client, id: Id, body: bool, json: bool) -> Result<(), Failure> {
    if body {
        let answer = client.get(&format!("{PATH}/{id}/body"), None).await?.into_body().collect().await;
        let bytes = answer.map_err(|error| Failure::Other(format!("the body broke off: {error}")))?;
        let mut out = std::io::stdout().lock();
        out.write_all(&bytes.to_bytes())?;
        return Ok(out.flush()?);
    }
    let (bytes, shown) = client.get_json::<BodyShown>(&format!("{PATH}/{id}")).await?;
    if json {
        println!("{}", String::from_utf8_lossy(&bytes));
        return Ok(());
    }
    let note = &shown.note;
    let mut table = table(["BODY", &shown.id.to_string()]);
    for (name, value) in [
        ("came", Some(came(shown.id))),
        ("what is wrong", Some(note.reason.clone())),
        ("bytes", Some(shown.bytes.to_string())),
        ("path", Some(note.path.clone())),
        ("from", note.remote.clone()),
        ("content type", note.content_type.clone()),
        ("content encoding", note.content_encoding.clone()),
    ] {
        table.add_row([name, value.as_deref().unwrap_or("-")]);
    }
    let body = shown.body.as_deref().unwrap_or("(not a text: --body gives its bytes)");
    println!("{}\n\n{body}", table.trim_fmt());
    Ok(())
}

async fn replay(client: &Client, filter: &Filter) -> Result<(), Failure> {
    let query = filter.query(&format!("{PATH}/replay"));
    let query = if filter.is_none() { query.with("all", true) } else { query };
    let (bar, mut sum, mut after) = (ProgressBar::new_spinner(), BodiesReplayed::default(), None);
    loop {
        let page = query.clone().with_all("after", after);
        let (_, done) = client.json::<BodiesReplayed>(Method::POST, page.as_str()).await?;
        sum.replayed += done.replayed;
        sum.accepted += done.accepted;
        sum.duplicates += done.duplicates;
        sum.unreadable.extend(done.unreadable);
        bar.set_message(format!("{} replayed, {} still unreadable", sum.replayed, sum.unreadable.len()));
        bar.tick();
        after = done.next;
        if after.is_none() {
            break;
        }
    }
    bar.finish_and_clear();
    for unreadable in &sum.unreadable {
        println!("{} stays: {}", unreadable.id, cell(&unreadable.reason));
    }
    println!(
        "{} replayed: {} events, {} of them known before; {} stay",
        sum.replayed,
        sum.accepted + sum.duplicates,
        sum.duplicates,
        sum.unreadable.len()
    );
    Ok(())
}

async fn discard(client: &Client, filter: &Filter, yes: bool) -> Result<(), Failure> {
    let query = filter.query(&format!("{PATH}/discard"));
    let query = match (filter.is_none(), yes) {
        (false, _) => query,
        (true, true) => query.with("all", true),
        (true, false) => {
            let text = "this would discard all of the quarantine: narrow it, or say --yes";
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
    use crate::quarantine::{Entry, Note, QuarantineStats};

    #[test]
    fn a_list_is_a_line_each() {
        let note = Note { reason: "not JSON".into(), path: "/events".into(), ..Note::default() };
        let list = BodyList {
            stats: QuarantineStats { bodies: 2, bytes: 8192, bytes_max: 1 << 30 },
            quarantine: vec![
                Entry { id: Id(60_000_000), bytes: 12, note: Some(note) },
                Entry { id: Id(61_000_000), bytes: 13, note: None },
            ],
            next: None,
        };
        insta::assert_snapshot!(render(&list), @r"
        2 bodies, 8.0 KiB of 1GiB
         ID        CAME                  BYTES  FROM  PATH     WHAT IS WRONG
         60000000  1970-01-01T00:01:00Z  12     -     /events  not JSON
         61000000  1970-01-01T00:01:01Z  13     -     -        its file is damaged
        ");
    }
}
