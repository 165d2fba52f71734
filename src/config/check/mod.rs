//! Checks a [`Shape`] into what runs.

mod durations;
mod routes;
mod server;
mod sinks;

use std::time::Duration;

use super::Config;
use super::fill::Surroundings;
use super::problem::{KeyPath, Report};
use super::shape::Shape;
use super::tree::Node;
use super::units::{Size, Time};
use crate::route::{Filter, Table};

pub use sinks::KINDS;

/// Less than this, in bytes, is no sensible bound for anything on disk.
const DISK_BYTES_MIN: u64 = 64 << 10;

/// Checks all of a shape, whatever was found wrong before. `None` when anything was.
pub fn check(shape: Shape, tree: &Node, around: &Surroundings<'_>, report: &mut Report) -> Option<Config> {
    let mut checker = Checker { tree, around, report };
    let root = KeyPath::default();
    let receiver = checker.receiver(shape.receiver, &root.key("receiver"));
    let admin = checker.admin(shape.admin, &receiver, &root.key("admin"));
    let mut journal = checker.journal(shape.journal, receiver.body_bytes_max, &root.key("journal"));
    journal.deduplicate = shape.deduplicate.duration;
    journal.quarantine_bytes_max =
        checker.disk_size(&root.join("quarantine.max_size"), shape.quarantine.max_size);

    let sinks = checker.sinks(shape.sinks, admin.is_some());
    checker.bare_durations();
    let (routes, targets) = checker.routes(shape.routes, &sinks);
    if checker.report.failed() {
        return None;
    }
    // Nothing is wrong, so no sink is missing and a sink's index is its place in the file.
    let sinks: Vec<_> = sinks.into_iter().flatten().collect();
    let filters = sinks.iter().map(|sink| Filter {
        disabled: sink.disabled,
        ignore_actions: sink.ignore_actions.clone(),
        ignore_mediatypes: sink.ignore_mediatypes.clone(),
    });
    let table = Table::new(routes, targets, filters.collect());
    Some(Config { receiver, admin, journal, sinks, table })
}

struct Checker<'a> {
    tree: &'a Node,
    around: &'a Surroundings<'a>,
    report: &'a mut Report,
}

impl Checker<'_> {
    fn error(&mut self, path: &KeyPath, text: impl Into<String>) {
        if self.tree.at(path).is_some_and(|node| node.stand_in) {
            return; // That it is missing was said.
        }
        self.report.error(Some(self.tree.place_of(path)), path.clone(), text);
    }

    fn warn(&mut self, path: &KeyPath, text: impl Into<String>) {
        self.report.warn(Some(self.tree.place_of(path)), path.clone(), text);
    }

    fn is_given(&self, path: &KeyPath) -> bool {
        self.tree.at(path).is_some()
    }

    /// The places in the file of a list's items that could be read: those of the shape's list.
    fn kept(&self, list: &KeyPath) -> Vec<usize> {
        let items = self.tree.at(list).map(Node::items).unwrap_or_default();
        items.iter().enumerate().filter(|(_, item)| !item.skipped).map(|(index, _)| index).collect()
    }

    /// A duration that must be longer than zero.
    fn some_duration(&mut self, path: &KeyPath, time: Time) -> Duration {
        if time.duration.is_zero() {
            self.error(path, "must be longer than zero, like 5s");
        }
        time.duration
    }

    fn disk_size(&mut self, path: &KeyPath, size: Size) -> u64 {
        if size.0 < DISK_BYTES_MIN {
            self.error(path, format!("{size} is too small; the least is {}", Size(DISK_BYTES_MIN)));
        }
        size.0
    }
}

/// The check of one topic alone.
#[cfg(test)]
pub fn topic_errors(
    topic: &str,
    naming: crate::sinks::Naming,
    tree: &Node,
    around: &Surroundings<'_>,
    report: &mut Report,
) {
    Checker { tree, around, report }.topic(&KeyPath::default(), topic, naming);
}
