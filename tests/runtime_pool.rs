//! `RuntimePool`: every accepted task has an end, on its own loop.

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use cenote::runtime_pool::{BuildError, OnOwnLoop, Pinning, RuntimePool, Stopped, TaskError};

const LONG: Duration = Duration::from_secs(20);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Waits on the test's own thread.
fn wait<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(LONG, future).await.expect("it has no end") })
}

fn thread_name() -> String {
    thread::current().name().unwrap_or_default().to_owned()
}

/// Runs something when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn tasks_run_on_the_loops_in_turn_also_under_concurrent_callers() {
    let pool = RuntimePool::builder(3).name("turn-").build().unwrap();
    let names = Mutex::new(BTreeMap::<String, usize>::new());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..75 {
                    let name = wait(pool.spawn(async { thread_name() }).unwrap()).unwrap();
                    *names.lock().unwrap().entry(name).or_default() += 1;
                }
            });
        }
    });
    let names: Vec<_> = names.into_inner().unwrap().into_iter().collect();
    assert_eq!(names, [("turn-0".into(), 100), ("turn-1".into(), 100), ("turn-2".into(), 100)]);
}

#[test]
fn a_future_that_is_not_send_is_made_and_stays_on_its_loop() {
    let pool = RuntimePool::builder(2).name("local-").build().unwrap();
    let task = pool.spawn_local_on(1, || async {
        let shared = Rc::new(thread_name());
        tokio::time::sleep(ms(1)).await;
        let own = Rc::clone(&shared);
        tokio::task::spawn_local(async move { assert_eq!(*own, thread_name()) }).await.unwrap();
        shared.to_string()
    });
    assert_eq!(wait(task.unwrap()).unwrap(), "local-1");
    assert!(pool.spawn_local_on(2, || async {}).is_err());
}

#[test]
fn a_stop_drops_each_task_on_its_own_loop_and_its_handle_ends() {
    let pool = RuntimePool::builder(2).name("own-").build().unwrap();
    let dropped = Arc::new(Mutex::new(Vec::new()));
    let handles: Vec<_> = (0..6)
        .map(|number| {
            let own = Arc::clone(&dropped);
            let guard = OnDrop(move || own.lock().unwrap().push((number % 2, thread_name())));
            let task = async move {
                let _guard = guard;
                pending::<()>().await;
            };
            pool.at(number % 2).unwrap().spawn(task).unwrap()
        })
        .collect();
    wait(pool.at(0).unwrap().spawn(async {}).unwrap()).unwrap();
    let report = pool.stop(LONG).unwrap();
    assert_eq!((report.joined, report.finished, report.dropped), (vec![0, 1], 1, 6));
    let dropped = dropped.lock().unwrap();
    assert_eq!(dropped.len(), 6);
    assert!(dropped.iter().all(|(index, name)| *name == format!("own-{index}")), "{dropped:?}");
    for handle in handles {
        assert!(matches!(wait(handle), Err(TaskError::Dropped)));
    }
}

#[test]
fn after_a_stop_a_spawn_gives_the_future_back() {
    let pool = RuntimePool::new(2).unwrap();
    pool.stop(LONG).unwrap();
    let Err(Stopped(future)) = pool.spawn(async { 42 }) else { panic!("it was accepted") };
    assert_eq!(wait(future), 42);
    assert!(pool.least_loaded().spawn_local(|| async {}).is_err());
    // The second call finds all done, and says the same.
    let again = pool.stop(LONG).unwrap();
    assert_eq!((again.joined, again.timed_out), (vec![0, 1], vec![]));
}

/// netty#9603, tokio#3548: a task is accepted while the loop stops, and neither run nor dropped.
#[test]
fn whatever_is_accepted_while_the_pool_stops_has_an_end() {
    let rounds = std::env::var("CENOTE_STOP_ROUNDS").map_or(1_000, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        let pool = RuntimePool::new(2).unwrap();
        let (accepted, ended) = (AtomicU64::new(0), Arc::new(AtomicU64::new(0)));
        let start = Barrier::new(9);
        let report = thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    loop {
                        let own = Arc::clone(&ended);
                        let guard = OnDrop(move || {
                            own.fetch_add(1, Ordering::SeqCst);
                        });
                        let is_long = accepted.load(Ordering::Relaxed) % 3 == 0;
                        let task = async move {
                            let _guard = guard;
                            if is_long {
                                pending::<()>().await;
                            }
                        };
                        match pool.spawn(task) {
                            Ok(_) => accepted.fetch_add(1, Ordering::SeqCst),
                            Err(Stopped(task)) => {
                                std::mem::forget(task);
                                break;
                            }
                        };
                    }
                });
            }
            start.wait();
            (0..round % 50 * 20_u64).for_each(|_| std::hint::spin_loop());
            pool.stop(LONG).unwrap()
        });
        let accepted = accepted.load(Ordering::SeqCst);
        assert_eq!(report.joined, [0, 1]);
        assert_eq!(
            (report.finished + report.dropped, ended.load(Ordering::SeqCst)),
            (accepted, accepted),
            "round {round}"
        );
    }
}

/// tokio#2082: a drop in the shutdown wakes another task, under the scheduler's lock.
#[test]
fn drops_that_spawn_wake_and_lock_do_not_hang_a_stop() {
    let pool = RuntimePool::new(2).unwrap();
    let wakers: Arc<Mutex<Vec<Waker>>> = Arc::default();
    struct Registers(Arc<Mutex<Vec<Waker>>>);
    impl Future for Registers {
        type Output = ();
        fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            self.0.lock().unwrap().push(context.waker().clone());
            Poll::Pending
        }
    }
    let refused = Arc::new(AtomicUsize::new(0));
    for number in 0..20 {
        let (wakers, own, refused) = (Arc::clone(&wakers), pool.clone(), Arc::clone(&refused));
        let registers = Registers(Arc::clone(&wakers));
        let guard = OnDrop(move || {
            wakers.lock().unwrap().iter().for_each(Waker::wake_by_ref);
            refused.fetch_add(usize::from(own.spawn(async {}).is_err()), Ordering::SeqCst);
            tokio::spawn(async {});
        });
        let task = async move {
            let _guard = guard;
            registers.await;
        };
        drop(pool.at(number % 2).unwrap().spawn(task).unwrap());
    }
    let start = Instant::now();
    while wakers.lock().unwrap().len() < 20 {
        assert!(start.elapsed() < LONG);
        thread::sleep(ms(1));
    }
    let report = pool.stop(LONG).unwrap();
    assert_eq!((report.joined, report.dropped), (vec![0, 1], 20));
    assert_eq!(refused.load(Ordering::SeqCst), 20);
}

#[test]
fn a_stop_on_a_loop_of_the_pool_is_an_error_and_the_pool_goes_on() {
    let pool = RuntimePool::new(2).unwrap();
    let own = pool.clone();
    let task = pool.spawn(async move {
        (own.stop(LONG).unwrap_err(), own.stop_loop(1, LONG).unwrap_err(), own.drain(LONG).unwrap_err())
    });
    assert_eq!(wait(task.unwrap()).unwrap(), (OnOwnLoop, OnOwnLoop, OnOwnLoop));
    assert!(wait(pool.spawn(async {}).unwrap()).is_ok());
    // On the loop of another pool it is none.
    let other = RuntimePool::new(1).unwrap();
    let task = other.spawn(async move { pool.stop(LONG).unwrap().joined.len() });
    assert_eq!(wait(task.unwrap()).unwrap(), 2);
}

/// reth#27313: the last handle is dropped inside of a task.
#[test]
fn the_last_handle_may_be_dropped_in_a_task_of_its_own() {
    let (sender, stopped) = channel();
    let pool = RuntimePool::builder(2).on_stop(move |index| sender.send(index).unwrap()).build().unwrap();
    let own = pool.clone();
    let task = pool.spawn(async move {
        tokio::time::sleep(ms(20)).await;
        drop(own);
        pending::<()>().await;
    });
    let task = task.unwrap();
    drop(pool);
    assert!(matches!(wait(task), Err(TaskError::Dropped)));
    let mut indexes = [stopped.recv_timeout(LONG).unwrap(), stopped.recv_timeout(LONG).unwrap()];
    indexes.sort_unstable();
    assert_eq!(indexes, [0, 1]);
}

/// pulseaudio-rs#6, shenyu#5047: the threads are not joined on drop.
#[test]
fn a_dropped_pool_has_joined_its_threads() {
    let running = Arc::new(AtomicUsize::new(0));
    let (started, stopped) = (Arc::clone(&running), Arc::clone(&running));
    let pool = RuntimePool::builder(3)
        .on_start(move |_| {
            started.fetch_add(1, Ordering::SeqCst);
        })
        .on_stop(move |_| {
            stopped.fetch_sub(1, Ordering::SeqCst);
        })
        .build()
        .unwrap();
    wait(pool.spawn(async {}).unwrap()).unwrap();
    drop(pool);
    assert_eq!(running.load(Ordering::SeqCst), 0);
}

#[test]
fn one_loop_stops_and_the_others_go_on() {
    let pool = RuntimePool::builder(3).name("rest-").build().unwrap();
    let report = pool.stop_loop(1, LONG).unwrap();
    assert_eq!(report.joined, [1]);
    for _ in 0..6 {
        assert_ne!(wait(pool.spawn(async { thread_name() }).unwrap()).unwrap(), "rest-1");
    }
    assert!(pool.at(1).unwrap().spawn(async {}).is_err());
    assert!(pool.stop_loop(7, LONG).unwrap().joined.is_empty());
    assert_eq!(pool.stop(LONG).unwrap().joined, [0, 1, 2]);
}

#[test]
fn a_drain_lets_tasks_finish_and_says_what_is_left() {
    let pool = RuntimePool::new(2).unwrap();
    let short = pool.at(0).unwrap().spawn(async { tokio::time::sleep(ms(20)).await }).unwrap();
    let report = pool.drain(LONG).unwrap();
    assert!(report.is_complete());
    wait(short).unwrap();
    assert!(pool.spawn(async {}).is_err());
    pool.stop(LONG).unwrap();

    let pool = RuntimePool::new(2).unwrap();
    let endless = pool.at(1).unwrap().spawn(pending::<()>()).unwrap();
    assert_eq!(pool.drain(ms(20)).unwrap().left, [(1, 1)]);
    let report = pool.stop(LONG).unwrap();
    assert_eq!((report.joined, report.dropped), (vec![0, 1], 1));
    assert!(matches!(wait(endless), Err(TaskError::Dropped)));
}

#[test]
fn a_task_that_holds_its_loop_up_is_reported_and_joined_later() {
    let pool = RuntimePool::new(2).unwrap();
    let goes_on = Arc::new(AtomicBool::new(false));
    let own = Arc::clone(&goes_on);
    let (sender, begun) = channel();
    let blocking = async move {
        sender.send(()).unwrap();
        while !own.load(Ordering::SeqCst) {
            thread::sleep(ms(1));
        }
    };
    drop(pool.at(0).unwrap().spawn(blocking).unwrap());
    begun.recv_timeout(LONG).unwrap();
    let report = pool.stop(ms(30)).unwrap();
    assert_eq!((report.joined, report.timed_out), (vec![1], vec![0]));
    goes_on.store(true, Ordering::SeqCst);
    let report = pool.stop(LONG).unwrap();
    assert_eq!((report.joined, report.timed_out, report.finished), (vec![0, 1], vec![], 1));
}

#[test]
fn two_stops_at_once_both_return_when_all_is_done() {
    let pool = RuntimePool::new(4).unwrap();
    let reports: Vec<_> = thread::scope(|scope| {
        let stops: Vec<_> = (0..4).map(|_| scope.spawn(|| pool.stop(LONG).unwrap())).collect();
        stops.into_iter().map(|stop| stop.join().unwrap()).collect()
    });
    assert!(reports.iter().all(|report| report.joined == [0, 1, 2, 3] && report.timed_out.is_empty()));
}

#[test]
fn a_task_that_panics_ends_alone_and_a_loop_that_dies_is_passed_over() {
    let pool = RuntimePool::builder(2).on_start(|index| assert_ne!(index, 1, "on purpose")).build().unwrap();
    let panicked = wait(pool.at(0).unwrap().spawn(async { panic!("in a task") }).unwrap()).unwrap_err();
    assert_eq!(panicked.to_string(), "the task panicked: in a task");
    let TaskError::Panicked(panic) = panicked else { panic!("{panicked}") };
    assert!(panic.take().is_some() && panic.take().is_none());
    let start = Instant::now();
    while pool.at(1).unwrap().spawn(async {}).is_ok() {
        assert!(start.elapsed() < LONG);
    }
    for _ in 0..4 {
        assert_eq!(pool.next().index(), 0);
        assert!(wait(pool.spawn(async {}).unwrap()).is_ok());
    }
    assert_eq!(pool.stop(LONG).unwrap().panicked, [1]);
}

#[test]
fn a_drop_that_panics_is_reported_and_hangs_nothing() {
    let pool = RuntimePool::new(1).unwrap();
    let guard = OnDrop(|| assert!(thread::panicking(), "on purpose"));
    let other = pool.spawn(pending::<()>()).unwrap();
    let task = pool.spawn(async move {
        let _guard = guard;
        pending::<()>().await;
    });
    drop(task.unwrap());
    let report = pool.stop(LONG).unwrap();
    assert_eq!((report.joined, report.finished + report.dropped), (vec![0], 2));
    assert!(matches!(wait(other), Err(TaskError::Dropped)));
}

#[test]
fn the_least_loaded_loop_has_the_fewest_tasks() {
    let pool = RuntimePool::new(3).unwrap();
    for index in [0, 0, 1, 2, 2] {
        drop(pool.at(index).unwrap().spawn(pending::<()>()).unwrap());
    }
    assert_eq!(pool.least_loaded().index(), 1);
    assert_eq!(pool.at(0).unwrap().active(), 2);
}

#[test]
fn a_pool_without_a_loop_and_a_stack_that_cannot_be_had_are_errors() {
    assert!(matches!(RuntimePool::new(0), Err(BuildError::Zero)));
    let start = Instant::now();
    let error = RuntimePool::builder(2).stack_size(usize::MAX / 2).build().unwrap_err();
    assert!(matches!(error, BuildError::Start { index: 0, .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
    // A second pool has nothing of the first.
    let pool = RuntimePool::builder(1).stack_size(1 << 20).build().unwrap();
    assert_eq!(wait(pool.spawn(async { 7 }).unwrap()).unwrap(), 7);
}

/// The processors that the calling thread may use.
#[cfg(target_os = "linux")]
fn allowed() -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    line.trim().to_owned()
}

/// yalantinglibs#1215, and a pool that is built from a pinned loop: all threads of the second one sat on one processor.
#[cfg(target_os = "linux")]
#[test]
fn loops_are_pinned_to_processors_of_the_process_also_from_a_pinned_thread() {
    let all = allowed();
    let pool = RuntimePool::builder(1).pinning(Pinning::BestEffort).build().unwrap();
    let first = pool.processors()[0].expect("Linux can").to_string();
    let task = pool.spawn(async {
        let blocking = tokio::task::spawn_blocking(allowed).await.unwrap();
        let count = thread::available_parallelism().map_or(1, usize::from);
        let inner = RuntimePool::builder(64).pinning(Pinning::BestEffort).build().unwrap();
        let processors: Vec<_> = inner.processors().iter().flatten().copied().collect();
        (allowed(), blocking, count, processors)
    });
    let (own, blocking, count, processors) = wait(task.unwrap()).unwrap();
    assert_eq!((own, blocking, count), (first, all, 1));
    let distinct: std::collections::BTreeSet<_> = processors.iter().collect();
    assert_eq!(distinct.len(), processors.len());
    assert_eq!(
        processors.len(),
        thread::available_parallelism().unwrap().get().min(64),
        "all, not the one of its builder"
    );

    let error = RuntimePool::builder(5_000).pinning(Pinning::Required).build().unwrap_err();
    assert!(matches!(error, BuildError::TooFewProcessors { .. }), "{error}");
    assert_eq!(RuntimePool::new(2).unwrap().processors(), [None, None]);
}
