//! Which events a client of the stream gets, and under which topics.

use std::sync::Arc;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::config::Config;
use crate::event::Event;
use crate::route::TargetId;
use crate::sinks::SinkOptions;

/// The most topics that one client may ask for, and the longest of them in bytes: what they cost
/// is paid per event.
const TOPICS_MAX: usize = 64;
const TOPIC_BYTES_MAX: usize = 1024;

/// Topics that a client asked for.
#[derive(Debug)]
pub(super) enum Topics {
    All,
    /// Globs over topics with dots and slashes swapped, see [`swap`].
    These(GlobSet),
}

impl Topics {
    /// # Errors
    /// A sentence that says which topic cannot be used, and why.
    pub(super) fn parse(topics: &[&str]) -> Result<Self, String> {
        if topics.is_empty() {
            return Ok(Self::All);
        }
        if topics.len() > TOPICS_MAX {
            return Err(format!("{} topics are too many; {TOPICS_MAX} may be given", topics.len()));
        }
        let mut globs = GlobSetBuilder::new();
        for topic in topics {
            if topic.is_empty() || topic.len() > TOPIC_BYTES_MAX {
                return Err(format!("a topic has 1 to {TOPIC_BYTES_MAX} bytes"));
            }
            let glob = GlobBuilder::new(&swap(topic)).literal_separator(true).build();
            globs.add(glob.map_err(|error| format!("topic `{topic}` is no glob: {}", error.kind()))?);
        }
        globs.build().map(Self::These).map_err(|error| format!("topics: {}", error.kind()))
    }

    pub(super) fn is_match(&self, topic: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(globs) => globs.is_match(swap(topic)),
        }
    }
}

/// Swaps dots and slashes. Globs know slashes as separators; a topic's words are separated by
/// dots, and a repository's slashes in it separate nothing.
fn swap(text: &str) -> String {
    let swapped = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    text.chars().map(swapped).collect()
}

/// The routing table, cut down to the stream and to what one client asked for.
pub(super) struct Selector {
    config: Arc<Config>,
    topics: Topics,
    /// By a sink's index: whether it is a stream.
    streams: Vec<bool>,
    routed: Vec<TargetId>,
}

impl Selector {
    pub(super) fn new(config: Arc<Config>, topics: Topics) -> Self {
        let streams = config.sinks.iter().map(|sink| matches!(sink.options, SinkOptions::Stream)).collect();
        Self { config, topics, streams, routed: Vec::new() }
    }

    /// The topics under which the client gets `event`, each once; none: it does not.
    pub(super) fn topics_of(&mut self, event: &Event) -> Vec<String> {
        self.routed.clear();
        self.config.table.route(event, &mut self.routed);
        let mut found: Vec<String> = Vec::new();
        for id in &self.routed {
            let target = self.config.table.target(*id);
            if self.streams[target.sink] {
                let topic = target.topic.name(event, target.naming);
                if !found.contains(&topic) && self.topics.is_match(&topic) {
                    found.push(topic);
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_globs() {
        for (glob, topic, expected) in [
            ("registry.push", "registry.push", true),
            ("registry.push", "registry.pull", false),
            ("registry.*", "registry.push", true),
            ("registry.*", "registry.push.manifest", false),
            ("registry.*", "registryXpush", false),
            ("registry.**", "registry.push.manifest", true),
            ("registry.**", "registry", false),
            ("**", "registry.push", true),
            ("*", "registry.push", false),
            ("*", "events", true),
            ("**.push", "a.b.push", true),
            ("registry.{push,delete}", "registry.delete", true),
            ("registry.p?ll", "registry.pull", true),
            // A repository in a topic keeps its slashes, which are no separators.
            ("repositories.*", "repositories.team/app", true),
            ("repositories.team/*", "repositories.team/app", true),
            ("repositories.team/*", "repositories.other/app", false),
            ("repositories.*", "repositories.team/my.app", false),
        ] {
            let topics = Topics::parse(&[glob]).expect(glob);
            assert_eq!(topics.is_match(topic), expected, "{glob} {topic}");
        }
        assert!(Topics::parse(&[]).expect("none").is_match("anything"));
    }

    #[test]
    fn says_what_is_no_topic() {
        let error = Topics::parse(&["registry.push", "registry.["]).unwrap_err();
        assert!(error.starts_with("topic `registry.[` is no glob: "), "{error}");
        assert!(Topics::parse(&[""]).is_err());
        assert!(Topics::parse(&[&*"x".repeat(TOPIC_BYTES_MAX + 1)]).is_err());
        assert!(Topics::parse(&["x"; TOPICS_MAX + 1]).is_err());
    }
}
