//! For a model checker, whose clock stands still: a turn is taken at once, on the thread that asks for it.

use super::time::Time;
use crate::primitive::Arc;

pub(super) trait Turn: Send + Sync {
    fn turn(self: Arc<Self>) -> Time;
}

pub(super) struct Driver;

pub(super) fn driver() -> Driver {
    Driver
}

impl Driver {
    pub(super) fn kick(&self, pool: Arc<dyn Turn>) {
        pool.turn();
    }
}
