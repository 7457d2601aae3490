//! The queue of a pool's waiters: a doubly linked list in a slab, so that a waiter in the middle leaves
//! in O(1).
//!
//! | state | list | leaves it by |
//! |---|---|---|
//! | waiting | `queue`, in order of arrival | a grant, a failure, cancellation |
//! | granted | `granted`, in order of the grants; the object lies in the entry | taking it, revocation, cancellation |
//! | asleep: it did not take what it was granted | none | its next poll, which puts it at the front of `queue` |
//! | failed | none | its next poll, cancellation |
//!
//! All of it happens under the pool's lock, so a grant and a cancellation at the same instant lose nothing.
//! No waker is woken, cloned or dropped here: wakers are foreign code, and leave with the effects.

use std::task::Waker;

use super::time::Time;

/// The index of a waiter in the slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(usize);

/// What a waiter finds when it looks.
#[derive(Debug)]
pub(super) enum State<T, E> {
    Waiting,
    /// With the time at which the object is taken back.
    Granted(T, Time),
    Asleep,
    Failed(E),
}

#[derive(Debug)]
struct Entry<T, E> {
    state: State<T, E>,
    deadline: Time,
    /// Which task or thread it belongs to, if the pool asks.
    holder: u64,
    waker: Option<Waker>,
    links: Links,
}

#[derive(Clone, Copy, Debug, Default)]
struct Links {
    before: Option<usize>,
    after: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    first: Option<usize>,
    last: Option<usize>,
    len: usize,
}

#[derive(Debug)]
enum Slot<T, E> {
    Taken(Entry<T, E>),
    /// The next free slot.
    Free(Option<usize>),
}

#[derive(Debug)]
pub(super) struct Waiters<T, E> {
    slots: Vec<Slot<T, E>>,
    free: Option<usize>,
    queue: Ends,
    granted: Ends,
    /// No deadline in the queue is earlier.
    earliest: Time,
}

impl<T, E> Waiters<T, E> {
    pub(super) const fn new() -> Self {
        const NONE: Ends = Ends { first: None, last: None, len: 0 };
        Waiters { slots: Vec::new(), free: None, queue: NONE, granted: NONE, earliest: Time::NEVER }
    }

    /// The number of waiters in the queue.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len
    }

    fn entry(&self, at: usize) -> &Entry<T, E> {
        match &self.slots[at] {
            Slot::Taken(entry) => entry,
            Slot::Free(_) => unreachable!("a key outlives its entry"),
        }
    }

    fn entry_mut(&mut self, at: usize) -> &mut Entry<T, E> {
        match &mut self.slots[at] {
            Slot::Taken(entry) => entry,
            Slot::Free(_) => unreachable!("a key outlives its entry"),
        }
    }

    /// Adds a waiter at the end of the queue.
    pub(super) fn push_back(&mut self, deadline: Time, holder: u64, waker: Waker) -> Key {
        let at = self.insert(Entry {
            state: State::Waiting,
            deadline,
            holder,
            waker: Some(waker),
            links: Links::default(),
        });
        let mut ends = self.queue;
        self.link_last(&mut ends, at);
        self.queue = ends;
        self.earliest = self.earliest.min(deadline);
        Key(at)
    }

    fn insert(&mut self, entry: Entry<T, E>) -> usize {
        let entry = Slot::Taken(entry);
        match self.free {
            Some(at) => {
                if let Slot::Free(next) = std::mem::replace(&mut self.slots[at], entry) {
                    self.free = next;
                }
                at
            }
            None => {
                self.slots.push(entry);
                self.slots.len() - 1
            }
        }
    }

    fn link_last(&mut self, ends: &mut Ends, at: usize) {
        let before = ends.last.replace(at);
        self.entry_mut(at).links = Links { before, after: None };
        match before {
            Some(before) => self.entry_mut(before).links.after = Some(at),
            None => ends.first = Some(at),
        }
        ends.len += 1;
    }

    fn unlink(&mut self, ends: &mut Ends, at: usize) {
        let Links { before, after } = std::mem::take(&mut self.entry_mut(at).links);
        match before {
            Some(before) => self.entry_mut(before).links.after = after,
            None => ends.first = after,
        }
        match after {
            Some(after) => self.entry_mut(after).links.before = before,
            None => ends.last = before,
        }
        ends.len -= 1;
    }

    fn unlink_waiting(&mut self, at: usize) {
        let mut ends = self.queue;
        self.unlink(&mut ends, at);
        self.queue = ends;
    }

    fn unlink_granted(&mut self, at: usize) {
        let mut ends = self.granted;
        self.unlink(&mut ends, at);
        self.granted = ends;
    }

    /// The deadline of the first waiter in the queue.
    pub(super) fn first_deadline(&self) -> Option<Time> {
        self.queue.first.map(|at| self.entry(at).deadline)
    }

    /// Fails the first waiter.
    pub(super) fn fail_first(&mut self, failure: E, wake: &mut Wakers) {
        if let Some(at) = self.queue.first {
            self.fail(at, failure, wake);
        }
    }

    fn fail(&mut self, at: usize, failure: E, wake: &mut Wakers) {
        self.unlink_waiting(at);
        let entry = self.entry_mut(at);
        entry.state = State::Failed(failure);
        wake.push(entry.waker.take());
    }

    fn link_first(&mut self, at: usize) {
        let first = self.queue.first.replace(at);
        self.entry_mut(at).links = Links { before: None, after: first };
        match first {
            Some(first) => self.entry_mut(first).links.before = Some(at),
            None => self.queue.last = Some(at),
        }
        self.queue.len += 1;
        self.earliest = self.earliest.min(self.entry(at).deadline);
    }

    /// Hands an object to the first waiter, of which there is one, and which has until `until` to take it.
    pub(super) fn grant_first(&mut self, object: T, until: Time, wake: &mut Wakers) {
        let at = self.queue.first.expect("the caller has looked at its deadline");
        self.unlink_waiting(at);
        let mut ends = self.granted;
        self.link_last(&mut ends, at);
        self.granted = ends;
        let entry = self.entry_mut(at);
        entry.state = State::Granted(object, until.min(entry.deadline));
        wake.push(entry.waker.take());
    }

    /// Fails all waiters.
    pub(super) fn fail_all(&mut self, failure: impl Fn() -> E, wake: &mut Wakers) {
        while let Some(at) = self.queue.first {
            self.fail(at, failure(), wake);
        }
        self.earliest = Time::NEVER;
    }

    /// Wakes all waiters, which look again.
    pub(super) fn wake_all(&mut self, wake: &mut Wakers) {
        let mut at = self.queue.first;
        while let Some(here) = at {
            let entry = self.entry_mut(here);
            at = entry.links.after;
            wake.push(entry.waker.take());
        }
    }

    /// Fails the waiters whose deadline has passed, wherever they are in the queue. It costs a walk of the queue, so it is
    /// to be called when [`next_deadline`](Self::next_deadline) has passed, not before.
    pub(super) fn expire(&mut self, now: Time, failure: impl Fn() -> E, wake: &mut Wakers) {
        let (mut at, mut earliest) = (self.queue.first, Time::NEVER);
        while let Some(here) = at {
            let entry = self.entry(here);
            at = entry.links.after;
            let deadline = entry.deadline;
            if deadline <= now {
                self.fail(here, failure(), wake);
            } else {
                earliest = earliest.min(deadline);
            }
        }
        self.earliest = earliest;
    }

    /// No deadline is earlier; there may be none at this time.
    pub(super) fn next_deadline(&self) -> Time {
        if self.queue.len == 0 { Time::NEVER } else { self.earliest }
    }

    /// Takes back an object that its waiter has not taken in time. The waiter fails if its deadline has
    /// passed, which the flag says; otherwise it sleeps, and has the first place again as soon as it is polled.
    pub(super) fn revoke(
        &mut self,
        now: Time,
        failure: impl Fn() -> E,
        wake: &mut Wakers,
    ) -> Option<(T, bool)> {
        let mut at = self.granted.first;
        while let Some(here) = at {
            let entry = self.entry(here);
            at = entry.links.after;
            if !matches!(entry.state, State::Granted(_, until) if until <= now) {
                continue;
            }
            let has_failed = entry.deadline <= now;
            let state = match has_failed {
                true => State::Failed(failure()),
                false => State::Asleep,
            };
            self.unlink_granted(here);
            let entry = self.entry_mut(here);
            wake.push(entry.waker.take());
            if let State::Granted(object, _) = std::mem::replace(&mut entry.state, state) {
                return Some((object, has_failed));
            }
        }
        None
    }

    /// When the first of the granted objects can be taken back.
    pub(super) fn next_revocation(&self) -> Time {
        let (mut due, mut at) = (Time::NEVER, self.granted.first);
        while let Some(here) = at {
            let entry = self.entry(here);
            if let State::Granted(_, until) = entry.state {
                due = due.min(until);
            }
            at = entry.links.after;
        }
        due
    }

    /// Whether it has no outcome yet.
    pub(super) fn is_pending(&self, key: Key) -> bool {
        matches!(self.entry(key.0).state, State::Waiting | State::Asleep)
    }

    /// Returns the outcome, if there is one, and removes the entry.
    pub(super) fn take_outcome(&mut self, key: Key, dropped: &mut Vec<Waker>) -> Option<Result<T, E>> {
        if self.is_pending(key) {
            return None;
        }
        match self.remove(key, dropped) {
            State::Granted(object, _) => Some(Ok(object)),
            State::Failed(failure) => Some(Err(failure)),
            State::Waiting | State::Asleep => None,
        }
    }

    /// Whether it has no outcome yet, and its deadline has passed.
    pub(super) fn has_expired(&self, key: Key, now: Time) -> bool {
        self.is_pending(key) && self.entry(key.0).deadline <= now
    }

    /// A waiter without an outcome is to be woken by `waker` from now on; the one before goes to `dropped`. Returns whether it
    /// was asleep: it is the first in the queue now.
    pub(super) fn wait(&mut self, key: Key, waker: Waker, dropped: &mut Vec<Waker>) -> bool {
        let entry = self.entry_mut(key.0);
        dropped.extend(entry.waker.replace(waker));
        let was_asleep = matches!(entry.state, State::Asleep);
        if was_asleep {
            entry.state = State::Waiting;
            self.link_first(key.0);
        }
        was_asleep
    }

    /// Removes the entry, whatever its state is.
    pub(super) fn remove(&mut self, Key(at): Key, dropped: &mut Vec<Waker>) -> State<T, E> {
        match self.entry(at).state {
            State::Waiting => self.unlink_waiting(at),
            State::Granted(..) => self.unlink_granted(at),
            State::Asleep | State::Failed(_) => {}
        }
        let slot = std::mem::replace(&mut self.slots[at], Slot::Free(self.free.replace(at)));
        match slot {
            Slot::Taken(entry) => {
                dropped.extend(entry.waker);
                entry.state
            }
            Slot::Free(_) => unreachable!("looked at above"),
        }
    }

    #[cfg(all(test, not(cenote_loom)))]
    pub(super) fn is_asleep(&self, key: Key) -> bool {
        matches!(self.entry(key.0).state, State::Asleep)
    }

    /// The tasks and threads of the waiters in the queue.
    pub(super) fn holders(&self) -> impl Iterator<Item = u64> {
        let mut at = self.queue.first;
        std::iter::from_fn(move || {
            let entry = self.entry(at?);
            at = entry.links.after;
            Some(entry.holder)
        })
    }
}

/// Wakers that are to be woken: mostly one, which needs no allocation.
#[derive(Debug)]
pub(super) struct Wakers {
    first: Option<Waker>,
    rest: Vec<Waker>,
}

impl Wakers {
    pub(super) const fn new() -> Self {
        Wakers { first: None, rest: Vec::new() }
    }

    pub(super) fn push(&mut self, waker: Option<Waker>) {
        match &self.first {
            None => self.first = waker,
            Some(_) => self.rest.extend(waker),
        }
    }

    pub(super) fn append(&mut self, wakers: &mut Vec<Waker>) {
        self.rest.append(wakers);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.rest.is_empty()
    }

    #[inline]
    pub(super) fn wake(self) {
        // Nearly always there is none or one.
        if let Some(first) = self.first {
            first.wake();
        }
        self.rest.into_iter().for_each(Waker::wake);
    }
}
