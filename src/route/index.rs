//! All routes' matchers as one: each field of an event is looked at once, however many routes ask
//! about it. What a route adds to an event's cost is then to look at a few flags.

use std::collections::HashMap;

use globset::GlobSet;

use super::Matcher;
use super::matcher::{Patterns, Subject, sets};
use crate::event::Event;

/// A list of patterns, by its number among all different ones.
type ListId = usize;

#[derive(Clone, Debug, Default)]
pub struct Index {
    fields: Vec<Field>,
    /// By route.
    needs: Vec<Needs>,
    lists: usize,
}

/// What a route asks for: the lists that an event must fit, and those that it must not.
#[derive(Clone, Debug)]
struct Needs {
    all: Vec<ListId>,
    none: Vec<ListId>,
}

/// One field of an event, with all patterns that any list has for it.
#[derive(Clone, Debug)]
struct Field {
    subject: Subject,
    exact: HashMap<String, Vec<ListId>>,
    globs: Vec<GlobSet>,
    /// By the glob's place in all of the sets, one after the other.
    lists_of_globs: Vec<ListId>,
}

/// Which lists an event fits, by their numbers.
pub struct Fits(Vec<bool>);

impl Index {
    /// An index of routes that are told by their places in `matchers`.
    pub fn new<'m>(matchers: impl Iterator<Item = &'m Matcher>) -> Self {
        let mut lists = Lists::default();
        let needs = matchers
            .map(|matcher| Needs {
                all: matcher.all().iter().map(|patterns| lists.number(patterns)).collect(),
                none: matcher.none().iter().map(|patterns| lists.number(patterns)).collect(),
            })
            .collect();
        Self { fields: lists.fields(), needs, lists: lists.patterns.len() }
    }

    /// Looks at an event, once for all routes.
    pub fn look(&self, event: &Event) -> Fits {
        let mut fits = vec![false; self.lists];
        let mut places = Vec::new();
        for field in &self.fields {
            let text = field.subject.of(event);
            for &list in field.exact.get(text).into_iter().flatten() {
                fits[list] = true;
            }
            let mut lists = &field.lists_of_globs[..];
            for globs in &field.globs {
                globs.matches_into(text, &mut places);
                places.iter().for_each(|&place| fits[lists[place]] = true);
                lists = &lists[globs.len()..];
            }
        }
        Fits(fits)
    }

    /// Whether the event that was looked at is matched by the route.
    pub fn is_match(&self, route: usize, Fits(fits): &Fits) -> bool {
        let Needs { all, none } = &self.needs[route];
        all.iter().all(|&list| fits[list]) && !none.iter().any(|&list| fits[list])
    }
}

/// The different lists of all routes, as they are found.
#[derive(Default)]
struct Lists<'m> {
    patterns: Vec<&'m Patterns>,
    numbers: HashMap<(Subject, &'m [String]), ListId>,
}

impl<'m> Lists<'m> {
    /// The list's number: the same for the same patterns on the same field.
    fn number(&mut self, patterns: &'m Patterns) -> ListId {
        *self.numbers.entry((patterns.subject(), patterns.written())).or_insert_with(|| {
            self.patterns.push(patterns);
            self.patterns.len() - 1
        })
    }

    fn fields(&self) -> Vec<Field> {
        let about = |subject| {
            let lists = self.patterns.iter().enumerate().filter(move |(_, list)| list.subject() == subject);
            let mut exact: HashMap<_, Vec<_>> = HashMap::new();
            let (mut globs, mut lists_of_globs) = (Vec::new(), Vec::new());
            for (number, patterns) in lists {
                for text in patterns.exact() {
                    exact.entry(text.clone()).or_default().push(number);
                }
                globs.extend_from_slice(patterns.globs());
                lists_of_globs.resize(globs.len(), number);
            }
            let globs = sets(&globs).expect("each fits by itself, or its matcher would not be");
            Field { subject, exact, globs, lists_of_globs }
        };
        let fields = Subject::ALL.into_iter().map(about);
        fields.filter(|field| !(field.exact.is_empty() && field.globs.is_empty())).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::route::Conditions;

    fn matcher(yaml: &str) -> Matcher {
        let conditions: Conditions = serde_yaml::from_str(yaml).expect(yaml);
        Matcher::new(&conditions).expect(yaml)
    }

    fn event(action: &str, repository: &str, tag: &str) -> Event {
        let json = serde_json::json!({"action": action, "target": {"repository": repository, "tag": tag}});
        Event::parse(json.to_string().into()).expect("an event")
    }

    #[test]
    fn equal_lists_are_one() {
        let matchers = [
            matcher("{actions: [push], repositories: ['a/**']}"),
            matcher("{actions: [push], not: {repositories: ['a/**']}}"),
            matcher("{tags: [push]}"),
        ];
        let index = Index::new(matchers.iter());
        assert_eq!((index.lists, index.fields.len()), (3, 3));
    }

    #[test]
    fn globs_too_large_for_one_set_are_spread() {
        let many: Vec<_> = (0..3000).map(|place| format!("'{}-{place}/?*[a-z]*'", "?".repeat(60))).collect();
        let matchers =
            [matcher(&format!("{{repositories: [{}]}}", many[0])), matcher("{repositories: [a, '*']}")];
        let rest: Vec<_> =
            many[1..].iter().map(|glob| matcher(&format!("{{repositories: [{glob}]}}"))).collect();
        let index = Index::new(matchers.iter().chain(&rest));
        assert!(index.fields[0].globs.len() > 1, "it was to be too much");
        let fits = index.look(&event("", &format!("{}-2999/xyz", "x".repeat(60)), ""));
        let matched: Vec<_> = (0..=3000).filter(|&route| index.is_match(route, &fits)).collect();
        assert_eq!(matched, [3000]);
        // The same in one list: it is no mistake, and its own matcher finds it.
        let all = matcher(&format!("{{repositories: [{}]}}", many.join(", ")));
        assert!(all.is_match(&event("", &format!("{}-2999/xyz", "x".repeat(60)), "")));
        assert!(!all.is_match(&event("", "other", "")));
    }

    fn pattern() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "a/b", "*", "a*", "**", "a/*", "{a,b}", "?", "[ab]/b", "''"])
    }

    fn conditions() -> impl Strategy<Value = String> {
        let list = |key| {
            prop::collection::vec(pattern(), 0..3).prop_map(move |patterns| {
                let quoted: Vec<_> = patterns
                    .iter()
                    .map(|p| if *p == "''" { "''".into() } else { format!("'{p}'") })
                    .collect();
                format!("{key}: [{}]", quoted.join(", "))
            })
        };
        let lists = || (list("actions"), list("repositories"), list("tags"));
        (lists(), lists())
            .prop_map(|((a, r, t), (na, nr, nt))| format!("{{{a}, {r}, {t}, not: {{{na}, {nr}, {nt}}}}}"))
    }

    proptest! {
        /// What the index says of a route is what the route's own matcher says.
        #[test]
        fn is_each_matcher(
            yaml in prop::collection::vec(conditions(), 0..6),
            (action, repository, tag) in ("[ab]", "[ab](/[ab]){0,2}", "[ab]?"),
        ) {
            let matchers: Vec<_> = yaml.iter().map(|yaml| matcher(yaml)).collect();
            let index = Index::new(matchers.iter());
            let event = event(&action, &repository, &tag);
            let fits = index.look(&event);
            for (route, matcher) in matchers.iter().enumerate() {
                prop_assert_eq!(index.is_match(route, &fits), matcher.is_match(&event), "{}", yaml[route]);
            }
        }
    }
}
