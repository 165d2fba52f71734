//! The bench itself: an oracle that overlooks something, or a plan that cannot be had again, proves
//! nothing.

use std::collections::HashSet;

use crate::{
    event::{Name, Recipe},
    oracle::Oracle,
    plan::{Fault, Plan},
};

const RECIPE: Recipe = Recipe { seed: 7, huge_every: 1_000_000 };
const TAKEN: u64 = 40;
/// Twelve of the relay and the clock, and nine of each broker.
const KINDS: usize = 12 + 3 * 9;

/// What is done to a run in which all is well, by sink 0.
enum Twist {
    None,
    Lose,
    Damage,
    LetterWithoutReason,
    Change,
    Foreign,
    Unsent,
    Swap,
    Repeat,
    RepeatInQuiet,
}

pub fn a_line_is_the_event_without_white_space() {
    for recipe in [RECIPE, Recipe { huge_every: 1, ..RECIPE }] {
        let name = Name { sender: 3, number: 5 };
        let (event, line) = (recipe.event(name), recipe.line(name));
        assert_eq!(relay::event::compact(&event.clone().into()), line);
        let id = serde_json::from_str::<serde_json::Value>(&event).expect("JSON")["id"].clone();
        assert_eq!(id.as_str().and_then(|id| recipe.name(id)), Some(name));
        assert_eq!(event.len() > 1_500_000, recipe.is_huge(name));
    }
}

pub fn the_oracle_tells_each_violation() {
    // Violations of: lost, foreign, order, repeats.
    let table = [
        (Twist::None, [0, 0, 0, 0]),
        (Twist::Lose, [1, 0, 0, 0]),
        (Twist::Damage, [0, 0, 0, 0]),
        (Twist::LetterWithoutReason, [1, 0, 0, 0]),
        (Twist::Change, [0, 1, 0, 0]),
        (Twist::Foreign, [0, 1, 0, 0]),
        (Twist::Unsent, [0, 1, 0, 0]),
        (Twist::Swap, [0, 0, 1, 0]),
        (Twist::Repeat, [0, 0, 0, 0]),
        (Twist::RepeatInQuiet, [0, 0, 0, 1]),
    ];
    for (number, (twist, expected)) in table.into_iter().enumerate() {
        let oracle = judged(&twist);
        let found = [&oracle.lost, &oracle.foreign, &oracle.order, &oracle.repeats].map(|found| found.count);
        assert_eq!(found, expected, "row {number}: {:?}", [&oracle.lost, &oracle.foreign, &oracle.order]);
    }
}

fn judged(twist: &Twist) -> Oracle {
    let mut oracle = Oracle::new(RECIPE, 1);
    let name = |number| Name { sender: 0, number };
    let deliver = |oracle: &mut Oracle, sink, number| {
        let body = if sink == 3 { RECIPE.line(name(number)) } else { RECIPE.event(name(number)) };
        oracle.arrival(sink, &RECIPE.id(name(number)), None, body.as_bytes());
    };
    let mut numbers: Vec<u64> = (0..TAKEN).collect();
    let (a, b) = same_repository();
    match twist {
        Twist::Lose | Twist::Damage | Twist::LetterWithoutReason => numbers.retain(|&number| number != a),
        Twist::Swap => numbers.swap(a as usize, b as usize),
        Twist::Repeat | Twist::RepeatInQuiet => numbers.push(a),
        Twist::Unsent => numbers.push(TAKEN),
        Twist::None | Twist::Change | Twist::Foreign => {}
    }
    numbers.into_iter().for_each(|number| deliver(&mut oracle, 0, number));
    (1..4).for_each(|sink| (0..TAKEN).for_each(|number| deliver(&mut oracle, sink, number)));
    match twist {
        Twist::Damage => oracle.damaged(name(a)),
        Twist::LetterWithoutReason => {
            oracle.letter(0, &RECIPE.id(name(a)), "unknown", &RECIPE.event(name(a)))
        }
        Twist::Change => oracle.arrival(0, &RECIPE.id(name(a)), None, b"{}"),
        Twist::Foreign => oracle.arrival(0, "malformed-7.0.1", None, b"{}"),
        Twist::RepeatInQuiet => oracle.quiet(0, &[a], &[b]),
        _ => {}
    }
    oracle.conclude(&[TAKEN]);
    oracle
}

/// Two neighbours of one repository, so that nothing else changes places when they do.
fn same_repository() -> (u64, u64) {
    let lane = |number| RECIPE.lane(Name { sender: 0, number });
    let first = (0..TAKEN - 1).find(|&number| lane(number) == lane(number + 1)).expect("some neighbours");
    (first, first + 1)
}

pub fn a_plan_follows_from_its_seed() {
    let dealt = |seed| {
        let mut plan = Plan::new(seed);
        let rounds: Vec<_> = (0..30).map(|_| plan.round()).collect();
        for round in &rounds {
            for (number, fault) in round.iter().enumerate() {
                assert!(round[..number].iter().all(|other| other.place != fault.place), "one fault a place");
            }
        }
        rounds.concat()
    };
    let text = |seed| dealt(seed).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(text(1), text(1));
    assert_ne!(text(1), text(2));
    // Every kind comes in time.
    let kinds: HashSet<_> = dealt(1).iter().map(Fault::label).collect();
    assert_eq!(kinds.len(), KINDS, "{kinds:?}");
}
