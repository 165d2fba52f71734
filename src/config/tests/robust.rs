//! No text makes the loader panic.

use super::*;

/// Fragments that make texts which come far: random characters mostly end in the scanner.
const FRAGMENTS: [&str; 32] = [
    "receiver", "sinks", "routes", "name", "stdout", "to", "match", "topic", "tokens", ":", ": ", "- ", "\n",
    "\n  ", "{", "}", "[", "]", ", ", "a", "1", "5s", "'", "\"", "&a ", "*a", "<<", "${TOKEN}", "${X",
    "!!str ", "|", "\t",
];

/// What holds of every text, however odd: an outcome, places within the text, and no secret.
fn holds(text: &str) {
    let problems = match parsed(text) {
        Ok(Loaded { warnings, .. }) => warnings,
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without a reason: {text:?}");
            errors
        }
    };
    for problem in problems {
        let line = problem.place.map_or(1, |place| place.line);
        assert!((1..=text.split('\n').count().max(1) + 1).contains(&line), "{problem} of {text:?}");
        assert!(!problem.to_string().contains(SECRET), "{problem} of {text:?}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_panics(parts in proptest::collection::vec(0..FRAGMENTS.len(), 0..60), noise in "\\PC{0,12}") {
        let mut text: String = parts.iter().map(|&part| FRAGMENTS[part]).collect();
        holds(&text);
        text.insert_str(text.len() / 2, &noise);
        holds(&text);
    }

    #[test]
    fn no_change_of_a_good_text_panics(at in 0..1000_usize, noise in "[-\\[\\]{}:,&*!|>'\"%@`#?a1 \n]{1,4}", cut in 0..6_usize) {
        let mut text = include_str!("../../../relay.yml").to_owned();
        let mut at = at * text.len() / 1000;
        while !text.is_char_boundary(at) { at -= 1 }
        let end = (at + cut..=text.len()).find(|&end| text.is_char_boundary(end)).unwrap_or(text.len());
        text.replace_range(at..end.min(text.len()), &noise);
        holds(&text);
    }
}
