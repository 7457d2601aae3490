//! The same for a model checker, whose programs do not fork.

use super::{Arc, OnceLock};

pub(crate) struct PerProcess<T: 'static>(OnceLock<Arc<T>>);

impl<T> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        PerProcess(OnceLock::new())
    }

    pub(crate) fn get(&self, make: impl FnOnce() -> T) -> Arc<T> {
        Arc::clone(self.0.get_or_init(|| Arc::new(make())))
    }
}

pub(crate) fn forks() -> u32 {
    0
}

pub(crate) fn count_forks() {}
