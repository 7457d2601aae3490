//! Does a second thread slow a hit down? One thread has made all objects, so those of the two lie
//! side by side in memory.

use std::hint::black_box;

use super::single_thread::SHAPES;
use super::table::{judge, judge_heads};
use super::{Arguments, Lineup, Of, Sampler, Sheet, Subject, measure, ns, ratio, sampler};
use crate::objects::{Object, Shape};
use crate::pools::{Pool, Pools, Stack};
use crate::timing::wall_time_with;

/// Objects, of all threads together.
const OBJECTS: usize = 64;

/// Two threads at once, beside one.
const TARGET: f64 = 1.15;

pub(super) fn spread_sampler<P: Pools, T: Object>(threads: usize) -> Sampler {
    sampler(move |turns| {
        let pool = P::Pool::<T>::new();
        let pool = black_box(&pool);
        // Dealt one by one: neighbors in memory go to different threads.
        let mut hands: Vec<Vec<_>> = (0..threads).map(|_| Vec::new()).collect();
        (0..OBJECTS).for_each(|object| hands[object % threads].push(pool.get()));
        wall_time_with(hands, turns, &drop, &|| pool.get_drop())
    })
}

pub(super) fn get_drop(lineup: &Lineup<'_>, arguments: &Arguments) {
    const NAME: &str = "two_threads";
    let shapes = [Shape::Word].into_iter().chain(SHAPES);
    let shapes = arguments.select(NAME, shapes, |shape| shape.name().to_owned());
    if shapes.is_empty() {
        return;
    }
    let stack = Of::<Stack>::new();
    let subjects: Vec<&dyn Subject> = lineup.subjects().chain([&stack as &dyn Subject]).collect();
    let figures = measure(
        arguments.settings(),
        shapes
            .iter()
            .map(|&shape| {
                let cells = subjects.iter().flat_map(|subject| [1, 2].map(|threads| (subject, threads)));
                cells.map(|(subject, threads)| subject.spread(shape, threads)).collect()
            })
            .collect(),
    );
    let now = lineup.judged();
    let head = ["ns".to_owned()]
        .into_iter()
        .chain(
            subjects.iter().flat_map(|subject| [1, 2].map(|threads| format!("{} {threads}", subject.name()))),
        )
        .chain(judge_heads("2/1"))
        .chain(["stack 2/1".to_owned()])
        .chain(lineup.change_head());
    let mut sheet = Sheet::new(
        NAME,
        "a get and the drop of its guard on one thread and on two at once; a third thread made the objects",
        head,
    );
    for (&shape, row) in shapes.iter().zip(&figures) {
        let ratios: Vec<f64> = row.chunks(2).map(|pair| pair[1] / pair[0]).collect();
        let two: Vec<f64> = row.chunks(2).map(|pair| pair[1]).collect();
        sheet.row(
            [shape.name().to_owned()]
                .into_iter()
                .chain(row.iter().copied().map(ns))
                .chain(judge(Some(ratios[now]), Some(TARGET), ratio))
                .chain([ratio(ratios[now + 1])])
                .chain(lineup.change(&two)),
        );
    }
    sheet.print();
}
