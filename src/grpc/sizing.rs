//! How many connections carry a load, and which of them takes the next caller: pure functions.
//!
//! * A connection is driven by one task, and each costs system calls of its own. So callers share one until each connection
//!   has [`SPREAD_AT`] of them; then there is another, up to one for each core.
//! * Beyond that another is made only when those there are have reached their server's limit of streams.
//! * A connection lives no longer than the runtime that drives it. So each runtime has its own, as far as there may be so many.
//! * A caller goes to the Ready connection that has the fewest callers. A connection that is made for the sake
//!   of a core takes its first caller when it is Ready: no call waits for its dial.

use super::conn::ConnectivityState;

/// So many callers on each connection are reason for another, while there are fewer than cores.
pub(in crate::grpc) const SPREAD_AT: u32 = 32;

/// How many connections `streams` need where each takes `limit`, for the limit and for `cores`.
pub(in crate::grpc) fn needed(streams: u32, limit: u32, cores: usize) -> usize {
    let by_limit = streams.div_ceil(limit.max(1)) as usize;
    let by_cores = cores.min(streams.div_ceil(SPREAD_AT) as usize);
    by_limit.max(by_cores)
}

/// What holds for a pool.
#[derive(Clone, Copy, Debug)]
pub(in crate::grpc) struct Rule {
    /// Whether each caller gets a connection to itself, as long as `most` allows.
    pub(in crate::grpc) exclusive: bool,
    /// Up to so many connections are made for the sake of the cores.
    pub(in crate::grpc) cores: usize,
    /// No more than so many at once.
    pub(in crate::grpc) most: usize,
}

/// A connection, as far as the choice goes.
#[derive(Clone, Copy, Debug)]
pub(in crate::grpc) struct Load {
    pub(in crate::grpc) id: u64,
    pub(in crate::grpc) state: ConnectivityState,
    pub(in crate::grpc) callers: u32,
    /// How many streams its server takes at once, if that is known.
    pub(in crate::grpc) limit: Option<u32>,
    /// Whether it is driven, or dialed, on another runtime than the caller's. It ends with that runtime.
    pub(in crate::grpc) is_foreign: bool,
}

impl Load {
    fn is_ready(&self) -> bool {
        self.state == ConnectivityState::Ready && !self.is_foreign
    }

    fn is_pending(&self) -> bool {
        matches!(self.state, ConnectivityState::Idle | ConnectivityState::Connecting) && !self.is_foreign
    }

    fn has_room(&self) -> bool {
        self.limit.is_none_or(|limit| self.callers < limit)
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grpc) enum Wish {
    /// A new caller, which gets a connection in any case.
    Caller,
    /// A call whose connection has no stream free. Where no other has one, it stays and waits.
    Room,
    /// A call whose connection cannot be established. Only one that is established is better.
    Ready,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grpc) enum Choice {
    /// This one; and meanwhile the pool prepares another.
    Lend(u64, Prepare),
    /// A new one.
    Add,
    /// There may be no more, and all of them are failing: this one, as if it had not failed.
    Revive(u64),
    /// None.
    Stay,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grpc) enum Prepare {
    Nothing,
    /// One more connection is to be made and dialed.
    Another,
    /// This one is to be dialed.
    Dial(u64),
}

/// Which of `loads` takes the next caller. `tried` are those that the call has been on. `may_grow` says whether another
/// connection may be made while one that is usable exists.
pub(in crate::grpc) fn choose(
    loads: &[Load],
    tried: &[u64],
    rule: Rule,
    may_grow: bool,
    wish: Wish,
) -> Choice {
    let least = |which: &dyn Fn(&Load) -> bool| {
        let new = loads.iter().filter(|load| !tried.contains(&load.id) && which(load));
        new.min_by_key(|load| load.callers)
    };
    let usable = loads.iter().filter(|load| load.is_ready() || load.is_pending());
    let below_most = loads.len() < rule.most;
    if rule.exclusive && wish != Wish::Caller {
        return Choice::Stay;
    }
    if rule.exclusive && below_most {
        return Choice::Add;
    }
    let ready = least(&|load| load.is_ready() && load.has_room());
    let over_limit = || least(&|load| load.is_ready());
    let elsewhere = || least(&|load| load.state == ConnectivityState::Ready);
    if wish == Wish::Ready {
        return ready
            .or_else(over_limit)
            .or_else(elsewhere)
            .map_or(Choice::Stay, |load| Choice::Lend(load.id, Prepare::Nothing));
    }
    if let Some(load) = ready {
        let idle = usable.clone().find(|load| load.state == ConnectivityState::Idle);
        let dialing = usable.clone().any(|load| load.state == ConnectivityState::Connecting);
        let crowded = load.callers >= SPREAD_AT && !rule.exclusive && may_grow && !dialing;
        let prepare = match idle {
            Some(idle) if crowded => Prepare::Dial(idle.id),
            None if crowded && below_most && usable.count() < rule.cores => Prepare::Another,
            _ => Prepare::Nothing,
        };
        return Choice::Lend(load.id, prepare);
    }
    if let Some(load) = least(&|load| load.is_pending() && load.has_room()) {
        return Choice::Lend(load.id, Prepare::Nothing);
    }
    // A server that takes nothing now does not take more for being asked twice.
    let takes_nothing = usable.clone().any(|load| load.is_ready() && load.limit == Some(0));
    let nothing_usable = usable.count() == 0;
    if below_most && (nothing_usable || (may_grow && !takes_nothing)) {
        return Choice::Add;
    }
    if wish == Wish::Room {
        return Choice::Stay;
    }
    let any =
        over_limit().or_else(|| least(&Load::is_pending)).or_else(|| least(&|load| load.state.is_usable()));
    match any.or_else(|| least(&|load| load.state == ConnectivityState::TransientFailure)) {
        Some(load) if load.state.is_usable() => Choice::Lend(load.id, Prepare::Nothing),
        Some(load) => Choice::Revive(load.id),
        None => Choice::Stay,
    }
}

/// How many callers a connection keeps when they come back: what is above moves to others with its next get.
pub(in crate::grpc) fn cap(load: &Load, loads: &[Load]) -> u32 {
    let ready = || loads.iter().filter(|load| load.is_ready());
    let limit = load.limit.map_or(u32::MAX, |limit| limit.max(1));
    match ready().count() as u32 {
        0 | 1 => limit,
        count => {
            let callers = ready().fold(0u32, |sum, load| sum.saturating_add(load.callers));
            callers.div_ceil(count).max(SPREAD_AT).min(limit)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::ConnectivityState::{Connecting, Idle, Ready, Shutdown, TransientFailure};
    use super::*;

    const SHARED: Rule = Rule { exclusive: false, cores: 2, most: usize::MAX };
    const EXCLUSIVE: Rule = Rule { exclusive: true, ..SHARED };

    fn at_most(most: usize, rule: Rule) -> Rule {
        Rule { most, ..rule }
    }

    fn lend(id: u64) -> Choice {
        Choice::Lend(id, Prepare::Nothing)
    }

    /// Numbered from 1.
    fn loads(rows: &[(ConnectivityState, u32, Option<u32>)]) -> Vec<Load> {
        let load = |(at, &(state, callers, limit))| Load {
            id: at as u64 + 1,
            state,
            callers,
            limit,
            is_foreign: false,
        };
        rows.iter().enumerate().map(load).collect()
    }

    #[test]
    fn the_next_caller_goes_where_the_table_says() {
        let known = Some(100);
        let rows: &[(&[_], Rule, bool, Choice)] = &[
            // None yet.
            (&[], SHARED, true, Choice::Add),
            (&[], SHARED, false, Choice::Add),
            (&[], EXCLUSIVE, true, Choice::Add),
            // One, on its way: all share it, because nobody knows how many streams there are to be had.
            (&[(Idle, 1, None)], SHARED, true, lend(1)),
            (&[(Connecting, 500, None)], SHARED, true, lend(1)),
            // What its server takes is known from another one.
            (&[(Connecting, 99, known)], SHARED, true, lend(1)),
            (&[(Connecting, 100, known)], SHARED, true, Choice::Add),
            // One that is Ready, until it has many.
            (&[(Ready, 31, known)], SHARED, true, lend(1)),
            (&[(Ready, 32, known)], SHARED, true, Choice::Lend(1, Prepare::Another)),
            (&[(Ready, 32, known)], SHARED, false, lend(1)),
            (&[(Ready, 32, known)], at_most(1, SHARED), true, lend(1)),
            (&[(Ready, 32, known)], Rule { cores: 1, ..SHARED }, true, lend(1)),
            // Nobody waits for the other one's dial, and there are no more of those.
            (&[(Ready, 40, known), (Connecting, 0, known)], SHARED, true, lend(1)),
            (&[(Ready, 40, known), (Idle, 0, known)], SHARED, true, Choice::Lend(1, Prepare::Dial(2))),
            (&[(Ready, 3, known), (Idle, 0, known)], SHARED, true, lend(1)),
            // One that is failing is no other one.
            (
                &[(Ready, 40, known), (TransientFailure, 3, known)],
                SHARED,
                true,
                Choice::Lend(1, Prepare::Another),
            ),
            (&[(Ready, 40, known), (TransientFailure, 3, known)], at_most(2, SHARED), true, lend(1)),
            // The fewest.
            (&[(Ready, 40, known), (Ready, 8, known)], SHARED, true, lend(2)),
            (&[(Ready, 40, known), (Ready, 41, known)], SHARED, true, lend(1)),
            // At the server's limit, whatever the cores.
            (&[(Ready, 100, known), (Ready, 100, known)], SHARED, true, Choice::Add),
            (&[(Ready, 100, known), (Connecting, 5, known)], SHARED, true, lend(2)),
            (&[(Ready, 1, Some(1)), (Ready, 1, Some(1)), (Ready, 1, Some(1))], SHARED, true, Choice::Add),
            (&[(Ready, 1, Some(1)), (Ready, 2, Some(1))], at_most(2, SHARED), true, lend(1)),
            (&[(Ready, 1, Some(1)), (Ready, 2, Some(1))], SHARED, false, lend(1)),
            (&[(Ready, 3, Some(0))], SHARED, true, lend(1)),
            // All are failing: another, or one of them.
            (&[(TransientFailure, 3, None)], SHARED, true, Choice::Add),
            (&[(TransientFailure, 3, None)], SHARED, false, Choice::Add),
            (
                &[(TransientFailure, 3, None), (TransientFailure, 2, None)],
                at_most(2, SHARED),
                true,
                Choice::Revive(2),
            ),
            (&[(Shutdown, 0, None)], at_most(1, SHARED), true, Choice::Stay),
            // A connection to itself for each, as long as there may be more.
            (&[(Ready, 1, known), (Idle, 0, known)], EXCLUSIVE, true, Choice::Add),
            (&[(Ready, 1, known), (Idle, 1, known)], at_most(2, EXCLUSIVE), true, lend(1)),
            (&[(Ready, 2, known), (Ready, 1, known)], at_most(2, EXCLUSIVE), true, lend(2)),
            (&[(Ready, 40, known), (Idle, 0, known)], at_most(2, EXCLUSIVE), true, lend(1)),
            (&[(TransientFailure, 1, None)], at_most(1, EXCLUSIVE), true, Choice::Revive(1)),
        ];
        for (members, rule, may_grow, choice) in rows {
            let chosen = choose(&loads(members), &[], *rule, *may_grow, Wish::Caller);
            assert_eq!(chosen, *choice, "{members:?} {rule:?} may grow: {may_grow}");
        }
    }

    #[test]
    fn a_call_that_has_not_left_moves_where_the_table_says() {
        let one = Some(1);
        let rows: &[(&[_], Rule, bool, Wish, Choice)] = &[
            (&[(Ready, 2, one)], SHARED, true, Wish::Room, Choice::Add),
            (&[(Ready, 2, one)], SHARED, false, Wish::Room, Choice::Stay),
            (&[(Ready, 2, one)], at_most(1, SHARED), true, Wish::Room, Choice::Stay),
            (&[(Ready, 2, Some(0))], SHARED, true, Wish::Room, Choice::Stay),
            (&[(Ready, 2, one), (Ready, 0, one)], SHARED, true, Wish::Room, lend(2)),
            (&[(Ready, 2, one), (Ready, 1, one)], SHARED, true, Wish::Room, Choice::Add),
            (&[(Ready, 2, one), (Connecting, 0, one)], SHARED, true, Wish::Room, lend(2)),
            (&[(Ready, 2, one), (Connecting, 1, one)], SHARED, true, Wish::Room, Choice::Add),
            (&[(Connecting, 2, one)], SHARED, true, Wish::Ready, Choice::Stay),
            (&[(Connecting, 2, one), (Ready, 0, one)], SHARED, true, Wish::Ready, lend(2)),
            (&[(TransientFailure, 2, one), (Ready, 9, one)], SHARED, true, Wish::Ready, lend(2)),
            (&[(TransientFailure, 2, one), (Idle, 0, one)], SHARED, true, Wish::Ready, Choice::Stay),
            (&[(Ready, 2, one), (Ready, 0, one)], EXCLUSIVE, true, Wish::Room, Choice::Stay),
            (&[(TransientFailure, 2, one), (Ready, 0, one)], EXCLUSIVE, true, Wish::Ready, Choice::Stay),
        ];
        for (members, rule, may_grow, wish, choice) in rows {
            let chosen = choose(&loads(members), &[1], *rule, *may_grow, *wish);
            assert_eq!(chosen, *choice, "{members:?} {rule:?} may grow: {may_grow} {wish:?}");
        }
    }

    #[test]
    fn callers_that_come_back_stay_up_to_their_share() {
        let rows: &[(&[_], &[u32])] = &[
            (&[(Ready, 64, None)], &[u32::MAX]),
            (&[(Ready, 150, Some(100))], &[100]),
            (&[(Ready, 1, Some(0))], &[1]),
            (&[(Ready, 64, Some(100)), (Ready, 0, Some(100))], &[32, 32]),
            (&[(Ready, 10, Some(100)), (Ready, 0, Some(100))], &[32, 32]),
            (&[(Ready, 150, Some(200)), (Ready, 51, Some(200))], &[101, 101]),
            (&[(Ready, 3, Some(1)), (Ready, 0, Some(1))], &[1, 1]),
            (&[(Ready, 64, Some(100)), (Connecting, 0, Some(100))], &[100, 100]),
        ];
        for (members, caps) in rows {
            let loads = loads(members);
            let found: Vec<u32> = loads.iter().map(|load| cap(load, &loads)).collect();
            assert_eq!(found, *caps, "{members:?}");
        }
    }

    #[test]
    fn connections_are_needed_for_the_limit_and_for_the_cores() {
        for (streams, limit, cores, connections) in [
            (0, 100, 2, 0),
            (1, 100, 2, 1),
            (32, 100, 2, 1),
            (33, 100, 2, 2),
            (200, 100, 2, 2),
            (201, 100, 2, 3),
            (5, 1, 2, 5),
            (5, 0, 2, 5),
            (u32::MAX, u32::MAX, 64, 64),
        ] {
            assert_eq!(needed(streams, limit, cores), connections, "{streams} {limit} {cores}");
        }
    }

    /// Connections of other runtimes, and then those of this one.
    fn with_foreign(rows: &[(ConnectivityState, u32, Option<u32>)], count: usize) -> Vec<Load> {
        let mut loads = loads(rows);
        loads.iter_mut().take(count).for_each(|load| load.is_foreign = true);
        loads
    }

    #[test]
    fn each_runtime_has_connections_of_its_own_as_far_as_there_may_be_so_many() {
        let known = Some(100);
        let rows: &[(&[_], usize, Rule, Wish, Choice)] = &[
            (&[(Ready, 1, known)], 1, SHARED, Wish::Caller, Choice::Add),
            (&[(Connecting, 1, None)], 1, SHARED, Wish::Caller, Choice::Add),
            (&[(Ready, 1, known)], 1, at_most(1, SHARED), Wish::Caller, lend(1)),
            (&[(Connecting, 1, None)], 1, at_most(1, SHARED), Wish::Caller, lend(1)),
            (&[(Ready, 1, known), (Ready, 9, known)], 1, SHARED, Wish::Caller, lend(2)),
            (&[(Ready, 1, known), (Idle, 9, known)], 1, SHARED, Wish::Caller, lend(2)),
            (
                &[(Ready, 1, known), (Ready, 32, known)],
                1,
                SHARED,
                Wish::Caller,
                Choice::Lend(2, Prepare::Another),
            ),
            (&[(Ready, 1, known)], 1, SHARED, Wish::Room, Choice::Add),
            (&[(Ready, 1, known)], 1, at_most(1, SHARED), Wish::Room, Choice::Stay),
            (&[(Ready, 1, known), (Connecting, 2, known)], 1, SHARED, Wish::Room, lend(2)),
            (&[(Ready, 1, known), (Connecting, 2, known)], 2, SHARED, Wish::Room, Choice::Add),
            // Better on another runtime than not at all.
            (&[(Ready, 1, known), (TransientFailure, 2, known)], 1, SHARED, Wish::Ready, lend(1)),
            (&[(Ready, 1, known), (Ready, 2, known)], 1, SHARED, Wish::Ready, lend(2)),
        ];
        for (members, foreign, rule, wish, choice) in rows {
            let chosen = choose(&with_foreign(members, *foreign), &[], *rule, true, *wish);
            assert_eq!(chosen, *choice, "{members:?}, {foreign} foreign {rule:?} {wish:?}");
        }
    }

    fn any_load() -> impl Strategy<Value = (ConnectivityState, u32, Option<u32>)> {
        let state = prop_oneof![
            3 => Just(Ready), 1 => Just(Idle), 1 => Just(Connecting), 1 => Just(TransientFailure), 1 => Just(Shutdown),
        ];
        (state, 0..80u32, prop_oneof![Just(None), (0..60u32).prop_map(Some)])
    }

    proptest! {
        #[test]
        fn no_choice_breaks_the_rule(
            members in proptest::collection::vec(any_load(), 0..8),
            tried in proptest::collection::vec(1..9u64, 0..4),
            exclusive: bool,
            may_grow: bool,
            foreign in 0..8usize,
            cores in 1..5usize,
            most in prop_oneof![1..9usize, Just(usize::MAX)],
            wish in prop_oneof![Just(Wish::Caller), Just(Wish::Room), Just(Wish::Ready)],
        ) {
            let loads = with_foreign(&members, foreign);
            let rule = Rule { exclusive, cores, most };
            let find = |id| loads.iter().find(|load| load.id == id).copied().expect("one of them");
            match choose(&loads, &tried, rule, may_grow, wish) {
                Choice::Lend(id, prepare) => {
                    let load = find(id);
                    prop_assert!(load.state.is_usable() && !tried.contains(&id));
                    prop_assert!(wish != Wish::Ready || load.state == Ready);
                    prop_assert!(!load.is_foreign || wish == Wish::Ready || loads.len() >= most || !may_grow);
                    prop_assert!(wish != Wish::Room || load.has_room());
                    match prepare {
                        Prepare::Nothing => {}
                        Prepare::Another => {
                            let usable = loads.iter().filter(|load| load.is_ready() || load.is_pending()).count();
                            prop_assert!(may_grow && !exclusive && usable < cores && loads.len() < most);
                        }
                        Prepare::Dial(id) => prop_assert_eq!(find(id).state, Idle),
                    }
                }
                Choice::Add => {
                    prop_assert!(loads.len() < most && wish != Wish::Ready);
                    let has_better = |load: &Load| load.is_ready() && load.has_room() && !tried.contains(&load.id);
                    prop_assert!(exclusive || !loads.iter().any(has_better));
                }
                Choice::Revive(id) => {
                    prop_assert!(find(id).state == TransientFailure && loads.len() >= most);
                    prop_assert!(wish == Wish::Caller);
                }
                Choice::Stay => {
                    let lendable = |load: &Load| load.state != Shutdown && !tried.contains(&load.id);
                    prop_assert!(wish != Wish::Caller || !loads.iter().any(lendable));
                }
            }
        }

        #[test]
        fn callers_who_come_one_after_another_need_no_more_connections_than_the_formula_says(
            callers in 1..400u32,
            limit in 1..120u32,
            cores in 1..5usize,
        ) {
            let rule = Rule { exclusive: false, cores, most: usize::MAX };
            let mut loads: Vec<Load> = Vec::new();
            let ready = |id, callers| Load { id, state: Ready, callers, limit: Some(limit), is_foreign: false };
            for _ in 0..callers {
                match choose(&loads, &[], rule, true, Wish::Caller) {
                    Choice::Add => loads.push(ready(loads.len() as u64, 1)),
                    Choice::Lend(id, prepare) => {
                        loads[id as usize].callers += 1;
                        if prepare == Prepare::Another {
                            loads.push(ready(loads.len() as u64, 0));
                        }
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            prop_assert!(loads.iter().all(|load| load.callers <= limit));
            prop_assert!(loads.len() <= needed(callers, limit, cores));
        }
    }
}
