//! `relay import-registry`.

use std::collections::{BTreeMap, HashSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::Failure;
use crate::config::registry::{self, Endpoint, GoDuration, Notifications};
use crate::config::{Problem, Time};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  relay import-registry /etc/distribution/config.yml > relay.yml
  relay import-registry config.yml --url http://relay.example:8080/events > relay.yml

Each endpoint becomes a webhook sink. The relay's configuration goes to standard output; to
standard error goes what is to be looked at, and the block that makes the registry notify the
relay instead.")]
pub(super) struct Args {
    /// Where the registry will reach the relay
    #[arg(long, default_value = "http://127.0.0.1:8080/events")]
    url: String,

    /// The registry's configuration
    #[arg(value_name = "CONFIG.yml")]
    path: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let name = args.path.display().to_string();
    let text = std::fs::read_to_string(&args.path)
        .map_err(|error| Failure::Other(format!("cannot read {name}: {error}")))?;
    let notifications = registry::parse(&text, &name).map_err(|problems| {
        let lines: Vec<_> = problems.iter().map(Problem::to_string).collect();
        Failure::Config(lines.join("\n"))
    })?;
    let Imported { config, notes } = import(&notifications, &name)?;
    std::io::stdout().lock().write_all(config.as_bytes())?;
    for note in notes {
        eprintln!("note: {note}");
    }
    eprintln!("\nPut this into the registry's configuration instead of its `notifications`:\n");
    eprint!("{}", block(&notifications, &args.url));
    Ok(())
}

#[derive(Debug)]
struct Imported {
    /// The relay's configuration.
    config: String,
    /// What somebody should look at.
    notes: Vec<String>,
}

/// # Errors
/// An endpoint that has nowhere to go.
fn import(notifications: &Notifications, file: &str) -> Result<Imported, Failure> {
    let mut notes = Vec::new();
    let mut names = HashSet::new();
    let mut sinks = Vec::new();
    for (index, endpoint) in notifications.endpoints.iter().enumerate() {
        if endpoint.url.is_empty() {
            let text = format!("{file}: notifications.endpoints[{index}] has no `url`");
            return Err(Failure::Config(text));
        }
        let name = unique_name(endpoint, index, &mut names, &mut notes);
        sinks.push(sink(name, endpoint, &mut notes));
    }
    let sinks = serde_yaml::to_string(&Sinks { sinks })
        .map_err(|error| Failure::Other(format!("cannot write the sinks: {error}")))?;
    let config = format!(
        "# Made by `relay import-registry` out of {file}.\n\
         receiver:\n  \
           listen: 0.0.0.0:8080\n  \
           # Without tokens everybody can send. The registry sends one by the endpoint's headers.\n  \
           # tokens: [\"${{RELAY_TOKEN}}\"]\n\
         {sinks}"
    );
    Ok(Imported { config, notes })
}

/// What is written of the new configuration.
#[derive(Serialize)]
struct Sinks {
    sinks: Vec<Sink>,
}

/// An endpoint as a sink: what it had, and nothing that is the default.
#[derive(Serialize)]
struct Sink {
    name: String,
    webhook: Webhook,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    disabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backoff: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold: Option<i64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, Vec<String>>,
    #[serde(skip_serializing_if = "Ignore::is_empty")]
    ignore: Ignore,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ignoredmediatypes: Vec<String>,
}

#[derive(Serialize)]
struct Webhook {
    url: String,
}

#[derive(Serialize)]
struct Ignore {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mediatypes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    actions: Vec<String>,
}

impl Ignore {
    fn is_empty(&self) -> bool {
        self.mediatypes.is_empty() && self.actions.is_empty()
    }
}

/// A sink's name has fewer characters than an endpoint's.
fn unique_name(
    endpoint: &Endpoint,
    index: usize,
    names: &mut HashSet<String>,
    notes: &mut Vec<String>,
) -> String {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let mut name: String = endpoint.name.chars().map(|c| if legal(c) { c } else { '-' }).take(56).collect();
    if name.trim_matches(['.', '-']).is_empty() {
        name = format!("endpoint-{}", index + 1);
    } else if name.starts_with('.') {
        name.insert(0, '_');
    }
    let mut unique = name.clone();
    let mut count = 1;
    while !names.insert(unique.clone()) {
        count += 1;
        unique = format!("{name}-{count}");
    }
    if endpoint.name.is_empty() {
        notes.push(format!("endpoint {} has no name; it is the sink `{unique}` here", index + 1));
    } else if unique != endpoint.name {
        notes.push(format!("the endpoint `{}` is the sink `{unique}` here", endpoint.name));
    }
    unique
}

/// One endpoint as a sink.
fn sink(name: String, endpoint: &Endpoint, notes: &mut Vec<String>) -> Sink {
    let mut time = |key: &str, time: Option<GoDuration>| {
        // What is zero or less has the registry's default, as what is absent.
        let time = time.filter(|time| !time.duration.is_zero())?;
        Some(meant(&name, key, time, notes).to_string())
    };
    let (timeout, backoff) = (time("timeout", endpoint.timeout), time("backoff", endpoint.backoff));
    let headers = headers(&name, &endpoint.headers, notes);
    let Endpoint { ignore, ignoredmediatypes, .. } = endpoint;
    if !ignore.actions.is_empty() && ignore.mediatypes.is_empty() && ignoredmediatypes.is_empty() {
        notes.push(format!(
            "`{name}` ignores actions from now on; registries up to 3.0 did not, since no media type stood beside"
        ));
    }
    Sink {
        name,
        webhook: Webhook { url: literal(&endpoint.url) },
        disabled: endpoint.disabled,
        timeout,
        backoff,
        threshold: endpoint.threshold.filter(|threshold| *threshold > 0),
        headers,
        ignore: Ignore { mediatypes: ignore.mediatypes.clone(), actions: ignore.actions.clone() },
        ignoredmediatypes: ignoredmediatypes.clone(),
    }
}

/// A text into which the relay fills nothing.
fn literal(text: &str) -> String {
    text.replace("${", "$${")
}

/// Below this nobody means nanoseconds: `timeout: 500` never delivered anything.
const NANOSECONDS_MEANT_MIN: Duration = Duration::from_millis(1);

/// What a duration was meant to be.
fn meant(name: &str, key: &str, time: GoDuration, notes: &mut Vec<String>) -> Time {
    let mut duration = time.duration;
    if let Some(bare) = time.bare.filter(|_| duration < NANOSECONDS_MEANT_MIN) {
        duration = Duration::from_millis(u64::try_from(bare).unwrap_or_default());
        notes.push(format!(
            "`{name}` had `{key}: {bare}`, which a registry reads as {bare} nanoseconds; taken as milliseconds"
        ));
    }
    Time { duration, unitless: false }
}

fn headers(
    name: &str,
    headers: &[(String, String)],
    notes: &mut Vec<String>,
) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in headers {
        found.entry(header.clone()).or_default().push(literal(value));
    }
    if !found.is_empty() {
        let names: Vec<_> = found.keys().map(String::as_str).collect();
        notes.push(format!(
            "the headers of `{name}` ({}) stand in the relay's configuration as they were; what is secret in them \
             is better written `${{NAME}}` or `${{file:PATH}}`",
            names.join(", ")
        ));
    }
    found
}

/// The registry's new `notifications`: the relay alone.
fn block(notifications: &Notifications, url: &str) -> String {
    let references =
        if notifications.include_references { "  events:\n    includereferences: true\n" } else { "" };
    format!(
        "notifications:\n{references}  \
           endpoints:\n    \
             - name: relay\n      \
               url: {}\n      \
               # headers: {{ Authorization: [\"Bearer …\"] }}   # one of the relay's tokens\n      \
               timeout: 5s\n      \
               threshold: 10\n      \
               backoff: 1s\n",
        serde_json::Value::from(url)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Surroundings, parse};

    const REGISTRY: &str = "\
version: 0.1
notifications:
  events: { includereferences: true }
  endpoints:
    - name: alistener
      url: https://mylistener.example.com/event
      headers: { Authorization: ['Bearer s3cret ${x}'], X-Many: [a, b] }
      timeout: 500ms
      threshold: 5
      backoff: 1s
      ignoredmediatypes: [application/octet-stream]
      ignore: { mediatypes: [a/b], actions: [pull] }
    - name: second listener
      disabled: true
      url: http://localhost:1/
      timeout: 500
      backoff: 2000000000
      ignore: { actions: [pull] }
    - url: http://localhost:2/
      timeout: 0
";

    fn imported() -> Imported {
        let notifications = registry::parse(REGISTRY, "config.yml").expect("a registry's");
        import(&notifications, "config.yml").expect("imported")
    }

    #[test]
    fn becomes_a_configuration_that_loads() {
        let Imported { config, notes } = imported();
        insta::assert_snapshot!(format!("{config}\n{}", notes.join("\n")));

        let around = Surroundings { env: &|_| None, read: &|_| Err(std::io::ErrorKind::NotFound.into()) };
        let config = parse(&config, "relay.yml", &around).expect("it loads").config;
        let first = &config.sinks[0];
        assert_eq!(first.headers[0].1, "Bearer s3cret ${x}");
        assert_eq!((first.timeout, first.threshold), (Duration::from_millis(500), 5));
        assert_eq!(first.ignore_mediatypes, ["a/b", "application/octet-stream"]);
        let second = &config.sinks[1];
        assert_eq!((second.timeout, second.backoff), (Duration::from_millis(500), Duration::from_secs(2)));
        assert!(second.disabled);
    }

    #[test]
    fn the_new_block_notifies_the_relay() {
        let notifications = registry::parse(REGISTRY, "config.yml").expect("a registry's");
        let block = block(&notifications, "http://relay:8080/events");
        let read = registry::parse(&block, "config.yml").expect("a registry's");
        assert_eq!(read.endpoints.len(), 1);
        assert_eq!(read.endpoints[0].url, "http://relay:8080/events");
        assert!(read.include_references);
    }

    #[test]
    fn notes_show_no_secret() {
        assert!(!imported().notes.iter().any(|note| note.contains("s3cret")));
    }
}
