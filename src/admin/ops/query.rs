//! Reading a query strictly: what is not known, and what is given twice, is an error.

use std::str::FromStr;

use super::Problem;
use crate::config::Time;
use crate::journal::Micros;
use crate::journal::local::now;

/// How many entries one answer lists, if nothing is said, and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// The pairs that were not yet asked for.
#[derive(Debug)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn new(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }

    /// Every value of `name`.
    pub fn all(&mut self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        self.0.retain_mut(|(key, value)| {
            let is_it = key == name;
            if is_it {
                found.push(std::mem::take(value));
            }
            !is_it
        });
        found
    }

    /// The value of `name`, which may stand there once. An empty one counts as none, as a form
    /// sends it.
    pub fn one(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let mut found = self.all(name);
        if found.len() > 1 {
            return Err(Problem::bad(format!("`{name}` is given twice")));
        }
        Ok(found.pop().filter(|value| !value.is_empty()))
    }

    pub fn required(&mut self, name: &str) -> Result<String, Problem> {
        self.one(name)?.ok_or_else(|| Problem::bad(format!("`{name}` is missing")))
    }

    /// The value of `name` as a number or the like; `what` says what it should be.
    pub fn parsed<T: FromStr>(&mut self, name: &str, what: &str) -> Result<Option<T>, Problem> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| Problem::bad(format!("`{name}`: `{text}` is not {what}")))
    }

    pub fn flag(&mut self, name: &str) -> Result<bool, Problem> {
        Ok(self.parsed(name, "true or false")?.unwrap_or(false))
    }

    /// How many entries are wanted.
    pub fn limit(&mut self) -> Result<usize, Problem> {
        let limit = self.parsed("limit", "a number")?.unwrap_or(LIMIT);
        match limit {
            1..=LIMIT_MAX => Ok(limit),
            _ => Err(Problem::bad(format!("`limit` is 1 to {LIMIT_MAX}"))),
        }
    }

    /// The time so long ago as `name` says.
    pub fn ago(&mut self, name: &str) -> Result<Option<Micros>, Problem> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        let age = Time::parse(&text).map_err(|error| Problem::bad(format!("`{name}`: {error}")))?;
        let age = Micros::try_from(age.duration.as_micros()).unwrap_or(Micros::MAX);
        Ok(Some(now().saturating_sub(age)))
    }

    /// Nothing may be left: a filter that is misspelt must not widen what is discarded.
    pub fn end(self) -> Result<(), Problem> {
        match self.0.first() {
            Some((name, _)) => Err(Problem::bad(format!("`{name}` is not known here"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Query::new(pairs.filter_map(|pair| pair.split_once('=')).map(|(n, v)| (n.into(), v.into())).collect())
    }

    #[test]
    fn is_strict() {
        let mut some = query("id=1&id=2&code=a&limit=5");
        assert_eq!(some.all("id"), ["1", "2"]);
        assert_eq!(some.one("code").expect("one").as_deref(), Some("a"));
        assert_eq!(some.limit(), Ok(5));
        assert_eq!(some.end(), Ok(()));
        assert!(query("code=a&code=b").one("code").is_err());
        assert_eq!(query("code=").one("code"), Ok(None));
        assert!(query("").required("sink").is_err());
        for odd in ["limit=0", "limit=1001", "limit=x"] {
            assert!(query(odd).limit().is_err(), "{odd}");
        }
        assert!(query("older_than=soon").ago("older_than").is_err());
        assert!(query("age=1h").ago("age").expect("an age").expect("given") < now());
        assert!(query("odler_than=1h").end().is_err());
    }
}
