//! What does a pool cost that serves one request and is dropped?

use std::hint::black_box;

use super::table::{judge, judge_heads};
use super::{Arguments, Lineup, Of, Sampler, Sheet, Subject, measure, ns, own_time_sampler, ratio};
use crate::objects::{Object, Shape};
use crate::pools::{MutexVec, Pool, Pools};

/// ns of a whole life.
const TARGET: f64 = 250.0;

const USES: usize = 4;

pub(super) fn life_sampler<P: Pools, T: Object>() -> Sampler {
    own_time_sampler(|| {
        let pool = P::Pool::<T>::new();
        let pool = black_box(&pool);
        (0..USES).for_each(|_| pool.get_drop());
    })
}

pub(super) fn made_used_dropped(lineup: &Lineup<'_>, arguments: &Arguments) {
    const NAME: &str = "short_life";
    let shapes = [Shape::BoxedWord, Shape::Vec];
    let shapes = arguments.select(NAME, shapes, |shape| shape.name().to_owned());
    if shapes.is_empty() {
        return;
    }
    let peer = Of::<MutexVec>::new();
    let figures = measure(
        arguments.settings(),
        shapes
            .iter()
            .map(|&shape| {
                let mut row = lineup.samplers(|subject| subject.short_life(shape));
                row.push(peer.short_life(shape));
                row
            })
            .collect(),
    );
    let now = lineup.judged();
    let head = ["ns".to_owned()]
        .into_iter()
        .chain(lineup.names())
        .chain([peer.name().to_owned()])
        .chain([format!("/{}", peer.name())])
        .chain(judge_heads("ns").into_iter().skip(1))
        .chain(lineup.change_head());
    let mut sheet = Sheet::new(NAME, "a pool is made, used four times and dropped", head);
    for (&shape, row) in shapes.iter().zip(&figures) {
        sheet.row(
            [shape.name().to_owned()]
                .into_iter()
                .chain(row.iter().copied().map(ns))
                .chain([ratio(row[now] / row[now + 1])])
                .chain(judge(Some(row[now]), Some(TARGET), ns).into_iter().skip(1))
                .chain(lineup.change(row)),
        );
    }
    sheet.print();
}
