//! An object in a caller's hands.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::time::Duration;

use super::core::{Object, Verdict};
use super::manager::Manager;
use super::shared::{Options, Shared};
use super::time::Time;
use super::tracking::Overdue;
use crate::primitive::{Arc, is_panicking};

/// An object of a [`BoundedPool`](super::BoundedPool), which goes back when the lease is dropped.
///
/// The drop neither blocks nor spawns; it may happen on any thread, with or without a runtime, and after the pool is
/// gone. The object is closed instead if the manager finds it broken, if an operation is still
/// [in flight](Lease::in_flight), or if the thread is panicking. A reset runs in a task of the pool.
#[must_use = "the object goes back when the lease is dropped"]
pub struct Lease<M: Manager> {
    shared: Arc<Shared<M>>,
    /// Taken only by the drop and by what consumes the lease.
    object: ManuallyDrop<Object<M::Object>>,
    /// When it began, if anyone wants to know.
    began: Time,
    in_flight: bool,
    discards: bool,
}

impl<M: Manager> Lease<M> {
    /// `waited` is how long the caller has waited for it.
    #[inline]
    pub(super) fn new(
        shared: &Arc<Shared<M>>,
        object: Object<M::Object>,
        waited: impl FnOnce(Time) -> Duration,
    ) -> Self {
        let mut began = Time::NEVER;
        if shared.options.meters.is_on() {
            began = Shared::<M>::now();
            shared.options.meters.waited(waited(began));
        }
        let shared = Arc::clone(shared);
        Lease { shared, object: ManuallyDrop::new(object), began, in_flight: false, discards: false }
    }

    fn report_use(&self) {
        if self.shared.options.meters.is_on() {
            self.shared.options.meters.used(Shared::<M>::now().since(self.began));
        }
    }

    /// Takes the object out of the pool, which may create another in its place.
    pub fn detach(lease: Self) -> M::Object {
        lease.report_use();
        let mut lease = ManuallyDrop::new(lease);
        // SAFETY: the lease is not dropped, and nothing reads the object after this.
        let object = unsafe { ManuallyDrop::take(&mut lease.object) };
        // SAFETY: as above: this is the only read of the pointer.
        let shared = unsafe { std::ptr::read(&lease.shared) };
        let id = object.meta.id;
        if !shared.is_inherited() {
            shared.apply(Shared::<M>::now(), |core, now, effects| core.detached(id, now, effects));
        }
        object.value
    }

    /// Has the pool close the object.
    pub fn discard(mut lease: Self) {
        lease.discards = true;
    }

    /// Marks the object: until [`InFlight::complete`] is called, the end of the lease closes it, or resets it if the manager
    /// [can](Manager::resets_in_flight). A future that is canceled between a request and its answer thus leaves
    /// no half-used connection behind.
    ///
    /// ```
    /// # use cenote::bounded::{BoundedPool, Lease, from_blocking_fn};
    /// # let pool = BoundedPool::builder(from_blocking_fn(|| Ok::<_, std::io::Error>(0))).build().unwrap();
    /// let mut lease = pool.get_blocking().unwrap();
    /// let mut request = Lease::in_flight(&mut lease);
    /// *request += 1; // what must not be left half done
    /// request.complete();
    /// ```
    pub fn in_flight(lease: &mut Self) -> InFlight<'_, M> {
        lease.in_flight = true;
        InFlight { lease }
    }

    /// How long ago the object was created.
    pub fn age(lease: &Self) -> Duration {
        Shared::<M>::now().since(lease.object.meta.created)
    }
}

impl<M: Manager> Deref for Lease<M> {
    type Target = M::Object;

    fn deref(&self) -> &M::Object {
        &self.object.value
    }
}

impl<M: Manager> DerefMut for Lease<M> {
    fn deref_mut(&mut self) -> &mut M::Object {
        &mut self.object.value
    }
}

impl<M: Manager> fmt::Debug for Lease<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("object", &self.object.meta.id)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

impl<M: Manager> Drop for Lease<M> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: nothing reads the object after this.
        let mut object = unsafe { ManuallyDrop::take(&mut self.object) };
        let shared = &self.shared;
        if shared.is_inherited() {
            // It is the parent's: neither used nor closed here.
            std::mem::forget(object);
            shared.leak();
            return;
        }
        let verdict = if self.discards || is_panicking() && !shared.options.keeps_on_panic {
            Verdict::Discarded
        } else {
            shared.judge(&mut object.value, self.in_flight)
        };
        self.report_use();
        shared.give_back(object, verdict);
    }
}

/// A lease whose object is marked: see [`Lease::in_flight`].
#[derive(Debug)]
#[must_use = "the object is closed unless the operation is completed"]
pub struct InFlight<'a, M: Manager> {
    lease: &'a mut Lease<M>,
}

impl<M: Manager> InFlight<'_, M> {
    /// The operation is complete: the object is as good as before.
    pub fn complete(self) {
        self.lease.in_flight = false;
    }
}

impl<M: Manager> Deref for InFlight<'_, M> {
    type Target = M::Object;

    fn deref(&self) -> &M::Object {
        self.lease
    }
}

impl<M: Manager> DerefMut for InFlight<'_, M> {
    fn deref_mut(&mut self) -> &mut M::Object {
        self.lease
    }
}

/// A lease that is out for longer than [`track_leases`](super::Builder::track_leases) allows.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LeakReport {
    /// The object, by the number of its creation.
    pub object: u64,
    /// Where the lease was asked for.
    pub call_site: &'static Location<'static>,
    /// For how long it has been out.
    pub held: Duration,
}

pub(super) fn report<T>(options: &Options<T>, overdue: Overdue, now: Time) {
    let report = LeakReport { object: overdue.id, call_site: overdue.site, held: now.since(overdue.since) };
    #[cfg(feature = "tracing")]
    tracing::warn!(pool = options.name.as_deref().unwrap_or_default(), object = report.object, call_site = %report.call_site, held = ?report.held, "a lease is out for long");
    if let Some(hook) = &options.on_leak {
        let _ = catch_unwind(AssertUnwindSafe(|| hook(report)));
    }
}
