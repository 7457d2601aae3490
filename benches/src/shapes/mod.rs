//! Questions about a pool of objects of any shape, each with its target.
//!
//! A question compares the [`Lineup`] with a peer (a thread-local stack, a locked one, the
//! allocator). All cells of its table are measured in rounds that take turns, so that whatever else
//! the machine does falls on each of them; a cell is the median of its rounds, and a ratio is a
//! ratio of medians.

pub mod bytes;
mod many_pools;
mod misses;
mod rounds;
mod short_life;
mod single_thread;
mod subject;
mod table;
mod two_threads;

use std::time::Duration;

use clap::Parser;

pub use self::rounds::{Rounds, Sampler, measure, own_time_sampler, sampler, wall_time_sampler};
pub use self::subject::{Lineup, Of, Subject};
pub use self::table::{Sheet, ns, ratio};

/// The arguments of a program that asks the questions.
#[derive(Clone, Debug, Parser)]
pub struct Arguments {
    /// Only the rows whose `question/row` contains this, in either case: `get_drop/vec`, or
    /// `misses`
    pub rows: Option<String>,

    /// Few and short rounds, to see that everything runs; the figures say nothing
    #[arg(long)]
    pub quick: bool,

    /// Rounds of each cell
    #[arg(long, default_value_t = 11)]
    pub rounds: usize,

    /// Milliseconds of a round of one cell
    #[arg(long, default_value_t = 20)]
    pub milliseconds: u64,

    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    pub bench: bool,
}

impl Arguments {
    /// How often and how long each cell is measured.
    pub fn settings(&self) -> Rounds {
        if self.quick {
            Rounds { number: 3, time: Duration::from_millis(1) }
        } else {
            Rounds { number: self.rounds.max(1), time: Duration::from_millis(self.milliseconds.max(1)) }
        }
    }

    /// Whether the row is asked for.
    pub fn selects(&self, question: &str, row: &str) -> bool {
        self.rows.as_ref().is_none_or(|text| {
            format!("{question}/{row}").to_lowercase().contains(text.to_lowercase().as_str())
        })
    }

    /// Those of `rows` that are asked for.
    fn select<R>(
        &self,
        question: &str,
        rows: impl IntoIterator<Item = R>,
        name: impl Fn(&R) -> String,
    ) -> Vec<R> {
        rows.into_iter().filter(|row| self.selects(question, &name(row))).collect()
    }
}

/// Asks the questions about time, one table each.
pub fn run(lineup: &Lineup<'_>, arguments: &Arguments) {
    single_thread::get_drop(lineup, arguments);
    single_thread::take_put(lineup, arguments);
    two_threads::get_drop(lineup, arguments);
    many_pools::in_turn(lineup, arguments);
    short_life::made_used_dropped(lineup, arguments);
    misses::throughput(lineup, arguments);
}
