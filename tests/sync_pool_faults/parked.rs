//! Threads that have used a pool and sleep.

use std::sync::mpsc;
use std::thread;

/// Starts threads, one after the other, each of which runs `before` and then sleeps; runs
/// `meanwhile`; and lets each thread run `after` and end.
pub(crate) fn beside_parked_then<R>(
    threads: usize,
    before: impl Fn(usize) + Sync,
    meanwhile: impl FnOnce() -> R,
    after: impl Fn(usize) + Sync,
) -> R {
    thread::scope(|scope| {
        let mut alarms = Vec::new();
        for number in 0..threads {
            let (before, after) = (&before, &after);
            let (asleep, is_asleep) = mpsc::channel();
            let (alarm, rings) = mpsc::channel::<()>();
            scope.spawn(move || {
                before(number);
                asleep.send(()).unwrap();
                // The alarms are dropped also where an assertion fails: no thread sleeps forever.
                let _ = rings.recv();
                after(number);
            });
            is_asleep.recv().unwrap();
            alarms.push(alarm);
        }
        meanwhile()
    })
}

/// As [`beside_parked_then`], of threads that end once they wake.
pub(crate) fn beside_parked<R>(
    threads: usize,
    before: impl Fn(usize) + Sync,
    meanwhile: impl FnOnce() -> R,
) -> R {
    beside_parked_then(threads, before, meanwhile, |_| ())
}

type Work<'scope> = Box<dyn FnOnce() + Send + 'scope>;

/// A thread that runs one piece of work after the other, and sleeps in between.
pub(crate) struct Sleeper<'scope> {
    work: mpsc::Sender<Work<'scope>>,
    asleep: mpsc::Receiver<()>,
}

impl<'scope> Sleeper<'scope> {
    /// It ends when the handle is dropped.
    pub(crate) fn spawn(scope: &'scope thread::Scope<'scope, '_>) -> Self {
        let (work, comes) = mpsc::channel::<Work<'scope>>();
        let (sleeps, asleep) = mpsc::channel();
        scope.spawn(move || {
            for work in comes {
                work();
                sleeps.send(()).unwrap();
            }
        });
        Sleeper { work, asleep }
    }

    /// Returns when the thread sleeps again.
    pub(crate) fn run(&self, work: impl FnOnce() + Send + 'scope) {
        self.work.send(Box::new(work)).unwrap();
        self.asleep.recv().unwrap();
    }
}
