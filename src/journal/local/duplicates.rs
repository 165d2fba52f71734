//! Which events came already: a registry that does not get its answer in time sends again.

use std::collections::VecDeque;
use std::hash::Hasher;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::event::{Event, Field};
use crate::journal::Micros;

/// At most this many events are remembered (11 to 14 MiB): at full rate the window is then shorter
/// than configured. A registry's second copy follows the first within seconds.
pub const REMEMBERED_MAX: usize = 400_000;

/// So many more may be there until somebody has time to forget them: a large request's, or two's. One
/// request can hold far more events, and the tables would keep the size that these needed.
const FORGOTTEN_LATER: usize = 4096;

/// Times are noted to this part of the window, so that there are few of them.
const TIMES_PER_WINDOW: Micros = 1024;

/// A 128-bit hash of `(source.instanceID, id)`: two events of one window sharing it by chance is
/// less likely than a disk error that goes unnoticed.
pub type Key = u128;

/// The key of an event; `None` when it has no id, and so is never a duplicate.
pub fn key(event: &Event) -> Option<Key> {
    let id = event.field_bytes(Field::Id);
    if id.is_empty() {
        return None;
    }
    let mut hasher = SipHasher13::new();
    hasher.write(event.field_bytes(Field::SourceInstance));
    hasher.write_u8(0xff); // never in UTF-8: ("a", "bc") is not ("ab", "c")
    hasher.write(id);
    Some(hasher.finish128().as_u128())
}

/// The keys of the last events, as far as the window reaches, in the order in which they came.
pub struct Duplicates {
    window: Micros,
    keys: VecDeque<Key>,
    /// Where each key stands, by numbers that count on while keys are forgotten: a set of the keys
    /// themselves beside their order would hold each twice.
    places: HashTable<u32>,
    /// The number of the first key.
    first: u32,
    /// By when each group of keys had come, and how many they are.
    times: VecDeque<(Micros, u32)>,
}

impl Duplicates {
    /// `window` in microseconds; 0: nothing is ever a duplicate.
    pub fn new(window: Micros) -> Self {
        Self { window, keys: VecDeque::new(), places: HashTable::new(), first: 0, times: VecDeque::new() }
    }

    pub fn contains(&self, key: Key) -> bool {
        self.places.find(hash(key), |&place| self.keys[self.index(place)] == key).is_some()
    }

    /// Remembers a key that is not there yet; answers whether it was new. Until [`Duplicates::trim`]
    /// a few more may be remembered than are to be.
    pub fn insert(&mut self, key: Key, now: Micros) -> bool {
        if self.window == 0 {
            return true;
        }
        let place = self.first.wrapping_add(self.keys.len() as u32);
        let (keys, first) = (&self.keys, self.first);
        let at = |&place: &u32| keys[place.wrapping_sub(first) as usize];
        match self.places.entry(hash(key), |place| at(place) == key, |place| hash(at(place))) {
            Entry::Occupied(_) => return false,
            Entry::Vacant(free) => free.insert(place),
        };
        self.keys.push_back(key);
        self.note_time(now);
        if self.keys.len() > REMEMBERED_MAX + FORGOTTEN_LATER {
            self.forget_oldest();
        }
        true
    }

    /// Forgets the oldest of more than [`REMEMBERED_MAX`].
    pub fn trim(&mut self) {
        while self.keys.len() > REMEMBERED_MAX {
            self.forget_oldest();
        }
    }

    /// Forgets what is older than the window.
    pub fn expire(&mut self, now: Micros) {
        while self.times.front().is_some_and(|(at, _)| now - at > self.window) {
            self.forget_oldest();
        }
    }

    /// Notes when the last key came, to a part of the window, and never too early.
    fn note_time(&mut self, now: Micros) {
        match self.times.back_mut() {
            Some((by, count)) if now <= *by => *count += 1,
            _ => self.times.push_back((now + self.window / TIMES_PER_WINDOW, 1)),
        }
    }

    fn forget_oldest(&mut self) {
        let Some(&key) = self.keys.front() else { return };
        if let Ok(entry) = self.places.find_entry(hash(key), |&place| place == self.first) {
            entry.remove();
        }
        self.keys.pop_front();
        self.first = self.first.wrapping_add(1);
        if let Some((_, count)) = self.times.front_mut() {
            *count -= 1;
            if *count == 0 {
                self.times.pop_front();
            }
        }
    }

    fn index(&self, place: u32) -> usize {
        place.wrapping_sub(self.first) as usize
    }
}

/// Keys are hashes already.
fn hash(key: Key) -> u64 {
    key as u64
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
    fn remembers_the_last_ones_only() {
        let mut seen = Duplicates::new(Micros::MAX / 2);
        let count = (REMEMBERED_MAX + FORGOTTEN_LATER) as Key + 1000;
        // As in `key`, all bits of a key are spread.
        let key = |number: Key| number.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        assert!((0..count).all(|number| seen.insert(key(number), number as Micros)));
        assert!(seen.keys.len() <= REMEMBERED_MAX + FORGOTTEN_LATER, "even before anybody trims");
        seen.trim();
        assert!((0..count - REMEMBERED_MAX as Key).all(|number| !seen.contains(key(number))));
        assert!((count - REMEMBERED_MAX as Key..count).all(|number| !seen.insert(key(number), 0)));
        assert_eq!((seen.keys.len(), seen.places.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
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
