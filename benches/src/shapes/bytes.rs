//! What does a pool keep allocated?
//!
//! Each cell is found in a child process, which counts the live bytes of all its threads; see
//! [`live_bytes`](crate::live_bytes). The figures are not times, so one round is enough.

use std::error::Error;
use std::process::Command;
use std::sync::Barrier;
use std::thread;

use clap::{Parser, ValueEnum};

use super::table::{judge, judge_heads};
use super::{Lineup, Sheet, ratio};
use crate::live_bytes::live;
use crate::objects::Object;
use crate::pools::{Pool, Pools};

/// What is done before the bytes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Trial {
    /// One thread uses a pool; 300 other threads live that have used another one
    Bystanders,
    /// 200 objects of 16 KiB are put by value, then three generations pass
    Large,
    /// 512 threads hold two objects each at once, then two generations pass
    Storm,
}

impl Trial {
    /// The most that may be left.
    fn target(self) -> Option<f64> {
        match self {
            Trial::Bystanders => Some(1024.0),
            Trial::Large => Some(4096.0),
            Trial::Storm => None,
        }
    }
}

/// The arguments of a program that counts bytes.
#[derive(Clone, Debug, Parser)]
pub struct Arguments {
    /// Only the trials whose name contains this
    pub trials: Option<String>,

    /// Be the child that counts
    #[arg(long, hide = true, num_args = 2, value_names = ["TRIAL", "SUBJECT"])]
    child: Option<Vec<String>>,
}

/// Runs each trial for each subject, and prints a table; or, as a child, one figure.
pub fn run(lineup: &Lineup<'_>, arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    if let Some([trial, name]) = arguments.child.as_deref() {
        let trial = Trial::from_str(trial, true)?;
        let subject = lineup.subjects().find(|subject| subject.name() == name).ok_or("no such subject")?;
        println!("{}", subject.bytes(trial));
        return Ok(());
    }
    let head = ["bytes".to_owned()]
        .into_iter()
        .chain(lineup.names())
        .chain(judge_heads("bytes").into_iter().skip(1))
        .chain(lineup.change_head());
    let mut sheet = Sheet::new("bytes", "what a pool keeps allocated", head);
    for trial in Trial::value_variants() {
        let value = trial.to_possible_value().ok_or("a trial without a name")?;
        if arguments.trials.as_ref().is_some_and(|text| !value.get_name().contains(text.as_str())) {
            continue;
        }
        let row = lineup
            .subjects()
            .map(|subject| in_child(value.get_name(), subject.name()))
            .collect::<Result<Vec<f64>, _>>()?;
        let whole = |figure| format!("{figure:.0}");
        let help = value.get_help().map(ToString::to_string).unwrap_or_default();
        let now = row[lineup.judged()];
        sheet.row(
            [format!("{}: {help}", value.get_name())]
                .into_iter()
                .chain(row.iter().copied().map(whole))
                .chain(judge(Some(now), trial.target(), whole).into_iter().skip(1))
                .chain(lineup.before.map(|_| ratio(row[1] / row[0]))),
        );
    }
    sheet.print();
    Ok(())
}

fn in_child(trial: &str, subject: &str) -> Result<f64, Box<dyn Error>> {
    let output = Command::new(std::env::current_exe()?).args(["--child", trial, subject]).output()?;
    if !output.status.success() {
        return Err(format!("{trial}, {subject}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

pub(super) fn left<P: Pools>(trial: Trial) -> isize {
    match trial {
        Trial::Bystanders => bystanders::<P>(),
        Trial::Large => large::<P>(),
        Trial::Storm => storm::<P>(),
    }
}

/// For one pool, the mean of a hundred. What a thread keeps for all its pools is in it.
fn bystanders<P: Pools>() -> isize {
    const OTHERS: usize = 300;
    const POOLS: isize = 100;
    let other = P::Pool::<u64>::new();
    let barrier = Barrier::new(OTHERS + 1);
    thread::scope(|s| {
        for _ in 0..OTHERS {
            s.spawn(|| {
                other.put(1);
                barrier.wait();
                barrier.wait();
            });
        }
        barrier.wait();
        let user = s.spawn(|| {
            other.put(1);
            let before = live();
            let pools: Vec<P::Pool<u64>> = (0..POOLS).map(|_| P::Pool::new()).collect();
            pools.iter().for_each(|pool| pool.put(1));
            let used = live() - before - size_of_val(pools.as_slice()) as isize;
            drop(pools);
            used / POOLS
        });
        let used = user.join().expect("no panic");
        barrier.wait();
        used
    })
}

fn large<P: Pools>() -> isize {
    type Large = [u8; 16 << 10];
    // One use before, so that what a process needs once for all its pools is not counted.
    P::Pool::<Large>::new().put(Large::new());
    let pool = P::Pool::<Large>::new();
    let before = live();
    (0..200).for_each(|_| pool.put(Large::new()));
    (0..3).for_each(|_| pool.age());
    live() - before
}

fn storm<P: Pools>() -> isize {
    const THREADS: usize = 512;
    let threads = |run: &(dyn Fn() + Sync)| {
        let barrier = Barrier::new(THREADS);
        thread::scope(|s| {
            for _ in 0..THREADS {
                s.spawn(|| {
                    barrier.wait();
                    run();
                    barrier.wait();
                });
            }
        });
    };
    // What threads cost by themselves.
    threads(&|| ());
    let pool = P::Pool::<Vec<u8>>::new();
    let before = live();
    threads(&|| drop((pool.get(), pool.get())));
    (0..2).for_each(|_| pool.age());
    live() - before
}
