//! Which confirmations have moved since they were last looked at.
//!
//! Every confirmation in the window has to be looked at before the oldest messages are settled
//! ([`super::flight`]). So that this costs as much as has happened, and not as much as is in flight,
//! each group of 64 messages has a bell, which its confirmations ring.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use futures_util::task::AtomicWaker;

const GROUP: usize = 64;

/// The bells of the messages in flight, by their places: 0 is the oldest.
#[derive(Default)]
pub(super) struct Bells {
    task: Arc<AtomicWaker>,
    bells: VecDeque<(Arc<Bell>, Waker)>,
    /// How many messages of the first group are gone.
    gone: usize,
}

struct Bell {
    rung: AtomicBool,
    task: Arc<AtomicWaker>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Before the task runs, and before the next confirmation completes.
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Bells {
    /// The task to wake at the next ring.
    pub fn listen(&self, context: &Context<'_>) {
        self.task.register(context.waker());
    }

    /// The waker to poll the confirmation at `place` with.
    pub fn waker(&mut self, place: usize) -> Waker {
        let group = (self.gone + place) / GROUP;
        while self.bells.len() <= group {
            let bell = Arc::new(Bell { rung: AtomicBool::new(false), task: Arc::clone(&self.task) });
            let waker = Waker::from(Arc::clone(&bell));
            self.bells.push_back((bell, waker));
        }
        self.bells[group].1.clone()
    }

    pub fn groups(&self) -> usize {
        self.bells.len()
    }

    /// The places of a group whose bell has rung since this was last asked. They may go beyond the
    /// newest message.
    pub fn rung(&self, group: usize) -> Option<Range<usize>> {
        let (bell, _) = self.bells.get(group)?;
        let first = (group * GROUP).saturating_sub(self.gone);
        bell.rung.swap(false, Ordering::Acquire).then(|| first..(group + 1) * GROUP - self.gone)
    }

    /// The oldest `count` messages are gone.
    pub fn pass(&mut self, count: usize) {
        self.gone += count;
        let groups = (self.gone / GROUP).min(self.bells.len());
        self.bells.drain(..groups);
        self.gone %= GROUP;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_tells_its_group_once() {
        let mut bells = Bells::default();
        bells.waker(0).wake();
        bells.waker(GROUP).wake();
        bells.waker(2 * GROUP);
        let rung =
            |bells: &Bells| (0..bells.groups()).filter_map(|group| bells.rung(group)).collect::<Vec<_>>();
        assert_eq!(rung(&bells), [0..GROUP, GROUP..2 * GROUP]);
        assert!(rung(&bells).is_empty());
    }

    #[test]
    fn places_move_as_messages_go() {
        let mut bells = Bells::default();
        let third = bells.waker(2 * GROUP + 5);
        bells.pass(GROUP + 10);
        assert_eq!(bells.groups(), 2);
        third.wake();
        assert!(bells.rung(0).is_none());
        let places = bells.rung(1).expect("the one that was third");
        assert_eq!(places, GROUP - 10..2 * GROUP - 10);
        assert!(places.contains(&(2 * GROUP + 5 - GROUP - 10)));
    }

    #[test]
    fn passing_what_never_had_a_bell_keeps_the_count() {
        let mut bells = Bells::default();
        bells.pass(GROUP + 3);
        bells.waker(0).wake();
        assert_eq!(bells.rung(0), Some(0..GROUP - 3));
    }
}
