//! How [`SyncPool`](crate::SyncPool) works, why it is right, and what of that lies outside the language's memory model.
//!
//! # The parts
//!
//! ```text
//!   thread A            thread B              any thread
//!  ┌─────────────┐     ┌─────────┐          ┌──────────────────────────────┐
//!  │ shard       │     │ shard   │  trade   │ depot: magazines of objects  │
//!  │  16 objects │◀───▶│   ...   │◀────────▶│  places in front, a stack    │
//!  │  spare: 32  │     │         │          │  behind; fresh, victim, due  │
//!  └─────────────┘     └─────────┘          └──────────────────────────────┘
//!    biased lock                                 exchanges, no lock
//! ```
//!
//! *A shard* is one thread's. Its owner pops and pushes with plain loads and stores, behind a lock that is biased towards it.
//! Others enter seldom: to age what is in it, or as the last resort of a thread that has found nothing else.
//! *A magazine* is a block of up to 32 objects, and the unit of trade. *The depot* holds the magazines that no shard has
//! room for. *Ageing* turns fresh into victim and victim into due: for the depot that is one exchange, whatever it holds.
//!
//! A thread that ends leaves its shard, with the objects, to the next thread that is born.
//!
//! # One visitor at a time: the lock of a shard
//!
//! The owner, to enter, writes its word `busy` and then reads the others' word `claim`. Another, to enter, writes `claim` and then
//! reads `busy`. Each goes in only if it finds the other's word clear. This is Dekker's pattern, and it is right if at least one
//! of two who meet sees what the other wrote, for which each side needs a full fence between its write and its read.
//!
//! The owner does this at each get and put, and a full fence costs more than all the rest. So it has none: it only keeps
//! the compiler from moving the read before the write. The other side makes up for it: between its write and its read it calls
//! `membarrier(2)` (`PRIVATE_EXPEDITED`), which returns when every running thread of the process has passed a full barrier since
//! the call, and a thread that was not running passes one when it is scheduled. Take the moment at which the owner passes that
//! barrier:
//!
//! * If its write of `busy` came before the barrier, the other reads `busy` after the call, and sees it: it stays out.
//! * If it came after, then so does the owner's read of `claim`, which sees the claim, written before the call: the owner leaves.
//!
//! Either way not both are inside. What the two do inside is ordered by acquire and release: the owner leaves with a Release
//! store of `busy`, which the other reads with Acquire; the other leaves with a Release operation on `claim`, which the owner
//! reads with Acquire (on x86-64 both cost nothing). The claim itself is an exchange, so of several others one wins.
//!
//! An owner that meets a claim does not wait, its operation goes to the depot. Another that meets a busy owner gives up, or when
//! it is ageing waits a moment and then leaves a request, a bit in `claim`, which the owner serves at its next operation.
//!
//! Where there is no `membarrier` (other systems, old kernels, a seccomp filter that refuses it), which is found out once,
//! before the first shard is made, a bit in `claim` is set in each shard for good. So the one word that a hit looks at
//! is never zero there, and each operation of the owner takes the cold way, on which it passes a full fence; the others
//! pass one, too. If `membarrier` fails later (a filter that came after), whoever called it stays out of the shard.
//!
//! Two threads never own a shard at once. Numbers of threads, and so shards, are given out and taken back by the
//! `thread_local` crate, under a lock: the last operation of a dead owner happens before the first of its heir. The cache in which
//! each thread finds its shard without asking is emptied before the number is given back.
//!
//! # What lies outside the memory model
//!
//! * **The asymmetric fence.** The model of C11 and Rust knows nothing of `membarrier`. By its letter the owner's write and read are
//!   not ordered, and both could be inside. That they are not rests on what the kernel promises and the machine does: the
//!   compiler keeps the order (`compiler_fence(SeqCst)` on atomics), and the barrier makes the processor's reordering visible to
//!   nobody. The same bargain is made by folly's `asymmetricHeavyBarrier`, by liburcu, and by the JVM's safepoints.
//! * **Hints.** The number of objects in a shard is read by others without any order: an atomic, so no race, but a number that was true
//!   once. Nothing but speed follows from it.
//!
//! All the rest is within the model: what is shared is an atomic or is reached by an exchange with acquire and release, the memory of
//! the stack's nodes is reclaimed by epochs (`crossbeam-epoch`), and objects are touched by their one owner.
//!
//! # The depot
//!
//! A magazine goes into a place by an exchange with Release, and comes out by one with Acquire. Who has taken it out owns it; nobody looks
//! into one that is not his own, so these need no reclamation, and that the same address may come back does no harm. What
//! finds no place goes onto a Treiber stack, whose poppers do look into nodes that are not theirs: they are pinned
//! meanwhile, and a node that was on the stack is never linked again nor used for anything else: its objects are
//! moved out, and the empty block waits for the epoch.
//!
//! Whether there is anything at all is told by one flag for each age. Who finds nothing clears it and looks again; who gives sets it if it finds it
//! clear. In sequential consistency one of the two sees the other, so a magazine is never left behind a flag that
//! says no.
//!
//! # Time
//!
//! No operation waits for another, and none drops more than eight objects whose time is up; no lock is held while code of a
//! user runs, and none is taken that a forked child could find taken. What costs more than a few nanoseconds is off the
//! hit path: a trade with the depot is a few exchanges for up to 32 objects; a look at the clock comes with every eighth of
//! the slow operations; a search of the other threads' shards, with its barrier, at most eight times a millisecond and
//! thread. (A pool whose objects are dear, such as connections, searches at each miss.)
//!
//! # What was checked, and how
//!
//! * **loom** runs all interleavings, within a bound on preemptions, of the shards' lock in both modes, the depot, exit and
//!   adoption, and ageing against get and put. Modelled otherwise than it is: the asymmetric fence is two full fences, since loom has no
//!   `membarrier`; epochs free at the end of the model; the map from threads to shards is rebuilt, since loom's threads share
//!   one of the system's. loom also takes sequentially consistent accesses for acquire and release: the depot passes
//!   full fences there.
//! * **shuttle** runs longer schedules of the same code at random.
//! * **Stress**: each object is at any moment in somebody's hands, in the pool, or dropped once, over 10^8 random operations by
//!   threads that are born and end, with ageing, panics in every hook, and hooks that use the pool.
//! * **AddressSanitizer, ThreadSanitizer, valgrind**: `benches/sanitizers.sh`, whose head says what they cannot see.
//! * **The fallback** by a seccomp filter that refuses `membarrier`, from the start and half-way.
//! * **Forks** while other threads are in the middle of everything.
//! * **The hit path** by disassembly: no `lock` prefix, no fence (`benches/hit_path.sh`).
