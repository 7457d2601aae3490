//! What does a pool cost for objects of every shape, on two threads, in great numbers, for a short
//! time, and when it misses?
//!
//! `cargo bench -p cenote-benches --bench shapes [-- [--quick] [ROWS]]`
//!
//! A table for each question: `get_drop`, `take_put`, `two_threads`, `many_pools`, `short_life`,
//! `misses`. All cells of a table are measured in 11 rounds that take turns; a cell is the median
//! of its rounds. `-- get_drop/vec` selects rows. Close other programs first. What a pool keeps in
//! memory is asked by the program `shapes_memory`.

use std::time::SystemTime;

use cenote_benches::shapes::{Arguments, Lineup, Of, run};
use cenote_benches::{Cenote, date, machine};
use clap::Parser;

fn main() {
    let arguments = Arguments::parse();
    println!("{}, {}\n", machine(), date(SystemTime::now()));
    run(&Lineup { before: None, now: &Of::<Cenote>::new() }, &arguments);
}
