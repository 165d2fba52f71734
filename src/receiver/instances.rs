//! Restarts of registries, seen in their events.
//!
//! A registry keeps undelivered events in memory (`notifications/sinks.go`), so whatever waited when
//! it stopped is lost, and nothing says so but the next event: `source.instanceID` is drawn at each
//! start (`configuration.go`, `registry/handlers/app.go`), `source.addr` stays.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};

use crate::event::Event;
use crate::telemetry::Metrics;

/// Addresses remembered. Beyond it all are forgotten, which at worst hides one restart of each.
const ADDRESSES_MAX: usize = 4096;

/// Instances remembered of one address: replicas may share one, and their events come in turns.
const INSTANCES_MAX: usize = 8;

/// The instances that were seen lately, by address.
#[derive(Default)]
pub struct Instances {
    hasher: RandomState,
    seen: Mutex<HashMap<Box<str>, Recent>>,
}

/// Hashes of instances; the next new one replaces the oldest.
#[derive(Default)]
struct Recent {
    instances: [Option<u64>; INSTANCES_MAX],
    next: usize,
}

impl Recent {
    fn add(&mut self, instance: u64) {
        self.instances[self.next] = Some(instance);
        self.next = (self.next + 1) % INSTANCES_MAX;
    }
}

impl Instances {
    /// Logs and counts each registry among the sources of `events` that has restarted.
    pub fn observe(&self, events: &[Event], metrics: &Metrics) {
        let mut last = ("", "");
        for event in events {
            let source = (event.source(), event.source_instance());
            if source == last || source.0.is_empty() || source.1.is_empty() {
                continue;
            }
            last = source;
            if self.is_restart(source.0, source.1) {
                metrics.registry_restarts.inc();
                tracing::warn!(
                    source = source.0,
                    instance = source.1,
                    "a registry has restarted; events that it had not delivered yet are lost"
                );
            }
        }
    }

    /// Whether `instance` is new at an address at which another one was seen before.
    fn is_restart(&self, addr: &str, instance: &str) -> bool {
        let instance = self.hasher.hash_one(instance);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(recent) = seen.get_mut(addr) {
            let known = recent.instances.contains(&Some(instance));
            if !known {
                recent.add(instance);
            }
            return !known;
        }
        if seen.len() >= ADDRESSES_MAX {
            seen.clear();
        }
        seen.entry(addr.into()).or_default().add(instance);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_instance_at_a_known_address_is_a_restart() {
        let instances = Instances::default();
        let steps = [
            ("r:5000", "a", false),
            ("r:5000", "a", false),
            ("other:5000", "b", false),
            ("r:5000", "b", true),
            // What comes late from the instance before, or from a replica, is none.
            ("r:5000", "a", false),
            ("r:5000", "b", false),
            ("r:5000", "c", true),
        ];
        for (step, (addr, instance, restart)) in steps.into_iter().enumerate() {
            assert_eq!(instances.is_restart(addr, instance), restart, "step {step}");
        }
    }

    #[test]
    fn remembers_no_more_than_its_bounds() {
        let instances = Instances::default();
        for n in 0..ADDRESSES_MAX * 2 + 1 {
            assert!(!instances.is_restart(&format!("r{n}"), "a"));
        }
        assert_eq!(instances.seen.lock().expect("not poisoned").len(), 1);
        for n in 0..=INSTANCES_MAX {
            instances.is_restart("one", &n.to_string());
        }
        assert!(!instances.is_restart("one", &INSTANCES_MAX.to_string()));
        assert!(instances.is_restart("one", "0"), "the oldest was replaced");
    }

    #[test]
    fn events_without_a_source_say_nothing() {
        let instances = Instances::default();
        let metrics = Metrics::new();
        let event = |json: &str| Event::parse(json.to_owned().into()).expect("an event");
        instances.observe(
            &[
                event(r#"{"source":{"addr":"r","instanceID":"a"}}"#),
                event(r#"{"source":{"addr":"r"}}"#),
                event(r#"{"source":{"instanceID":"b"}}"#),
                event(r#"{"action":"push"}"#),
            ],
            &metrics,
        );
        assert_eq!(metrics.registry_restarts.get(), 0);
        instances.observe(&[event(r#"{"source":{"addr":"r","instanceID":"b"}}"#)], &metrics);
        assert_eq!(metrics.registry_restarts.get(), 1);
    }
}
