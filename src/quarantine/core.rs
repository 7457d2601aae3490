//! Which slots are free, in quarantine and retired, and what is to be done with them when. No clock, no lock, no objects.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The rules of a pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) max_size: usize,
    pub(super) max_retired: usize,
    pub(super) grace: Duration,
    pub(super) max_grace: Duration,
}

/// A slot, by its place in the table.
pub(super) type Place = u32;

/// What the recycler sees of a slot in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) is_empty: bool,
    /// Its generation has reached the top.
    pub(super) is_worn: bool,
}

/// What is to be done with a slot whose grace period is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Reset the object, then call [`Core::recycled`].
    Recycle(Place),
    /// It is never used again. For how long somebody has been inside since the release, or `None` if its generations are
    /// used up.
    Retire(Place, Option<Duration>),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) free: usize,
    pub(super) reserved: usize,
    pub(super) leased: usize,
    pub(super) quarantined: usize,
    pub(super) retired: usize,
    pub(super) recycled: u64,
}

#[derive(Debug)]
pub(super) struct Core {
    rules: Rules,
    /// Used before, or not yet beyond the table's mark. The last one is used next: its object is warm.
    free: Vec<Place>,
    /// In order of their release, which is the order of their due times.
    quarantine: VecDeque<(Place, Duration)>,
    /// Past their grace period with somebody inside, by their release.
    lingering: BTreeMap<(Duration, Place), ()>,
    /// Slots that have ever been used.
    used: Place,
    counts: Counts,
}

impl Core {
    pub(super) fn new(rules: Rules) -> Self {
        Core {
            rules,
            free: Vec::new(),
            quarantine: VecDeque::new(),
            lingering: BTreeMap::new(),
            used: 0,
            counts: Counts::default(),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        Counts { free: self.free.len(), quarantined: self.quarantined(), ..self.counts }
    }

    /// Those whose objects are being reset among them.
    fn quarantined(&self) -> usize {
        self.counts.quarantined
    }

    /// How many slots count towards the limit.
    fn size(&self) -> usize {
        let retired = self.counts.retired.saturating_sub(self.rules.max_retired);
        self.counts.reserved + self.counts.leased + self.quarantined() + retired
    }

    pub(super) fn reserve(&mut self) -> Option<Place> {
        if self.size() >= self.rules.max_size {
            return None;
        }
        let place = self.free.pop().or_else(|| {
            // Below the limit there is room: the table has a slot for each live one, and for each retired one up to its limit.
            let place = self.used;
            self.used += 1;
            Some(place)
        });
        self.counts.reserved += 1;
        place
    }

    pub(super) fn abort(&mut self, place: Place) {
        self.counts.reserved -= 1;
        self.free.push(place);
    }

    pub(super) fn publish(&mut self) {
        self.counts.reserved -= 1;
        self.counts.leased += 1;
    }

    /// The slot has been released. Returns when it is due.
    pub(super) fn release(&mut self, place: Place, now: Duration) -> Duration {
        self.counts.leased -= 1;
        self.counts.quarantined += 1;
        // Clocks of several threads may be read in another order than the lock is taken.
        let released = self.quarantine.back().map_or(now, |(_, last)| now.max(*last));
        self.quarantine.push_back((place, released));
        released + self.rules.grace
    }

    /// What is due now. `see` looks at a slot.
    pub(super) fn due(&mut self, now: Duration, see: impl Fn(Place) -> Seen) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        let (grace, max_grace) = (self.rules.grace, self.rules.max_grace);
        let linger =
            std::mem::take(&mut self.lingering).into_keys().map(|(released, place)| (place, released));
        let mut candidates: Vec<_> = linger.collect();
        while let Some((place, released)) = self.quarantine.front().copied()
            && released + grace <= now
        {
            self.quarantine.pop_front();
            candidates.push((place, released));
        }
        for (place, released) in candidates {
            let seen = see(place);
            let waited = now.saturating_sub(released);
            match seen {
                Seen { is_empty: true, is_worn: false } => verdicts.push(Verdict::Recycle(place)),
                Seen { is_empty: true, is_worn: true } => verdicts.push(self.retire(place, None)),
                _ if waited >= max_grace => verdicts.push(self.retire(place, Some(waited))),
                _ => drop(self.lingering.insert((released, place), ())),
            }
        }
        verdicts
    }

    fn retire(&mut self, place: Place, inside: Option<Duration>) -> Verdict {
        self.counts.quarantined -= 1;
        self.counts.retired += 1;
        Verdict::Retire(place, inside)
    }

    /// The object has been reset.
    pub(super) fn recycled(&mut self, place: Place) {
        self.counts.quarantined -= 1;
        self.counts.recycled += 1;
        self.free.push(place);
    }

    /// When the next slot is due, at the earliest.
    pub(super) fn next_due(&self) -> Option<Duration> {
        let first = self.quarantine.front().map(|(_, released)| *released + self.rules.grace);
        // They may be due at any moment, which the last user inside announces, and are due at the end.
        let last =
            self.lingering.first_key_value().map(|((released, _), ())| *released + self.rules.max_grace);
        [first, last].into_iter().flatten().min()
    }

    /// The free slots, which are the caller's until it puts them back.
    pub(super) fn take_free(&mut self) -> Vec<Place> {
        std::mem::take(&mut self.free)
    }

    pub(super) fn put_free(&mut self, places: Vec<Place>) {
        self.free.extend(places);
    }

    /// How many slots have ever been used.
    pub(super) fn used(&self) -> Place {
        self.used
    }
}

#[cfg(all(test, not(cenote_loom)))]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    const RULES: Rules = Rules { max_size: 2, max_retired: 1, grace: secs(1), max_grace: secs(10) };
    const EMPTY: Seen = Seen { is_empty: true, is_worn: false };
    const INSIDE: Seen = Seen { is_empty: false, is_worn: false };
    const WORN: Seen = Seen { is_empty: true, is_worn: true };

    fn lease(core: &mut Core) -> Place {
        let place = core.reserve().expect("below the limit");
        core.publish();
        place
    }

    #[test]
    fn a_released_slot_waits_for_its_grace_period_and_its_users() {
        let mut core = Core::new(RULES);
        let place = lease(&mut core);
        assert_eq!(core.release(place, secs(5)), secs(6));
        for (now, seen, expected) in [
            (5, EMPTY, vec![]),
            (6, INSIDE, vec![]),
            (14, INSIDE, vec![]),
            (14, EMPTY, vec![Verdict::Recycle(place)]),
            (15, EMPTY, vec![]),
        ] {
            assert_eq!(core.due(secs(now), |_| seen), expected, "{now} {seen:?}");
        }
        assert_eq!(core.counts().quarantined, 1, "until its object is reset");
        core.recycled(place);
        assert_eq!(core.reserve(), Some(place));
    }

    #[test]
    fn a_user_who_stays_too_long_and_the_last_generation_retire_the_slot() {
        for (now, seen, inside) in [(15, INSIDE, Some(secs(10))), (6, WORN, None)] {
            let mut core = Core::new(RULES);
            let place = lease(&mut core);
            core.release(place, secs(5));
            assert_eq!(core.due(secs(now), |_| seen), [Verdict::Retire(place, inside)]);
            assert_eq!((core.counts().retired, core.counts().quarantined), (1, 0));
            assert_ne!(core.reserve(), Some(place));
        }
    }

    #[test]
    fn slots_in_quarantine_count_and_retired_ones_only_beyond_their_limit() {
        let mut core = Core::new(RULES);
        let (first, second) = (lease(&mut core), lease(&mut core));
        assert_eq!(core.reserve(), None);
        core.release(first, secs(0));
        assert_eq!(core.reserve(), None, "it is in quarantine");
        core.due(secs(10), |_| INSIDE);
        let third = core.reserve().expect("one may retire");
        core.publish();
        assert_eq!(core.reserve(), None);
        core.release(second, secs(10));
        core.release(third, secs(10));
        core.due(secs(20), |_| INSIDE);
        assert_eq!(core.counts().retired, 3);
        assert_eq!(core.reserve(), None, "two of the retired ones count");
    }

    #[test]
    fn an_aborted_reservation_is_free_at_once() {
        let mut core = Core::new(RULES);
        let place = core.reserve().unwrap();
        core.abort(place);
        assert_eq!(core.reserve(), Some(place));
        assert_eq!(core.next_due(), None);
    }

    #[test]
    fn the_next_due_time_is_known() {
        let mut core = Core::new(RULES);
        let (first, second) = (lease(&mut core), lease(&mut core));
        core.release(first, secs(1));
        core.release(second, secs(3));
        assert_eq!(core.next_due(), Some(secs(2)));
        core.due(secs(2), |_| INSIDE);
        assert_eq!(core.next_due(), Some(secs(4)));
        core.due(secs(4), |_| INSIDE);
        assert_eq!(core.next_due(), Some(secs(11)));
    }
}
