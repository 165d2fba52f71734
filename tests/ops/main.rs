//! What an operator does when things go wrong: dead letters, replays, the quarantine, a sink that is
//! too far behind. By the admin listener and by the commands, against real destinations.

mod rig;
#[path = "../support/mod.rs"]
mod support;

mod behind;
mod dead_letters;
mod guard;
mod quarantine;
mod replays;

use std::process::ExitCode;

use support::suite::Suite;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    macro_rules! tests {
        ($($module:ident: $($name:ident),*;)*) => {
            $($(suite.test(stringify!($name), $module::$name);)*)*
        };
    }
    tests! {
        dead_letters:
            the_life_of_a_dead_letter,
            dead_letters_are_chosen_and_discarded,
            what_no_route_sends_any_more_stays,
            dead_letters_go_to_another_sink_too,
            what_cannot_be_stripped_small_enough_is_a_dead_letter;
        replays:
            the_journal_is_replayed_by_offset_time_and_conditions,
            a_replay_runs_beside_the_live_flow_and_can_be_cancelled,
            a_file_is_replayed_while_it_is_written;
        quarantine:
            the_life_of_a_quarantined_body;
        behind:
            a_sink_too_far_behind_gives_up_its_oldest_and_nobody_else_waits,
            what_is_too_old_is_given_up,
            who_holds_the_journal_is_said_before_it_is_full,
            the_breaker_and_a_registrys_restart_are_visible;
        guard:
            operations_are_guarded_and_strict;
    }
    suite.run()
}
