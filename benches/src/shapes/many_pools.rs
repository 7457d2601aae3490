//! Does a thread find its shard as fast when it uses many pools in turn?

use std::hint::black_box;

use super::table::{judge, judge_heads};
use super::{Arguments, Lineup, Sampler, Sheet, measure, ns, own_time_sampler, ratio};
use crate::pools::{Pool, Pools};

/// What else was made between one pool of the set and the next, since a pool may be numbered when
/// it is first used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// Nothing.
    None,
    /// Pools that died at once, in an uneven number.
    Uneven,
    /// 127 pools that lived until the whole set was made, so that the numbers of the set share
    /// their low bits.
    PowerOfTwo,
}

/// One use of 64 pools, beside one of a single pool.
const TARGET: f64 = 1.5;

type Object = Box<[u8; 64]>;

pub(super) fn in_turn_sampler<P: Pools>(number: usize, spacing: Spacing) -> Sampler {
    let mut random = fastrand::Rng::with_seed(1);
    let mut between = Vec::new();
    let used = || {
        let pool = P::Pool::<Object>::new();
        pool.get_drop();
        pool
    };
    let pools: Vec<_> = (0..number)
        .map(|_| {
            match spacing {
                Spacing::None => {}
                Spacing::Uneven => (0..random.usize(50..200)).for_each(|_| drop(used())),
                Spacing::PowerOfTwo => between.extend((0..127).map(|_| used())),
            }
            used()
        })
        .collect();
    drop(between);
    own_time_sampler(move || black_box(&pools).iter().for_each(Pool::get_drop)).per(number)
}

pub(super) fn in_turn(lineup: &Lineup<'_>, arguments: &Arguments) {
    const NAME: &str = "many_pools";
    // The first row is what the others are compared with.
    let rows = [
        ("1", 1, Spacing::None, None),
        ("8", 8, Spacing::None, None),
        ("64", 64, Spacing::None, Some(TARGET)),
        ("64, among short-lived ones", 64, Spacing::Uneven, Some(TARGET)),
        ("64, every 128th of those made", 64, Spacing::PowerOfTwo, Some(TARGET)),
        ("1000", 1000, Spacing::None, None),
    ];
    let mut selected = arguments.select(NAME, rows, |row| row.0.to_owned());
    if selected.is_empty() {
        return;
    }
    if selected[0].1 != 1 {
        selected.insert(0, rows[0]);
    }
    let figures = measure(
        arguments.settings(),
        selected
            .iter()
            .map(|&(_, number, spacing, _)| lineup.samplers(|subject| subject.many_pools(number, spacing)))
            .collect(),
    );
    let now = lineup.judged();
    let head = ["ns a turn; pools".to_owned()]
        .into_iter()
        .chain(lineup.names())
        .chain(judge_heads("/one pool"))
        .chain(lineup.change_head());
    let mut sheet = Sheet::new(NAME, "one thread uses many pools in turn", head);
    for (&(name, _, _, target), row) in selected.iter().zip(&figures) {
        sheet.row(
            [name.to_owned()]
                .into_iter()
                .chain(row.iter().copied().map(ns))
                .chain(judge(Some(row[now] / figures[0][now]), target, ratio))
                .chain(lineup.change(row)),
        );
    }
    sheet.print();
}
