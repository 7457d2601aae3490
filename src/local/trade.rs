//! What a pool needs that must account for each node: none is dropped, and before the pool reports that there is none, or
//! ends, it has looked everywhere.
//!
//! # Trades
//!
//! An operation that the owner's shard does not serve is a [`Trade`]: it may have nodes in hand, between the shard, the depot
//! and what the pool has behind them. Each shard says whether its owner is in one; threads without a shard share a counter.
//!
//! # The freeze
//!
//! A thread that must see every node [freezes](Store::freeze) the store: it claims every shard, so that each owner that comes
//! goes on by a trade, looks everywhere, and then asks [whether nobody is in a trade](Freeze::is_settled).
//!
//! ```text
//!   a trade                                 the thread that froze the store
//!   counts its begin                        reads all counts (Acquire)
//!   full fence                              looks into the shards, the depot, and behind
//!   takes nodes out, puts others in         full fence
//!   counts its end (Release)                no trade under way, and all counts as they were ?
//!                                             yes: it has seen every node that is not a caller's
//!                                             no:  the freeze proves nothing
//! ```
//!
//! If the thread that froze the store found nothing where a trade had taken out what was there, that trade has counted
//! its begin before its fence, and that comes before the other thread's fence: so the second reading sees it. If the first reading
//! has seen its end, too, then the look has seen where the trade has put what it took.
//!
//! # The end
//!
//! [`close`](Store::close) freezes the store once and never lets go of the claims. Trades that begin after that find the store
//! closed and keep nothing in it. Those that began before are waited for. From then on the store holds nothing, and each
//! node that comes back is returned to the thread that puts it, as a [`Batch`].

use std::mem;
use std::ptr::NonNull;

use super::depot::{Depot, Role};
use super::dispose::{Disposal, Drain};
use super::magazine::{CAPACITY, Magazine};
use super::patience::{WaitForOwner, retry};
use super::search::fence_after_claims;
use super::shard::{Claim, Claimed, Shard};
use super::{For, Found, Node, Store, find_inside, preferred_line, push_any};
use crate::primitive::atomic::Ordering;
use crate::primitive::{fence, nap};

/// An operation with more than the calling thread's shard. See the head of the file.
pub(crate) struct Trade<'a> {
    store: &'a Store,
    /// `None` where the thread has no shard, or may not use it because the store is closed.
    own: Option<&'a Shard>,
    /// Where the end of the trade is counted.
    counted_by: Counted<'a>,
}

enum Counted<'a> {
    Shard(&'a Shard),
    Strangers,
    /// This trade is a part of another one.
    Outer,
}

/// Nodes that have left the store.
pub(crate) struct Batch<'a> {
    store: &'a Store,
    /// `None` after the batch has been moved on.
    magazine: Option<Magazine>,
}

/// Every shard of a store, claimed.
pub(crate) struct Freeze<'a> {
    store: &'a Store,
    entered: Vec<Claimed<'a>>,
    /// Shards that could not be entered so far.
    missed: Vec<&'a Shard>,
    /// The trades as they were at the beginning.
    trades: Trades,
}

/// What is known of trades at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Trades {
    /// How many have begun and ended so far: never less, so equal sums are equal counts.
    count: u64,
    are_under_way: bool,
}

/// Of the [strangers](super::Cold::strangers): one that is in a trade. The bits above count those that have begun.
const STRANGER: u32 = 1;
const STRANGER_BEGUN: u32 = 1 << 16;

impl Store {
    pub(crate) fn trade(&self) -> Trade<'_> {
        let own = self.shard().or_else(|| if self.is_closed() { None } else { self.adopt() });
        let counted_by = match own {
            Some(shard) if shard.begin_trade() => Counted::Shard(shard),
            Some(_) => Counted::Outer,
            None => {
                self.cold.strangers.fetch_add(STRANGER_BEGUN + STRANGER, Ordering::Relaxed);
                Counted::Strangers
            }
        };
        // See the head of the file.
        fence::full();
        let own = match own {
            // It may be one that the thread that closes the store has not seen. With a request that nobody serves the
            // owner stays out of it.
            Some(own) if self.is_closed() => {
                own.ask_to_retire();
                None
            }
            Some(own) => {
                self.serve_request(own);
                Some(own)
            }
            None => None,
        };
        Trade { store: self, own, counted_by }
    }

    fn strangers(&self) -> u32 {
        self.cold.strangers.load(Ordering::Acquire)
    }

    fn trades(&self) -> Trades {
        let strangers = self.strangers();
        let of_strangers = Trades {
            count: u64::from(strangers / STRANGER_BEGUN),
            are_under_way: !strangers.is_multiple_of(STRANGER_BEGUN),
        };
        self.shards().map(Shard::trades).fold(of_strangers, |all, own| Trades {
            count: all.count + u64::from(own),
            are_under_way: all.are_under_way || !own.is_multiple_of(2),
        })
    }

    fn is_closed(&self) -> bool {
        self.cold.is_closed.load(Ordering::Relaxed)
    }

    /// Claims every shard, and waits for the owners that are inside, for some ms at most.
    pub(crate) fn freeze(&self) -> Freeze<'_> {
        // First: a shard that is made meanwhile counts a trade.
        let trades = self.trades();
        let mut freeze = Freeze { store: self, entered: Vec::new(), missed: self.shards().collect(), trades };
        freeze.enter_missed();
        freeze
    }

    /// Takes out everything, and keeps nothing from here on.
    ///
    /// Waits for the threads that are at work; not without end if `may_give_up`, for the process of a forked child, whose
    /// shards may have owners that do not exist. `None`: it gave up, and the store holds an unknown number of nodes.
    pub(crate) fn close(&self, may_give_up: bool) -> Option<Drain<'_>> {
        self.cold.is_closed.store(true, Ordering::Relaxed);
        fence::full();
        // A thread whose shard is not among these comes after the fence, and sees that the store is closed.
        let mut freeze = self.freeze();
        while !(freeze.missed.is_empty() && freeze.wait_for_trades(may_give_up)) {
            if may_give_up {
                return None;
            }
            nap();
            freeze.enter_missed();
        }
        let mut all = Disposal::new(&self.objects);
        for claimed in mem::take(&mut freeze.entered) {
            all.push_contents(claimed.take_all());
            // Never let go of: no owner enters again.
            mem::forget(claimed);
        }
        if let Some(depot) = self.depot() {
            all.append(depot.take_everything());
        }
        Some(Drain(all))
    }

    /// A batch for nodes that the store does not have yet.
    pub(crate) fn new_batch(&self) -> Batch<'_> {
        Batch { store: self, magazine: Some(self.pop_empty(0)) }
    }

    /// About how many nodes lie in the shards, and how many in the depot.
    pub(crate) fn idle(&self) -> (usize, usize) {
        (self.shards().map(Shard::hint).sum(), self.depot().map_or(0, Depot::objects))
    }
}

impl<'a> Trade<'a> {
    /// A node out of the calling thread's shard or the depot.
    pub(crate) fn take(&self) -> Option<NonNull<()>> {
        let take_own = || {
            let inside = self.own?.enter()?;
            let node = inside.pop_any().or_else(|| match find_inside(&inside) {
                Found::InShard => inside.pop_any(),
                Found::Node(node) => Some(node.as_ptr()),
                Found::Nothing => None,
            });
            NonNull::new(node?)
        };
        take_own().or_else(|| self.take_from(self.store.pop_depot(self.own)?))
    }

    /// A node out of other threads' shards: those that have some, and whose owners are not at work in them.
    pub(crate) fn search(&self) -> Option<NonNull<()>> {
        self.take_from(self.store.search(self.own)?)
    }

    /// Takes one node out of a batch, and keeps the others.
    pub(crate) fn stock(&self, mut batch: Batch<'a>) -> Option<NonNull<()>> {
        self.take_from(batch.magazine.take()?)
    }

    fn take_from(&self, mut magazine: Magazine) -> Option<NonNull<()>> {
        // First of all: what lies in the shard others may take.
        let node = magazine.pop().and_then(NonNull::new);
        let left = match self.own.and_then(Shard::enter) {
            Some(inside) => inside.stock(magazine),
            None => Some(magazine),
        };
        if let Some(left) = left {
            self.store.push(left.generation().into(), left, preferred_line(self.own));
        }
        node
    }

    /// Keeps a node in the shard, and a magazine that leaves the shard for it in the depot as long as no more than
    /// `most` nodes wait there. Returns what finds no room.
    pub(crate) fn put(&self, node: Node, most: usize) -> Option<Batch<'a>> {
        let (store, own) = (self.store, self.own);
        let Err(node) = push_any(own, node) else { return None };
        let leaving = store.make_room(own, For::Node);
        let leaving = match push_any(own, node) {
            Ok(()) => leaving?,
            Err(node) => {
                // The shard is claimed. This way at most one magazine is above what the depot should hold.
                if let Some(leaving) = leaving {
                    store.push(leaving.generation().into(), leaving, preferred_line(own));
                }
                return Some(Batch { store, magazine: Some(store.magazine_of(node, own)) });
            }
        };
        let waiting = store.depot().map_or(0, |depot| depot.waiting(store.cold.turn.get()));
        if waiting + leaving.objects() > most {
            return Some(Batch { store, magazine: Some(leaving) });
        }
        store.push(leaving.generation().into(), leaving, preferred_line(own));
        None
    }
}

impl Drop for Trade<'_> {
    fn drop(&mut self) {
        match self.counted_by {
            Counted::Shard(shard) => shard.end_trade(),
            // Release: as in `Shard::end_trade`.
            Counted::Strangers => drop(self.store.cold.strangers.fetch_sub(STRANGER, Ordering::Release)),
            Counted::Outer => {}
        }
    }
}

impl Batch<'_> {
    /// Takes in as many nodes as there are, and as there is room for.
    pub(crate) fn fill(&mut self, nodes: impl Iterator<Item = Node>) {
        let Some(magazine) = &mut self.magazine else { return };
        for node in nodes.take(CAPACITY - magazine.nodes()) {
            let pushed = magazine.push(node);
            debug_assert!(pushed.is_ok(), "it had room");
        }
    }
}

impl Iterator for Batch<'_> {
    type Item = Node;

    fn next(&mut self) -> Option<Node> {
        self.magazine.as_mut()?.pop()
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if let Some(empty) = self.magazine.take() {
            self.store.push_empty(empty, 0);
        }
    }
}

impl<'a> Freeze<'a> {
    /// Claims the shards that could not be entered so far.
    fn enter_missed(&mut self) {
        let shards = mem::take(&mut self.missed);
        let mut claims = Vec::new();
        for shard in shards {
            // A thread that waits for a claim may hold others here: those that claim several besides do not wait for one.
            match retry(WaitForOwner::Briefly, || shard.claim()) {
                Some(claim) => claims.push(claim),
                None => self.missed.push(shard),
            }
        }
        if claims.is_empty() {
            return;
        }
        if fence_after_claims(claims.iter()).is_err() {
            self.missed.extend(claims.iter().map(Claim::shard));
            return;
        }
        for claim in claims {
            let shard = claim.shard();
            let mut claim = Some(claim);
            match retry(WaitForOwner::Briefly, || Claim::enter_again(&mut claim)) {
                Some(claimed) => self.entered.push(claimed),
                None => self.missed.push(shard),
            }
        }
    }

    /// Some of the nodes that lie in shards or in the depot.
    pub(crate) fn take(&self) -> Option<Batch<'a>> {
        let store = self.store;
        let mut taken = store.pop_empty(0);
        if let Some(claimed) = self.entered.iter().find(|claimed| claimed.shard().hint() > 0) {
            claimed.take_half(&mut taken);
            return Some(Batch { store, magazine: Some(taken) });
        }
        store.push_empty(taken, 0);
        let (depot, turn) = (store.depot()?, store.cold.turn.get());
        let waiting =
            [Role::Fresh, Role::Victim, Role::Expired].into_iter().find_map(|role| depot.pop(turn, role, 0));
        waiting.map(|magazine| Batch { store, magazine: Some(magazine) })
    }

    /// Whether what was seen since the freeze is all that there is: every shard is claimed, and there was no trade meanwhile.
    pub(crate) fn is_settled(&self) -> bool {
        // See the head of the file.
        fence::full();
        // A shard that was made meanwhile has counted a trade.
        self.missed.is_empty() && !self.trades.are_under_way && self.trades == self.store.trades()
    }

    /// Waits for the trades that have begun before to end. Returns whether they have.
    fn wait_for_trades(&self, may_give_up: bool) -> bool {
        fence::full();
        let is_over = |shard: &Shard| {
            let trades = shard.trades();
            trades.is_multiple_of(2) || wait_until(|| shard.trades() != trades, may_give_up)
        };
        self.store.shards().all(is_over)
            && wait_until(|| self.store.strangers().is_multiple_of(STRANGER_BEGUN), may_give_up)
    }
}

fn wait_until(is_over: impl Fn() -> bool, may_give_up: bool) -> bool {
    while retry(WaitForOwner::Briefly, || is_over().then_some(())).is_none() {
        if may_give_up {
            return false;
        }
    }
    true
}
