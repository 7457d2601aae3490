//! What does a pool keep allocated, beside what it needs?
//!
//! `cargo run --release -p cenote-benches --bin shapes_memory [-- TRIALS]`
//!
//! Each trial runs in a process of its own, under an allocator that counts the live bytes.

use std::error::Error;

use cenote_benches::Cenote;
use cenote_benches::live_bytes::LiveBytes;
use cenote_benches::shapes::bytes::{Arguments, run};
use cenote_benches::shapes::{Lineup, Of};
use clap::Parser;

#[global_allocator]
static ALLOCATOR: LiveBytes = LiveBytes;

fn main() -> Result<(), Box<dyn Error>> {
    run(&Lineup { before: None, now: &Of::<Cenote>::new() }, &Arguments::parse())
}
