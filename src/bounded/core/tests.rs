use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

type C = Core<u64, &'static str>;

const MAX_CREATING: usize = 2;

fn rules(max_size: usize) -> Rules {
    Rules {
        max_size,
        min_size: 0,
        min_idle: 0,
        max_creating: MAX_CREATING,
        max_waiters: usize::MAX,
        max_lifetime: None,
        jitter: 0.0,
        idle_timeout: None,
        fail_fast: false,
        is_lifo: true,
        check: None,
        resets: false,
        first_pause: Duration::from_millis(50),
        longest_pause: Duration::from_secs(1),
        seed: 1,
    }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

struct Waiter {
    key: Key,
    deadline: Time,
    /// Whether it has slept: others may have been served before it.
    has_slept: bool,
}

/// A pool, the time, and all that is outside of the core.
struct World {
    core: C,
    now: Time,
    leased: Vec<Object<u64>>,
    inspecting: Vec<Object<u64>>,
    closing: Vec<Object<u64>>,
    creating: Vec<AlarmId>,
    /// In the order in which they are to be served.
    waiting: Vec<Waiter>,
    next: u64,
    /// Whether the driver is awake; and until when it sleeps, if not.
    is_awake: bool,
    sleeps_until: Time,
}

impl World {
    fn new(rules: Rules) -> Self {
        World {
            core: C::new(rules),
            now: Time::from_nanos(1 << 40),
            leased: Vec::new(),
            inspecting: Vec::new(),
            closing: Vec::new(),
            creating: Vec::new(),
            waiting: Vec::new(),
            next: 0,
            is_awake: true,
            sleeps_until: Time::NEVER,
        }
    }

    fn apply<R>(&mut self, event: impl FnOnce(&mut C, Time, &mut Effects<&'static str>) -> R) -> R {
        let mut effects = Effects::new();
        let result = event(&mut self.core, self.now, &mut effects);
        self.is_awake |= effects.work;
        result
    }

    /// As the shell: first what nothing follows from.
    fn give_back(&mut self, object: Object<u64>, verdict: Verdict) {
        self.apply(|core, now, effects| {
            let given = match verdict {
                Verdict::Good => core.give_back_ready(object, now),
                _ => Err(object),
            };
            match given {
                Ok(is_work) => effects.work = is_work,
                Err(object) => core.give_back(object, verdict, now, effects),
            }
        });
    }

    /// As the shell: first the fast path, then the queue.
    fn get(&mut self, patience: Option<u64>) {
        let deadline = patience.map_or(Time::NEVER, |patience| self.now.after(ms(patience)));
        let waited = self.core.counts().waiting > 0;
        let taken = self.apply(|core, now, effects| match core.take_ready(now) {
            Some(object) => Taken::Object(object),
            None => core.take(now, effects),
        });
        match taken {
            Taken::Object(object) => {
                assert!(!waited, "a newcomer overtook the waiters");
                self.leased.push(object);
                return;
            }
            Taken::Closed => return assert!(!self.core.is_open()),
            Taken::Nothing => {}
        }
        let waker = Waker::noop().clone();
        match self.apply(|core, now, effects| core.enqueue(deadline, 0, waker, now, effects)) {
            Queued::As(key) => self.waiting.push(Waiter { key, deadline, has_slept: false }),
            Queued::Closed => assert!(!self.core.is_open()),
            Queued::Full => panic!("there is no limit of waiters"),
        }
    }

    /// The driver does what there is to do, and sleeps.
    fn work(&mut self) {
        let work = self.apply(|core, now, _| core.take_work(now, true));
        for _ in 0..work.create {
            let limit = self.now.after(ms(300));
            let alarm = Arc::new(Alarm::new(true));
            let alarm = self.apply(|core, _, effects| core.arm(limit, alarm, effects));
            self.creating.push(alarm);
        }
        assert!(work.create == 0 || self.core.size() <= self.core.rules.max_size, "one too many");
        self.inspecting.extend(work.inspect);
        self.closing.extend(work.close);
        // The alarms of the new creations are the last that the driver looks at.
        self.sleeps_until = self.apply(|core, now, _| core.take_work(now, true)).sleep_until;
        self.is_awake = false;
    }

    /// All waiters look, or only one. Those that have an outcome go. Objects come in the order of arrival.
    fn look(&mut self, only: Option<usize>) {
        let mut overtaken = false;
        for (at, mut waiter) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            if only.is_some_and(|only| only != at) {
                self.waiting.push(waiter);
                continue;
            }
            waiter.has_slept |= self.core.waiters.is_asleep(waiter.key);
            let waker = Waker::noop().clone();
            match self.apply(|core, now, effects| core.look(waiter.key, waker, now, effects)) {
                None => {
                    overtaken |= !waiter.has_slept;
                    self.waiting.push(waiter);
                }
                Some(Ok(object)) => {
                    assert!(waiter.has_slept || !overtaken || only.is_some(), "a waiter was overtaken");
                    self.leased.push(object);
                }
                Some(Err(Failure::TimedOut(..))) => assert!(waiter.deadline <= self.now),
                Some(Err(Failure::Closed)) => assert!(!self.core.is_open()),
                Some(Err(failure)) => panic!("no waiter fails with {failure:?}"),
            }
        }
    }

    fn check(&self) {
        let counts = self.core.counts();
        assert_eq!(
            counts.size,
            counts.idle + counts.leased + counts.creating + counts.checking + counts.closing
        );
        assert_eq!(counts.creating, self.creating.len());
        assert_eq!(counts.checking, self.inspecting.len() + self.core.inspect.len());
        assert_eq!(counts.closing, self.closing.len() + self.core.close.len());
        assert!(self.core.overdue <= counts.creating);
        let is_current = |object: &Object<u64>| object.meta.generation == self.core.generation;
        assert!(self.core.idle.iter().all(is_current), "an outdated object is idle");
        assert!(counts.creating - self.core.overdue <= MAX_CREATING, "too many creations at once");
        let outside = self.leased.iter().chain(&self.inspecting).chain(&self.closing);
        let mut held: Vec<u64> = outside.map(|object| object.value).collect();
        held.sort_unstable();
        assert!(held.windows(2).all(|two| two[0] != two[1]), "an object is in two hands: {held:?}");
        // Granted, and not taken yet, counts as leased.
        assert!(counts.leased >= self.leased.len());
        let out = counts.leased + counts.checking + counts.closing + counts.creating > 0;
        assert!(
            counts.waiting == 0 || out || self.is_awake || !self.sleeps_until.is_never(),
            "a waiter has no agent: {counts:?}"
        );
        assert!(
            counts.waiting == 0 || counts.idle == 0 || counts.checking >= counts.waiting,
            "an object is idle beside a waiter: {counts:?}"
        );
        assert!(
            counts.idle == 0 || counts.size - counts.closing <= counts.max_size,
            "an object is idle above the limit: {counts:?}"
        );
        // A driver that sleeps misses nothing.
        if !self.is_awake {
            for waiter in &self.waiting {
                let waits =
                    self.core.waiters.is_pending(waiter.key) && !self.core.waiters.is_asleep(waiter.key);
                let is_ahead = waits && self.now < waiter.deadline;
                assert!(
                    !is_ahead || self.sleeps_until <= waiter.deadline,
                    "the driver sleeps over a deadline"
                );
            }
            assert!(self.core.inspect.is_empty() && self.core.close.is_empty(), "work lies about");
            let is_due = self.core.wants_creation() && self.core.retry_at <= self.now;
            assert!(!is_due, "a creation is due, and the driver sleeps: {counts:?}");
            let next = self.core.next_attempt(true);
            assert!(
                self.sleeps_until <= next,
                "the driver sleeps until {:?}, not {next:?}",
                self.sleeps_until
            );
            for object in &self.core.idle {
                assert!(self.sleeps_until <= object.meta.expires, "an object outlives its time");
            }
        }
    }

    /// All that is under way comes to a good end; then no waiter may be left.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            self.look(None);
            if self.waiting.is_empty() {
                return;
            }
            if let Some(object) = self.leased.pop() {
                self.give_back(object, Verdict::Good);
            } else if let Some(object) = self.inspecting.pop() {
                self.apply(|core, now, effects| core.inspected(object, Verdict::Good, now, effects));
            } else if self.closing.pop().is_some() {
                self.apply(|core, now, effects| core.closed_one(now, effects));
            } else if !self.creating.is_empty() {
                self.create(0, true);
            } else if self.is_awake {
                self.work();
            } else {
                assert!(
                    !self.sleeps_until.is_never(),
                    "{} waiters have no agent: {:?}",
                    self.waiting.len(),
                    self.core.counts()
                );
                self.pass_to(self.now.max(self.sleeps_until));
            }
            self.check();
        }
        panic!("{} wait for ever: {:?}", self.waiting.len(), self.core.counts());
    }

    /// Time passes; the driver wakes when it is due, and comes to rest.
    fn pass_to(&mut self, now: Time) {
        self.now = now;
        for _ in 0..100 {
            if self.sleeps_until > now {
                return;
            }
            self.apply(|core, now, effects| core.tick(now, effects));
            self.work();
        }
        panic!("the driver spins: {:?}", self.core);
    }

    fn create(&mut self, at: usize, well: bool) {
        let alarm = self.creating.remove(at);
        self.next += 1;
        let value = self.next;
        self.apply(|core, now, effects| match well {
            true => core.created(value, alarm, now, effects),
            false => core.not_created("refused", alarm, now, effects),
        });
    }
}

#[derive(Clone, Debug)]
enum Step {
    Get(Option<u64>),
    Look(usize),
    LookAll,
    Cancel(usize),
    Return(usize, Verdict),
    Detach(usize),
    Inspected(usize, Option<Verdict>),
    Ask,
    Work,
    Create(usize, bool),
    Closed,
    Resize(usize),
    Invalidate,
    Drain,
    Close,
    Pass(u64),
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        6 => Just(Verdict::Good),
        1 => Just(Verdict::Dirty),
        1 => Just(Verdict::Discarded),
        1 => Just(Verdict::Broken),
        1 => Just(Verdict::AllBroken),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => proptest::option::of(0..200u64).prop_map(Step::Get),
        3 => (0..8usize).prop_map(Step::Look),
        2 => Just(Step::LookAll),
        2 => (0..8usize).prop_map(Step::Cancel),
        5 => (0..8usize, any_verdict()).prop_map(|(at, verdict)| Step::Return(at, verdict)),
        1 => (0..8usize).prop_map(Step::Detach),
        4 => (0..4usize, proptest::option::weighted(0.9, any_verdict()))
            .prop_map(|(at, verdict)| Step::Inspected(at, verdict)),
        1 => Just(Step::Ask),
        6 => Just(Step::Work),
        5 => (0..4usize, proptest::bool::weighted(0.75)).prop_map(|(at, well)| Step::Create(at, well)),
        3 => Just(Step::Closed),
        1 => (1..6usize).prop_map(Step::Resize),
        1 => Just(Step::Invalidate),
        1 => prop_oneof![1 => Just(Step::Close), 1 => Just(Step::Drain), 18 => Just(Step::Work)],
        4 => (0..150u64).prop_map(Step::Pass),
    ]
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let check = prop_oneof![
        2 => Just(None),
        1 => Just(Some(CheckWhen::Borrowed)),
        1 => Just(Some(CheckWhen::IdleFor(ms(40)))),
        1 => Just(Some(CheckWhen::Background(ms(60)))),
        1 => Just(Some(CheckWhen::Suspect)),
    ];
    let times = (proptest::option::of(Just(ms(400))), proptest::option::of(Just(ms(70))));
    (1..5usize, 0..2usize, 0..2usize, check, any::<bool>(), any::<bool>(), times).prop_map(
        |(max_size, min_size, min_idle, check, resets, is_lifo, (max_lifetime, idle_timeout))| Rules {
            min_size,
            min_idle,
            check,
            resets,
            is_lifo,
            max_lifetime,
            jitter: 0.3,
            idle_timeout,
            ..rules(max_size)
        },
    )
}

/// The same histories each time; with `BOUNDED_CASES` so many others.
fn config() -> ProptestConfig {
    match std::env::var("BOUNDED_CASES") {
        Ok(cases) => ProptestConfig::with_cases(cases.parse().expect("a number")),
        Err(_) => ProptestConfig { rng_seed: RngSeed::Fixed(1), ..ProptestConfig::with_cases(2_000) },
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_waiter_is_without_an_agent_and_no_object_is_lost_or_one_too_many(
        rules in any_rules(),
        steps in proptest::collection::vec(any_step(), 0..80),
    ) {
        let mut world = World::new(rules);
        for step in steps {
            let before = world.core.size();
            match step {
                Step::Get(patience) => world.get(patience),
                Step::Look(at) => world.look(Some(at)),
                Step::LookAll => world.look(None),
                Step::Cancel(at) if at < world.waiting.len() => {
                    let key = world.waiting.remove(at).key;
                    world.apply(|core, now, effects| core.cancel(key, now, effects));
                }
                Step::Return(at, verdict) if at < world.leased.len() => {
                    let object = world.leased.remove(at);
                    world.give_back(object, verdict);
                }
                Step::Detach(at) if at < world.leased.len() => {
                    let id = world.leased.remove(at).meta.id;
                    world.apply(|core, now, effects| core.detached(id, now, effects));
                }
                Step::Inspected(at, verdict) if at < world.inspecting.len() => {
                    let object = world.inspecting.remove(at);
                    world.apply(|core, now, effects| match verdict {
                        Some(verdict) => core.inspected(object, verdict, now, effects),
                        None => core.inspection_lost(now, effects),
                    });
                }
                Step::Ask => world.apply(|core, now, effects| core.ask(now, effects)),
                Step::Work if world.is_awake => world.work(),
                Step::Create(at, well) if at < world.creating.len() => world.create(at, well),
                Step::Closed if world.closing.pop().is_some() => {
                    world.apply(|core, now, effects| core.closed_one(now, effects));
                }
                Step::Resize(limit) => world.apply(|core, now, effects| core.resize(limit, now, effects)),
                Step::Invalidate => world.apply(|core, now, effects| core.invalidate_all(now, effects)),
                Step::Drain => world.apply(|core, _, effects| core.drain(effects)),
                Step::Close => world.apply(|core, _, effects| core.close(effects)),
                Step::Pass(time) => world.pass_to(world.now.after(ms(time))),
                _ => {}
            }
            prop_assert!(world.core.size() <= world.core.rules.max_size.max(before), "it grew above its limit");
            world.check();
        }
        world.settle();
    }
}

/// One object, which is idle.
fn with_one_idle(rules: Rules) -> World {
    let mut world = World::new(rules);
    world.get(None);
    world.work();
    world.create(0, true);
    world.look(None);
    let object = world.leased.pop().expect("a lease");
    world.give_back(object, Verdict::Good);
    world
}

#[test]
fn a_grant_that_is_not_taken_goes_to_the_next_and_its_waiter_keeps_the_first_turn() {
    let mut world = with_one_idle(rules(1));
    world.get(None);
    world.get(None);
    world.get(None);
    let object = world.leased.pop().expect("the first one's");
    world.give_back(object, Verdict::Good);
    world.work();
    // The first of the waiters is not polled any more.
    world.pass_to(world.now.after(PATIENCE));
    world.work();
    world.look(Some(1));
    let object = world.leased.pop().expect("it went to the second");
    // It is polled again, and is served next.
    world.look(Some(0));
    world.give_back(object, Verdict::Good);
    world.look(Some(0));
    assert_eq!((world.leased.len(), world.waiting.len()), (1, 0));
}

#[test]
fn a_creation_that_hangs_gives_its_turn_to_another_and_keeps_counting_against_the_limit() {
    let mut world = World::new(rules(3));
    (0..3).for_each(|_| world.get(None));
    world.work();
    assert_eq!(world.creating.len(), MAX_CREATING);
    world.pass_to(world.now.after(ms(300)));
    assert_eq!(
        (world.creating.len(), world.core.size()),
        (3, 3),
        "a third begins, and no more than the limit"
    );
    world.create(2, true);
    world.look(None);
    assert_eq!(world.leased.len(), 1);
    world.create(0, true);
    assert_eq!((world.core.overdue, world.core.size()), (1, 3));
}

#[test]
fn a_broken_object_makes_all_idle_ones_suspect_at_once() {
    let mut world = World::new(Rules { check: Some(CheckWhen::Suspect), max_creating: 6, ..rules(6) });
    (0..6).for_each(|_| world.get(None));
    world.work();
    (0..6).for_each(|_| world.create(0, true));
    world.look(None);
    for object in world.leased.drain(1..).collect::<Vec<_>>() {
        world.give_back(object, Verdict::Good);
    }
    let broken = world.leased.pop().expect("the last one");
    world.apply(|core, now, effects| core.give_back(broken, Verdict::Broken, now, effects));
    world.work();
    assert_eq!((world.inspecting.len(), world.core.counts().idle), (5, 0));
}

#[test]
fn an_object_of_the_minimum_is_replaced_before_its_end() {
    let lifetime = Some(ms(1000));
    let mut world = with_one_idle(Rules { min_size: 1, max_lifetime: lifetime, ..rules(2) });
    world.work();
    world.pass_to(world.now.after(ms(910)));
    assert_eq!((world.creating.len(), world.core.counts().idle), (1, 1), "the old one serves meanwhile");
    world.create(0, true);
    world.pass_to(world.now.after(ms(100)));
    assert_eq!((world.core.counts().idle, world.closing.len()), (1, 1));
}

#[test]
fn a_drain_ends_with_the_last_object_even_if_that_never_began_to_exist() {
    let mut world = World::new(rules(1));
    world.get(None);
    world.work();
    world.apply(|core, _, effects| core.drain(effects));
    let waker = Waker::noop().clone();
    assert!(!world.apply(|core, _, effects| core.is_drained(waker, effects)));
    let alarm = world.creating.pop().expect("a creation");
    let mut effects = Effects::new();
    world.core.withdraw_creation(alarm, world.now, &mut effects);
    assert!(!effects.wake.is_empty(), "the drain is not woken");
}
