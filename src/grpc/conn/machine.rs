//! The states of a connection as a pure function: (state, event, now) -> (state, effects).
//!
//! ```text
//!                 Wanted                       Connected, the server serves
//!   Idle ───────────────────────▶ Connecting ───────────────────────────────▶ Ready
//!    ▲ ▲                            │  ▲                                     ▲  │ Health(Err)
//!    │ │ DialAbandoned              │  │ FailureForgotten,     Health(Ok(())) │  ▼
//!    │ └────────────────────────────┤  │ while a task dials    ┌──────── NotServing
//!    │               AttemptFailed  ▼  │                       │            ▲
//!    │ DialAbandoned               Failed ─────────────────────┘────────────┘
//!    ├──────────────────────────────┘     Connected, by the server's health
//!    └── LinkLost, LinkRetired, FailureForgotten: from Ready and NotServing
//!   any ── ShutDown ──▶ Shutdown, permanently
//! ```
//!
//! There is no lock, no task and no socket in here, and time is an argument. The shell
//! ([`Shared`](super::shared::Shared)) applies one event at a time under its lock, publishes the state, and runs the
//! [`Effects`] after it has released the lock. A transport and an error are values that the machine
//! only stores and gives back, so it is generic over both.
//!
//! # Invariants
//!
//! * At most one task dials: [`Effects::start_dial`] is set only when no task does, and the task reports its end with
//!   `Connected`, `DialAbandoned`, or `AttemptFailed` that does not go on. Dials are numbered. A caller that finds the task's
//!   runtime at rest may report `DialAbandoned` in its place; what such a task reports later
//!   [counts for nothing](Machine::apply_of_dial).
//! * Connecting means that a task dials. Ready and NotServing mean that none does.
//! * Shutdown is never left.
//! * A transport is in the phase, or has been given back in [`Effects::released`], exactly once.

use std::time::{Duration, Instant};

use super::state::ConnectivityState;

/// A transport, and the number of the link that it sends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Up<T> {
    pub(super) link: u64,
    pub(super) transport: T,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase<T, E> {
    Idle,
    Connecting,
    Ready(Up<T>),
    /// The link is up, and its server says that it does not serve; calls fail with the error until it says otherwise or
    /// the link is lost.
    NotServing(Up<T>, E),
    /// It stays while the task dials again.
    Failed(E),
    /// Permanent; calls fail with the error.
    Shutdown(E),
}

impl<T, E> Phase<T, E> {
    fn state(&self) -> ConnectivityState {
        match self {
            Phase::Idle => ConnectivityState::Idle,
            Phase::Connecting => ConnectivityState::Connecting,
            Phase::Ready(_) => ConnectivityState::Ready,
            Phase::NotServing(..) | Phase::Failed(_) => ConnectivityState::TransientFailure,
            Phase::Shutdown(_) => ConnectivityState::Shutdown,
        }
    }

    /// The state of a link whose server reports this of itself.
    fn up(up: Up<T>, health: Result<(), E>) -> Self {
        match health {
            Ok(()) => Phase::Ready(up),
            Err(error) => Phase::NotServing(up, error),
        }
    }

    fn link(&self) -> Option<&Up<T>> {
        match self {
            Phase::Ready(up) | Phase::NotServing(up, _) => Some(up),
            _ => None,
        }
    }
}

/// What happens to a connection.
#[derive(Clone, Debug)]
pub(super) enum Event<T, E> {
    /// A call or `connect` wants a connection.
    Wanted,
    /// The attempt has led to a link. `is_open` says whether the link still takes calls.
    Connected { up: Up<T>, is_open: bool, health: Result<(), E> },
    /// The attempt has failed. `goes_on` says whether the task dials again.
    AttemptFailed { error: E, goes_on: bool },
    /// The dial task has ended without an outcome.
    DialAbandoned,
    /// The server of a link reports its health.
    Health { link: u64, health: Result<(), E> },
    /// A link takes no more calls: the server's GOAWAY, the end of the socket, or a request that HTTP/2 gave back.
    LinkLost { link: u64 },
    /// A link has reached its age or its idle timeout. `is_due` says whether that still holds under the lock.
    LinkRetired { link: u64, is_due: bool },
    /// The pool takes TransientFailure back, so that the connection can be lent again.
    FailureForgotten,
    /// `close`, or a discard. Calls fail with `error` from here on, or, if `keep_failure`, with the failure that there is.
    ShutDown { error: E, keep_failure: bool },
}

/// What became of an event that wants an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Applied,
    /// It concerned a link that is no longer the current one, or a state that has passed.
    Ignored,
    /// The connection is shut down: a new link is not taken.
    IsShutDown,
    /// The new link ended before it could be used.
    LostAtOnce,
}

/// What the shell is to do after it has released its lock, in the order of the fields.
#[must_use]
#[derive(Debug)]
pub(super) struct Effects<T, E> {
    pub(super) outcome: Outcome,
    /// To be notified to the pool and to be traced, if they differ.
    pub(super) from: ConnectivityState,
    pub(super) to: ConnectivityState,
    /// A task is to dial.
    pub(super) start_dial: bool,
    /// The number of the last dial.
    pub(super) dial: u64,
    /// A server that was connected no longer serves: the next dial has to show whether it is there.
    pub(super) in_doubt: bool,
    /// What the event has replaced. Its drop may wake tasks.
    pub(super) released: Option<Phase<T, E>>,
    /// An older failure, and a transport that was not taken: to be dropped likewise.
    pub(super) dropped: (Option<E>, Option<T>),
}

/// What a call finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a, T, E> {
    Transport(&'a T),
    Failed(E),
    /// It has to wait. So many attempts have come to an outcome.
    Nothing {
        attempts: u64,
    },
}

/// The state of a connection.
#[derive(Clone, Debug)]
pub(super) struct Machine<T, E> {
    phase: Phase<T, E>,
    /// Whether a dial task exists.
    dialing: bool,
    /// Dials that were begun; the last one's number.
    dials: u64,
    /// Dials that came to an outcome.
    attempts: u64,
    /// When a call or `connect` last asked for a connection while there was none.
    asked: Instant,
    /// The last failure, and which attempt it was: for calls that waited for that attempt, whatever has become of the
    /// state since.
    last_failure: Option<(u64, E)>,
}

impl<T, E: Clone> Machine<T, E> {
    pub(super) fn new(now: Instant) -> Self {
        Machine { phase: Phase::Idle, dialing: false, dials: 0, attempts: 0, asked: now, last_failure: None }
    }

    // ── questions ──

    pub(super) fn state(&self) -> ConnectivityState {
        self.phase.state()
    }

    /// Whether another state will follow without anybody asking for it: a task dials, or the server may report that it
    /// serves.
    pub(super) fn is_in_progress(&self) -> bool {
        self.dialing || matches!(self.phase, Phase::NotServing(..))
    }

    pub(super) fn attempts(&self) -> u64 {
        self.attempts
    }

    /// The link that carries calls, or will when its server serves.
    pub(super) fn current(&self) -> Option<&Up<T>> {
        self.phase.link()
    }

    pub(super) fn ready(&self) -> Option<&Up<T>> {
        match &self.phase {
            Phase::Ready(up) => Some(up),
            _ => None,
        }
    }

    /// Why it is in TransientFailure or Shutdown.
    pub(super) fn failure(&self) -> Option<&E> {
        match &self.phase {
            Phase::NotServing(_, error) | Phase::Failed(error) | Phase::Shutdown(error) => Some(error),
            _ => None,
        }
    }

    /// Whether no call has asked for a connection for `timeout`.
    pub(super) fn is_unwanted(&self, timeout: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.asked) >= timeout
    }

    /// What a call finds that has waited for the attempt after the first `waited_from`.
    ///
    /// A failed connection that `paces_itself` fails calls at once. One that dials only through its pool's gate fails
    /// those only that have waited for the failed attempt: the others cause the next one.
    pub(super) fn look(
        &mut self,
        waited_from: Option<u64>,
        paces_itself: bool,
        now: Instant,
    ) -> Found<'_, T, E> {
        if self.ready().is_none() {
            self.asked = now;
        }
        let attempts = self.attempts;
        match &self.phase {
            Phase::Ready(up) => Found::Transport(&up.transport),
            Phase::NotServing(_, error) | Phase::Shutdown(error) => Found::Failed(error.clone()),
            Phase::Failed(error) if paces_itself || waited_from.is_some_and(|from| from != attempts) => {
                Found::Failed(error.clone())
            }
            _ => match (&self.last_failure, waited_from) {
                (Some((attempt, error)), Some(from)) if *attempt > from => Found::Failed(error.clone()),
                _ => Found::Nothing { attempts },
            },
        }
    }

    // ── events ──

    pub(super) fn apply(&mut self, event: Event<T, E>, now: Instant) -> Effects<T, E> {
        let mut effects = Effects {
            outcome: Outcome::Applied,
            from: self.state(),
            to: self.state(),
            start_dial: false,
            dial: self.dials,
            in_doubt: false,
            released: None,
            dropped: (None, None),
        };
        match event {
            Event::Wanted => self.wanted(now, &mut effects),
            Event::Connected { up, is_open, health } => self.connected(up, is_open, health, &mut effects),
            Event::AttemptFailed { error, goes_on } => {
                self.dialing = goes_on;
                effects.dropped.0 = self.count_attempt(Some(error.clone()));
                if !self.is_shut_down() {
                    self.enter(Phase::Failed(error), &mut effects);
                }
            }
            Event::DialAbandoned => {
                self.dialing = false;
                if matches!(self.phase, Phase::Connecting | Phase::Failed(_)) {
                    self.enter(Phase::Idle, &mut effects);
                }
            }
            Event::Health { link, health } => self.report_health(link, health, &mut effects),
            Event::LinkLost { link } => {
                self.leave_link(|up| up.link == link, &mut effects);
                effects.in_doubt = effects.outcome == Outcome::Applied;
            }
            Event::LinkRetired { link, is_due } => {
                self.leave_link(|up| up.link == link && is_due, &mut effects)
            }
            Event::FailureForgotten => match self.phase {
                Phase::Failed(_) | Phase::NotServing(..) => {
                    let next = if self.dialing { Phase::Connecting } else { Phase::Idle };
                    self.enter(next, &mut effects);
                }
                _ => effects.outcome = Outcome::Ignored,
            },
            Event::ShutDown { error, keep_failure } => {
                let kept = self.failure().filter(|_| keep_failure).cloned();
                self.enter(Phase::Shutdown(kept.unwrap_or(error)), &mut effects);
            }
        }
        effects.to = self.state();
        effects.dial = self.dials;
        effects
    }

    /// As [`apply`](Self::apply), for what a dial task reports. `None`: another dial has taken its place.
    pub(super) fn apply_of_dial(
        &mut self,
        dial: u64,
        event: Event<T, E>,
        now: Instant,
    ) -> Option<Effects<T, E>> {
        self.is_current_dial(dial).then(|| self.apply(event, now))
    }

    pub(super) fn is_current_dial(&self, dial: u64) -> bool {
        self.dialing && self.dials == dial
    }

    /// The dial that is under way.
    pub(super) fn dial(&self) -> Option<u64> {
        self.dialing.then_some(self.dials)
    }

    fn is_shut_down(&self) -> bool {
        matches!(self.phase, Phase::Shutdown(_))
    }

    fn enter(&mut self, next: Phase<T, E>, effects: &mut Effects<T, E>) {
        effects.released = Some(std::mem::replace(&mut self.phase, next));
    }

    /// Counts an attempt that came to an outcome. The failure before the last one is returned.
    fn count_attempt(&mut self, error: Option<E>) -> Option<E> {
        self.attempts += 1;
        let (_, before) = self.last_failure.replace((self.attempts, error?))?;
        Some(before)
    }

    fn wanted(&mut self, now: Instant, effects: &mut Effects<T, E>) {
        self.asked = now;
        match self.phase {
            Phase::Ready(_) | Phase::NotServing(..) | Phase::Shutdown(_) => {
                return effects.outcome = Outcome::Ignored;
            }
            Phase::Idle => self.phase = Phase::Connecting,
            Phase::Connecting | Phase::Failed(_) => {}
        }
        effects.start_dial = !std::mem::replace(&mut self.dialing, true);
        self.dials += u64::from(effects.start_dial);
    }

    fn connected(&mut self, up: Up<T>, is_open: bool, health: Result<(), E>, effects: &mut Effects<T, E>) {
        let refused = match (self.is_shut_down(), is_open) {
            (true, _) => Outcome::IsShutDown,
            (false, false) => Outcome::LostAtOnce,
            (false, true) => {
                self.dialing = false;
                effects.dropped.0 = self.count_attempt(health.as_ref().err().cloned());
                return self.enter(Phase::up(up, health), effects);
            }
        };
        effects.outcome = refused;
        effects.dropped = (health.err(), Some(up.transport));
    }

    fn report_health(&mut self, link: u64, health: Result<(), E>, effects: &mut Effects<T, E>) {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Ready(up) if up.link == link => {
                effects.in_doubt = health.is_err();
                self.phase = Phase::up(up, health);
            }
            Phase::NotServing(up, before) if up.link == link => {
                effects.dropped.0 = Some(before);
                self.phase = Phase::up(up, health);
            }
            other => {
                self.phase = other;
                effects.dropped.0 = health.err();
                effects.outcome = Outcome::Ignored;
            }
        }
    }

    fn leave_link(&mut self, which: impl FnOnce(&Up<T>) -> bool, effects: &mut Effects<T, E>) {
        match self.phase.link() {
            Some(up) if which(up) => self.enter(Phase::Idle, effects),
            _ => effects.outcome = Outcome::Ignored,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::ConnectivityState as State;
    use super::*;

    type M = Machine<u64, &'static str>;
    type Ev = Event<u64, &'static str>;

    fn up(link: u64) -> Up<u64> {
        Up { link, transport: link }
    }

    fn connected(link: u64) -> Ev {
        Event::Connected { up: up(link), is_open: true, health: Ok(()) }
    }

    fn not_serving(link: u64) -> Ev {
        Event::Connected { up: up(link), is_open: true, health: Err("not serving") }
    }

    fn health(link: u64, health: Result<(), &'static str>) -> Ev {
        Event::Health { link, health }
    }

    fn failed(goes_on: bool) -> Ev {
        Event::AttemptFailed { error: "refused", goes_on }
    }

    fn close() -> Ev {
        Event::ShutDown { error: "closed", keep_failure: false }
    }

    fn discard() -> Ev {
        Event::ShutDown { error: "closed", keep_failure: true }
    }

    fn after(events: &[Ev], now: Instant) -> M {
        let mut machine = M::new(now);
        for event in events {
            let _ = machine.apply(event.clone(), now);
        }
        machine
    }

    /// One row: the history, the event, and what it leads to: outcome, state, failure, whether a task dials, is started, and
    /// whether the server is in doubt.
    #[test]
    fn each_event_in_each_state_leads_to_the_state_and_the_effects_of_the_table() {
        use Event::*;
        use Outcome::*;
        let lost = LinkLost { link: 1 };
        let aged = LinkRetired { link: 1, is_due: true };
        let not_due = LinkRetired { link: 1, is_due: false };
        let gone = Connected { up: up(1), is_open: false, health: Ok(()) };
        let idle: &[Ev] = &[];
        let connecting: &[Ev] = &[Wanted];
        let ready: &[Ev] = &[Wanted, connected(1)];
        let sick: &[Ev] = &[Wanted, not_serving(1)];
        let redialing: &[Ev] = &[Wanted, failed(true)];
        let down: &[Ev] = &[Wanted, failed(false)];
        let shut: &[Ev] = &[close()];
        let closing: &[Ev] = &[Wanted, close()];
        type Row<'a> = (&'a str, &'a [Ev], Ev, Outcome, State, Option<&'a str>, bool, bool, bool);
        #[rustfmt::skip]
        let table: &[Row<'_>] = &[
            // history                   event               outcome     state               failure        dials  start  doubt
            ("idle", idle,               Wanted,             Applied,    State::Connecting,       None,              true,  true,  false),
            ("idle", idle,               lost.clone(),       Ignored,    State::Idle,             None,              false, false, false),
            ("idle", idle,               FailureForgotten,   Ignored,    State::Idle,             None,              false, false, false),
            ("idle", idle,               discard(),          Applied,    State::Shutdown,         Some("closed"),    false, false, false),
            ("connecting", connecting,   Wanted,             Applied,    State::Connecting,       None,              true,  false, false),
            ("connecting", connecting,   connected(1),       Applied,    State::Ready,            None,              false, false, false),
            ("connecting", connecting,   not_serving(1),     Applied,    State::TransientFailure, Some("not serving"), false, false, false),
            ("connecting", connecting,   gone.clone(),       LostAtOnce, State::Connecting,       None,              true,  false, false),
            ("connecting", connecting,   failed(true),       Applied,    State::TransientFailure, Some("refused"),   true,  false, false),
            ("connecting", connecting,   failed(false),      Applied,    State::TransientFailure, Some("refused"),   false, false, false),
            ("connecting", connecting,   DialAbandoned,      Applied,    State::Idle,             None,              false, false, false),
            ("connecting", connecting,   close(),            Applied,    State::Shutdown,         Some("closed"),    true,  false, false),
            ("ready", ready,             Wanted,             Ignored,    State::Ready,            None,              false, false, false),
            ("ready", ready,             lost.clone(),       Applied,    State::Idle,             None,              false, false, true),
            ("ready", ready,             LinkLost { link: 9 }, Ignored,  State::Ready,            None,              false, false, false),
            ("ready", ready,             aged.clone(),       Applied,    State::Idle,             None,              false, false, false),
            ("ready", ready,             not_due,            Ignored,    State::Ready,            None,              false, false, false),
            ("ready", ready,             health(1, Err("x")), Applied,   State::TransientFailure, Some("x"),         false, false, true),
            ("ready", ready,             health(9, Err("x")), Ignored,   State::Ready,            None,              false, false, false),
            ("ready", ready,             health(1, Ok(())),  Applied,    State::Ready,            None,              false, false, false),
            ("ready", ready,             FailureForgotten,   Ignored,    State::Ready,            None,              false, false, false),
            ("ready", ready,             discard(),          Applied,    State::Shutdown,         Some("closed"),    false, false, false),
            ("not serving", sick,        Wanted,             Ignored,    State::TransientFailure, Some("not serving"), false, false, false),
            ("not serving", sick,        health(1, Ok(())),  Applied,    State::Ready,            None,              false, false, false),
            ("not serving", sick,        health(1, Err("x")), Applied,   State::TransientFailure, Some("x"),         false, false, false),
            ("not serving", sick,        lost.clone(),       Applied,    State::Idle,             None,              false, false, true),
            ("not serving", sick,        aged,               Applied,    State::Idle,             None,              false, false, false),
            ("not serving", sick,        FailureForgotten,   Applied,    State::Idle,             None,              false, false, false),
            ("not serving", sick,        discard(),          Applied,    State::Shutdown,         Some("not serving"), false, false, false),
            ("not serving", sick,        close(),            Applied,    State::Shutdown,         Some("closed"),    false, false, false),
            ("redialing", redialing,     Wanted,             Applied,    State::TransientFailure, Some("refused"),   true,  false, false),
            ("redialing", redialing,     connected(1),       Applied,    State::Ready,            None,              false, false, false),
            ("redialing", redialing,     DialAbandoned,      Applied,    State::Idle,             None,              false, false, false),
            ("redialing", redialing,     FailureForgotten,   Applied,    State::Connecting,       None,              true,  false, false),
            ("redialing", redialing,     discard(),          Applied,    State::Shutdown,         Some("refused"),   true,  false, false),
            ("down", down,               Wanted,             Applied,    State::TransientFailure, Some("refused"),   true,  true,  false),
            ("down", down,               FailureForgotten,   Applied,    State::Idle,             None,              false, false, false),
            ("shut", shut,               Wanted,             Ignored,    State::Shutdown,         Some("closed"),    false, false, false),
            ("shut", shut,               lost,               Ignored,    State::Shutdown,         Some("closed"),    false, false, false),
            ("shut", shut,               FailureForgotten,   Ignored,    State::Shutdown,         Some("closed"),    false, false, false),
            ("shut", shut,               discard(),          Applied,    State::Shutdown,         Some("closed"),    false, false, false),
            ("closing", closing,         connected(1),       IsShutDown, State::Shutdown,         Some("closed"),    true,  false, false),
            ("closing", closing,         gone,               IsShutDown, State::Shutdown,         Some("closed"),    true,  false, false),
            ("closing", closing,         failed(true),       Applied,    State::Shutdown,         Some("closed"),    true,  false, false),
            ("closing", closing,         DialAbandoned,      Applied,    State::Shutdown,         Some("closed"),    false, false, false),
        ];
        let now = Instant::now();
        for (name, history, event, outcome, state, failure, dials, starts, in_doubt) in table {
            let mut machine = after(history, now);
            let from = machine.state();
            let effects = machine.apply(event.clone(), now);
            let row = format!("{name}: {event:?}");
            assert_eq!(effects.outcome, *outcome, "{row}");
            assert_eq!((effects.from, effects.to, machine.state()), (from, *state, *state), "{row}");
            assert_eq!(machine.failure(), failure.as_ref(), "{row}");
            assert_eq!(
                (machine.dialing, effects.start_dial, effects.in_doubt),
                (*dials, *starts, *in_doubt),
                "{row}"
            );
        }
    }

    #[test]
    fn a_call_fails_with_the_attempt_that_it_has_waited_for_whatever_has_become_of_the_state() {
        let now = Instant::now();
        let nothing = |attempts| Found::Nothing { attempts };
        type Row<'a> = (&'a [Ev], Option<u64>, bool, Found<'a, u64, &'a str>);
        #[rustfmt::skip]
        let table: &[Row<'_>] = &[
            (&[], None, true, nothing(0)),
            (&[Event::Wanted], Some(0), true, nothing(0)),
            (&[Event::Wanted, connected(7)], None, true, Found::Transport(&7)),
            (&[Event::Wanted, failed(true)], None, true, Found::Failed("refused")),
            // Behind a gate it causes the next attempt, unless it has waited for this one.
            (&[Event::Wanted, failed(false)], None, false, nothing(1)),
            (&[Event::Wanted, failed(false)], Some(1), false, nothing(1)),
            (&[Event::Wanted, failed(false)], Some(0), false, Found::Failed("refused")),
            // The failure that it has waited for was forgotten, or its task ended.
            (&[Event::Wanted, failed(false), Event::FailureForgotten], Some(0), false, Found::Failed("refused")),
            (&[Event::Wanted, failed(false), Event::FailureForgotten], None, false, nothing(1)),
            (&[Event::Wanted, failed(true), Event::DialAbandoned], Some(0), true, Found::Failed("refused")),
            (&[Event::Wanted, failed(true), Event::DialAbandoned], Some(1), true, nothing(1)),
            // Connected and lost again is no failure.
            (&[Event::Wanted, connected(1), Event::LinkLost { link: 1 }], Some(0), true, nothing(1)),
            (&[Event::Wanted, not_serving(1)], None, false, Found::Failed("not serving")),
            (&[close()], None, false, Found::Failed("closed")),
        ];
        for (history, waited_from, paces_itself, found) in table {
            let mut machine = after(history, now);
            assert_eq!(machine.look(*waited_from, *paces_itself, now), *found, "{history:?} {waited_from:?}");
        }
    }

    #[test]
    fn what_an_abandoned_dial_reports_later_counts_for_nothing() {
        let now = Instant::now();
        let mut machine = after(&[Event::Wanted], now);
        assert_eq!((machine.dial(), machine.is_current_dial(1)), (Some(1), true));
        assert!(machine.apply_of_dial(1, Event::DialAbandoned, now).is_some());
        for late in [connected(1), failed(true), failed(false), Event::DialAbandoned] {
            assert!(machine.apply_of_dial(1, late.clone(), now).is_none(), "{late:?} while none dials");
            let effects = machine.apply(Event::Wanted, now);
            assert!(effects.start_dial && effects.dial > 1);
            assert!(machine.apply_of_dial(1, late.clone(), now).is_none(), "{late:?} while another dials");
            assert_eq!(machine.state(), State::Connecting);
            assert!(machine.apply_of_dial(effects.dial, Event::DialAbandoned, now).is_some());
        }
        assert_eq!((machine.state(), machine.dial(), machine.attempts()), (State::Idle, None, 0));
    }

    #[test]
    fn a_connection_is_unwanted_once_no_call_has_asked_for_one_for_the_timeout() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let minute = Duration::from_secs(60);
        let mut machine = M::new(start);
        assert!(!machine.is_unwanted(minute, at(59)));
        assert!(machine.is_unwanted(minute, at(60)));
        let _ = machine.look(None, true, at(60));
        assert!(!machine.is_unwanted(minute, at(119)));
        let _ = machine.apply(Event::Wanted, at(100));
        assert!(!machine.is_unwanted(minute, at(159)));
        let _ = machine.apply(connected(1), at(100));
        let _ = machine.look(None, true, at(150));
        assert!(machine.is_unwanted(minute, at(160)), "a call that finds a connection asks for none");
    }

    /// Events as a dial task, links and a pool can cause them; links are numbered by the test.
    fn any_event() -> impl Strategy<Value = Ev> {
        let health = || prop_oneof![Just(Ok(())), Just(Err("sick"))];
        let connected = (any::<bool>(), health()).prop_map(|(is_open, health)| Event::Connected {
            up: up(0),
            is_open,
            health,
        });
        prop_oneof![
            4 => Just(Event::Wanted),
            4 => connected,
            2 => any::<bool>().prop_map(|goes_on| Event::AttemptFailed { error: "refused", goes_on }),
            1 => Just(Event::DialAbandoned),
            2 => (0..3u64, health()).prop_map(|(link, health)| Event::Health { link, health }),
            2 => (0..3u64).prop_map(|link| Event::LinkLost { link }),
            1 => (0..3u64, any::<bool>()).prop_map(|(link, is_due)| Event::LinkRetired { link, is_due }),
            1 => Just(Event::FailureForgotten),
            1 => any::<bool>().prop_map(|keep_failure| Event::ShutDown { error: "closed", keep_failure }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_history_breaks_an_invariant(events in proptest::collection::vec(any_event(), 0..40)) {
            let now = Instant::now();
            let mut machine = M::new(now);
            let (mut made, mut tasks) = (0u64, 0);
            let mut back = Vec::new();
            for mut event in events {
                // Only a task that exists reports, and each attempt has a link of its own. The other events concern the
                // newest links.
                let of_task =
                    matches!(event, Event::Connected { .. } | Event::AttemptFailed { .. } | Event::DialAbandoned);
                if of_task && tasks == 0 {
                    continue;
                }
                match &mut event {
                    Event::Connected { up: new, .. } => {
                        made += 1;
                        *new = up(made);
                    }
                    Event::Health { link, .. } | Event::LinkLost { link } | Event::LinkRetired { link, .. } => {
                        *link = made.saturating_sub(*link);
                    }
                    _ => {}
                }
                let before = machine.clone();
                let effects = machine.apply(event.clone(), now);

                tasks += i32::from(effects.start_dial);
                let ends = match &event {
                    // A task whose link is not taken dials again, or ends as one that was abandoned.
                    Event::Connected { .. } => effects.outcome == Outcome::Applied,
                    Event::AttemptFailed { goes_on, .. } => !goes_on,
                    Event::DialAbandoned => true,
                    _ => false,
                };
                tasks -= i32::from(ends);
                prop_assert!(tasks <= 1, "two tasks dial");
                prop_assert_eq!(machine.dialing, tasks == 1);

                let state = machine.state();
                prop_assert_eq!((effects.from, effects.to), (before.state(), state));
                prop_assert!(before.state() != State::Shutdown || state == State::Shutdown, "Shutdown was left");
                prop_assert!(state != State::Connecting || machine.dialing);
                prop_assert!(machine.current().is_none() || !machine.dialing);
                prop_assert!(machine.attempts >= before.attempts);
                if effects.outcome == Outcome::Ignored && !matches!(event, Event::Wanted) {
                    prop_assert_eq!(&machine.phase, &before.phase);
                }
                if let Event::LinkLost { link } = event {
                    prop_assert!(machine.current().is_none_or(|up| up.link != link), "a lost link is current");
                }

                back.extend(effects.dropped.1);
                back.extend(effects.released.as_ref().and_then(Phase::link).map(|up| up.transport));
                let held = machine.current().map(|up| up.transport);
                let mut all: Vec<u64> = back.iter().copied().chain(held).collect();
                all.sort_unstable();
                prop_assert_eq!(all, (1..=made).collect::<Vec<_>>(), "a transport is lost, or there are two of it");
            }
        }
    }
}
