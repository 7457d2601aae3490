//! What a connection may do with its socket in one round: one poll of its task.
//!
//! *Heads and messages in one write.* hyper begins a request's stream in one poll of the socket, and its message can only follow
//! when that is done, in the next. Each poll ends with a write: a unary call would cost two, and two packets. A round that has
//! begun streams keeps the first of them back, for the second is sure to come.
//!
//! *Answers by the dozen.* A server that is kept busy answers in bursts. If all callers of a burst had their answers before the
//! first of them could call again, the next requests would leave in one burst, too, and client and server would take turns, each
//! waiting for the other. So a round ends after a few [answers](ANSWERS), as many as a quarter of the calls: their callers run,
//! and their next requests leave, while the rest is read. Measured on two cores with one and two workers: with 90 callers 8, 16
//! and 32 answers were alike, and nearly twice as fast as no limit. With 4 to 16 callers a quarter was 1.4 to 2 times as fast
//! as all of them, and faster than a half or an eighth; fewer cost writes, more leaves no work to overlap.
//!
//! *A last round without a limit.* What the server sent before it died is the callers'. But hyper reads before it writes, and gives all
//! up when a write fails, at whatever the limit had it leave unread. So the first failure is reported a round late, and that round
//! reads all there is.
//!
//! All of it is done by one task at a time: the atomics are there because the tap belongs to hyper.

use std::ops::ControlFlow;

use crate::primitive::Arc;
use crate::primitive::atomic::{AtomicBool, AtomicU32, Ordering};

/// How many answers a round may read at most.
pub(super) const ANSWERS: u32 = 16;

/// How many answers a round may read while so many calls are under way.
fn share_of(calls: usize) -> u32 {
    u32::try_from(calls.div_ceil(4)).unwrap_or(ANSWERS).clamp(1, ANSWERS)
}

/// So many bytes are worth a write of their own. Less than hyper's buffer, or that would be full first.
const WORTH_A_WRITE: usize = 8 << 10;

/// Orderings are relaxed: the runtime orders the polls of a task.
#[derive(Debug)]
pub(in crate::grpc) struct ReadBudget {
    corked: AtomicBool,
    /// Which may still be read.
    answers: AtomicU32,
    /// Whether there is no limit of these any more.
    lifted: AtomicBool,
}

impl ReadBudget {
    /// Without limits, for the handshake.
    pub(in crate::grpc) fn new() -> Arc<Self> {
        Arc::new(ReadBudget {
            corked: AtomicBool::new(false),
            answers: AtomicU32::new(u32::MAX),
            lifted: AtomicBool::new(false),
        })
    }

    /// With so many calls under way.
    pub(super) fn begin(&self, calls: usize) {
        let limit = if self.lifted.load(Ordering::Relaxed) { u32::MAX } else { share_of(calls) };
        self.answers.store(limit, Ordering::Relaxed);
    }

    /// Whether this round has a limit.
    pub(super) fn is_limited(&self) -> bool {
        self.answers.load(Ordering::Relaxed) <= ANSWERS
    }

    /// From the next round on; whether it was limited until now.
    pub(super) fn lift(&self) -> bool {
        !self.lifted.swap(true, Ordering::Relaxed)
    }

    /// What is written up to `uncork` may be kept back. The socket must be polled again after that.
    pub(super) fn cork(&self) {
        self.corked.store(true, Ordering::Relaxed);
    }

    pub(super) fn uncork(&self) {
        self.corked.store(false, Ordering::Relaxed);
    }

    pub(super) fn keeps_back(&self, bytes: usize) -> bool {
        bytes < WORTH_A_WRITE && self.corked.load(Ordering::Relaxed)
    }

    /// Whether nothing more is to be read.
    pub(super) fn is_over(&self) -> bool {
        self.answers.load(Ordering::Relaxed) == 0
    }

    /// Breaks with the last.
    pub(super) fn answer(&self) -> ControlFlow<()> {
        let left = self.answers.load(Ordering::Relaxed).saturating_sub(1);
        self.answers.store(left, Ordering::Relaxed);
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_reads_a_quarter_of_the_answers_at_least_one_and_no_more_than_a_few() {
        let rows =
            [(0, 1), (1, 1), (4, 1), (5, 2), (8, 2), (16, 4), (61, 16), (64, 16), (65, 16), (usize::MAX, 16)];
        for (calls, answers) in rows {
            assert_eq!(share_of(calls), answers, "{calls} calls");
        }
    }
}
