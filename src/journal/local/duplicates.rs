//! Which events came already: a registry that does not get its answer in time sends again.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::event::Event;
use crate::journal::Micros;

/// At most this many events are remembered (about 20 MiB): at full rate the window is then shorter
/// than configured. A registry's second copy follows the first within seconds.
pub const REMEMBERED_MAX: usize = 400_000;

/// The keys are hashes already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes.iter().rev() {
            self.0 = self.0 << 8 | u64::from(byte);
        }
    }
    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}

/// A 128-bit hash of `(source.instanceID, id)`: two events of one window sharing it by chance is
/// less likely than a disk error that goes unnoticed.
pub type Key = u128;

/// The key of an event; `None` when it has no id, and so is never a duplicate.
pub fn key(event: &Event) -> Option<Key> {
    if event.id().is_empty() {
        return None;
    }
    let mut hasher = SipHasher13::new();
    hasher.write(event.source_instance().as_bytes());
    hasher.write_u8(0xff); // never in UTF-8: ("a", "bc") is not ("ab", "c")
    hasher.write(event.id().as_bytes());
    Some(hasher.finish128().as_u128())
}

/// The keys of the last events, as far as the window reaches.
pub struct Duplicates {
    window: Micros,
    keys: HashSet<Key, BuildHasherDefault<Identity>>,
    order: VecDeque<(Micros, Key)>,
}

impl Duplicates {
    /// `window` in microseconds; 0: nothing is ever a duplicate.
    pub fn new(window: Micros) -> Self {
        Self { window, keys: HashSet::default(), order: VecDeque::new() }
    }

    pub fn contains(&self, key: Key) -> bool {
        self.keys.contains(&key)
    }

    /// Remembers a key that is not there yet; answers whether it was new.
    pub fn insert(&mut self, key: Key, now: Micros) -> bool {
        if self.window == 0 {
            return true;
        }
        if !self.keys.insert(key) {
            return false;
        }
        self.order.push_back((now, key));
        if self.order.len() > REMEMBERED_MAX {
            self.forget_oldest();
        }
        true
    }

    /// Forgets what is older than the window.
    pub fn expire(&mut self, now: Micros) {
        while self.order.front().is_some_and(|(at, _)| now - at > self.window) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.keys.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_within_the_window() {
        let mut seen = Duplicates::new(100);
        assert!(seen.insert(1, 0) && !seen.insert(1, 50) && seen.insert(2, 60));
        seen.expire(100);
        assert!(seen.contains(1));
        seen.expire(101);
        assert!(!seen.contains(1) && seen.contains(2));
    }

    #[test]
    fn no_window_no_duplicates() {
        let mut seen = Duplicates::new(0);
        assert!(seen.insert(1, 0) && seen.insert(1, 0));
    }

    #[test]
    fn keys_tell_instances_apart_and_need_an_id() {
        let event = |json: &'static str| Event::parse(json.into()).expect(json);
        let a = key(&event(r#"{"id":"x","source":{"instanceID":"1"}}"#));
        let b = key(&event(r#"{"id":"x","source":{"instanceID":"2"}}"#));
        assert!(a.is_some() && a != b);
        assert_eq!(key(&event(r#"{"id":""}"#)), None);
    }
}
