//! The passing of generations.
//!
//! * What is victim expires, what is fresh becomes victim, and what lies in shards becomes victim, too, shard by
//!   shard, those of parked and of dead threads included. In the depot the ages change roles by one exchange of
//!   the turn, however much there is. Blanks are freed.
//! * A shard whose owner is at work in it, and does not leave within a moment, is asked to retire its objects at its next
//!   operation. An object on its way between two places meanwhile may live one generation longer or shorter; it
//!   is one that is being used.
//! * Generations pass by hand, and by use: a thread on a cold path looks at the [clock](crate::aging), and the one that
//!   finds a generation over lets it pass. What expires by hand is dropped there and then. What expires by use is
//!   dropped by the operations that follow on cold paths, a few objects each; the next generation waits until all are.
//! * A thread that is dropping such objects already drops no more of them: what an object's `Drop` makes expire is left to
//!   the operations that follow. So drops do not nest.

use super::depot::{Depot, Role};
use super::dispose::{Disposal, Drain, Objects};
use super::magazine::{Generation, Magazine};
use super::patience::{WaitForOwner, retry};
use super::search::fence_after_claims;
use super::shard::{Claim, Claimed, Contents, Shard};
use super::stack::List;
use super::{Store, add, preferred_line};
use crate::primitive::atomic::AtomicU64;
use crate::primitive::thread::Dropping;

/// How often `clear` and `drain` go round.
const PASSES: usize = if cfg!(cenote_loom) { 1 } else { 2 };

impl Store {
    /// One generation passes. The objects that expire by it are dropped here.
    pub(crate) fn age(&self) {
        let mut all = Disposal::new(&self.objects);
        let turn = &self.cold.turn;
        loop {
            let from = turn.get();
            let (expired, empty) = self
                .depot()
                .map_or((List::new(), List::new()), |depot| (depot.take_expired(from), depot.take_empty()));
            if turn.pass(from) {
                all.append(expired);
                all.append(empty);
                break;
            }
            // Another thread was quicker: what expired at its turn may have been put just now.
            all.append(empty);
            self.requeue(expired);
        }
        self.retire_shards(WaitForOwner::Briefly);
        let from = turn.get();
        let retired = self.depot().map_or(List::new(), |depot| depot.take_expired(from));
        if turn.get() == from {
            all.append(retired);
        } else {
            self.requeue(retired);
        }
        self.drop_all(all, &self.cold.counters.aged);
    }

    /// What was taken as expired when the turn was over already.
    fn requeue(&self, mut list: List) {
        while let Some(magazine) = list.pop() {
            self.keep(Role::Victim, magazine, 0);
        }
    }

    /// On a cold path: drops a few objects that have expired, at most so many, or if there are none lets a generation pass
    /// when it is over.
    pub(super) fn pass_time(&self, own: Option<&Shard>, most: usize) {
        let look = own.is_none_or(Shard::visit);
        // Before the look at what has expired: if another thread lets a generation pass meanwhile, ours must not follow.
        let turn = self.cold.turn.get();
        if let Some(depot) = self.depot()
            && !depot.seems_empty()
            && depot.has(turn, Role::Expired)
        {
            self.drop_some(depot, turn, preferred_line(own), most);
        } else if look && self.cold.clock.expired() && self.cold.turn.pass(turn) {
            self.retire_shards(WaitForOwner::No);
        }
    }

    #[cold]
    #[inline(never)]
    fn drop_some(&self, depot: &Depot, turn: u32, preferred: usize, most: usize) {
        if !self.policy.drops_in_use || most == 0 {
            return;
        }
        let Some(_dropping) = Dropping::begin() else { return };
        let Some(mut magazine) = depot.pop(turn, Role::Expired, preferred) else { return };
        let rest = magazine.split_off(most);
        self.push(Role::Expired, rest, preferred);
        add(&self.cold.counters.aged, magazine.objects());
        self.objects.dispose(magazine);
    }

    /// Drops all that the pool holds, of every thread.
    pub(crate) fn clear(&self) {
        let all = self.take_everything();
        self.drop_all(all, &self.cold.counters.cleared);
    }

    /// Takes out all that the pool holds, of every thread.
    pub(crate) fn drain(&self) -> Drain<'_> {
        let all = self.take_everything();
        add(&self.cold.counters.drained, all.len());
        Drain(all)
    }

    fn take_everything(&self) -> Disposal<'_> {
        let mut all = Disposal::new(&self.objects);
        // Twice: a magazine may have been on its way from a shard to the depot, or the other way.
        for _ in 0..PASSES {
            self.retire_shards(WaitForOwner::Briefly);
            if let Some(depot) = self.depot() {
                all.append(depot.take_everything());
            }
        }
        all
    }

    fn drop_all(&self, all: Disposal<'_>, counter: &AtomicU64) {
        let Some(_dropping) = Dropping::begin() else {
            // Called by the `Drop` of an object that is being dropped for the same reason.
            return all.into_magazines(|magazine| self.push(Role::Expired, magazine, 0));
        };
        // Counted before the first drop: an object's drop may look, or panic; then the others are dropped all the same.
        add(counter, all.len());
        all.dispose();
    }

    /// Makes victims of what lies in the shards.
    ///
    /// All are claimed first and share one barrier; an owner that is at work finds the claim and goes to the depot. Those that
    /// another remote thread had claimed come after, one by one: a thread that waits for a claim holds none.
    fn retire_shards(&self, wait: WaitForOwner) {
        let (mut claims, mut claimed_by_others) = (Vec::new(), Vec::new());
        for shard in self.shards().filter(|shard| shard.is_busy() || shard.may_hold_anything()) {
            match shard.claim() {
                Some(claim) => claims.push(claim),
                None => claimed_by_others.push(shard),
            }
        }
        self.retire_claimed(claims, wait);
        for shard in claimed_by_others {
            // A claimer that has not left since the last time sleeps.
            let wait = if shard.is_asked_to_retire() { WaitForOwner::No } else { wait };
            match retry(wait, || shard.claim()) {
                Some(claim) => self.retire_claimed(vec![claim], wait),
                None => shard.ask_to_retire(),
            }
        }
    }

    fn retire_claimed(&self, claims: Vec<Claim<'_>>, wait: WaitForOwner) {
        if claims.is_empty() {
            return;
        }
        if fence_after_claims(claims.iter()).is_err() {
            // Nobody may go in now, but the owners can do it by themselves.
            claims.iter().for_each(|claim| claim.shard().ask_to_retire());
            return;
        }
        let mut busy = Vec::new();
        for claim in claims {
            match claim.enter() {
                Ok(claimed) => self.retire_claimed_shard(&claimed),
                Err(claim) => busy.push(claim),
            }
        }
        for claim in busy {
            let shard = claim.shard();
            // An owner that has been asked before, and has not come since, will not be out in a moment: it sleeps, or
            // was lost in a fork.
            let wait = if shard.is_asked_to_retire() { WaitForOwner::No } else { wait };
            let mut claim = Some(claim);
            match retry(wait, || Claim::enter_again(&mut claim)) {
                Some(claimed) => self.retire_claimed_shard(&claimed),
                None => shard.ask_to_retire(),
            }
        }
    }

    /// The claim lasts until the objects are in the depot: an owner that waits for its end finds them there.
    fn retire_claimed_shard(&self, claimed: &Claimed<'_>) {
        self.retire(claimed.take_all(), claimed.shard().preferred_line());
    }

    /// To the depot, one generation older.
    pub(super) fn retire(&self, contents: Contents, preferred: usize) {
        contents.into_magazines(&self.objects, |magazine| {
            let role = match magazine.generation() {
                Generation::Fresh => Role::Victim,
                Generation::Victim => Role::Expired,
            };
            self.keep(role, magazine, preferred);
        });
    }
}

impl Contents {
    /// Packs the objects into magazines, those of one generation each, and then frees the blanks that are left: an owner that
    /// comes back meanwhile may look for the objects. (Blanks in a magazine with objects go with it.)
    pub(super) fn into_magazines(self, objects: &Objects, mut take: impl FnMut(Magazine)) {
        let Contents { spare, places, objects: len, nodes, mut empty } = self;
        let (spare, mut empty_spare) = match spare {
            Some(spare) if spare.is_empty() => (None, Some(spare)),
            spare => (spare, None),
        };
        if len > 0 {
            let mut fresh = Magazine::new();
            fresh.fill(&places[..len]);
            take(fresh);
        }
        spare.into_iter().for_each(take);
        for magazine in [&mut empty_spare, &mut empty].into_iter().flatten() {
            objects.free_blanks(magazine);
        }
        places[len..nodes].iter().for_each(|blank| objects.free(*blank));
    }
}
