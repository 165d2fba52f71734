//! Which dead letters are meant.

use globset::{GlobBuilder, GlobMatcher};

use super::DeadLetter;
use crate::journal::Micros;

/// Conditions on a dead letter, all of which must hold. The default holds for every one.
#[derive(Clone, Debug, Default)]
pub struct LetterFilter {
    /// Any of these ids, ascending; empty: all.
    ids: Vec<u64>,
    code: Option<String>,
    /// In lower case.
    reason: Option<String>,
    repository: Option<GlobMatcher>,
    before: Option<Micros>,
    since: Option<Micros>,
}

impl LetterFilter {
    /// Any of these ids; empty: all.
    pub fn ids(mut self, mut ids: Vec<u64>) -> Self {
        ids.sort_unstable();
        ids.dedup();
        self.ids = ids;
        self
    }

    /// Exactly this code.
    pub fn code(mut self, code: &str) -> Self {
        self.code = Some(code.to_owned());
        self
    }

    /// This text somewhere in the reason, whatever the case of its letters.
    pub fn reason(mut self, text: &str) -> Self {
        self.reason = Some(text.to_lowercase());
        self
    }

    /// A repository that this glob fits: `*` within a path part, `**` across parts, as in routes.
    ///
    /// # Errors
    /// Why it is no glob.
    pub fn repository(mut self, glob: &str) -> Result<Self, String> {
        let glob = GlobBuilder::new(glob).literal_separator(true).build();
        self.repository = Some(glob.map_err(|error| error.to_string())?.compile_matcher());
        Ok(self)
    }

    /// Last tried before this time.
    pub fn before(mut self, time: Micros) -> Self {
        self.before = Some(time);
        self
    }

    /// Last tried at this time or later.
    pub fn since(mut self, time: Micros) -> Self {
        self.since = Some(time);
        self
    }

    /// Whether it leaves none out.
    pub fn is_all(&self) -> bool {
        self.ids.is_empty()
            && self.code.is_none()
            && self.reason.is_none()
            && self.repository.is_none()
            && self.before.is_none()
            && self.since.is_none()
    }

    pub fn fits(&self, letter: &DeadLetter) -> bool {
        (self.ids.is_empty() || self.ids.binary_search(&letter.id).is_ok())
            && self.code.as_ref().is_none_or(|code| *code == letter.code)
            && self.reason.as_ref().is_none_or(|text| letter.reason.to_lowercase().contains(text))
            && self.repository.as_ref().is_none_or(|glob| glob.is_match(&letter.repository))
            && self.before.is_none_or(|time| letter.last < time)
            && self.since.is_none_or(|time| letter.last >= time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> DeadLetter {
        DeadLetter {
            id: 7,
            offset: 70,
            code: "too_large".into(),
            reason: "MessageSizeTooLarge: 2 MB".into(),
            attempts: 1,
            first: 50,
            last: 100,
            arrived: 40,
            topic: "registry.push".into(),
            key: "team/app".into(),
            event_id: "e".into(),
            action: "push".into(),
            repository: "team/app".into(),
            event: "{}".into(),
        }
    }

    #[test]
    fn every_condition_must_hold() {
        let all = LetterFilter::default;
        let glob = |text| all().repository(text).expect(text);
        for (filter, fits) in [
            (all(), true),
            (all().ids(vec![9, 7]), true),
            (all().ids(vec![9, 8]), false),
            (all().code("too_large"), true),
            (all().code("too"), false),
            (all().reason("sizetoolarge"), true),
            (all().reason("unroutable"), false),
            (glob("team/*"), true),
            (glob("*"), false),
            (glob("**"), true),
            (all().before(101), true),
            (all().before(100), false),
            (all().since(100), true),
            (all().since(101), false),
            (all().ids(vec![7]).code("unroutable"), false),
        ] {
            assert_eq!(filter.fits(&letter()), fits, "{filter:?}");
        }
        assert!(all().is_all() && !all().since(0).is_all());
        assert!(all().repository("[").is_err());
    }
}
