//! What does a lease cost of which nothing is made?

use std::time::Duration;

use cenote::grpc::StreamPool;
use cenote_benches::{median, wall_time};

use crate::contenders::tonic_channel;
use crate::load::runtime;
use crate::report::Table;
use cenote_benches::cores;
use cenote_benches::server::Server;

const TURNS: u64 = 200_000;

/// A get and the drop of the lease, beside the clone and the drop of a tonic `Channel`.
pub(crate) fn lease(count: usize, _: Duration) {
    let server = Server::start(cores(), Some(100));
    let target = server.target();
    let runtime = runtime();
    let _inside = runtime.enter();
    let pool = StreamPool::new();
    runtime.block_on(async { pool.get(&*target).expect("an address").granted().await }).expect("it is up");
    let channel = tonic_channel(&target);

    let get = || drop(std::hint::black_box(pool.get(&*target)));
    let clone = || drop(std::hint::black_box(channel.clone()));
    let each = |time: Duration| time.as_nanos() as f64 / TURNS as f64;
    let mut figures: [[Vec<f64>; 2]; 2] = Default::default();
    for _ in 0..count.max(5) * 3 {
        for threads in [1, 2] {
            figures[0][threads - 1].push(each(wall_time(threads, TURNS, &get)));
            figures[1][threads - 1].push(each(wall_time(threads, TURNS, &clone)));
        }
    }
    let ratios = |above: &[f64], below: &[f64]| median(above.iter().zip(below).map(|(a, b)| a / b).collect());
    let [ours, theirs] = &figures;
    let head = ["ns", "1 thread", "each of 2 threads", "2 threads to 1"];
    let mut table = Table::new("lease: one turn, no call", &head);
    for (name, [one, two]) in [("get, drop of a lease", ours), ("clone, drop of a Channel", theirs)] {
        table.row(vec![
            name.to_owned(),
            format!("{:.0}", median(one.clone())),
            format!("{:.0}", median(two.clone())),
            format!("{:.2}", ratios(two, one)),
        ]);
    }
    table.print();
    println!(
        "target: <= 2 x the Channel's on one thread: {:.2}; two threads to one, at most the Channel's: {:.2} <= {:.2}",
        ratios(&ours[0], &theirs[0]),
        ratios(&ours[1], &ours[0]),
        ratios(&theirs[1], &theirs[0]),
    );
    assert_eq!(server.open(), 1, "one connection is enough for two");
}
