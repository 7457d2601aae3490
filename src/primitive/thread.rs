//! Which thread this is, and what it keeps for each map.
//!
//! A thread that uses a map gets a *number* on its first visit and gives it back when it ends; the next new thread takes it
//! over, and with it whatever a map holds under that number. Beside its number a thread keeps a *table* that leads from
//! the [`Id`] of a map to a pointer of the map's, so that a hit is one look-up without a lock or a shared write.
//!
//! # Why not the numbers of the `thread_local` crate
//!
//! They are given out under a lock that a forked child can find taken for ever, they are taken back by a destructor after
//! which the next use panics, and a map that is indexed by them allocates for every thread of the process (4 KiB of
//! pointers for one user among 300 threads). Numbers here come from a lock-free list, and a table is as large as what its
//! thread uses.
//!
//! # Invariants
//!
//! * Two threads never own a number at once. What its last owner did happens before what the next one does: the number is
//!   given back with Release and taken with Acquire, by exchanges on one word.
//! * A table has entries only while its thread owns a number. The same destructor empties the table and then gives the
//!   number back. So it does not matter in which order a platform runs thread-local destructors, or whether it makes
//!   a variable anew after its end: a new table is empty.
//! * An id is never used again, so an entry of a map that is gone matches no other map. Nobody follows its pointer.
//! * Nothing here panics in a late destructor, and nothing takes a lock. A signal handler may use a map in the middle of
//!   anything that its thread does here.

#[cfg(not(cenote_loom))]
use std::cell::Cell;
#[cfg(not(cenote_loom))]
use std::ptr;
use std::ptr::NonNull;

use super::atomic::{AtomicU32, AtomicU64, Ordering};

/// Which map this is among all that ever were, and where its entry lies in a table.
///
/// The low bits are a slot that no other map has as long as this one lives, if there are not too many: so the maps of a process
/// do not get in each other's way in a table that is large enough. The high bits make the id unique.
pub(crate) struct Id {
    id: AtomicU64,
    /// To be given back. Set with `id`.
    slot: AtomicU32,
}

/// Of a map that nobody has used, or when there are no ids left.
const UNASSIGNED: u64 = 0;

/// Slots are so far apart, which is the size of a table's entry: an offset into a table follows from an id by a mask.
const STEP: u64 = 16;

/// Slots with an identity of their own.
const SLOTS: u64 = 1 << 16;

/// What makes an id unique is counted in steps of this. (With a million new maps a second, in 200 days there are no ids left.
/// Then new maps work without tables.)
const UNIQUE: u64 = STEP * SLOTS;

impl Id {
    #[cfg(not(cenote_loom))]
    pub(crate) const fn new() -> Self {
        Id { id: AtomicU64::new(UNASSIGNED), slot: AtomicU32::new(0) }
    }

    #[cfg(cenote_loom)]
    pub(crate) fn new() -> Self {
        Id { id: AtomicU64::new(UNASSIGNED), slot: AtomicU32::new(0) }
    }

    /// The id, or one that matches no entry.
    #[inline(always)]
    fn get(&self) -> u64 {
        // Relaxed: a thread that has an entry under this id has seen the id before.
        self.id.load(Ordering::Relaxed)
    }

    /// `None` if there are no ids left.
    #[cold]
    fn get_or_assign(&self) -> Option<u64> {
        // Not a checked atomic: an id publishes nothing.
        static LAST: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(UNASSIGNED);
        let id = self.get();
        if id != UNASSIGNED {
            return Some(id);
        }
        let next = |last: u64| last.checked_add(UNIQUE);
        let unique = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()? + UNIQUE;
        let slot = imp::take_slot();
        let new = unique + u64::from(slot) % SLOTS * STEP;
        // Relaxed: the exchange decides which it is.
        match self.id.compare_exchange(UNASSIGNED, new, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => {
                self.slot.store(slot, Ordering::Relaxed);
                Some(new)
            }
            Err(other) => {
                imp::give_slot_back(slot);
                Some(other)
            }
        }
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        if self.get() != UNASSIGNED {
            imp::give_slot_back(self.slot.load(Ordering::Relaxed));
        }
    }
}

/// The calling thread, with its number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Current {
    pub(crate) number: u32,
    /// Whether the thread may already own something in a map that its table does not lead to: another thread had
    /// the number before, or something was not inserted.
    pub(crate) may_own_more: bool,
}

/// Numbers that are given out once at a time.
///
/// Those that were given back form a Treiber stack, linked by number and not by pointer. The memory of the links is never
/// freed, and a tag in the stack's head changes with every operation, so that a thread that was interrupted between its
/// load and its exchange notices (it would have to sleep for exactly 2^32 operations not to).
struct Numbers {
    /// The number given back last, plus 1, or 0, in the low half; the tag in the high half.
    free: AtomicU64,
    /// The numbers from here on have never been given out.
    unused: AtomicU32,
    /// Block `b` has the links of 2^b numbers.
    links: [super::atomic::AtomicPtr<AtomicU32>; BLOCKS],
}

const BLOCKS: usize = if cfg!(cenote_loom) { 3 } else { 32 };
const TAG: u64 = 1 << 32;

impl Numbers {
    #[cfg(not(cenote_loom))]
    const fn new() -> Self {
        Numbers {
            free: AtomicU64::new(0),
            unused: AtomicU32::new(0),
            links: [const { super::atomic::AtomicPtr::new(ptr::null_mut()) }; BLOCKS],
        }
    }

    #[cfg(all(cenote_loom, test))]
    fn new() -> Self {
        Numbers {
            free: AtomicU64::new(0),
            unused: AtomicU32::new(0),
            links: std::array::from_fn(|_| super::atomic::AtomicPtr::new(std::ptr::null_mut())),
        }
    }

    /// A number, and whether another thread had it before.
    fn take(&self) -> (u32, bool) {
        // Acquire: what the last owner of the number did. Every change of the word is an exchange, so each load reads
        // from the release sequence of every earlier `give_back`.
        let mut head = self.free.load(Ordering::Acquire);
        while head as u32 != 0 {
            let number = head as u32 - 1;
            // Relaxed: if another thread changes the link meanwhile, the tag has changed, too.
            let next = self.link(number).load(Ordering::Relaxed);
            let new = (head & !(TAG - 1)).wrapping_add(TAG) | u64::from(next);
            match self.free.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return (number, true),
                Err(now) => head = now,
            }
        }
        // Relaxed: each gets another one.
        let number = self.unused.fetch_add(1, Ordering::Relaxed);
        self.make_link(number);
        (number, false)
    }

    fn give_back(&self, number: u32) {
        let mut head = self.free.load(Ordering::Relaxed);
        loop {
            // Relaxed: the exchange below publishes it.
            self.link(number).store(head as u32, Ordering::Relaxed);
            let new = (head & !(TAG - 1)).wrapping_add(TAG) | u64::from(number + 1);
            // Release: what this owner did.
            match self.free.compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// The block of a number's link, and its place there.
    fn place(number: u32) -> (usize, usize) {
        let position = number as usize + 1;
        let block = position.ilog2() as usize;
        (block, position - (1 << block))
    }

    fn link(&self, number: u32) -> &AtomicU32 {
        let (block, index) = Self::place(number);
        // Acquire: the links themselves were initialized.
        let links = self.links[block].load(Ordering::Acquire);
        // SAFETY: `make_link` was called for the number before it was given out, and its block has `1 << block` links.
        unsafe { &*links.add(index) }
    }

    /// Makes sure that the number's block is there.
    fn make_link(&self, number: u32) {
        let (block, _) = Self::place(number);
        if !self.links[block].load(Ordering::Acquire).is_null() {
            return;
        }
        let new: Box<[AtomicU32]> = (0..1usize << block).map(|_| AtomicU32::new(0)).collect();
        let new = Box::into_raw(new);
        let null = std::ptr::null_mut();
        // Release: the links. Acquire: those of the thread that was quicker.
        if self.links[block].compare_exchange(null, new.cast(), Ordering::AcqRel, Ordering::Acquire).is_err()
        {
            // SAFETY: it comes from `into_raw`, and nobody else has seen it.
            drop(unsafe { Box::from_raw(new) });
        }
    }
}

#[cfg(cenote_loom)]
impl Drop for Numbers {
    fn drop(&mut self) {
        for (block, links) in self.links.iter().enumerate() {
            let links = links.load(Ordering::Relaxed);
            if !links.is_null() {
                let links = std::ptr::slice_from_raw_parts_mut(links, 1 << block);
                // SAFETY: it comes from `into_raw`, and nobody uses the numbers any more.
                drop(unsafe { Box::from_raw(links) });
            }
        }
    }
}

#[cfg(not(cenote_loom))]
mod imp {
    use std::sync::atomic::compiler_fence;

    use super::*;
    use crate::primitive::atomic::{AtomicPtr, AtomicUsize};

    static NUMBERS: Numbers = Numbers::new();
    static SLOTS: Numbers = Numbers::new();

    pub(super) fn take_slot() -> u32 {
        SLOTS.take().0
    }

    pub(super) fn give_slot_back(slot: u32) {
        SLOTS.give_back(slot);
    }

    /// Filled once: `value`, then `id`. Only an entry of the same slot is overwritten, whose map is gone: so a look-up that has
    /// seen its id reads the value that belongs to it, although a signal handler may come in between.
    #[repr(align(16))]
    struct Entry {
        id: AtomicU64,
        value: AtomicPtr<()>,
    }

    const _: () = assert!(size_of::<Entry>() == STEP as usize);

    impl Entry {
        const fn empty() -> Self {
            Entry { id: AtomicU64::new(NO_ID), value: AtomicPtr::new(ptr::null_mut()) }
        }

        fn fill(&self, id: u64, value: *mut ()) {
            self.id.store(NO_ID, Ordering::Relaxed);
            compiler_fence(Ordering::Release);
            self.value.store(value, Ordering::Relaxed);
            compiler_fence(Ordering::Release);
            self.id.store(id, Ordering::Relaxed);
        }
    }

    /// An id that no map has.
    const NO_ID: u64 = u64::MAX;

    /// The one entry of an empty table. Nobody fills it: an insertion first makes a block that has room.
    static NO_ENTRY: Entry = Entry::empty();

    /// Entries of the first block, and of the largest, by the power of two.
    const FIRST: u32 = 3;
    const LAST: u32 = super::SLOTS.ilog2();

    /// Values that a thread keeps for its next map.
    const KEPT: usize = 4;

    type Free = unsafe fn(*mut ());

    /// A direct-mapped table from ids to pointers. It owns nothing and has no destructor, so it can be read until the thread's
    /// end.
    ///
    /// Only its thread uses it, but a signal handler of that thread may do so in the middle of anything. So the fields are atomics,
    /// a look-up is right at each step of an insertion, an insertion in the middle of another one is left undone, and blocks of
    /// entries live until the thread ends.
    struct Table {
        entries: AtomicPtr<Entry>,
        /// The bits of an id that are the offset of its entry. The block of `entries` is at least as large as that. Loaded
        /// before `entries` and stored after it.
        mask: AtomicUsize,
    }

    thread_local! {
        static TABLE: Table = const {
            Table { entries: AtomicPtr::new((&raw const NO_ENTRY).cast_mut()), mask: AtomicUsize::new(0) }
        };
        static OWNER: Owner = const {
            Owner {
                number: Cell::new(None),
                is_changing: Cell::new(false),
                has_left_out: Cell::new(false),
                blocks: [const { Cell::new(ptr::null_mut()) }; (LAST - FIRST + 1) as usize],
                kept: [const { Cell::new(ptr::null_mut()) }; KEPT],
                free: Cell::new(None),
            }
        };
    }

    /// Owns the thread's number, once it has one, and what the table leads through.
    struct Owner {
        /// The number, and whether another thread had it before.
        number: Cell<Option<(u32, bool)>>,
        /// Whether the thread is in the middle of a change to one of the fields that follow: a signal handler finds it set.
        is_changing: Cell<bool>,
        /// Whether something was not inserted.
        has_left_out: Cell<bool>,
        /// The blocks of the table so far, by size. Entries of the largest one are looked up.
        blocks: [Cell<*mut Entry>; (LAST - FIRST + 1) as usize],
        kept: [Cell<*mut ()>; KEPT],
        free: Cell<Option<Free>>,
    }

    impl Drop for Owner {
        fn drop(&mut self) {
            let Some((number, _)) = self.number.take() else { return };
            let _ = TABLE.try_with(Table::empty);
            for (block, power) in self.blocks.iter().zip(FIRST..) {
                let block = block.replace(ptr::null_mut());
                if !block.is_null() {
                    // SAFETY: `grow` made it with so many entries, and the table does not lead there any more.
                    drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(block, 1 << power)) });
                }
            }
            if let Some(free) = self.free.get() {
                let kept =
                    self.kept.iter().map(|kept| kept.replace(ptr::null_mut())).filter(|kept| !kept.is_null());
                // SAFETY: promised by the caller of `keep`.
                kept.for_each(|kept| unsafe { free(kept) });
            }
            NUMBERS.give_back(number);
        }
    }

    impl Owner {
        /// Changes something, unless this comes from a signal handler in the middle of another change, or from a global allocator
        /// that uses a map.
        fn change<R>(&self, change: impl FnOnce(&Self) -> R) -> Option<R> {
            if self.is_changing.replace(true) {
                return None;
            }
            compiler_fence(Ordering::SeqCst);
            let result = change(self);
            compiler_fence(Ordering::SeqCst);
            self.is_changing.set(false);
            Some(result)
        }

        /// Makes the next larger block with the entries of the last one. False if that would be too large.
        fn grow(&self, table: &Table) -> bool {
            let len = table.len();
            let power = if len == 0 { FIRST } else { len.ilog2() + 1 };
            if power > LAST {
                return false;
            }
            let new: Box<[Entry]> = (0..1 << power).map(|_| Entry::empty()).collect();
            let mask = (new.len() - 1) * size_of::<Entry>();
            for entry in table.block() {
                let id = entry.id.load(Ordering::Relaxed);
                if id != NO_ID {
                    new[(id as usize & mask) / size_of::<Entry>()]
                        .fill(id, entry.value.load(Ordering::Relaxed));
                }
            }
            let new = Box::into_raw(new).cast::<Entry>();
            self.blocks[(power - FIRST) as usize].set(new);
            table.entries.store(new, Ordering::Relaxed);
            compiler_fence(Ordering::Release);
            table.mask.store(mask, Ordering::Relaxed);
            true
        }

        /// Inserts something, unless another map is in its place and the table `may` not `grow`.
        fn insert(&self, table: &Table, id: u64, value: *mut (), may_grow: bool) {
            if table.len() == 0 {
                self.grow(table);
            }
            // A map of the same slot is gone, or is this one.
            let is_free = |there: u64| there == NO_ID || there % UNIQUE == id % UNIQUE;
            while may_grow && !is_free(table.entry(id).id.load(Ordering::Relaxed)) && self.grow(table) {}
            let entry = table.entry(id);
            if is_free(entry.id.load(Ordering::Relaxed)) {
                entry.fill(id, value);
            } else {
                self.has_left_out.set(true);
            }
        }
    }

    impl Table {
        #[inline(always)]
        fn entry(&self, id: u64) -> &Entry {
            let mask = self.mask.load(Ordering::Relaxed);
            // The compiler keeps the order. A signal handler in between leaves a larger block, which has this offset, too.
            compiler_fence(Ordering::Acquire);
            let entries = self.entries.load(Ordering::Relaxed);
            // SAFETY: the block is at least as large as a mask that was loaded before it, and lives until the thread ends.
            unsafe { &*entries.byte_add(id as usize & mask) }
        }

        fn len(&self) -> usize {
            let is_empty = ptr::eq(self.entries.load(Ordering::Relaxed), &raw const NO_ENTRY);
            if is_empty { 0 } else { self.mask.load(Ordering::Relaxed) / size_of::<Entry>() + 1 }
        }

        fn block(&self) -> &[Entry] {
            // SAFETY: see `entry`. The empty table is a block of length 0 as well.
            unsafe { std::slice::from_raw_parts(self.entries.load(Ordering::Relaxed), self.len()) }
        }

        fn empty(&self) {
            self.mask.store(0, Ordering::Relaxed);
            compiler_fence(Ordering::Release);
            self.entries.store((&raw const NO_ENTRY).cast_mut(), Ordering::Relaxed);
            compiler_fence(Ordering::Release);
        }
    }

    /// What the calling thread has inserted under this id.
    #[inline(always)]
    pub(crate) fn find(id: &Id) -> Option<NonNull<()>> {
        let id = id.get();
        let find = |table: &Table| {
            let entry = table.entry(id);
            if entry.id.load(Ordering::Relaxed) != id {
                return None;
            }
            compiler_fence(Ordering::Acquire);
            let value = entry.value.load(Ordering::Relaxed);
            // SAFETY: an entry with an id of a map has a value, which `insert` got as not null. (The compiler does not see that,
            // and would compare.)
            unsafe {
                std::hint::assert_unchecked(!value.is_null());
                Some(NonNull::new_unchecked(value))
            }
        };
        TABLE.try_with(find).ok()?
    }

    /// From now on `find` returns this value, until the thread ends. Nothing is inserted if another map is in its place and the
    /// table may not grow for it, or if this comes from a signal handler in the middle of another insertion.
    pub(crate) fn insert(id: &Id, value: NonNull<()>, may_grow: bool) {
        let Some(id) = id.get_or_assign() else { return };
        let insert = |owner: &Owner| {
            let insert = |table: &Table| owner.insert(table, id, value.as_ptr(), may_grow);
            if owner.change(|_| TABLE.try_with(insert)).is_none() {
                owner.has_left_out.set(true);
            }
        };
        let _ = OWNER.try_with(insert);
    }

    /// Makes sure that a map has an id. False if there are none left.
    pub(crate) fn assign(id: &Id) -> bool {
        id.get_or_assign().is_some()
    }

    /// The calling thread; `None` in a thread-local destructor that runs after the thread has given its number back.
    pub(crate) fn current() -> Option<Current> {
        let current = |owner: &Owner| {
            let (number, inherited) = owner.number.get().unwrap_or_else(|| {
                // A signal handler in the middle of this takes a number that is not given back.
                let number = NUMBERS.take();
                owner.number.set(Some(number));
                number
            });
            Current { number, may_own_more: inherited || owner.has_left_out.get() }
        };
        OWNER.try_with(current).ok()
    }

    /// The calling thread's number, if it has one.
    pub(crate) fn number_if_any() -> Option<u32> {
        OWNER.try_with(|owner| owner.number.get()).ok().flatten().map(|(number, _)| number)
    }

    /// Keeps a value of a map that is gone for the thread's next one. Returns false if there is no room.
    ///
    /// # Safety
    ///
    /// The value is the caller's, `free` frees it, and all callers pass the same `free`.
    pub(crate) unsafe fn keep(value: *mut (), free: Free) -> bool {
        let keep = |owner: &Owner| {
            // Without a number nobody would free it.
            owner.number.get()?;
            let place = owner.kept.iter().find(|kept| kept.get().is_null())?;
            owner.free.set(Some(free));
            place.set(value);
            Some(())
        };
        OWNER.try_with(|owner| owner.change(keep)).ok().flatten().flatten().is_some()
    }

    /// A value that `keep` has kept.
    pub(crate) fn take_kept() -> Option<*mut ()> {
        let take = |owner: &Owner| {
            let place = owner.kept.iter().find(|kept| !kept.get().is_null())?;
            Some(place.replace(ptr::null_mut()))
        };
        OWNER.try_with(|owner| owner.change(take)).ok().flatten().flatten()
    }

    thread_local! {
        static IS_DROPPING: Cell<bool> = const { Cell::new(false) };
    }

    /// While this lives, the calling thread drops objects that a pool had no more use for.
    #[derive(Debug)]
    pub(crate) struct Dropping(());

    impl Dropping {
        /// `None` if the thread is already doing so: the caller is code that such a drop has called.
        pub(crate) fn begin() -> Option<Self> {
            let begin = |is_dropping: &Cell<bool>| !is_dropping.replace(true);
            // Not `then_some`: that would make one, and drop it, in any case.
            IS_DROPPING.try_with(begin).unwrap_or(false).then(|| Dropping(()))
        }
    }

    impl Drop for Dropping {
        fn drop(&mut self) {
            let _ = IS_DROPPING.try_with(|is_dropping| is_dropping.set(false));
        }
    }
}

/// loom's threads are one thread of the system's, so the state of each is in a variable of loom's.
#[cfg(cenote_loom)]
mod imp {
    use std::cell::{Cell, RefCell};
    use std::collections::HashMap;

    use super::*;
    use crate::primitive::checker;

    checker::thread_local! {
        static NUMBER: Cell<Option<(u32, bool)>> = Cell::new(None);
        static TABLE: RefCell<HashMap<u64, NonNull<()>>> = RefCell::new(HashMap::new());
        static IS_DROPPING: Cell<bool> = Cell::new(false);
    }

    /// The numbers of one model: a lock, since their list has a model of its own.
    #[derive(Default)]
    struct Free {
        numbers: Vec<u32>,
        unused: u32,
    }

    pub(super) fn take_slot() -> u32 {
        0
    }

    pub(super) fn give_slot_back(_slot: u32) {}

    std::thread_local! {
        static FREE: RefCell<Option<std::sync::Arc<checker::sync::Mutex<Free>>>> = const { RefCell::new(None) };
    }

    fn free() -> std::sync::Arc<checker::sync::Mutex<Free>> {
        let new = || std::sync::Arc::new(checker::sync::Mutex::new(Free::default()));
        FREE.with_borrow_mut(|free| std::sync::Arc::clone(free.get_or_insert_with(new)))
    }

    /// At the end of a model.
    pub(crate) fn forget_numbers() {
        FREE.with_borrow_mut(|free| *free = None);
    }

    pub(crate) fn find(id: &Id) -> Option<NonNull<()>> {
        let id = id.get();
        TABLE.with(|table| table.borrow().get(&id).copied())
    }

    pub(crate) fn insert(id: &Id, value: NonNull<()>, _may_grow: bool) {
        let Some(id) = id.get_or_assign() else { return };
        TABLE.with(|table| table.borrow_mut().insert(id, value));
    }

    pub(crate) fn current() -> Option<Current> {
        let (number, inherited) = NUMBER.with(Cell::get).unwrap_or_else(|| {
            let free = free();
            let mut free = free.lock().unwrap();
            let number = free.numbers.pop().map(|number| (number, true)).unwrap_or_else(|| {
                free.unused += 1;
                (free.unused - 1, false)
            });
            drop(free);
            NUMBER.with(|own| own.set(Some(number)));
            number
        });
        Some(Current { number, may_own_more: inherited })
    }

    pub(crate) fn assign(id: &Id) -> bool {
        id.get_or_assign().is_some()
    }

    pub(crate) fn number_if_any() -> Option<u32> {
        NUMBER.with(Cell::get).map(|(number, _)| number)
    }

    /// The calling thread ends.
    pub(crate) fn leave() {
        TABLE.with(|table| table.borrow_mut().clear());
        if let Some((number, _)) = NUMBER.with(Cell::take) {
            free().lock().unwrap().numbers.push(number);
        }
    }

    pub(crate) unsafe fn keep(_value: *mut (), _free: unsafe fn(*mut ())) -> bool {
        false
    }

    pub(crate) fn take_kept() -> Option<*mut ()> {
        None
    }

    #[derive(Debug)]
    pub(crate) struct Dropping(());

    impl Dropping {
        pub(crate) fn begin() -> Option<Self> {
            (!IS_DROPPING.with(|is_dropping| is_dropping.replace(true))).then(|| Dropping(()))
        }
    }

    impl Drop for Dropping {
        fn drop(&mut self) {
            IS_DROPPING.with(|is_dropping| is_dropping.set(false));
        }
    }
}

pub(crate) use self::imp::*;

#[cfg(all(test, not(cenote_loom)))]
mod tests {
    use std::num::NonZero;

    use super::*;

    #[test]
    fn numbers_are_dense_and_the_one_given_back_last_is_taken_next() {
        let numbers = Numbers::new();
        let taken: Vec<_> = (0..70).map(|_| numbers.take()).collect();
        assert!(
            taken.iter().enumerate().all(|(at, &(number, inherited))| number as usize == at && !inherited)
        );
        for number in [3, 69, 0] {
            numbers.give_back(number);
        }
        assert_eq!([numbers.take(), numbers.take(), numbers.take()], [(0, true), (69, true), (3, true)]);
        assert_eq!(numbers.take(), (70, false));
    }

    #[test]
    fn no_number_is_given_to_two_threads_at_once() {
        use std::sync::atomic::AtomicBool;
        static NUMBERS: Numbers = Numbers::new();
        static OWNED: [AtomicBool; 8] = [const { AtomicBool::new(false) }; 8];
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..20_000 {
                        let two = [NUMBERS.take().0, NUMBERS.take().0];
                        for number in two {
                            assert!(!OWNED[number as usize].swap(true, Ordering::Relaxed));
                        }
                        for number in two {
                            OWNED[number as usize].store(false, Ordering::Relaxed);
                            NUMBERS.give_back(number);
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn a_table_grows_for_entries_that_come_again_and_finds_nothing_of_maps_that_are_gone() {
        std::thread::spawn(|| {
            let value = |at: usize| NonNull::without_provenance(NonZero::new(0x1000 + at).unwrap());
            let ids: Vec<Id> = (0..40).map(|_| Id::new()).collect();
            assert!(find(&ids[0]).is_none());
            current();
            let found = |ids: &[Id]| ids.iter().filter(|id| find(id).is_some()).count();
            for (at, id) in ids.iter().enumerate() {
                insert(id, value(at), false);
                assert!(find(id).is_none_or(|found| found == value(at)));
            }
            assert_eq!(found(&ids), 8, "a table of eight entries");
            assert!(current().unwrap().may_own_more);
            for _ in 0..8 {
                for (at, id) in ids.iter().enumerate() {
                    if find(id).is_none() {
                        insert(id, value(at), true);
                    }
                }
            }
            assert!(ids.iter().enumerate().all(|(at, id)| find(id) == Some(value(at))));
            // Their slots are given to others.
            drop(ids);
            let ids: Vec<Id> = (0..40).map(|_| Id::new()).collect();
            for (at, id) in ids.iter().enumerate() {
                assert!(assign(id) && find(id).is_none());
                insert(id, value(at), true);
                assert_eq!(find(id), Some(value(at)));
            }
        })
        .join()
        .unwrap();
    }
}

#[cfg(all(test, cenote_loom, not(cenote_shuttle)))]
mod models {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    #[test]
    fn a_number_has_one_owner_and_what_the_last_one_did_happens_before() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(2);
        builder.check(|| {
            let numbers = Arc::new(Numbers::new());
            let owned: Arc<Vec<loom::cell::UnsafeCell<u32>>> =
                Arc::new((0..3).map(|_| loom::cell::UnsafeCell::new(0)).collect());
            let use_number = |numbers: &Numbers, owned: &[loom::cell::UnsafeCell<u32>]| {
                let (number, _) = numbers.take();
                // loom reports a race if two threads are in here without an order between them.
                // SAFETY: the model checks that this is so.
                owned[number as usize].with_mut(|used| unsafe { *used += 1 });
                numbers.give_back(number);
            };
            let others: Vec<_> = (0..2)
                .map(|_| {
                    let (numbers, owned) = (Arc::clone(&numbers), Arc::clone(&owned));
                    thread::spawn(move || use_number(&numbers, &owned))
                })
                .collect();
            use_number(&numbers, &owned);
            for other in others {
                other.join().unwrap();
            }
        });
    }
}
