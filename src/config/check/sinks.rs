//! Checks the sinks.

use super::Checker;
use crate::config::problem::KeyPath;
use crate::config::shape::{DeadLetters, Headers, Sink};
use crate::config::tree::Node;
use crate::config::units::Size;
use crate::config::{BacklogMax, DeadLetterConfig, Format, SinkConfig};
use crate::route::{Template, nearest};
use crate::sinks::{Naming, Options, SinkOptions};

/// The blocks that say what kind a sink is.
pub const KINDS: [&str; 7] = ["kafka", "rabbitmq", "nats", "webhook", "file", "stdout", "stream"];

/// A sink's name is part of file names and of metrics.
const NAME_BYTES_MAX: usize = 64;
/// A sink that may lag by less than this, in bytes, would give up events at every hiccup.
const BACKLOG_BYTES_MIN: u64 = 64 << 10;
/// Kafka's limit on a topic's name (`Topic.java`, `MAX_NAME_LENGTH`).
const KAFKA_TOPIC_MAX: usize = 249;

impl Checker<'_> {
    /// The sinks by their places in the file; `None` for one that could not be read.
    pub(super) fn sinks(&mut self, shapes: Vec<Sink>, has_admin: bool) -> Vec<Option<SinkConfig>> {
        let list = KeyPath::parse("sinks");
        let names = self.sink_names();
        if names.is_empty() && self.tree.get("sinks").is_none_or(|sinks| !sinks.skipped) {
            let text = "there are no `sinks`, so nothing would become of an event; the simplest is \
                        `- {name: out, stdout: {}}`";
            self.error(&list, text);
        }
        self.duplicate_names(&names);
        let mut sinks: Vec<Option<SinkConfig>> = names.iter().map(|_| None).collect();
        for (index, shape) in self.kept(&list).into_iter().zip(shapes) {
            sinks[index] = self.sink(shape, &names, index, &list.index(index));
        }
        self.streams(&sinks, has_admin);
        self.letter_circles(&sinks);
        sinks
    }

    /// The name of each sink in the file, also of those that could not be read.
    pub(super) fn sink_names(&self) -> Vec<Option<String>> {
        let items = self.tree.get("sinks").map(Node::items).unwrap_or_default();
        items.iter().map(|sink| sink.get("name")?.text().map(str::to_owned)).collect()
    }

    /// Looks a sink up by its name, which stands at `path`.
    pub(super) fn resolve(&mut self, path: &KeyPath, name: &str, names: &[Option<String>]) -> Option<usize> {
        let found = names.iter().position(|other| other.as_deref() == Some(name));
        if found.is_none() {
            let mut known: Vec<&str> = names.iter().flatten().map(String::as_str).collect();
            known.retain(|name| !name.is_empty());
            known.dedup();
            let text = match nearest(name, known.iter().copied()) {
                Some(nearest) => format!("there is no sink `{name}`; did you mean `{nearest}`?"),
                None => format!("there is no sink `{name}`; there are {}", known.join(", ")),
            };
            self.error(path, text);
        }
        found
    }

    fn duplicate_names(&mut self, names: &[Option<String>]) {
        for (index, name) in names.iter().enumerate() {
            let first = names.iter().position(|other| other == name).filter(|first| *first < index);
            if let (Some(name), Some(first)) = (name, first) {
                let path = KeyPath::parse("sinks").index(index).key("name");
                self.error(&path, format!("`{name}` is already the name of sinks[{first}]"));
            }
        }
    }

    fn streams(&mut self, sinks: &[Option<SinkConfig>], has_admin: bool) {
        let is_stream = |sink: &SinkConfig| matches!(sink.options, SinkOptions::Stream);
        let mut seen = false;
        for (index, _) in sinks.iter().enumerate().filter(|(_, sink)| sink.as_ref().is_some_and(is_stream)) {
            let path = KeyPath::parse("sinks").index(index).key("stream");
            if !has_admin {
                self.error(&path, "the admin listener serves the stream, and `admin.disabled` is true");
            } else if seen {
                self.error(&path, "there is a stream already; one serves all topics");
            }
            seen = true;
        }
    }

    /// Dead letters that go from sink to sink must come to an end: each of a circle's sinks could
    /// refuse what the one before it did.
    fn letter_circles(&mut self, sinks: &[Option<SinkConfig>]) {
        let next = |sink: usize| sinks.get(sink)?.as_ref()?.dead_letters.also_to;
        for first in 0..sinks.len() {
            let way: Vec<_> =
                std::iter::successors(next(first), |sink| next(*sink)).take(sinks.len()).collect();
            // The sink itself was told of already; and of a circle's sinks one is enough.
            let is_first = way.iter().all(|sink| *sink >= first);
            if way.len() > 1 && way[0] != first && is_first && way.contains(&first) {
                let path = KeyPath::parse("sinks").index(first).key("dead_letters").key("also_to");
                self.error(&path, "dead letters would go in a circle, from sink to sink; end it somewhere");
            }
        }
    }

    fn sink(
        &mut self,
        mut shape: Sink,
        names: &[Option<String>],
        index: usize,
        path: &KeyPath,
    ) -> Option<SinkConfig> {
        self.sink_name(&path.key("name"), &shape.name);
        self.headers(&path.key("headers"), &shape.headers);
        self.bounds(&shape, path);
        let timeout = self.some_duration(&path.key("timeout"), shape.timeout);
        let backoff = self.some_duration(&path.key("backoff"), shape.backoff);
        let give_up_after = shape.give_up_after.map(|t| self.some_duration(&path.key("give_up_after"), t));
        let dead_letters = self.dead_letters(&shape.dead_letters, names, index, &path.key("dead_letters"));
        let key = self.template(&path.key("key"), &shape.key);
        let Some(options) = self.options(&mut shape, path) else {
            // The topic can be wrong whatever else the sink is.
            if let (Some(topic), Some(naming)) = (&shape.topic, self.naming(path)) {
                self.topic(&path.key("topic"), topic, naming);
            }
            return None;
        };
        let default_topic = options.options().map_or("registry.{action}", Options::default_topic);
        let default_format = options.options().map_or(Format::Event, Options::default_format);
        let topic = shape.topic.as_deref().unwrap_or(default_topic);
        let topic = self.topic(&path.key("topic"), topic, options.naming());
        Some(SinkConfig {
            name: shape.name,
            disabled: shape.disabled,
            options,
            topic: topic?,
            key: key?,
            format: shape.format.unwrap_or(default_format),
            timeout,
            threshold: shape.threshold,
            backoff,
            headers: shape.headers.0,
            ignore_mediatypes: [shape.ignore.mediatypes, shape.ignoredmediatypes].concat(),
            ignore_actions: shape.ignore.actions,
            give_up_after,
            strip: shape.strip,
            message_bytes_max: shape.message_max.map(|size| size.0),
            backlog_max: shape.backlog_max,
            dead_letters,
        })
    }

    fn sink_name(&mut self, path: &KeyPath, name: &str) {
        let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(legal) {
            let text = format!("a sink's name is 1 to {NAME_BYTES_MAX} letters, digits, `.`, `_` and `-`");
            self.error(path, text);
        } else if name.starts_with('.') {
            self.error(path, "a sink's name cannot begin with `.`: it names files");
        }
    }

    fn bounds(&mut self, shape: &Sink, path: &KeyPath) {
        if shape.threshold == 0 {
            self.error(&path.key("threshold"), "must be at least 1: so many failures in a row and it rests");
        }
        match shape.backlog_max {
            Some(BacklogMax::Bytes(bytes)) if bytes < BACKLOG_BYTES_MIN => {
                let text = format!("is too small; the least is {}", Size(BACKLOG_BYTES_MIN));
                self.error(&path.key("backlog_max"), text);
            }
            Some(BacklogMax::Age(age)) if age <= shape.backoff.duration.max(shape.timeout.duration) => {
                let text = "must be longer than `timeout` and `backoff`, or one failure gives events up";
                self.error(&path.key("backlog_max"), text);
            }
            _ => {}
        }
        if shape.message_max.is_some_and(|size| size.0 == 0) {
            self.error(&path.key("message_max"), "0 bytes let no message through");
        }
        if !shape.strip.is_empty() && shape.message_max.is_none() {
            let text = "does nothing without `message_max`, which says what is too large";
            self.warn(&path.key("strip"), text);
        }
    }

    /// Names and values that HTTP can send; a broker's headers can hold no less. The values are not
    /// repeated: they can be tokens.
    fn headers(&mut self, path: &KeyPath, headers: &Headers) {
        for (name, value) in &headers.0 {
            let legal = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
            if name.is_empty() || !name.chars().all(legal) {
                self.error(&path.key(name), "a header's name is letters, digits and `-`, without spaces");
            }
            if value.contains(|c: char| c.is_control() && c != '\t') {
                self.error(&path.key(name), "a header's value cannot hold line breaks or control characters");
            }
        }
    }

    fn dead_letters(
        &mut self,
        shape: &DeadLetters,
        names: &[Option<String>],
        own: usize,
        path: &KeyPath,
    ) -> DeadLetterConfig {
        let bytes_max = self.disk_size(&path.key("max_size"), shape.max_size);
        let path = path.key("also_to");
        let also_to = shape.also_to.as_deref().and_then(|name| self.resolve(&path, name, names));
        if let Some(to) = also_to {
            let sink = KeyPath::parse("sinks").index(to);
            if to == own {
                self.error(&path, "names the sink itself; name another that can take what this one cannot");
            } else if self.is_given(&sink.key("stream")) {
                self.error(&path, "names the stream, which confirms nothing; name another sink");
            } else if self.tree.at(&sink.key("disabled")).and_then(Node::text) == Some("true") {
                self.warn(&path, "names a disabled sink: it gets no dead letters");
            }
        }
        DeadLetterConfig { bytes_max, also_to }
    }

    /// The one block that a sink has. `None` when it has none, several, or a broken one.
    fn options(&mut self, shape: &mut Sink, path: &KeyPath) -> Option<SinkOptions> {
        let given: Vec<&str> = KINDS.into_iter().filter(|kind| self.is_given(&path.key(kind))).collect();
        let kind = match given.as_slice() {
            [] => {
                self.error(path, format!("has none of {}; give it the one it is", KINDS.join(", ")));
                return None;
            }
            [kind] => *kind,
            [first, others @ ..] => {
                let text = format!("is a second kind beside `{first}`; make two sinks of them");
                for other in others {
                    self.error(&path.key(other), text.clone());
                }
                return None;
            }
        };
        if shape.url.is_some() {
            let text = match kind {
                "webhook" => "belongs into the `webhook` block, which this sink has".to_owned(),
                kind => format!("is a webhook's; this sink has a `{kind}` block"),
            };
            self.error(&path.key("url"), text);
        }
        let options = match take_options(shape) {
            Ok(options) => options?,
            Err(feature) => {
                let text = format!(
                    "this relay was built without it; build it with `cargo build --release --features {feature}`"
                );
                self.error(&path.key(kind), text);
                return None;
            }
        };
        for (key, text) in options.options().map(Options::problems).unwrap_or_default() {
            self.error(&path.key(kind).join(&key), text);
        }
        Some(options)
    }

    /// What the kind of a sink lets a topic be, when its options could not be read.
    fn naming(&self, path: &KeyPath) -> Option<Naming> {
        let kind = KINDS.into_iter().find(|kind| self.is_given(&path.key(kind)))?;
        Some(match kind {
            "kafka" => Naming::Kafka,
            "rabbitmq" => Naming::Amqp,
            "nats" => Naming::Nats,
            "file" => Naming::Path,
            _ => Naming::Plain,
        })
    }

    pub(super) fn template(&mut self, path: &KeyPath, text: &str) -> Option<Template> {
        Template::parse(text).map_err(|error| self.error(path, error.to_string())).ok()
    }

    /// A template that names something at a destination, which an event must not choose freely.
    pub(super) fn topic(&mut self, path: &KeyPath, text: &str, naming: Naming) -> Option<Template> {
        let template = self.template(path, text)?;
        if let Some(text) = topic_problem(&template, naming) {
            self.error(path, text);
            return None;
        }
        Some(template)
    }
}

fn topic_problem(template: &Template, naming: Naming) -> Option<String> {
    let what = match naming {
        Naming::Kafka => "a Kafka topic",
        Naming::Amqp => "a routing key",
        Naming::Nats => "a NATS subject",
        Naming::Path => "a path",
        Naming::Plain => "a topic",
    };
    if template.as_str().is_empty() {
        return Some("is empty; write it like registry.{action}".to_owned());
    }
    if let Some(c) = template.misnamed(naming) {
        return Some(format!("{what} cannot hold `{}`", c.escape_default()));
    }
    // A file has its folder before it; what is not published has nobody to be kept from.
    let is_published = matches!(naming, Naming::Kafka | Naming::Amqp | Naming::Nats);
    if is_published && template.literal_prefix().is_empty() {
        return Some(format!(
            "{what} begins with a fixed text, like registry.{{action}}, so that no event can choose it freely"
        ));
    }
    let text = template.as_str();
    match naming {
        Naming::Nats if text.starts_with('.') || text.ends_with('.') || text.contains("..") => {
            Some("a NATS subject has no empty word: no `.` at its ends, no two in a row".to_owned())
        }
        Naming::Path if text.split('/').any(|part| matches!(part, "" | "." | "..")) => {
            Some("a path stays in its folder: no `/` at its ends, no `.` and `..`".to_owned())
        }
        Naming::Kafka if template.literal().is_some_and(|topic| topic == "." || topic == "..") => {
            Some("a Kafka topic cannot be `.` or `..`".to_owned())
        }
        Naming::Kafka if template.literal_prefix().len() > KAFKA_TOPIC_MAX => {
            Some(format!("a Kafka topic has at most {KAFKA_TOPIC_MAX} characters"))
        }
        _ => None,
    }
}

/// # Errors
/// The cargo feature that is missing in this build.
fn take_options(sink: &mut Sink) -> Result<Option<SinkOptions>, &'static str> {
    macro_rules! take {
        ($field:ident, $variant:ident, $feature:literal) => {
            #[cfg(feature = $feature)]
            if let Some(options) = sink.$field.take() {
                return Ok(Some(SinkOptions::$variant(options)));
            }
            #[cfg(not(feature = $feature))]
            if sink.$field.is_some() {
                return Err($feature);
            }
        };
    }
    take!(kafka, Kafka, "kafka");
    take!(rabbitmq, RabbitMq, "rabbitmq");
    take!(nats, Nats, "nats");
    take!(webhook, Webhook, "webhook");
    let file = sink.file.take().map(SinkOptions::File);
    let stdout = sink.stdout.take().map(SinkOptions::Stdout);
    let stream = sink.stream.take().map(|_| SinkOptions::Stream);
    Ok(file.or(stdout).or(stream))
}
