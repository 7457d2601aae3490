//! What is measured: a kind of pool, with the measurements that each question takes of it.

use std::marker::PhantomData;

use super::bytes::Trial;
use super::many_pools::Spacing;
use super::misses::{Idlers, Way};
use super::{Sampler, bytes, many_pools, misses, ratio, short_life, single_thread, two_threads};
use crate::objects::{Shape, with_shape};
use crate::pools::Pools;

/// A kind of pool whose type is erased, so that kinds can stand in a list.
pub trait Subject {
    /// As the tables call it.
    fn name(&self) -> &'static str;

    /// A get and the drop of its guard, on one thread.
    fn get_drop(&self, shape: Shape) -> Sampler;

    /// A take and a put, on one thread.
    fn take_put(&self, shape: Shape) -> Sampler;

    /// A get and the drop of its guard on `threads` threads at once; one more thread has made all
    /// objects.
    fn spread(&self, shape: Shape, threads: usize) -> Sampler;

    /// A get and the drop of its guard, of so many pools in turn.
    fn many_pools(&self, pools: usize, spacing: Spacing) -> Sampler;

    /// The life of a pool that is used four times.
    fn short_life(&self, shape: Shape) -> Sampler;

    /// A miss on each of `threads` threads. The idle threads have each an empty shard in the pool.
    fn misses(&self, way: Way, threads: usize, idlers: Option<&Idlers>) -> Sampler;

    /// What a trial leaves allocated, in a process that counts.
    fn bytes(&self, trial: Trial) -> isize;
}

/// The subject of some [`Pools`].
pub struct Of<P>(PhantomData<fn() -> P>);

impl<P> std::fmt::Debug for Of<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Of")
    }
}

impl<P> Of<P> {
    /// The one value.
    #[expect(clippy::new_without_default, reason = "nothing has a default kind of pool")]
    pub const fn new() -> Self {
        Of(PhantomData)
    }
}

impl<P: Pools> Subject for Of<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn get_drop(&self, shape: Shape) -> Sampler {
        with_shape!(shape, T => single_thread::get_drop_sampler::<P, T>())
    }

    fn take_put(&self, shape: Shape) -> Sampler {
        with_shape!(shape, T => single_thread::take_put_sampler::<P, T>())
    }

    fn spread(&self, shape: Shape, threads: usize) -> Sampler {
        with_shape!(shape, T => two_threads::spread_sampler::<P, T>(threads))
    }

    fn many_pools(&self, pools: usize, spacing: Spacing) -> Sampler {
        many_pools::in_turn_sampler::<P>(pools, spacing)
    }

    fn short_life(&self, shape: Shape) -> Sampler {
        with_shape!(shape, T => short_life::life_sampler::<P, T>())
    }

    fn misses(&self, way: Way, threads: usize, idlers: Option<&Idlers>) -> Sampler {
        misses::pool_sampler::<P>(way, threads, idlers)
    }

    fn bytes(&self, trial: Trial) -> isize {
        bytes::left::<P>(trial)
    }
}

/// The subjects of a run, in the order of their columns.
pub struct Lineup<'a> {
    /// Shown beside, if there is one: an older version.
    pub before: Option<&'a dyn Subject>,
    /// The one that has to meet the targets.
    pub now: &'a dyn Subject,
}

impl std::fmt::Debug for Lineup<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl<'a> Lineup<'a> {
    /// All of them; the one that has to meet the targets is the last.
    pub fn subjects(&self) -> impl Iterator<Item = &'a dyn Subject> + use<'a> {
        self.before.into_iter().chain([self.now])
    }

    /// The heads of their columns.
    pub fn names(&self) -> impl Iterator<Item = String> + use<'a> {
        self.subjects().map(|subject| subject.name().to_owned())
    }

    /// One sampler of each.
    pub fn samplers(&self, sampler: impl Fn(&dyn Subject) -> Sampler) -> Vec<Sampler> {
        self.subjects().map(sampler).collect()
    }

    /// Which of a row's figures is that of [`now`](Self::now); the peer's, if there is one, comes
    /// after it.
    pub fn judged(&self) -> usize {
        usize::from(self.before.is_some())
    }

    /// The head of the column that compares the two subjects, or none.
    pub fn change_head(&self) -> Option<String> {
        self.before.map(|before| format!("{}/{}", self.now.name(), before.name()))
    }

    /// The cell of that column, or none.
    pub fn change(&self, figures: &[f64]) -> Option<String> {
        self.before.map(|_| ratio(figures[1] / figures[0]))
    }
}
