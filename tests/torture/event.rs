//! The events of a run: each is determined by the seed, its sender and its number, so that whoever finds
//! one can tell what it must be, byte for byte, and nothing need be kept of a million.

use std::fmt::Write as _;

/// Repositories of each sender; no two senders share one.
pub const REPOSITORIES: u64 = 4;

/// Numbers that follow from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `from` up to and without `to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from)
    }

    pub fn one_in(&mut self, many: u64) -> bool {
        self.next().is_multiple_of(many)
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.between(0, last as u64 + 1) as usize);
        }
    }
}

/// An event's name: whose it is, and which of theirs, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    pub sender: u32,
    pub number: u64,
}

/// How the events of a run are made.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    pub seed: u64,
    /// One event in so many is larger than Kafka and NATS take.
    pub huge_every: u64,
}

impl Recipe {
    fn random(&self, name: Name) -> Random {
        let mut random = Random::new(self.seed ^ (u64::from(name.sender) << 40) ^ name.number);
        random.next();
        random
    }

    pub fn repository(&self, name: Name) -> String {
        format!("team-{}/app-{}", name.sender, self.random(name).next() % REPOSITORIES)
    }

    /// Which of its sender's repositories it is of.
    pub fn lane(&self, name: Name) -> usize {
        (self.random(name).next() % REPOSITORIES) as usize
    }

    /// Between 1.5 and 4 MB, where Kafka and NATS by their defaults take 1 MB.
    pub fn is_huge(&self, name: Name) -> bool {
        let mut random = self.random(name);
        random.next();
        random.one_in(self.huge_every)
    }

    pub fn id(&self, name: Name) -> String {
        format!("{:x}.{}.{}", self.seed, name.sender, name.number)
    }

    /// Whose the event with this id is, if it can be one of this run's.
    pub fn name(&self, id: &str) -> Option<Name> {
        let mut parts = id.split('.');
        if u64::from_str_radix(parts.next()?, 16) != Ok(self.seed) {
            return None;
        }
        let name = Name { sender: parts.next()?.parse().ok()?, number: parts.next()?.parse().ok()? };
        parts.next().is_none().then_some(name)
    }

    /// The event as the registry writes it: with white space, and with what a parser that writes JSON
    /// anew would change.
    pub fn event(&self, name: Name) -> String {
        self.spaced(name, [" ", "\n      ", "\n         ", "\n            "])
    }

    /// The same without white space between tokens, as in a file of JSON Lines.
    pub fn line(&self, name: Name) -> String {
        self.spaced(name, [""; 4])
    }

    fn spaced(&self, name: Name, [s, end, outer, inner]: [&str; 4]) -> String {
        let mut random = self.random(name);
        let (lane, _, chunk) = (random.next() % REPOSITORIES, random.next(), random.next());
        let noise = format!("{chunk:016x}").repeat(random.between(1, 40) as usize);
        let id = self.id(name);
        let references = if self.is_huge(name) { references(&mut random, s) } else { String::new() };
        let (size, sender, number) = (chunk % 100_000, name.sender, name.number);
        format!(
            "{{{outer}\"id\":{s}\"{id}\",{outer}\"timestamp\":{s}\"2026-11-24T01:58:26.927777128Z\",{outer}\
             \"action\":{s}\"push\",{outer}\"target\":{s}{{{inner}\
             \"mediaType\":{s}\"application/vnd.oci.image.manifest.v1+json\",{inner}\
             \"size\":{s}{size},{inner}\"repository\":{s}\"team-{sender}/app-{lane}\",{inner}\
             \"references\":{s}[{references}],{inner}\"tag\":{s}\"v{number}\"{outer}}},{outer}\
             \"source\":{s}{{{inner}\"addr\":{s}\"registry:5000\",{inner}\
             \"instanceID\":{s}\"torture\"{outer}}},{outer}\
             \"unknown\":{s}[1.0e+2,{s}\"\\u00e9 é \\/ \\\"\",{s}\"{noise}\"]{end}}}"
        )
    }

    /// A request's body with `count` events from `first` on.
    pub fn envelope(&self, first: Name, count: u64) -> String {
        let mut body = "{\n   \"events\": [\n      ".to_owned();
        for more in 0..count {
            if more > 0 {
                body += ",\n      ";
            }
            body += &self.event(Name { number: first.number + more, ..first });
        }
        body + "\n   ]\n}"
    }
}

/// The layers of an image that has far too many.
fn references(random: &mut Random, s: &str) -> String {
    let count = random.between(10_000, 26_000);
    let digest = format!("{:016x}", random.next()).repeat(4);
    let mut text = String::with_capacity(count as usize * 170);
    for size in 0..count {
        if size > 0 {
            text.push(',');
        }
        write!(
            text,
            "{{\"mediaType\":{s}\"application/vnd.oci.image.layer.v1.tar+gzip\",{s}\"size\":{s}{size},{s}\
             \"digest\":{s}\"sha256:{digest}\"}}"
        )
        .expect("to a string");
    }
    text
}
