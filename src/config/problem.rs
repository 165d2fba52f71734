//! What is wrong with a configuration, and where.

use std::fmt;

/// Where something stands in a file: line and column, both from 1, the column in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

/// One step down into a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Key(String),
    Index(usize),
}

/// The way to a key: `sinks[0].kafka.acks`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPath(pub Vec<Step>);

impl KeyPath {
    /// Reads a path as it is displayed. Brackets that hold no number are part of a key.
    pub fn parse(text: &str) -> Self {
        let mut steps = Vec::new();
        for part in text.split('.').filter(|part| !part.is_empty()) {
            let (key, mut rest) = part.find('[').map_or((part, ""), |at| part.split_at(at));
            let mut indexes = Vec::new();
            while let Some((index, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                let Ok(index) = index.parse() else { break };
                indexes.push(Step::Index(index));
                rest = after;
            }
            if rest.is_empty() {
                steps.extend((!key.is_empty()).then(|| Step::Key(key.to_owned())));
                steps.append(&mut indexes);
            } else {
                steps.push(Step::Key(part.to_owned()));
            }
        }
        Self(steps)
    }

    /// This path and one key more.
    pub fn key(&self, key: &str) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Key(key.to_owned()));
        Self(steps)
    }

    /// This path and one place in a list more, counted from 0.
    pub fn index(&self, index: usize) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Index(index));
        Self(steps)
    }

    /// This path and all of a relative one.
    pub fn join(&self, relative: &str) -> Self {
        let mut steps = self.0.clone();
        steps.append(&mut Self::parse(relative).0);
        Self(steps)
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if at == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// One thing wrong, or doubtful, in a configuration. Displays as
/// `relay.yml:7:5: sinks[0].kafka.ack: unknown key; did you mean `acks`?`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    /// `None` when it is about the file as a whole.
    pub place: Option<Place>,
    /// The key it is about; empty when it is about none.
    pub path: KeyPath,
    /// What is wrong and what to do about it. Holds no secret and nothing that was filled in.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Place { line, column }) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        if !self.path.0.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.text)
    }
}

impl std::error::Error for Problem {}

/// Gathers problems; takes out of their texts what must not be shown.
#[derive(Debug, Default)]
pub struct Report {
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
    /// What was filled in, each with the `${…}` that stands for it.
    filled: Vec<(String, String)>,
}

/// Shorter values than this, in bytes, are not searched for in every text: they are parts of words.
const FILLED_BYTES_MIN: usize = 4;

impl Report {
    pub fn error(&mut self, place: Option<Place>, path: KeyPath, text: impl Into<String>) {
        self.errors.push(Problem { file: String::new(), place, path, text: text.into() });
    }

    pub fn warn(&mut self, place: Option<Place>, path: KeyPath, text: impl Into<String>) {
        self.warnings.push(Problem { file: String::new(), place, path, text: text.into() });
    }

    /// Remembers a value that came from the environment or a file, to be shown as `written`.
    pub fn hide(&mut self, value: &str, written: &str) {
        self.filled.push((value.to_owned(), written.to_owned()));
    }

    pub fn failed(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Errors and warnings, in the file's order and fit to be shown.
    pub fn finish(mut self, file: &str) -> (Vec<Problem>, Vec<Problem>) {
        // The longest first: a value can be a part of another.
        self.filled.retain(|(value, _)| value.len() >= FILLED_BYTES_MIN);
        self.filled.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        let fit = |mut problems: Vec<Problem>| {
            problems.sort_by_key(|problem| problem.place);
            for problem in &mut problems {
                file.clone_into(&mut problem.file);
                for (value, written) in &self.filled {
                    problem.text = problem.text.replace(value, written);
                }
                problem.text = without_userinfo(&problem.text);
            }
            problems
        };
        (fit(self.errors), fit(self.warnings))
    }
}

/// A text without the user and password of the URLs in it. A password may hold a `/` that should
/// have been escaped, so all up to the last `@` of a word goes: rather too much than a secret.
pub fn without_userinfo(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| c == '`' || c.is_whitespace()).unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(at) => &after[at + 1..],
            None => after,
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_they_are_shown() {
        for path in ["sinks[0].kafka.acks", "a", "routes[1].to[2].topic", "a[0][1]", "headers.X-A", "a[b].c"]
        {
            assert_eq!(KeyPath::parse(path).to_string(), path);
        }
        assert_eq!(KeyPath::parse("sinks[1]").join("tls.ca"), KeyPath::parse("sinks[1].tls.ca"));
    }

    #[test]
    fn urls_lose_their_credentials() {
        let cases = [
            ("`amqp://guest:pass@host:5672/x` is bad", "`amqp://host:5672/x` is bad"),
            ("nats://token@a,nats://b", "nats://a,nats://b"),
            ("http://p@ss:w@r/d@host/", "http://host/"),
            ("no url @ all", "no url @ all"),
        ];
        for (text, shown) in cases {
            assert_eq!(without_userinfo(text), shown);
        }
    }
}
