//! What does a miss cost, when threads miss all the time and give nothing back?

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::table::{judge, judge_heads};
use super::{Arguments, Lineup, Sampler, Sheet, measure, ns, ratio};
use crate::objects::{self, Object as _};
use crate::pools::{Pool, Pools};
use crate::timing::{cores, throughput as turns_a_second};

/// The time of a miss, beside that of the peer.
const TARGET: f64 = 1.3;

const FEW: usize = 2;
const MANY: usize = 64;
const IDLE: usize = 64;

type Object = Box<[u8; 64]>;

/// How the object of a miss leaves the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Out of a guard.
    Detach,
    /// By value.
    Take,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Detach => "get, detach",
            Way::Take => "take",
        }
    }
}

type Job = Arc<dyn Fn() + Send + Sync>;

/// Threads that live and do nothing, except that each runs a job when asked to.
#[derive(Debug)]
pub struct Idlers(Vec<(Sender<Job>, JoinHandle<()>)>);

impl Idlers {
    fn new(threads: usize) -> Self {
        let idler = || {
            let (sender, receiver) = channel::<Job>();
            (sender, thread::spawn(move || receiver.into_iter().for_each(|job| job())))
        };
        Idlers((0..threads).map(|_| idler()).collect())
    }

    /// Each runs `job`, all at once, before this returns.
    fn run(&self, job: impl Fn() + Send + Sync + 'static) {
        let all = Arc::new(Barrier::new(self.0.len() + 1));
        let job: Job = {
            let all = Arc::clone(&all);
            Arc::new(move || {
                all.wait();
                job();
                all.wait();
            })
        };
        for (sender, _) in &self.0 {
            sender.send(Arc::clone(&job)).expect("an idle thread lives");
        }
        all.wait();
        all.wait();
    }
}

impl Drop for Idlers {
    fn drop(&mut self) {
        for (sender, thread) in self.0.drain(..) {
            drop(sender);
            thread.join().expect("a job panicked");
        }
    }
}

pub(super) fn pool_sampler<P: Pools>(way: Way, threads: usize, idlers: Option<&Idlers>) -> Sampler {
    let pool = Arc::new(P::Pool::<Object>::new());
    if let Some(idlers) = idlers {
        let pool = Arc::clone(&pool);
        idlers.run(move || {
            pool.get_drop();
            drop(pool.take());
        });
    }
    match way {
        Way::Detach => many_threads_sampler(threads, move || {
            let mut object = P::Pool::detach(pool.get());
            object.touch();
        }),
        Way::Take => many_threads_sampler(threads, move || {
            let mut object = pool.take();
            object.touch();
        }),
    }
}

/// The peer: an object that lies in an allocation of its own, as it does under a guard.
fn allocator_sampler(threads: usize) -> Sampler {
    many_threads_sampler(threads, || {
        let mut object = Box::new(<Object as objects::Object>::new());
        object.touch();
        std::hint::black_box(&mut object);
    })
}

/// ns of a core for each turn.
fn many_threads_sampler(threads: usize, turn: impl Fn() + Sync + 'static) -> Sampler {
    Sampler::new(move |time: Duration| {
        // Long enough that each of many threads has a core several times.
        let time = time * if threads > cores() { 10 } else { 2 };
        1e9 * cores().min(threads) as f64 / turns_a_second(threads, time, &turn)
    })
}

pub(super) fn throughput(lineup: &Lineup<'_>, arguments: &Arguments) {
    const NAME: &str = "misses";
    let row_name = |way: Way, threads: usize, idle: usize| match idle {
        0 => format!("{}, {threads} threads", way.name()),
        _ => format!("{}, {threads} threads, {idle} idle", way.name()),
    };
    let head = ["ns of a core".to_owned()]
        .into_iter()
        .chain(lineup.names())
        .chain(["Box::new".to_owned()])
        .chain(judge_heads("/Box::new"))
        .chain([format!("/{FEW} threads")])
        .chain(lineup.change_head());
    let rows = |idle| {
        let all =
            [Way::Detach, Way::Take].into_iter().flat_map(|way| [FEW, MANY].map(|threads| (way, threads)));
        arguments.select(NAME, all, |&(way, threads)| row_name(way, threads, idle))
    };
    if rows(0).is_empty() && rows(IDLE).is_empty() {
        return;
    }
    let mut sheet = Sheet::new(NAME, "each get or take misses, and what it returns is dropped", head);
    let now = lineup.judged();
    // Apart, so that the idle threads do not exist while the other half is measured.
    for idle in [0, IDLE] {
        let rows = rows(idle);
        if rows.is_empty() {
            continue;
        }
        let idlers = (idle > 0).then(|| Idlers::new(idle));
        let figures = measure(
            arguments.settings(),
            rows.iter()
                .map(|&(way, threads)| {
                    let mut row = lineup.samplers(|subject| subject.misses(way, threads, idlers.as_ref()));
                    row.push(allocator_sampler(threads));
                    row
                })
                .collect(),
        );
        for (&(way, threads), row) in rows.iter().zip(&figures) {
            let target = (idle == 0).then_some(TARGET);
            let few = rows.iter().position(|&other| other == (way, FEW)).filter(|_| threads != FEW);
            let growth = few.map_or_else(|| "-".to_owned(), |few| ratio(row[now] / figures[few][now]));
            sheet.row(
                [row_name(way, threads, idle)]
                    .into_iter()
                    .chain(row.iter().copied().map(ns))
                    .chain(judge(Some(row[now] / row[now + 1]), target, ratio))
                    .chain([growth])
                    .chain(lineup.change(row)),
            );
        }
    }
    sheet.print();
}
