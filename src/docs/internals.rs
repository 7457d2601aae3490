//! How [`SyncPool`](crate::SyncPool) works, and why it may.
//!
//! # Layout
//!
//! An object lies in a *node*, an allocation of its own that begins a cache line, and stays there. What moves is the pointer:
//! between a guard, shards, magazines and the depot, none of which knows what it points at. A node whose object was taken by
//! value is a *blank*; blanks stay where they are, behind the objects, for the next put by value.
//!
//! Each thread has a *shard* in each pool that it uses: up to 30 nodes in the shard itself, a spare *magazine* for 30 more,
//! perhaps an empty magazine, and a word that decides which thread is inside. What a shard has too much goes to the pool's
//! *depot*, a magazine at a time, and a shard that is empty gets a magazine from there. The depot has a few places for each of
//! three ages and a stack behind each for what finds no place: the fresh, the victims, and what has expired and waits to be
//! dropped. When a generation ends the three change roles by one exchange, and the shards, those of parked and dead threads
//! too, are emptied into the victims. Empty magazines travel back the same way, with their blanks.
//!
//! A take looks into its own shard, the fresh, the victims, and at last other threads' shards.
//!
//! # From a thread to its shard
//!
//! A thread has a number, which it takes on its first visit from a lock-free list and gives back when it ends; the next new
//! thread takes it over, and with it the shards that belong to the number. A thread also has a table that leads from the id
//! of a pool to its shard. A hit is a comparison of the id and a load. Ids are never used again, so an entry of a pool that is
//! gone matches no other pool; their low bits are dense, so that pools do not collide in the table. One destructor empties
//! the table and then gives the number back, so no two threads ever own a shard at once, in whichever order a platform runs
//! its destructors.
//!
//! # The shard's lock
//!
//! The owner works on its shard all the time, other threads seldom: when they age the pool, or have found nothing
//! elsewhere. So the lock is biased towards the owner, which pays no atomic read-modify-write and no fence:
//!
//! ```text
//!   the owner                       another thread
//!   busy = 1                        claim = CLAIMED  (an exchange: one at a time)
//!   compiler fence                  membarrier
//!   claim == 0 ?  inside            busy == 0 ?  inside
//!   busy = 0                        claim = 0
//! ```
//!
//! Each writes its word and reads the other's. The danger is that both read before either write is visible. The other thread
//! calls `membarrier(2)` (`PRIVATE_EXPEDITED`), which returns when every running thread of the process has passed a full
//! barrier since the call, and a thread that was not running passes one when it is scheduled. Take the moment at which the owner
//! passes that barrier:
//!
//! * If its write of `busy` came before the barrier, the other thread reads `busy` after the call, and sees it: it stays out.
//! * If it came after, then so does the owner's read of `claim`, which sees the claim, written before the call: the owner
//!   leaves.
//!
//! Either way not both are inside. What the two do inside is ordered by acquire and release: the owner leaves with a Release
//! store of `busy`, which the other reads with Acquire; the other leaves with a Release operation on `claim`, which the owner
//! reads with Acquire (on x86-64 both cost nothing). The claim itself is an exchange, so of several other threads one wins.
//!
//! An owner that finds a claim goes to the depot. Only before a miss does it wait, for about a microsecond. Another thread
//! that finds a busy owner gives up, or when it ages by hand waits for up to about 10 ms and then leaves a request, a bit in
//! `claim`, which the owner serves at its next operation.
//!
//! # Where there is no `membarrier`
//!
//! A process must register before it may call it. While it has one thread that takes no time, and later 5 to 14 ms; so a
//! program registers before `main`, and where the crate was loaded into a running program, a thread that nobody waits for does
//! it. As long as the process has not registered, and for its whole life where it cannot (other systems, old kernels, a seccomp
//! filter), a bit in `claim` is set in each shard. So the one word that a hit looks at is not zero, and each operation of
//! the owner takes a cold path, on which it passes a full fence; the other threads pass one, too. When the process has
//! registered, the owner clears the bit, by an exchange that fails while the shard is claimed. A thread that claims
//! decides by the bit that its own exchange has seen: so it uses the heavy fence if, and only if, the owner relies on it. If
//! `membarrier` fails later (a filter that came after), a thread that called it stays out of the shard.
//!
//! # What lies outside the memory model
//!
//! * **The asymmetric fence.** The model of C11 and Rust knows nothing of `membarrier`. By its letter the owner's write and read
//!   are not ordered, and both threads could be inside. That they are not rests on what the kernel promises and the machine does:
//!   the compiler keeps the order (`compiler_fence(SeqCst)` on atomics), and the barrier makes the processor's reordering
//!   visible to nobody. folly's `asymmetricHeavyBarrier`, liburcu and the JVM's safepoints rest on the same.
//! * **Hints.** Other threads read the number of objects in a shard without any order. It is an atomic, so there is no race, but
//!   the number may be out of date. Nothing but speed follows from it.
//!
//! All the rest is within the model: what is shared is an atomic or is reached by an exchange with acquire and release, the
//! memory of the stacks' blocks is reclaimed by epochs (`crossbeam-epoch`, with a collector of the crate's own), and nodes are
//! touched by their one owner.
//!
//! # The depot
//!
//! A magazine goes into a place by an exchange with Release, and comes out by one with Acquire. The thread that has taken it out
//! owns it, and nobody looks into a magazine of another owner: so these need no reclamation, and that the same address may come
//! back does no harm. What finds no place goes onto a Treiber stack, whose poppers do look into blocks that are not theirs:
//! they are pinned meanwhile, and a block that was on the stack is never linked again nor used for anything else: its nodes are
//! moved out, and the empty block waits for the epoch.
//!
//! One flag for each age says whether there is anything at all. A thread that finds nothing clears it and looks again; a thread
//! that gives sets it if it finds it clear. In sequential consistency one of the two sees the other, so a magazine is never left
//! behind a flag that says no.
//!
//! # Searches
//!
//! To look into another thread's shard costs a cache miss, and to take from it a process-wide barrier. So a search first reads
//! lengths: of 8 shards, beginning where this thread's last search ended, and once each tick of the coarse clock, by one
//! thread, of all. Without success a thread may look 64 times at once and 16 times a millisecond. It passes over shards whose
//! owner is at work, claims up to four for one barrier, and takes half of what each has, the oldest objects. Barriers are
//! limited to 64 at once and 16 a millisecond for the process, and each pool has 4 of its own in 10 ms. (A pool of
//! expensive objects, such as connections, searches at each miss.)
//!
//! # Time
//!
//! No get or put takes a lock, and none drops more than eight objects besides its own; if it is called by the `Drop` of such an
//! object, it drops none, so drops do not nest. No lock is held while code of a user runs. What costs more than a few
//! nanoseconds is off the hit path: a trade with the depot is a few exchanges for up to 30 objects, and a look at the clock
//! comes with every eighth of the cold operations.
//!
//! # Blocks
//!
//! A [`BlockPool`](crate::BlockPool) keeps its free blocks in the same shards and depot, and accounts for each of them: no
//! block is dropped, one that is free is found before an allocation fails, and the pool knows when the last one is back. So
//! where a thread's own shard does not serve it, it says in its shard that it has blocks in hand (a *trade*), and a thread that must see all
//! of them *freezes* the store: it claims every shard, looks everywhere, and believes what it saw if no trade was under way
//! meanwhile. The head of `src/local/trade.rs` has the argument, that of `src/block_pool/inner.rs` the order in which a pool ends.
//!
//! # Forks
//!
//! Nothing that a get or put needs is behind a lock that a forked child could find taken: numbers of threads come from a
//! lock-free list, a claim carries the number of forks that its process has seen, and a child has a collector of epochs of its
//! own.
//!
//! # Why the `thread_local` crate is not used
//!
//! It was, up to version 0.1. Its numbers are given out under a lock, which a forked child may find taken; its destructor makes
//! the next use panic, in a late destructor of a user; and a map by its numbers allocates for all threads of a process at
//! once: a pool that one thread had used took 98 KB beside 300 other threads, where it takes 0.4 KB now.
//!
//! # What was checked, and how
//!
//! * **loom** runs all interleavings, within a bound on preemptions, of the shards' lock in both modes and while it switches, the
//!   depot, exit and adoption, limits, aging against get and put, and a block pool's last block and its end. Modeled otherwise than it is: the asymmetric fence is two
//!   full fences, since loom has no `membarrier`; epochs free at the end of the model; the table from threads to shards is
//!   rebuilt, since loom's threads share one of the system's. loom also takes sequentially consistent accesses for acquire and
//!   release: the depot passes full fences there.
//! * **shuttle** runs longer schedules of the same code at random.
//! * **proptest** holds the moves of nodes and blanks between racks to a model.
//! * **Stress**: each object is at any moment in somebody's hands, in the pool, or dropped once, over 10^8 random operations by
//!   threads that are born and end, with aging, panics in every hook, and hooks that use the pool.
//! * **AddressSanitizer, ThreadSanitizer, valgrind**: `benches/sanitizers.sh`, whose head says what they cannot see.
//! * **The fallback** by a seccomp filter that refuses `membarrier`, from the start and half-way.
//! * **Forks** while other threads are in the middle of everything.
//! * **The hit path** by disassembly: no `lock` prefix, no fence (`benches/hit_path.sh`).
