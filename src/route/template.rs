//! Templates for topics, subjects, routing keys, keys and file paths: `registry.{action}`.

use std::fmt;

use crate::event::Event;
use crate::sinks::Naming;

/// Kafka's limit on a topic's name, in characters (`Topic.java`, `MAX_NAME_LENGTH`).
const KAFKA_TOPIC_MAX: usize = 249;
/// AMQP's limit on a short string, in bytes (AMQP 0-9-1, 4.2.5.3).
const AMQP_KEY_MAX: usize = 255;

/// What a template can fill in from an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholder {
    Action,
    Kind,
    Repository,
    /// The repository without its last part.
    Namespace,
    /// The repository's last part.
    Name,
    Tag,
    Digest,
    Mediatype,
    Method,
    Actor,
    Source,
}

impl Placeholder {
    pub const ALL: [(Placeholder, &'static str); 11] = [
        (Placeholder::Action, "action"),
        (Placeholder::Kind, "kind"),
        (Placeholder::Repository, "repository"),
        (Placeholder::Namespace, "namespace"),
        (Placeholder::Name, "name"),
        (Placeholder::Tag, "tag"),
        (Placeholder::Digest, "digest"),
        (Placeholder::Mediatype, "mediatype"),
        (Placeholder::Method, "method"),
        (Placeholder::Actor, "actor"),
        (Placeholder::Source, "source"),
    ];

    fn value(self, event: &Event) -> &str {
        match self {
            Self::Action => event.action(),
            Self::Kind => event.kind().as_str(),
            Self::Repository => event.repository(),
            Self::Namespace => event.namespace(),
            Self::Name => event.repository().rsplit('/').next().unwrap_or_default(),
            Self::Tag => event.tag(),
            Self::Digest => event.digest(),
            Self::Mediatype => event.media_type(),
            Self::Method => event.method(),
            Self::Actor => event.actor(),
            Self::Source => event.source(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Value(Placeholder),
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateError {
    /// A `{` without its `}`, or a `}` without its `{`, at this byte.
    Unbalanced(usize),
    /// `{…}` that is none of [`Placeholder::ALL`]; with the nearest that is.
    Unknown { found: String, nearest: Option<&'static str> },
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unbalanced(at) => {
                write!(f, "unbalanced brace at character {}; a brace itself is written {{{{ or }}}}", at + 1)
            }
            Self::Unknown { found, nearest } => {
                write!(f, "unknown placeholder {{{found}}}")?;
                match nearest {
                    Some(nearest) => write!(f, "; did you mean {{{nearest}}}?"),
                    None => {
                        let names: Vec<_> = Placeholder::ALL.iter().map(|(_, name)| *name).collect();
                        write!(f, "; there are {}", names.join(", "))
                    }
                }
            }
        }
    }
}

impl std::error::Error for TemplateError {}

impl Template {
    /// Reads `registry.{action}`; `{{` and `}}` stand for the braces themselves.
    ///
    /// # Errors
    /// [`TemplateError`], when a brace has no partner or a placeholder is unknown.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut chars = text.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            match c {
                '{' | '}' if chars.next_if(|&(_, next)| next == c).is_some() => literal.push(c),
                '{' => {
                    let rest = &text[at + 1..];
                    let end = rest.find(['{', '}']).filter(|&end| rest.as_bytes()[end] == b'}');
                    let name = &rest[..end.ok_or(TemplateError::Unbalanced(at))?];
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Value(placeholder(name)?));
                    while chars.next_if(|&(next, _)| next <= at + 1 + name.len()).is_some() {}
                }
                '}' => return Err(TemplateError::Unbalanced(at)),
                _ => literal.push(c),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The text before the first placeholder. A topic must have some, so that no event can name a
    /// topic outside of it.
    pub fn literal_prefix(&self) -> &str {
        match self.parts.first() {
            Some(Part::Literal(text)) => text,
            _ => "",
        }
    }

    /// The whole text, when it has no placeholder.
    pub fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether a literal part holds a character that `naming` does not allow; answers the character.
    pub fn misnamed(&self, naming: Naming) -> Option<char> {
        self.parts.iter().find_map(|part| match part {
            Part::Literal(text) => text
                .chars()
                .find(|&c| c != '.' && c != '/' && !allowed(naming, c))
                .or_else(|| (naming == Naming::Kafka && text.contains('/')).then_some('/')),
            Part::Value(_) => None,
        })
    }

    /// Fills the template in for a name: what the event brings is made fit for `naming`, an absent
    /// value becomes `_`.
    pub fn name(&self, event: &Event, naming: Naming) -> String {
        let mut out = String::with_capacity(self.text.len() + 32);
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Value(placeholder) => push_fit(&mut out, placeholder.value(event), naming),
            }
        }
        match naming {
            Naming::Kafka => shorten(out, KAFKA_TOPIC_MAX),
            Naming::Amqp => shorten(out, AMQP_KEY_MAX),
            _ => out,
        }
    }

    /// Fills the template in as it is: for keys, which brokers take as bytes.
    pub fn text(&self, event: &Event) -> String {
        let mut out = String::with_capacity(self.text.len() + 32);
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Value(placeholder) => out.push_str(placeholder.value(event)),
            }
        }
        out
    }
}

fn placeholder(name: &str) -> Result<Placeholder, TemplateError> {
    let found = Placeholder::ALL.iter().find(|(_, known)| *known == name);
    found.map(|(placeholder, _)| *placeholder).ok_or_else(|| TemplateError::Unknown {
        found: name.to_owned(),
        nearest: nearest(name, Placeholder::ALL.iter().map(|(_, known)| *known)),
    })
}

/// The candidate most like `word`, when one is alike enough to be meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

fn allowed(naming: Naming, c: char) -> bool {
    match naming {
        Naming::Kafka => c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'),
        Naming::Amqp => !(c.is_whitespace() || c.is_control() || matches!(c, '*' | '#' | '.')),
        Naming::Nats => !(c.is_whitespace() || c.is_control() || matches!(c, '*' | '>' | '.')),
        Naming::Path | Naming::Plain => !c.is_control(),
    }
}

fn push_fit(out: &mut String, value: &str, naming: Naming) {
    if value.is_empty() {
        out.push('_');
    } else if naming == Naming::Path {
        for (index, part) in value.split('/').enumerate() {
            if index > 0 {
                out.push('/');
            }
            match part {
                "" | "." | ".." => out.push('_'),
                _ => out.extend(part.chars().map(|c| if allowed(naming, c) { c } else { '_' })),
            }
        }
    } else {
        out.extend(value.chars().map(|c| if allowed(naming, c) { c } else { '_' }));
    }
}

/// Cuts a name to `max` bytes; what was cut lives on as a checksum, so that two long names that
/// begin alike stay two.
fn shorten(mut name: String, max: usize) -> String {
    if name.len() > max {
        let sum = crc32c::crc32c(name.as_bytes());
        let cut = (0..=max - 9).rev().find(|&at| name.is_char_boundary(at)).unwrap_or(0);
        name.truncate(cut);
        name.push_str(&format!("-{sum:08x}"));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(repository: &str, tag: &str) -> Event {
        let json = serde_json::json!({"action": "push", "target": {"repository": repository, "tag": tag}});
        Event::parse(json.to_string().into()).expect("an event")
    }

    fn name(template: &str, repository: &str, naming: Naming) -> String {
        Template::parse(template).expect(template).name(&event(repository, "v1.2"), naming)
    }

    #[test]
    fn fills_in_what_brokers_allow() {
        assert_eq!(name("registry.{action}", "a", Naming::Kafka), "registry.push");
        assert_eq!(name("r.{repository}", "team/my.app", Naming::Kafka), "r.team_my.app");
        assert_eq!(name("r.{repository}.{tag}", "team/my.app", Naming::Amqp), "r.team/my_app.v1_2");
        assert_eq!(name("r.{repository}", "a *>b", Naming::Nats), "r.a___b");
        assert_eq!(name("r.{digest}", "a", Naming::Nats), "r._");
        assert_eq!(name("out/{repository}.jsonl", "../a//./b", Naming::Path), "out/_/a/_/_/b.jsonl");
        assert_eq!(name("{{{name}}}", "team/app", Naming::Plain), "{app}");
    }

    #[test]
    fn long_names_stay_apart() {
        let (a, b) = ("x".repeat(300) + "a", "x".repeat(300) + "b");
        let (a, b) = (name("r.{repository}", &a, Naming::Kafka), name("r.{repository}", &b, Naming::Kafka));
        assert!(a.len() == 249 && b.len() == 249 && a != b);
    }

    #[test]
    fn keys_are_left_as_they_are() {
        let key = Template::parse("{repository}:{tag}").expect("a template");
        assert_eq!(key.text(&event("team/app.x", "v 1")), "team/app.x:v 1");
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(Template::parse("a{b").unwrap_err(), TemplateError::Unbalanced(1));
        assert_eq!(Template::parse("a}b").unwrap_err(), TemplateError::Unbalanced(1));
        assert_eq!(Template::parse("{a{action}}").unwrap_err(), TemplateError::Unbalanced(0));
        let error = Template::parse("{repositry}").unwrap_err().to_string();
        assert!(error.contains("did you mean {repository}?"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn names_are_always_legal(repository in ".{0,400}", template in "[a-z.{}]{0,12}") {
            let template = format!("p.{template}{{repository}}");
            if let Ok(template) = Template::parse(&template) {
                let event = event(&repository, "");
                let kafka = template.name(&event, Naming::Kafka);
                proptest::prop_assert!(kafka.len() <= 249 && kafka.starts_with("p."));
                let amqp = template.name(&event, Naming::Amqp);
                proptest::prop_assert!(amqp.len() <= 255 && amqp.starts_with("p."));
                let nats = template.name(&event, Naming::Nats);
                proptest::prop_assert!(!nats.contains([' ', '*', '>']));
            }
        }
    }
}
