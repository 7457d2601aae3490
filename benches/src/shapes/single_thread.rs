//! What does a hit cost on one thread, with a guard and by value?

use super::table::{judge, judge_heads};
use super::{Arguments, Lineup, Of, Sampler, Sheet, Subject, measure, ns, own_time_sampler, ratio};
use crate::objects::{Object, Shape};
use crate::pools::{Pool, Pools, Stack};

/// From a pointer to 64 KiB.
pub(super) const SHAPES: [Shape; 10] = [
    Shape::Boxed,
    Shape::Vec,
    Shape::String,
    Shape::Written,
    Shape::Bytes64,
    Shape::Bytes128,
    Shape::Bytes200,
    Shape::Bytes1K,
    Shape::Bytes4K,
    Shape::Bytes64K,
];

/// No shape may cost more than this many times what a box costs.
const OF_BOX: f64 = 1.3;

pub(super) fn get_drop_sampler<P: Pools, T: Object>() -> Sampler {
    let pool = P::Pool::<T>::new();
    own_time_sampler(move || pool.get_drop())
}

pub(super) fn take_put_sampler<P: Pools, T: Object>() -> Sampler {
    let pool = P::Pool::<T>::new();
    own_time_sampler(move || pool.take_put())
}

pub(super) fn get_drop(lineup: &Lineup<'_>, arguments: &Arguments) {
    const NAME: &str = "get_drop";
    let target = |shape| match shape {
        Shape::Boxed => 1.0,
        Shape::Vec | Shape::String | Shape::Written | Shape::Bytes64 => 0.6,
        _ => 0.4,
    };
    let shapes = arguments.select(NAME, SHAPES, |shape| shape.name().to_owned());
    if shapes.is_empty() {
        return;
    }
    let stack = Of::<Stack>::new();
    let figures = measure(
        arguments.settings(),
        shapes
            .iter()
            .map(|&shape| {
                let mut row = lineup.samplers(|subject| subject.get_drop(shape));
                row.push(stack.get_drop(shape));
                row
            })
            .collect(),
    );
    let now = lineup.judged();
    let boxed = shapes.iter().position(|&shape| shape == Shape::Boxed).map(|row| figures[row][now]);
    let head = ["ns".to_owned()]
        .into_iter()
        .chain(lineup.names())
        .chain([stack.name().to_owned()])
        .chain(judge_heads("/stack"))
        .chain(judge_heads("/box"))
        .chain(lineup.change_head());
    let mut sheet = Sheet::new(NAME, "a get and the drop of its guard, one thread", head);
    for (&shape, row) in shapes.iter().zip(&figures) {
        let of_box = (shape != Shape::Boxed).then_some(OF_BOX);
        sheet.row(
            [shape.name().to_owned()]
                .into_iter()
                .chain(row.iter().copied().map(ns))
                .chain(judge(Some(row[now] / row[now + 1]), Some(target(shape)), ratio))
                .chain(judge(boxed.map(|boxed| row[now] / boxed), of_box, ratio))
                .chain(lineup.change(row)),
        );
    }
    sheet.print();
}

pub(super) fn take_put(lineup: &Lineup<'_>, arguments: &Arguments) {
    const NAME: &str = "take_put";
    let target = |shape| match shape {
        Shape::Boxed => Some(1.15),
        Shape::Vec => Some(0.8),
        Shape::Bytes64 | Shape::Bytes128 | Shape::Bytes200 | Shape::Bytes1K => Some(2.2),
        _ => None,
    };
    let shapes = SHAPES.into_iter().filter(|&shape| shape != Shape::Bytes64K);
    let shapes = arguments.select(NAME, shapes, |shape| shape.name().to_owned());
    if shapes.is_empty() {
        return;
    }
    let stack = Of::<Stack>::new();
    let figures = measure(
        arguments.settings(),
        shapes
            .iter()
            .map(|&shape| {
                let mut row = lineup.samplers(|subject| subject.take_put(shape));
                row.push(stack.take_put(shape));
                row
            })
            .collect(),
    );
    let now = lineup.judged();
    let head = ["ns".to_owned()]
        .into_iter()
        .chain(lineup.names())
        .chain([stack.name().to_owned()])
        .chain(judge_heads("/stack"))
        .chain(lineup.change_head());
    let mut sheet = Sheet::new(NAME, "a take and a put by value, one thread", head);
    for (&shape, row) in shapes.iter().zip(&figures) {
        sheet.row(
            [shape.name().to_owned()]
                .into_iter()
                .chain(row.iter().copied().map(ns))
                .chain(judge(Some(row[now] / row[now + 1]), target(shape), ratio))
                .chain(lineup.change(row)),
        );
    }
    sheet.print();
}
