//! When the ager looks, and whether it lets a generation pass then.
//!
//! Three reasons let a generation pass: the end of the period, stalls for lack of memory, and usage
//! near the limit of a control group. Each has times of its own to be looked at, and [`reason`]
//! decides what was found. A look passes one generation at most.
//!
//! Near the limit, time is what counts: a program that touches memory at full speed fills a small
//! container within a tenth of a second, and an idle object is dropped by the second generation
//! only. So the looks come the sooner the nearer the limit is, and the first two generations follow
//! each other at once. A program may also live above the share all the time, and then its pools
//! must not pay for what they cannot help: see [`Streak`].

use std::time::{Duration, Instant};

use super::AgerConfig;
use super::cgroup::{Groups, Usage, largest_share};
use super::pressure::Pressure;

/// How often pressure is looked at, and usage where there is no limit: one may be set later.
const SELDOM: Duration = Duration::from_secs(1);

/// How often usage is looked at that is far from the limit.
const OFTEN: Duration = Duration::from_millis(100);

/// How often usage is looked at that is at the share of the limit from which the ager acts.
const AT_ONCE: Duration = Duration::from_millis(10);

/// How long a program takes, at the least, from no usage to its limit: a look comes in time for
/// growth at this rate, with a factor of two to spare.
const FILLED_IN: Duration = Duration::from_secs(1);

/// The longest wait: an instant further ahead may be more than the clock can count.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// After how many generations an idle pool is empty.
const GENERATIONS: u32 = 2;

pub(super) struct Schedule {
    period: Duration,
    /// The end of this generation, by the period.
    ends: Instant,
    stalls: Option<Stalls>,
    usage: Option<NearLimit>,
}

struct Stalls {
    pressure: Pressure,
    last_look: Instant,
    /// From which share of the time on a generation passes.
    most: f64,
}

struct NearLimit {
    groups: Groups,
    next_look: Instant,
    /// From which share of the limit on a generation passes.
    most: f64,
    /// What the last look found.
    share: Option<f64>,
    streak: Streak,
}

/// What one look found. `None`: it was not looked at, or there is no such information.
#[derive(Clone, Copy, Debug)]
struct Look<'a> {
    period_is_over: bool,
    /// The share of the time that was stalled, and from which share on that is too much.
    stalled: Option<(f64, f64)>,
    /// The groups with a limit, and from which share of it on they use too much.
    used: Option<(&'a [Usage], f64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Period,
    Stalls,
    NearLimit,
}

/// Whether a generation passes now, and why. A share that is not a number never is too much.
fn reason(look: Look<'_>) -> Option<Reason> {
    let is_above = |(share, most): (f64, f64)| share > most;
    let used = look.used.and_then(|(groups, most)| Some((largest_share(groups)?, most)));
    if used.is_some_and(is_above) {
        Some(Reason::NearLimit)
    } else if look.stalled.is_some_and(is_above) {
        Some(Reason::Stalls)
    } else {
        look.period_is_over.then_some(Reason::Period)
    }
}

/// The generations that have passed since usage is above its share.
///
/// The first ones pass at once. As long as generations drop objects, others follow with each look.
/// When two in a row drop nothing, the pools are not what fills the memory, or their allocator
/// keeps what they gave back: then there is one generation a second, which finds what became idle
/// since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Streak {
    passed: u32,
    /// How many of the last ones in a row dropped nothing.
    fruitless: u32,
}

impl Streak {
    #[must_use]
    fn after_generation(self, dropped: bool) -> Self {
        Streak {
            passed: self.passed.saturating_add(1),
            fruitless: if dropped { 0 } else { self.fruitless.saturating_add(1) },
        }
    }

    /// How long to wait with the next look at usage.
    fn pause(self, share: Option<f64>, most: f64) -> Duration {
        let Some(share) = share else { return SELDOM };
        if share > most {
            return match self {
                _ if self.fruitless >= GENERATIONS => SELDOM,
                _ if self.passed < GENERATIONS => AT_ONCE,
                _ => OFTEN,
            };
        }
        // Not `Duration::mul_f64`, which panics if the share is out of all bounds.
        let pause = Duration::try_from_secs_f64((most - share) * FILLED_IN.as_secs_f64() / 2.0);
        pause.unwrap_or(OFTEN).clamp(AT_ONCE, OFTEN)
    }
}

impl Schedule {
    pub(super) fn new(config: &AgerConfig, now: Instant) -> Self {
        let period = config.period.clamp(Duration::from_millis(1), YEAR);
        let stalls = config.memory_pressure.and_then(|most| {
            let pressure = Pressure::find(config.pressure_file.clone())?;
            Some(Stalls { pressure, last_look: now, most })
        });
        let usage = config.memory_share.and_then(|most| {
            let groups = Groups::find(config.cgroup_dir.as_deref())?;
            Some(NearLimit { groups, next_look: now, most, share: None, streak: Streak::default() })
        });
        Schedule { period, ends: now + period, stalls, usage }
    }

    pub(super) fn next_look(&self) -> Instant {
        let stalls = self.stalls.as_ref().map(|stalls| stalls.last_look + SELDOM);
        let usage = self.usage.as_ref().map(|usage| usage.next_look);
        [stalls, usage].into_iter().flatten().fold(self.ends, Instant::min)
    }

    /// Looks at what it is time for. Whether a generation passes now; then
    /// [`passed`](Self::passed) is called next.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let stalled = self.stalls.as_mut().and_then(|stalls| stalls.look(now));
        let groups = self.usage.as_mut().and_then(|usage| usage.look(now));
        let used = groups.as_deref().zip(self.usage.as_ref().map(|usage| usage.most));
        let reason = reason(Look { period_is_over: now >= self.ends, stalled, used });
        if reason.is_some() {
            self.ends = now + self.period;
        }
        reason.is_some()
    }

    /// A generation has passed, and objects were dropped in it or not.
    pub(super) fn passed(&mut self, now: Instant, dropped: bool) {
        if let Some(usage) = &mut self.usage
            && usage.share.is_some_and(|share| share > usage.most)
        {
            usage.streak = usage.streak.after_generation(dropped);
            // From here on, not from the look: the generation may have taken long.
            usage.next_look = now + usage.streak.pause(usage.share, usage.most);
        }
    }
}

impl Stalls {
    fn look(&mut self, now: Instant) -> Option<(f64, f64)> {
        let since = now.saturating_duration_since(self.last_look);
        if since < SELDOM {
            return None;
        }
        self.last_look = now;
        Some((self.pressure.stalled_share(since)?, self.most))
    }
}

impl NearLimit {
    fn look(&mut self, now: Instant) -> Option<Vec<Usage>> {
        if now < self.next_look {
            return None;
        }
        let groups = self.groups.read(self.most / 2.0);
        self.share = largest_share(&groups);
        if self.share.is_none_or(|share| share <= self.most) {
            self.streak = Streak::default();
        }
        self.next_look = now + self.streak.pause(self.share, self.most);
        Some(groups)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_generation_ends_with_its_period_and_the_next_begins_then() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let config = AgerConfig {
            period: Duration::from_secs(10),
            memory_pressure: None,
            memory_share: None,
            ..AgerConfig::default()
        };
        let mut schedule = Schedule::new(&config, start);
        assert_eq!(schedule.next_look(), at(10));
        assert!(!schedule.is_due(at(9)));
        assert!(schedule.is_due(at(10)));
        assert!(!schedule.is_due(at(19)));
        assert!(schedule.is_due(at(25)), "a late look is one generation");
        assert_eq!(schedule.next_look(), at(35));
    }

    #[test]
    fn a_period_of_zero_or_of_more_than_the_clock_counts_is_clamped() {
        for period in [Duration::ZERO, Duration::MAX] {
            let config = AgerConfig { period, ..AgerConfig::default() };
            let schedule = Schedule::new(&config, Instant::now());
            assert!(schedule.ends > Instant::now() || period.is_zero());
        }
    }

    #[test]
    fn the_period_stalls_and_usage_near_a_limit_each_pass_a_generation() {
        const MIB: u64 = 1 << 20;
        let group =
            |current, cache, max| Usage { current: current * MIB, cache: cache * MIB, max: max * MIB };
        let none: &[Usage] = &[];
        let story = &[group(52, 0, 64)][..];
        // The period is over, the share that was stalled (of 0.1), the groups (0.8 of the limit).
        for (period_is_over, stalled, used, expected) in [
            (false, None, None, None),
            (true, None, None, Some(Reason::Period)),
            (false, Some(0.1), None, None),
            (false, Some(0.11), None, Some(Reason::Stalls)),
            (true, Some(0.11), None, Some(Reason::Stalls)),
            (false, Some(f64::NAN), None, None),
            (false, None, Some(none), None),
            (true, None, Some(none), Some(Reason::Period)),
            (false, None, Some(&[group(8, 0, 10)]), None),
            (false, None, Some(story), Some(Reason::NearLimit)),
            (true, Some(1.0), Some(story), Some(Reason::NearLimit)),
            (false, None, Some(&[group(64, 40, 64)]), None),
            // A group above the own one counts, and one with room enough does not hide the other.
            (false, None, Some(&[group(1, 0, 64), group(900, 0, 1024)]), Some(Reason::NearLimit)),
            (false, None, Some(&[group(52, 0, 64), group(1, 0, 1024)]), Some(Reason::NearLimit)),
            (false, None, Some(&[group(1, 0, 64), group(2, 0, 1024)]), None),
            (false, None, Some(&[group(0, 0, 0)]), None),
        ] {
            let look = Look {
                period_is_over,
                stalled: stalled.map(|share| (share, 0.1)),
                used: used.map(|groups| (groups, 0.8)),
            };
            assert_eq!(reason(look), expected, "{look:?}");
        }
        for most in [f64::NAN, f64::INFINITY, 1.0] {
            let look = Look { period_is_over: false, stalled: None, used: Some((story, most)) };
            assert_eq!(reason(look), None, "{most}");
        }
    }

    #[test]
    fn looks_come_sooner_near_the_limit_and_later_when_generations_drop_nothing() {
        let ms = Duration::from_millis;
        let streak = |passed, fruitless| Streak { passed, fruitless };
        for (state, share, pause) in [
            (streak(0, 0), None, ms(1000)),
            (streak(0, 0), Some(0.0), ms(100)),
            (streak(0, 0), Some(0.6), ms(100)),
            (streak(0, 0), Some(0.7), ms(50)),
            (streak(0, 0), Some(0.75), ms(25)),
            (streak(0, 0), Some(0.8), ms(10)),
            (streak(0, 0), Some(0.81), ms(10)),
            (streak(1, 1), Some(0.81), ms(10)),
            (streak(2, 0), Some(0.81), ms(100)),
            (streak(9, 1), Some(2.0), ms(100)),
            (streak(2, 2), Some(0.81), ms(1000)),
            (streak(9, 5), Some(0.81), ms(1000)),
        ] {
            // In whole milliseconds: a share is not exact.
            let found = state.pause(share, 0.8).as_micros().div_ceil(1000);
            assert!(found.abs_diff(pause.as_millis()) <= 1, "{state:?} {share:?}: {found} ms");
        }
        for most in [f64::NAN, f64::INFINITY, -1.0, 1e300] {
            let pause = streak(0, 0).pause(Some(0.5), most);
            assert!((AT_ONCE..=OFTEN).contains(&pause), "{most}");
        }
        assert_eq!(streak(1, 0).after_generation(false), streak(2, 1));
        assert_eq!(streak(2, 1).after_generation(false), streak(3, 2));
        assert_eq!(streak(3, 2).after_generation(true), streak(4, 0));
    }

    /// The times, in milliseconds, of the generations of four seconds.
    fn generations(mut usage: impl FnMut(u64) -> u64, dropped: impl Fn(usize) -> bool) -> Vec<u64> {
        let name = format!("cenote-schedule-{:?}", std::thread::current().id());
        let dir = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mut write = |ms| fs::write(dir.join("memory.current"), usage(ms).to_string()).unwrap();
        fs::write(dir.join("memory.max"), "1000").unwrap();
        write(0);
        let config = AgerConfig {
            memory_pressure: None,
            memory_share: Some(0.8),
            cgroup_dir: Some(dir.clone()),
            ..AgerConfig::default()
        };
        let start = Instant::now();
        let mut schedule = Schedule::new(&config, start);
        let mut times = Vec::new();
        loop {
            let now = schedule.next_look();
            let ms = (now - start).as_millis() as u64;
            if ms >= 4000 {
                break;
            }
            write(ms);
            if schedule.is_due(now) {
                times.push(ms);
                schedule.passed(now, dropped(times.len()));
            }
        }
        fs::remove_dir_all(&dir).unwrap();
        times
    }

    #[test]
    fn while_usage_stays_high_and_nothing_is_dropped_one_generation_a_second_passes() {
        assert_eq!(generations(|_| 801, |_| false), [0, 10, 1010, 2010, 3010]);
        assert!(generations(|_| 800, |_| true).is_empty());
        // The second drops all that there is.
        assert_eq!(generations(|_| 801, |nth| nth == 2), [0, 10, 110, 210, 1210, 2210, 3210]);
    }

    #[test]
    fn an_idle_pool_is_empty_before_memory_that_is_touched_at_full_speed_is_used_up() {
        // 45 of 64 MiB are idle, and 30 MiB more are touched within 200 ms, from some time on. At
        // 19 MiB more, after 126 ms, the kernel kills.
        for begin in (500..700).step_by(7) {
            let usage = |ms: u64| (703 + ms.saturating_sub(begin) * 469 / 200).min(1172);
            let times = generations(usage, |nth| nth == 2);
            assert!(times[1] < begin + 126 - 40, "from {begin} ms on: {times:?}");
        }
    }

    #[test]
    fn usage_that_falls_and_rises_again_passes_generations_at_once_again() {
        let usage = |ms| if (1000..2000).contains(&ms) { 500 } else { 900 };
        let times = generations(usage, |_| false);
        assert_eq!(times[..2], [0, 10]);
        let again: Vec<_> = times.iter().filter(|time| **time >= 2000).collect();
        assert!(*again[0] <= 2100 && *again[1] == again[0] + 10, "{times:?}");
    }
}
