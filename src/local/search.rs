//! The search of other threads' shards, for a take that has found nothing nearer.
//!
//! * It looks at lengths first: at a few shards each time, beginning where the last search of the same
//!   thread ended, which is at first beside its own; and at all of them once a tick of the coarse clock (4 ms on
//!   most Linux systems), by one thread for all. Looks without success are limited, see [`Looks`]. So the cost of a
//!   miss does not grow with the number of threads, and an object that was idle for a few ticks is found before a factory is
//!   called.
//! * Shards whose owner is at work are passed over. Several are claimed for one barrier; and of barriers there is a
//!   [budget](super::budget) for the process. Where it is spent the search finds nothing, for 10 ms at most.
//! * It takes half of what a shard has, its oldest objects: the owner goes on with the others, and thief and owner do not
//!   take turns with a whole shard.

use super::magazine::Magazine;
use super::shard::{Claim, Shard};
use super::{Store, add, budget, preferred_line};
use crate::primitive::atomic::{AtomicU32, Ordering};
use crate::primitive::{clock, fence};

/// Shards that a search looks at.
const WINDOW: usize = 8;

/// Shards that are claimed for one barrier.
const CLAIMS: usize = 4;

/// Looks without success that an owner may do at once, and how many it is given back for each millisecond.
const LOOKS: u32 = 64;
const LOOKS_EACH_MS: u64 = 16;

/// How much one thread has looked at others. Written by that thread alone.
///
/// To look at a shard whose owner is at work costs both threads a cache miss, so there is a limit to looks without success.
#[derive(Debug)]
pub(super) struct Looks {
    /// Looks that are left.
    left: AtomicU32,
    /// When some were given back, in ms of the coarse clock, less what does not fit.
    given: AtomicU32,
    /// How often the owner has asked for a look without one left.
    asked: AtomicU32,
}

impl Looks {
    #[cfg(not(cenote_loom))]
    pub(super) const fn new() -> Self {
        Looks { left: AtomicU32::new(LOOKS), given: AtomicU32::new(0), asked: AtomicU32::new(0) }
    }

    #[cfg(cenote_loom)]
    pub(super) fn new() -> Self {
        Looks { left: AtomicU32::new(LOOKS), given: AtomicU32::new(0), asked: AtomicU32::new(0) }
    }

    /// A thread that has none left looks at the clock, each fourth time: that costs a third of a miss.
    fn may_look(&self) -> bool {
        if self.left.load(Ordering::Relaxed) == 0 {
            let asked = self.asked.load(Ordering::Relaxed);
            self.asked.store(asked.wrapping_add(1), Ordering::Relaxed);
            if asked.is_multiple_of(4) {
                self.give_back();
            }
        }
        self.left.load(Ordering::Relaxed) > 0
    }

    /// A look found nothing.
    fn spend(&self) {
        self.left.store(self.left.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
    }

    fn give_back(&self) {
        let now = clock::now_ms() as u32;
        let passed = now.wrapping_sub(self.given.load(Ordering::Relaxed));
        let given = (u64::from(passed) * LOOKS_EACH_MS).min(LOOKS.into()) as u32;
        self.given.store(now, Ordering::Relaxed);
        self.left.store(given, Ordering::Relaxed);
    }
}

impl Store {
    /// A part of what other threads hold.
    pub(super) fn search(&self, own: Option<&Shard>) -> Option<Magazine> {
        let count = self.cold.shard_count.load(Ordering::Relaxed) as usize;
        if count <= usize::from(own.is_some()) {
            return None;
        }
        let candidates = self.candidates(own, count);
        if candidates[0].is_none() || !(self.policy.is_expensive || budget::may_search(&self.cold.searches)) {
            return None;
        }
        // Before the claims: it may allocate.
        let mut stolen = self.pop_empty(preferred_line(own));
        let claims = candidates.map(|shard| shard.and_then(Shard::claim));
        if claims.iter().any(Option::is_some) && fence_after_claims(claims.iter().flatten()).is_ok() {
            for claim in claims.into_iter().flatten() {
                if let Ok(claimed) = claim.enter() {
                    claimed.take_half(&mut stolen);
                }
            }
        }
        if stolen.is_empty() {
            self.push_empty(stolen, preferred_line(own));
            return None;
        }
        add(&self.cold.counters.stolen, 1);
        Some(stolen)
    }

    /// Shards that seem to have something and whose owners seem to be out, the first ones without a gap.
    fn candidates(&self, own: Option<&Shard>, count: usize) -> [Option<&Shard>; CLAIMS] {
        let mut found = [None; CLAIMS];
        if !self.policy.is_expensive && own.is_some_and(|own| !own.looks().may_look()) {
            return found;
        }
        let is_own = |shard: &Shard| own.is_some_and(|own| std::ptr::eq(own, shard));
        let is_candidate = |shard: &Shard| !is_own(shard) && shard.hint() > 0 && !shard.is_busy();
        let collect = |found: &mut [Option<_>; CLAIMS], shard| {
            if let Some(free) = found.iter_mut().find(|found| found.is_none()) {
                *free = Some(shard);
            }
        };
        let first = self.cold.shards.load(Ordering::Acquire);
        let mut next = own.map_or(first, Shard::cursor);
        for _ in 0..count.min(WINDOW) {
            // SAFETY: shards, and what their cursors lead to, live as long as the store. Beside the last is the first.
            let Some(shard) = (unsafe { next.as_ref().or(first.as_ref()) }) else { break };
            next = shard.next();
            if is_candidate(shard) {
                collect(&mut found, shard);
            }
        }
        if let Some(own) = own {
            own.set_cursor(next);
        }
        if found[0].is_none() && count > WINDOW && self.begins_tick() {
            self.shards()
                .filter(|shard| is_candidate(shard))
                .take(CLAIMS)
                .for_each(|shard| collect(&mut found, shard));
        }
        if found[0].is_none()
            && let Some(own) = own
        {
            own.looks().spend();
        }
        found
    }

    /// Whether the coarse clock has moved since all shards were searched. True for one caller each time.
    fn begins_tick(&self) -> bool {
        let now = clock::now_ms() as u32;
        let last = self.cold.last_search.load(Ordering::Relaxed);
        // Relaxed: the exchange alone decides.
        last != now
            && self.cold.last_search.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// The fence of a remote thread, after its claims.
pub(super) fn fence_after_claims<'a>(
    mut claims: impl Iterator<Item = &'a Claim<'a>>,
) -> Result<(), fence::Unordered> {
    fence::full();
    if claims.any(Claim::needs_heavy_fence) { fence::heavy() } else { Ok(()) }
}
