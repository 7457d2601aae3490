//! Every schedule of a worker, an owner and the recycler on one slot.
//!
//! The object is loom's cell: a user who looks while the recycler resets is a fault.

use std::sync::Arc;

use loom::model::Builder;
use loom::thread;

use super::slot::{Layout, Refusal, Word};
use crate::primitive::UnsafeCell;

const LAYOUT: Layout = Layout::new(40);

struct Slot {
    word: Word,
    /// The generation that the object belongs to.
    object: UnsafeCell<u64>,
}

fn published() -> (Arc<Slot>, u64) {
    let slot = Arc::new(Slot { word: Word::new(LAYOUT, 1), object: UnsafeCell::new(1) });
    let generation = slot.word.publish(LAYOUT);
    (slot, generation)
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(5);
    builder.check(model);
}

/// A worker that knows a generation sees its object, or is refused.
fn work(slot: &Slot, generation: u64) -> Result<(), Refusal> {
    slot.word.enter(LAYOUT, generation)?;
    // SAFETY: loom checks it: this user is inside.
    slot.object.with(|object| assert_eq!(unsafe { *object }, generation));
    slot.word.leave(LAYOUT);
    Ok(())
}

/// The recycler: resets the object for the next generation if nobody is inside. Returns whether it did.
fn recycle(slot: &Slot, next: u64) -> bool {
    if !slot.word.is_empty(LAYOUT) {
        return false;
    }
    // SAFETY: loom checks it: nobody is inside a slot in quarantine.
    slot.object.with_mut(|object| unsafe { *object = next });
    slot.word.reopen(LAYOUT);
    true
}

#[test]
fn a_worker_never_sees_the_object_of_another_generation() {
    check(|| {
        let (slot, generation) = published();
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let slot = Arc::clone(&slot);
                thread::spawn(move || work(&slot, generation))
            })
            .collect();
        slot.word.release(LAYOUT, generation, true).unwrap();
        if recycle(&slot, generation + 1) {
            assert_eq!(slot.word.publish(LAYOUT), generation + 1);
            work(&slot, generation + 1).unwrap();
        }
        for worker in workers {
            let _ = worker.join().unwrap();
        }
    });
}

#[test]
fn the_last_user_out_of_a_released_slot_says_so_and_the_recycler_sees_it() {
    check(|| {
        let (slot, generation) = published();
        slot.word.enter(LAYOUT, generation).unwrap();
        let other = Arc::clone(&slot);
        let worker = thread::spawn(move || other.word.leave(LAYOUT));
        slot.word.release(LAYOUT, generation, true).unwrap();
        let before = slot.word.is_empty(LAYOUT);
        let was_last = worker.join().unwrap();
        // Either the release came after the user, or the user knows that it was the last.
        assert!(before || was_last || slot.word.is_empty(LAYOUT));
        assert!(recycle(&slot, generation + 1));
    });
}

#[test]
fn two_releases_by_one_handle_are_one() {
    check(|| {
        let (slot, generation) = published();
        let other = Arc::clone(&slot);
        let janitor = thread::spawn(move || other.word.release(LAYOUT, generation, false).is_ok());
        let own = slot.word.release(LAYOUT, generation, true).is_ok();
        if !own {
            slot.word.leave(LAYOUT);
        }
        assert!(own ^ janitor.join().unwrap());
        assert!(recycle(&slot, generation + 1));
        assert_eq!(slot.word.generation(LAYOUT), generation + 1);
    });
}

#[test]
fn a_retired_slot_lets_its_user_leave_and_nobody_in() {
    check(|| {
        let (slot, generation) = published();
        slot.word.enter(LAYOUT, generation).unwrap();
        let other = Arc::clone(&slot);
        let late = thread::spawn(move || {
            // SAFETY: loom checks it: this user is inside.
            other.object.with(|object| assert_eq!(unsafe { *object }, generation));
            other.word.leave(LAYOUT);
        });
        slot.word.release(LAYOUT, generation, true).unwrap();
        slot.word.retire();
        assert_eq!(work(&slot, generation), Err(Refusal::Retired));
        late.join().unwrap();
        assert!(slot.word.is_empty(LAYOUT));
    });
}
