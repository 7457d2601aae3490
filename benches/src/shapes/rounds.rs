//! Rounds that take turns.

use std::fmt;
use std::time::Duration;

use crate::timing::{median, own_time, wall_time};

/// How often and how long each cell is measured.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    /// The first round, which is not counted, comes on top.
    pub number: usize,
    /// Of one cell in one round.
    pub time: Duration,
}

/// Takes one sample: the ns of a turn, found in about so much time.
pub struct Sampler(Box<dyn FnMut(Duration) -> f64>);

impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampler").finish_non_exhaustive()
    }
}

impl Sampler {
    /// Of any measurement.
    pub fn new(sample: impl FnMut(Duration) -> f64 + 'static) -> Self {
        Sampler(Box::new(sample))
    }

    /// The same measurement, where a turn is `parts` operations.
    #[must_use]
    pub fn per(mut self, parts: usize) -> Self {
        Sampler::new(move |time| (self.0)(time) / parts as f64)
    }
}

/// A sampler of `run`, which does so many turns and returns how long they took. The first sample
/// finds out how many turns fill the time.
pub fn sampler(mut run: impl FnMut(u64) -> Duration + 'static) -> Sampler {
    let mut turns = 0;
    Sampler::new(move |time| {
        if turns == 0 {
            let mut trial = 1;
            turns = loop {
                let took = run(trial);
                if took * 4 >= time {
                    break ((trial as f64 * time.as_secs_f64() / took.as_secs_f64()) as u64).max(1);
                }
                trial *= 2;
            };
        }
        run(turns).as_nanos() as f64 / turns as f64
    })
}

/// A sampler of `turn` on the thread that asks.
pub fn own_time_sampler(turn: impl Fn() + 'static) -> Sampler {
    sampler(move |turns| own_time(turns, &turn))
}

/// A sampler of `turn` on `threads` new threads at once, of which the slowest counts.
pub fn wall_time_sampler(threads: usize, turn: impl Fn() + Sync + 'static) -> Sampler {
    sampler(move |turns| wall_time(threads, turns, &turn))
}

/// The median of each cell of a table. In each round every cell has its turn, in alternating
/// directions.
pub fn measure(rounds: Rounds, mut table: Vec<Vec<Sampler>>) -> Vec<Vec<f64>> {
    let mut samples: Vec<Vec<Vec<f64>>> =
        table.iter().map(|row| row.iter().map(|_| Vec::new()).collect()).collect();
    let mut cells: Vec<(&mut Sampler, &mut Vec<f64>)> =
        table.iter_mut().zip(&mut samples).flat_map(|(row, samples)| row.iter_mut().zip(samples)).collect();
    for (sampler, _) in &mut cells {
        (sampler.0)(rounds.time);
    }
    for _ in 0..rounds.number {
        for (sampler, samples) in &mut cells {
            samples.push((sampler.0)(rounds.time));
        }
        cells.reverse();
    }
    samples.into_iter().map(|row| row.into_iter().map(median).collect()).collect()
}
