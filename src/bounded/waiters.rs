//! The queue of a pool's waiters: a doubly linked list in a slab, so that a waiter in the middle leaves
//! in O(1).
//!
//! A waiter is in one of two lists or in none. It waits in `queue`, in order of arrival. When it is
//! granted an object it moves to `granted`, and the object stays in its entry until the waiter takes it,
//! gives up, or lets its deadline pass. So a grant and a cancellation at the same instant lose nothing:
//! both happen under the pool's lock.

use std::task::Waker;
use std::time::Instant;

/// The index of a waiter in the slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(usize);

/// What a waiter finds when it looks.
#[derive(Debug)]
pub(super) enum State<T, E> {
    Waiting,
    Granted(T),
    Failed(E),
}

#[derive(Debug)]
struct Entry<T, E> {
    state: State<T, E>,
    deadline: Option<Instant>,
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
}

impl<T, E> Waiters<T, E> {
    pub(super) const fn new() -> Self {
        const NONE: Ends = Ends { first: None, last: None, len: 0 };
        Waiters { slots: Vec::new(), free: None, queue: NONE, granted: NONE }
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
    pub(super) fn push_back(&mut self, deadline: Option<Instant>) -> Key {
        let at = self.insert(deadline);
        let mut ends = self.queue;
        self.link_last(&mut ends, at);
        self.queue = ends;
        Key(at)
    }

    /// Adds a waiter at the front: one whose object turned out to be broken keeps its turn.
    pub(super) fn push_front(&mut self, deadline: Option<Instant>) -> Key {
        let at = self.insert(deadline);
        self.put_back(Next(at));
        Key(at)
    }

    fn insert(&mut self, deadline: Option<Instant>) -> usize {
        let entry =
            Slot::Taken(Entry { state: State::Waiting, deadline, waker: None, links: Links::default() });
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

    /// Takes the first waiter out of the queue whose deadline has not passed. The expired waiters in front of
    /// it fail with `expired`; their wakers go to `wake`.
    pub(super) fn next(
        &mut self,
        now: Instant,
        expired: impl Fn() -> E,
        wake: &mut Vec<Waker>,
    ) -> Option<Next> {
        while let Some(at) = self.queue.first {
            let mut ends = self.queue;
            self.unlink(&mut ends, at);
            self.queue = ends;
            let entry = self.entry_mut(at);
            if entry.deadline.is_none_or(|deadline| now < deadline) {
                return Some(Next(at));
            }
            entry.state = State::Failed(expired());
            wake.extend(entry.waker.take());
        }
        None
    }

    /// Puts the waiter back to the front of the queue: there is no object for it after all.
    pub(super) fn put_back(&mut self, Next(at): Next) {
        let first = self.queue.first.replace(at);
        self.entry_mut(at).links = Links { before: None, after: first };
        match first {
            Some(first) => self.entry_mut(first).links.before = Some(at),
            None => self.queue.last = Some(at),
        }
        self.queue.len += 1;
    }

    /// Hands an object to the waiter.
    pub(super) fn grant(&mut self, Next(at): Next, object: T, wake: &mut Vec<Waker>) {
        let mut ends = self.granted;
        self.link_last(&mut ends, at);
        self.granted = ends;
        let entry = self.entry_mut(at);
        entry.state = State::Granted(object);
        wake.extend(entry.waker.take());
    }

    /// Fails all waiters.
    pub(super) fn fail_all(&mut self, error: impl Fn() -> E, wake: &mut Vec<Waker>) {
        while let Some(at) = self.queue.first {
            let mut ends = self.queue;
            self.unlink(&mut ends, at);
            self.queue = ends;
            let entry = self.entry_mut(at);
            entry.state = State::Failed(error());
            wake.extend(entry.waker.take());
        }
    }

    /// Takes back an object whose waiter has not taken it by its deadline.
    pub(super) fn revoke(
        &mut self,
        now: Instant,
        expired: impl Fn() -> E,
        wake: &mut Vec<Waker>,
    ) -> Option<T> {
        let mut at = self.granted.first;
        while let Some(here) = at {
            let entry = self.entry_mut(here);
            at = entry.links.after;
            if entry.deadline.is_some_and(|deadline| deadline <= now) {
                let state = std::mem::replace(&mut entry.state, State::Failed(expired()));
                wake.extend(entry.waker.take());
                let mut ends = self.granted;
                self.unlink(&mut ends, here);
                self.granted = ends;
                if let State::Granted(object) = state {
                    return Some(object);
                }
            }
        }
        None
    }

    /// When the first of the granted objects can be taken back.
    pub(super) fn next_revocation(&self) -> Option<Instant> {
        let mut due = None;
        let mut at = self.granted.first;
        while let Some(here) = at {
            let entry = self.entry(here);
            due = [due, entry.deadline].into_iter().flatten().min();
            at = entry.links.after;
        }
        due
    }

    /// Returns the outcome and removes the entry, or keeps `waker` to be woken when there is an outcome.
    pub(super) fn look(&mut self, key: Key, waker: &Waker) -> Option<State<T, E>> {
        let entry = self.entry_mut(key.0);
        if matches!(entry.state, State::Waiting) {
            if !entry.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
                entry.waker = Some(waker.clone());
            }
            return None;
        }
        Some(self.remove(key))
    }

    /// Removes the entry, whatever its state is.
    pub(super) fn remove(&mut self, Key(at): Key) -> State<T, E> {
        match self.entry(at).state {
            State::Waiting => {
                let mut ends = self.queue;
                self.unlink(&mut ends, at);
                self.queue = ends;
            }
            State::Granted(_) => {
                let mut ends = self.granted;
                self.unlink(&mut ends, at);
                self.granted = ends;
            }
            State::Failed(_) => {}
        }
        let slot = std::mem::replace(&mut self.slots[at], Slot::Free(self.free.replace(at)));
        match slot {
            Slot::Taken(entry) => entry.state,
            Slot::Free(_) => unreachable!("looked at above"),
        }
    }
}

/// A waiter that has been taken out of the queue, and is to be granted an object.
#[must_use]
#[derive(Debug)]
pub(super) struct Next(usize);
