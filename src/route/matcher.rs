//! What a route's `match` says, compiled.

use std::fmt;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use serde::Deserialize;

use crate::event::{Event, Kind};

/// What a route matches. Every list that is given must hold a pattern that fits the event; a list
/// that is not given fits every event. Patterns are globs: `*` within a path part, `**` across
/// parts, `?`, `[a-z]`, `{a,b}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Conditions {
    /// Actions: `push`, `pull`, `mount`, `delete`, `rename` or any other word a registry says.
    pub actions: Vec<String>,
    /// Repositories, as globs: `prod/**`.
    pub repositories: Vec<String>,
    /// Tags, as globs: `v*`. An event without a tag fits only `""`.
    pub tags: Vec<String>,
    /// Media types, as globs.
    pub mediatypes: Vec<String>,
    /// What the event is about: `manifest`, `blob`, `tag`, `repository`.
    pub kinds: Vec<String>,
    /// Methods of the request that caused the event: `GET`, `HEAD`, `PUT`, ….
    pub methods: Vec<String>,
    /// Names of who did it, as globs.
    pub actors: Vec<String>,
    /// Registries by their `source.addr`, as globs.
    pub sources: Vec<String>,
    /// The same lists negated: an event that fits any of them is not matched.
    pub not: Option<Box<Conditions>>,
}

impl Conditions {
    fn list(&self, subject: Subject) -> &[String] {
        match subject {
            Subject::Actions => &self.actions,
            Subject::Kinds => &self.kinds,
            Subject::Methods => &self.methods,
            Subject::Repositories => &self.repositories,
            Subject::Tags => &self.tags,
            Subject::Mediatypes => &self.mediatypes,
            Subject::Actors => &self.actors,
            Subject::Sources => &self.sources,
        }
    }
}

/// A field that a route can match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    Actions,
    Kinds,
    Methods,
    Repositories,
    Tags,
    Mediatypes,
    Actors,
    Sources,
}

impl Subject {
    /// The cheapest to tell events apart by first.
    pub const ALL: [Self; 8] = [
        Self::Actions,
        Self::Kinds,
        Self::Methods,
        Self::Repositories,
        Self::Tags,
        Self::Mediatypes,
        Self::Actors,
        Self::Sources,
    ];

    fn key(self) -> &'static str {
        match self {
            Self::Actions => "actions",
            Self::Kinds => "kinds",
            Self::Methods => "methods",
            Self::Repositories => "repositories",
            Self::Tags => "tags",
            Self::Mediatypes => "mediatypes",
            Self::Actors => "actors",
            Self::Sources => "sources",
        }
    }

    pub fn of(self, event: &Event) -> &str {
        match self {
            Self::Actions => event.action(),
            Self::Kinds => event.kind().as_str(),
            Self::Methods => event.method(),
            Self::Repositories => event.repository(),
            Self::Tags => event.tag(),
            Self::Mediatypes => event.media_type(),
            Self::Actors => event.actor(),
            Self::Sources => event.source(),
        }
    }
}

/// Some patterns of one list.
#[derive(Clone, Debug)]
pub(super) struct Patterns {
    subject: Subject,
    written: Vec<String>,
    exact: Vec<String>,
    globs: Vec<Glob>,
    sets: Vec<GlobSet>,
}

impl Patterns {
    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// All of them, as they were given.
    pub fn written(&self) -> &[String] {
        &self.written
    }

    /// Those that are plain texts.
    pub fn exact(&self) -> &[String] {
        &self.exact
    }

    /// Those that are globs.
    pub fn globs(&self) -> &[Glob] {
        &self.globs
    }

    fn fit(&self, event: &Event) -> bool {
        let text = self.subject.of(event);
        self.exact.iter().any(|exact| exact == text) || self.sets.iter().any(|globs| globs.is_match(text))
    }
}

impl Patterns {
    /// Adds a pattern, or says what is wrong with it.
    fn add(&mut self, pattern: &str) -> Result<(), String> {
        if self.subject == Subject::Kinds && !Kind::ALL.iter().any(|kind| kind.as_str() == pattern) {
            let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
            return Err(format!("no such kind `{pattern}`; there are {}", known.join(", ")));
        }
        if !pattern.contains(['*', '?', '[', '{', '\\']) {
            self.exact.push(pattern.to_owned());
            return Ok(());
        }
        // Of tags, methods and the like no part is a path's: there `*` takes all.
        let separated = matches!(self.subject, Subject::Repositories | Subject::Mediatypes);
        let glob = GlobBuilder::new(pattern).literal_separator(separated).build();
        self.globs.push(glob.map_err(|error| format!("not a glob: {}", error.kind()))?);
        Ok(())
    }
}

/// A pattern that cannot be used: the path of its key below `match`, and what is wrong.
pub type PatternError = (String, String);

/// A compiled [`Conditions`].
#[derive(Clone, Debug, Default)]
pub struct Matcher {
    /// The cheapest first: an event is mostly told apart by its action.
    all: Vec<Patterns>,
    none: Vec<Patterns>,
}

impl Matcher {
    /// # Errors
    /// Every pattern that is no glob, and every kind that there is not.
    pub fn new(conditions: &Conditions) -> Result<Self, Vec<PatternError>> {
        let mut errors = Vec::new();
        let all = compile(conditions, "", &mut errors);
        let none = match &conditions.not {
            None => Vec::new(),
            Some(not) => {
                if not.not.is_some() {
                    errors.push(("not.not".into(), "`not` cannot stand inside `not`".into()));
                }
                compile(not, "not.", &mut errors)
            }
        };
        if errors.is_empty() { Ok(Self { all, none }) } else { Err(errors) }
    }

    /// The lists that an event must fit.
    pub(super) fn all(&self) -> &[Patterns] {
        &self.all
    }

    /// The lists that an event must not fit.
    pub(super) fn none(&self) -> &[Patterns] {
        &self.none
    }

    pub fn is_match(&self, event: &Event) -> bool {
        self.all.iter().all(|patterns| patterns.fit(event))
            && !self.none.iter().any(|patterns| patterns.fit(event))
    }

    /// Why an event is not matched; `None` when it is.
    pub fn mismatch(&self, event: &Event) -> Option<String> {
        let say = |patterns: &Patterns, not: &str| {
            let value = patterns.subject.of(event);
            format!("{} {not}{} [{}]", quote(value), patterns.subject.key(), patterns.written.join(", "))
        };
        let all = self.all.iter().find(|patterns| !patterns.fit(event));
        let none = || self.none.iter().find(|patterns| patterns.fit(event));
        all.map(|patterns| say(patterns, "is not in "))
            .or_else(|| none().map(|patterns| say(patterns, "is in not.")))
    }
}

/// What is asked of an event, in a line: `actions push; not tags v1, v2`.
impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.all.is_empty() && self.none.is_empty() {
            return f.write_str("every event");
        }
        let lists = self.all.iter().map(|list| ("", list)).chain(self.none.iter().map(|list| ("not ", list)));
        for (index, (not, list)) in lists.enumerate() {
            let separator = if index > 0 { "; " } else { "" };
            write!(f, "{separator}{not}{} {}", list.subject.key(), list.written.join(", "))?;
        }
        Ok(())
    }
}

fn quote(value: &str) -> String {
    if value.is_empty() { "(none)".into() } else { format!("`{value}`") }
}

fn compile(conditions: &Conditions, prefix: &str, errors: &mut Vec<PatternError>) -> Vec<Patterns> {
    let mut compiled = Vec::new();
    for subject in Subject::ALL {
        let written = conditions.list(subject);
        if written.is_empty() {
            continue;
        }
        let mut patterns = Patterns {
            subject,
            written: written.to_vec(),
            exact: Vec::new(),
            globs: Vec::new(),
            sets: Vec::new(),
        };
        for (index, pattern) in written.iter().enumerate() {
            if let Err(what) = patterns.add(pattern) {
                errors.push((format!("{prefix}{}[{index}]", subject.key()), what));
            }
        }
        match sets(&patterns.globs) {
            Ok(sets) => patterns.sets = sets,
            Err(error) => errors.push((format!("{prefix}{}", subject.key()), format!("too much: {error}"))),
        }
        compiled.push(patterns);
    }
    compiled
}

/// Globs that are tried all at once, in their order: one set, or as few as it takes, since a set has a
/// bound on the memory that it may need.
///
/// # Errors
/// globset's, when one of them is too much by itself.
pub(super) fn sets(globs: &[Glob]) -> Result<Vec<GlobSet>, globset::Error> {
    if globs.is_empty() {
        return Ok(Vec::new());
    }
    let mut builder = GlobSetBuilder::new();
    for glob in globs {
        builder.add(glob.clone());
    }
    match builder.build() {
        Ok(set) => Ok(vec![set]),
        Err(error) if globs.len() == 1 => Err(error),
        Err(_) => {
            let (left, right) = globs.split_at(globs.len() / 2);
            Ok([sets(left)?, sets(right)?].concat())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str, repository: &str, tag: &str) -> Event {
        let target = serde_json::json!({"repository": repository, "tag": tag,
            "mediaType": "application/vnd.oci.image.manifest.v1+json"});
        Event::parse(serde_json::json!({"action": action, "target": target}).to_string().into())
            .expect("an event")
    }

    fn matcher(yaml: &str) -> Matcher {
        Matcher::new(&serde_yaml::from_str(yaml).expect(yaml)).expect(yaml)
    }

    #[test]
    fn a_table_of_matches() {
        let cases = [
            ("{}", true),
            ("{actions: [push]}", true),
            ("{actions: [pull, delete]}", false),
            ("{actions: ['p*']}", true),
            ("{repositories: ['prod/**']}", true),
            ("{repositories: ['prod/*']}", false),
            ("{repositories: ['prod/*/app']}", true),
            ("{repositories: ['prod']}", false),
            ("{tags: ['v*']}", true),
            ("{kinds: [manifest]}", true),
            ("{kinds: [blob]}", false),
            ("{mediatypes: ['application/vnd.oci.*']}", true),
            ("{actors: ['*']}", true),
            ("{actors: ['?*']}", false),
            ("{actions: [push], not: {tags: ['v1*']}}", false),
            ("{actions: [push], not: {tags: ['v2*'], repositories: ['dev/**']}}", true),
        ];
        let event = event("push", "prod/team/app", "v1.0");
        for (yaml, expected) in cases {
            let matcher = matcher(yaml);
            assert_eq!(matcher.is_match(&event), expected, "{yaml}");
            assert_eq!(matcher.mismatch(&event).is_none(), expected, "{yaml}");
        }
    }

    #[test]
    fn says_why_not() {
        let matcher = matcher("{actions: [pull], not: {tags: [v1]}}");
        let why = |action| matcher.mismatch(&event(action, "a", "v1"));
        assert_eq!(why("push").as_deref(), Some("`push` is not in actions [pull]"));
        assert_eq!(why("pull").as_deref(), Some("`v1` is in not.tags [v1]"));
    }

    #[test]
    fn says_what_it_asks() {
        assert_eq!(matcher("{}").to_string(), "every event");
        let text = matcher("{tags: [v1, 'v2*'], actions: [push], not: {kinds: [blob]}}").to_string();
        assert_eq!(text, "actions push; tags v1, v2*; not kinds blob");
    }

    #[test]
    fn names_every_bad_pattern() {
        let conditions =
            serde_yaml::from_str("{repositories: ['a[', b], kinds: [layer], not: {tags: ['{']}}");
        let errors = Matcher::new(&conditions.expect("yaml")).unwrap_err();
        let paths: Vec<_> = errors.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["kinds[0]", "repositories[0]", "not.tags[0]"]);
    }
}
