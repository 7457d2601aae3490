//! The slots with their objects, and what is done with them. Slots never move, and live as long as the table.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::core::{Core, Place, Rules, Seen, Verdict};
use super::error::{Exhausted, Stale};
use super::pool::{Handle, QuarantineStats, Retired};
use super::ranges::{self, Range};
use super::recycler::Signal;
use super::slot::{Layout, Word};
use crate::primitive::{Arc, Mutex, OnceLock, UnsafeCell};

/// Slots that are allocated together.
const CHUNK: usize = 64;

pub(super) struct Slot<T> {
    pub(super) word: Word,
    /// The object, if one has been made. Touched by the holder of a reserved slot, by the recycler when nobody is inside a slot in
    /// quarantine, and, shared, by the users inside.
    object: UnsafeCell<Option<T>>,
}

// SAFETY: the word says who may touch the object: one at a time mutably, who may be on any thread (`Send`), or several, shared
// (`Sync`).
unsafe impl<T: Send + Sync> Sync for Slot<T> {}

impl<T> Slot<T> {
    /// # Safety
    ///
    /// There is an object, and the caller is inside for as long as the reference lives, or holds the slot and has no other reference
    /// that is mutable.
    pub(super) unsafe fn object(&self) -> &T {
        // SAFETY: nobody has the object mutably while someone is inside, and a slot that was published has one.
        self.object.with_mut(|object| unsafe { (*object).as_ref().unwrap_unchecked() })
    }

    /// # Safety
    ///
    /// The caller holds the slot: it has reserved it, or is the recycler and has seen that nobody is inside.
    #[allow(clippy::mut_from_ref)] // the caller's right
    pub(super) unsafe fn object_mut(&self) -> &mut Option<T> {
        // SAFETY: the caller's promise.
        self.object.with_mut(|object| unsafe { &mut *object })
    }
}

/// Allocated when one of its slots is first used.
type Chunk<T> = OnceLock<Box<[CachePadded<Slot<T>>]>>;

pub(super) struct Table<T> {
    /// Its number in the process.
    pub(super) id: u64,
    pub(super) layout: Layout,
    pub(super) generation_bits: u32,
    range: Range,
    rules: Rules,
    chunks: Box<[Chunk<T>]>,
    core: Mutex<Core>,
    pub(super) factory: Box<dyn Fn() -> T + Send + Sync>,
    reset: Box<dyn Fn(&mut T) + Send + Sync>,
    on_retired: Option<Box<dyn Fn(Retired) + Send + Sync>>,
    clock: Box<dyn Fn() -> Duration + Send + Sync>,
    pub(super) signal: Arc<Signal>,
}

/// What a builder gives.
pub(super) struct Parts<T> {
    pub(super) rules: Rules,
    pub(super) generation_bits: u32,
    pub(super) factory: Box<dyn Fn() -> T + Send + Sync>,
    pub(super) reset: Box<dyn Fn(&mut T) + Send + Sync>,
    pub(super) on_retired: Option<Box<dyn Fn(Retired) + Send + Sync>>,
    pub(super) clock: Box<dyn Fn() -> Duration + Send + Sync>,
}

impl<T> Table<T> {
    pub(super) fn new(id: u64, parts: Parts<T>, range: Range) -> Self {
        let Parts { rules, generation_bits, factory, reset, on_retired, clock } = parts;
        let chunks = (range.len as usize).div_ceil(CHUNK);
        Table {
            id,
            layout: Layout::new(generation_bits),
            generation_bits,
            range,
            rules,
            chunks: (0..chunks).map(|_| OnceLock::new()).collect(),
            core: Mutex::new(Core::new(rules)),
            factory,
            reset,
            on_retired,
            clock,
            signal: Arc::default(),
        }
    }

    pub(super) fn now(&self) -> Duration {
        (self.clock)()
    }

    pub(super) fn handle(&self, place: Place, generation: u64) -> Handle {
        Handle {
            table: self.id,
            slot: self.range.first + place,
            generation,
            generation_bits: self.generation_bits,
        }
    }

    /// A slot that has been used.
    #[inline]
    fn find(&self, place: Place) -> Option<&Slot<T>> {
        let place = place as usize;
        Some(&self.chunks.get(place / CHUNK)?.get()?[place % CHUNK])
    }

    pub(super) fn slot(&self, place: Place) -> &Slot<T> {
        self.find(place).expect("a slot of this table that has been reserved")
    }

    #[inline]
    fn locate(&self, handle: Handle) -> Result<(Place, &Slot<T>), Stale> {
        if handle.table != self.id {
            return Err(Stale::OtherTable);
        }
        let place = handle.slot.wrapping_sub(self.range.first);
        self.find(place).map(|slot| (place, slot)).ok_or(Stale::Unknown)
    }

    #[inline]
    pub(super) fn enter(&self, handle: Handle) -> Result<(Place, &Slot<T>), Stale> {
        let (place, slot) = self.locate(handle)?;
        slot.word.enter(self.layout, handle.generation)?;
        Ok((place, slot))
    }

    #[inline]
    pub(super) fn leave(&self, slot: &Slot<T>) {
        if slot.word.leave(self.layout) {
            // It may be due already.
            self.signal.notify();
        }
    }

    pub(super) fn reserve(&self) -> Result<Place, Exhausted> {
        let mut core = self.core.lock();
        let Some(place) = core.reserve() else {
            let (counts, due) = (core.counts(), core.next_due());
            drop(core);
            return Err(Exhausted {
                leased: counts.leased + counts.reserved,
                quarantined: counts.quarantined,
                retired: counts.retired,
                next_due: due.map(|due| due.saturating_sub(self.now())),
            });
        };
        drop(core);
        self.chunks[place as usize / CHUNK].get_or_init(|| {
            let slot =
                || Slot { word: Word::new(self.layout, self.range.floor), object: UnsafeCell::new(None) };
            (0..CHUNK).map(|_| CachePadded::new(slot())).collect()
        });
        Ok(place)
    }

    /// Gives a slot back that nobody has seen.
    pub(super) fn abort(&self, place: Place) {
        self.reset(place);
        self.core.lock().abort(place);
    }

    pub(super) fn publish(&self, place: Place) -> u64 {
        self.core.lock().publish();
        self.slot(place).word.publish(self.layout)
    }

    /// `leaves`: the caller is inside, as its owner, and leaves.
    pub(super) fn release(&self, handle: Handle, leaves: bool) -> Result<(), Stale> {
        let (place, slot) = self.locate(handle)?;
        let released = slot.word.release(self.layout, handle.generation, leaves);
        if let Err(refusal) = released {
            if leaves {
                self.leave(slot);
            }
            return Err(refusal.into());
        }
        let now = self.now();
        let mut core = self.core.lock();
        let was_idle = core.next_due().is_none();
        core.release(place, now);
        drop(core);
        if was_idle {
            self.signal.notify();
        }
        Ok(())
    }

    /// Does what is due, and says when there is more.
    pub(super) fn run_due(&self) -> Option<Duration> {
        let now = self.now();
        let verdicts = self.core.lock().due(now, |place| {
            let word = &self.slot(place).word;
            Seen {
                is_empty: word.is_empty(self.layout),
                is_worn: word.generation(self.layout) >= self.layout.top(),
            }
        });
        for verdict in verdicts {
            match verdict {
                Verdict::Recycle(place) => {
                    self.reset(place);
                    self.slot(place).word.reopen(self.layout);
                    self.core.lock().recycled(place);
                }
                Verdict::Retire(place, inside) => {
                    self.slot(place).word.retire();
                    if let Some(hook) = &self.on_retired {
                        let retired = Retired { slot: self.range.first + place, inside };
                        // What a panic leaves half done is the hook's own.
                        let _ = catch_unwind(AssertUnwindSafe(|| hook(retired)));
                    }
                }
            }
        }
        self.core.lock().next_due()
    }

    /// Resets the object of a slot that the caller holds. One whose reset panics is dropped.
    fn reset(&self, place: Place) {
        // SAFETY: the slot is reserved by the caller, or the recycler has seen that nobody is inside.
        let object = unsafe { self.slot(place).object_mut() };
        if let Some(value) = object
            && catch_unwind(AssertUnwindSafe(|| (self.reset)(value))).is_err()
        {
            let _ = catch_unwind(AssertUnwindSafe(|| *object = None));
        }
    }

    /// Drops the objects of free slots, but for so many of them.
    pub(super) fn shrink(&self, keep: usize) {
        let places = self.core.lock().take_free();
        let surplus = places.len().saturating_sub(keep);
        for place in &places[..surplus] {
            // SAFETY: the slot is free, and out of the list: nobody reserves it.
            let object = unsafe { self.slot(*place).object_mut() };
            let _ = catch_unwind(AssertUnwindSafe(|| *object = None));
        }
        self.core.lock().put_free(places);
    }

    pub(super) fn stats(&self) -> QuarantineStats {
        let counts = self.core.lock().counts();
        QuarantineStats {
            free: counts.free,
            reserved: counts.reserved,
            leased: counts.leased,
            quarantined: counts.quarantined,
            retired: counts.retired,
            recycled: counts.recycled,
            max_size: self.rules.max_size,
        }
    }
}

impl<T> Drop for Table<T> {
    fn drop(&mut self) {
        let used = self.core.lock().used();
        let generations =
            (0..used).filter_map(|place| self.find(place)).map(|slot| slot.word.generation(self.layout));
        let floor = generations.max().map_or(self.range.floor, |last| last + 1);
        let Range { first, len, .. } = self.range;
        ranges::give_back(self.generation_bits, Range { first, len, floor });
    }
}
