//! The pool, its handles and its guards.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::core::{Place, Rules};
use super::error::{BuildError, Exhausted, Stale};
use super::ranges;
use super::recycler::Recycler;
use super::table::{Parts, Slot, Table};
use crate::primitive::atomic::{AtomicU64, Ordering};
use crate::primitive::{Arc, clock};

/// A table of objects that are named by small handles, and recycled only when nobody can be looking at them. See the
/// [module](super).
pub struct QuarantinePool<T> {
    table: Arc<Table<T>>,
    recycler: Option<Arc<Recycler>>,
}

impl<T> Clone for QuarantinePool<T> {
    fn clone(&self) -> Self {
        QuarantinePool { table: Arc::clone(&self.table), recycler: self.recycler.clone() }
    }
}

impl<T> fmt::Debug for QuarantinePool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuarantinePool").field("stats", &self.table.stats()).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> QuarantinePool<T> {
    /// A pool whose factory makes an object when a slot is used for the first time.
    pub fn builder(factory: impl Fn() -> T + Send + Sync + 'static) -> Builder<T> {
        Builder {
            parts: Parts {
                rules: Rules {
                    max_size: 1024,
                    max_retired: 64,
                    grace: Duration::from_secs(1),
                    max_grace: Duration::from_secs(60),
                },
                generation_bits: 40,
                factory: Box::new(factory),
                reset: Box::new(|_| ()),
                on_retired: None,
                clock: Box::new(|| Duration::from_nanos(clock::now_ns())),
            },
            is_by_hand: false,
        }
    }

    /// Takes a free slot.
    ///
    /// # Errors
    ///
    /// [`Exhausted`], which says what the slots are doing.
    ///
    /// # Panics
    ///
    /// If the factory does. The slot is free again.
    pub fn reserve(&self) -> Result<Reserved<T>, Exhausted> {
        let place = self.table.reserve()?;
        let reserved = Reserved { table: Some(Arc::clone(&self.table)), place };
        // SAFETY: the slot is reserved.
        let object = unsafe { self.table.slot(place).object_mut() };
        if object.is_none() {
            *object = Some((self.table.factory)());
        }
        Ok(reserved)
    }

    /// Pins the object of a handle: while the pin lives the slot is not recycled.
    ///
    /// # Errors
    ///
    /// [`Stale`], if the object has been released.
    #[inline]
    pub fn enter(&self, handle: Handle) -> Result<Pin<'_, T>, Stale> {
        let (_, slot) = self.table.enter(handle)?;
        Ok(Pin { table: &self.table, slot })
    }

    /// Pins the object for a user that is no stack frame: an operation in flight in the kernel, a blocking thread, a task.
    ///
    /// # Errors
    ///
    /// [`Stale`], if the object has been released.
    pub fn enter_owned(&self, handle: Handle) -> Result<OwnedPin<T>, Stale> {
        let (place, _) = self.table.enter(handle)?;
        Ok(OwnedPin { table: Arc::clone(&self.table), place })
    }

    /// Releases the object of a handle in its owner's place. The owner stays inside until it goes.
    ///
    /// # Errors
    ///
    /// [`Stale`], if it has been released already: then this does nothing.
    pub fn release(&self, handle: Handle) -> Result<(), Stale> {
        self.table.release(handle, false)
    }

    /// Recycles and retires what is due now, and says how long it is until there is more. The recycler's thread does so by itself.
    pub fn run_due(&self) -> Option<Duration> {
        let due = self.table.run_due()?;
        Some(due.saturating_sub(self.table.now()))
    }

    /// Drops the objects of all free slots. Leased ones stay with their owners, and those in quarantine stay there.
    pub fn clear(&self) {
        self.shrink(0);
    }

    /// Drops the objects of free slots, but for so many of them.
    pub fn shrink(&self, keep: usize) {
        self.table.shrink(keep);
    }

    /// What the slots are doing now.
    pub fn stats(&self) -> QuarantineStats {
        self.table.stats()
    }
}

/// Builds a [`QuarantinePool`].
#[must_use]
pub struct Builder<T> {
    parts: Parts<T>,
    is_by_hand: bool,
}

impl<T> fmt::Debug for Builder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("rules", &self.parts.rules).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Builder<T> {
    /// The limit of slots, those in quarantine among them. 1024 by default.
    pub fn max_size(mut self, slots: usize) -> Self {
        self.parts.rules.max_size = slots;
        self
    }

    /// How many retired slots do not count towards the limit. 64 by default.
    pub fn max_retired(mut self, slots: usize) -> Self {
        self.parts.rules.max_retired = slots;
        self
    }

    /// How long a slot is in quarantine at least. 1 s by default.
    pub fn grace(mut self, time: Duration) -> Self {
        self.parts.rules.grace = time;
        self
    }

    /// How long after its release a slot is retired if somebody is still inside. 60 s by default.
    pub fn max_grace(mut self, time: Duration) -> Self {
        self.parts.rules.max_grace = time;
        self
    }

    /// Makes an object as good as new. It runs before the slot is free again, in the recycler's thread, and in
    /// [`Reserved::abort`]. An object whose reset panics is dropped.
    pub fn reset(mut self, reset: impl Fn(&mut T) + Send + Sync + 'static) -> Self {
        self.parts.reset = Box::new(reset);
        self
    }

    /// Sets a hook that is called for each slot that is retired.
    pub fn on_retired(mut self, hook: impl Fn(Retired) + Send + Sync + 'static) -> Self {
        self.parts.on_retired = Some(Box::new(hook));
        self
    }

    /// How many bits of a [token](Handle::to_u64) are the generation, from 8 to 48; the others are the slot. 40 by default, with
    /// room for 16 million slots.
    pub fn generation_bits(mut self, bits: u32) -> Self {
        self.parts.generation_bits = bits;
        self
    }

    /// The time since some moment in the past. The machine's monotonic clock by default.
    pub fn clock(mut self, clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        self.parts.clock = Box::new(clock);
        self
    }

    /// Starts no thread: quarantines end in calls of [`run_due`](QuarantinePool::run_due).
    pub fn by_hand(mut self) -> Self {
        self.is_by_hand = true;
        self
    }

    /// Builds the pool, and starts its recycler.
    ///
    /// # Errors
    ///
    /// See [`BuildError`].
    pub fn build(self) -> Result<QuarantinePool<T>, BuildError> {
        static TABLES: AtomicU64 = AtomicU64::new(0);
        let Builder { parts, is_by_hand } = self;
        let Rules { max_size, max_retired, grace, max_grace } = parts.rules;
        if max_size == 0 {
            return Err(BuildError::Zero);
        }
        if !(8..=48).contains(&parts.generation_bits) {
            return Err(BuildError::GenerationBits(parts.generation_bits));
        }
        if max_grace < grace {
            return Err(BuildError::MaxGrace);
        }
        let slots = u32::try_from(max_size.saturating_add(max_retired)).ok();
        let range = slots.and_then(|slots| ranges::take(parts.generation_bits, slots));
        // Relaxed: only the numbers count.
        let id = TABLES.fetch_add(1, Ordering::Relaxed);
        let table = Arc::new(Table::new(id, parts, range.ok_or(BuildError::TooManySlots)?));
        let recycler = match is_by_hand {
            true => None,
            false => Some(Arc::new(Recycler::start(&table).map_err(BuildError::Thread)?)),
        };
        Ok(QuarantinePool { table, recycler })
    }
}

/// Names an object of a [`QuarantinePool`], for as long as it is not released. It is a number, holds nothing, and may outlive all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    pub(super) table: u64,
    pub(super) slot: u32,
    pub(super) generation: u64,
    pub(super) generation_bits: u32,
}

impl Handle {
    /// The slot and the generation in one word, for `epoll_data`, `user_data` and the like.
    pub fn to_u64(self) -> u64 {
        u64::from(self.slot) << self.generation_bits | self.generation
    }

    /// The handle of a token of this pool. It has no room for the table: a token of another one, or one that was made up, is
    /// [`Stale`], because no two tables of the process that live at once, and divide tokens alike, have a slot in common.
    pub fn from_u64<T>(token: u64, pool: &QuarantinePool<T>) -> Handle {
        let table = &pool.table;
        Handle {
            table: table.id,
            slot: (token >> table.generation_bits) as u32,
            generation: token & table.layout.top(),
            generation_bits: table.generation_bits,
        }
    }
}

/// A slot that nobody has seen yet. Its drop gives it back at once.
#[must_use]
pub struct Reserved<T: Send + Sync + 'static> {
    /// `None` once it is published.
    table: Option<Arc<Table<T>>>,
    place: Place,
}

impl<T: Send + Sync + 'static> Reserved<T> {
    /// Gives the slot back at once, without a quarantine: nobody has seen it. The object is reset.
    pub fn abort(self) {}

    /// Shows the object to others. From now on there is no way past the quarantine.
    pub fn publish(mut self) -> (Owner<T>, Handle) {
        let table = self.table.take().expect("it is published once");
        let handle = table.handle(self.place, table.publish(self.place));
        (Owner { table, place: self.place, handle }, handle)
    }

    fn slot(&self) -> &Slot<T> {
        self.table.as_ref().expect("it is not published").slot(self.place)
    }
}

impl<T: Send + Sync + 'static> Deref for Reserved<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the slot is reserved, and `reserve` has made the object.
        unsafe { self.slot().object() }
    }
}

impl<T: Send + Sync + 'static> DerefMut for Reserved<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the slot is reserved, and `self` borrowed mutably.
        unsafe { self.slot().object_mut() }.as_mut().expect("`reserve` has made it")
    }
}

impl<T: Send + Sync + 'static> Drop for Reserved<T> {
    fn drop(&mut self) {
        if let Some(table) = self.table.take() {
            table.abort(self.place);
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Reserved<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reserved").field("place", &self.place).finish_non_exhaustive()
    }
}

/// The right to release an object, and a pin on it. Its drop releases.
#[must_use = "the object is released when its owner is dropped"]
pub struct Owner<T: Send + Sync + 'static> {
    table: Arc<Table<T>>,
    place: Place,
    handle: Handle,
}

impl<T: Send + Sync + 'static> Owner<T> {
    /// What others call the object.
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// Releases the object: nobody enters from now on, and the slot goes into quarantine. Users who are inside stay.
    pub fn release(self) {}
}

impl<T: Send + Sync + 'static> Deref for Owner<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the owner is inside until its drop.
        unsafe { self.table.slot(self.place).object() }
    }
}

impl<T: Send + Sync + 'static> Drop for Owner<T> {
    fn drop(&mut self) {
        // Somebody may have released the object by its handle: then this only leaves.
        let _ = self.table.release(self.handle, true);
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Owner<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner").field("handle", &self.handle).finish_non_exhaustive()
    }
}

/// A look at an object, which is not recycled meanwhile. See [`QuarantinePool::enter`].
#[must_use = "the object may be recycled as soon as the pin is dropped"]
pub struct Pin<'a, T> {
    table: &'a Table<T>,
    slot: &'a Slot<T>,
}

impl<T> Deref for Pin<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this user is inside until its drop.
        unsafe { self.slot.object() }
    }
}

impl<T> Drop for Pin<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.table.leave(self.slot);
    }
}

impl<T> fmt::Debug for Pin<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pin").finish_non_exhaustive()
    }
}

/// A pin that borrows nothing. See [`QuarantinePool::enter_owned`].
#[must_use = "the object may be recycled as soon as the pin is dropped"]
pub struct OwnedPin<T> {
    table: Arc<Table<T>>,
    place: Place,
}

impl<T> Deref for OwnedPin<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this user is inside until its drop.
        unsafe { self.table.slot(self.place).object() }
    }
}

impl<T> Drop for OwnedPin<T> {
    fn drop(&mut self) {
        self.table.leave(self.table.slot(self.place));
    }
}

impl<T> fmt::Debug for OwnedPin<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedPin").field("place", &self.place).finish_non_exhaustive()
    }
}

/// A slot that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retired {
    /// The slot, as in a [token](Handle::to_u64).
    pub slot: u32,
    /// For how long somebody has been inside since the release. `None` if its generations are used up.
    pub inside: Option<Duration>,
}

/// What the slots of a pool are doing, taken under one lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuarantineStats {
    /// Slots that have been used and are free.
    pub free: usize,
    /// Slots that are reserved and not published.
    pub reserved: usize,
    /// Slots that owners have.
    pub leased: usize,
    /// Slots in quarantine.
    pub quarantined: usize,
    /// Slots that are never used again.
    pub retired: usize,
    /// Quarantines that have ended so far.
    pub recycled: u64,
    /// The limit of slots.
    pub max_size: usize,
}
