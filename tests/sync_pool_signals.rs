//! A signal handler may use a pool in the middle of any operation of its own thread.
//!
//! Each case single-steps an operation (the trap flag of x86-64 raises SIGTRAP after every instruction), and the handler uses the
//! pool after one of the instructions, or after all of them. It does so only where the program itself runs, not in the C
//! library: a handler that interrupts `malloc` may not allocate, which is the allocator's limit and not the pool's. Each case
//! runs in a process of its own.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::ops::Range;
use std::process::Command;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::{fs, ptr, thread};

use cenote::SyncPool;

type Pool = SyncPool<u64>;

const CASE: &str = "CENOTE_TEST_CASE";

/// What the handler does: it uses this pool, whose objects all have this value, after one step or after all.
static POOL: AtomicPtr<Pool> = AtomicPtr::new(ptr::null_mut());
static VALUE: AtomicU64 = AtomicU64::new(0);
static AFTER: AtomicUsize = AtomicUsize::new(0);
const ALL: usize = usize::MAX;

/// What it has seen.
static STEPS: AtomicUsize = AtomicUsize::new(0);
static USES: AtomicUsize = AtomicUsize::new(0);
static WRONG: AtomicUsize = AtomicUsize::new(0);

/// Where the program's own code lies.
static CODE: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

extern "C" fn on_trap(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: a handler with `SA_SIGINFO` gets a context.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    let address = context.uc_mcontext.gregs[libc::REG_RIP as usize] as usize;
    if !(CODE[0].load(Relaxed)..CODE[1].load(Relaxed)).contains(&address) {
        return;
    }
    let step = STEPS.fetch_add(1, Relaxed);
    let after = AFTER.load(Relaxed);
    if after != ALL && after != step {
        return;
    }
    USES.fetch_add(1, Relaxed);
    // SAFETY: the case keeps the pool.
    let pool = unsafe { &*POOL.load(Relaxed) };
    let value = VALUE.load(Relaxed);
    if let Some(object) = pool.try_take() {
        if object != value {
            WRONG.fetch_add(1, Relaxed);
        }
        pool.put(value);
    }
}

fn install() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let own = std::env::current_exe().unwrap();
    let own = own.to_str().unwrap();
    let code = maps.lines().find(|line| line.ends_with(own) && line.contains("r-xp")).unwrap();
    let (from, to) = code.split(' ').next().unwrap().split_once('-').unwrap();
    for (at, address) in [from, to].into_iter().enumerate() {
        CODE[at].store(usize::from_str_radix(address, 16).unwrap(), Relaxed);
    }
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_trap;
    // SAFETY: zeroes are a `sigaction`, and the handler has the form that `SA_SIGINFO` asks for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_flags = libc::SA_SIGINFO;
        action.sa_sigaction = handler as usize;
        assert_eq!(libc::sigaction(libc::SIGTRAP, &raw const action, ptr::null_mut()), 0);
    }
}

/// Runs an operation step by step. Returns how many steps it had.
fn stepped(pool: &Pool, value: u64, after: usize, operation: impl FnOnce()) -> usize {
    POOL.store(ptr::from_ref(pool).cast_mut(), Relaxed);
    VALUE.store(value, Relaxed);
    AFTER.store(after, Relaxed);
    STEPS.store(0, Relaxed);
    // SAFETY: the trap flag raises a signal that has a handler, which keeps all registers.
    unsafe { std::arch::asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
    operation();
    // SAFETY: as above.
    unsafe { std::arch::asm!("pushfq", "and qword ptr [rsp], ~0x100", "popfq") };
    STEPS.load(Relaxed)
}

/// As `stepped`, once for each step, with everything made anew on a new thread. Without optimization an operation has thousands
/// of steps, of which 60 are taken, or all of them with `CENOTE_EVERY_STEP` set.
fn at_each_step(case: impl Fn(usize) -> usize + Sync) {
    let all = std::env::var_os("CENOTE_EVERY_STEP").is_some();
    let mut after = 0;
    loop {
        let steps = thread::scope(|scope| scope.spawn(|| case(after)).join().unwrap());
        assert_eq!(WRONG.load(Relaxed), 0, "an object of another pool, after step {after} of {steps}");
        after += if all { 1 } else { 1 + steps / 60 };
        if after >= steps {
            break;
        }
    }
    println!("{after} steps, {} uses", USES.load(Relaxed));
    assert!(USES.load(Relaxed) > 30);
}

fn pools(count: Range<u64>) -> Vec<Pool> {
    count.map(|_| Pool::new(u64::default)).collect()
}

/// Filled by another thread, which has ended.
fn filled(pool: &Pool, value: u64) {
    thread::scope(|scope| scope.spawn(|| pool.extend([value; 300])).join().unwrap());
}

fn take_and_put(pool: &Pool) {
    let object = pool.take();
    pool.put(object);
}

fn adds_up(pool: &Pool) {
    let stats = pool.stats();
    let fates = stats.hits + stats.shed + stats.aged + stats.cleared + stats.drained + stats.idle as u64;
    assert_eq!(stats.kept, fates, "{stats:?}");
}

#[test]
fn the_case_that_the_parent_asked_for() {
    let Ok(case) = std::env::var(CASE) else { return };
    install();
    match case.as_str() {
        "first use" => at_each_step(|after| {
            let pool = Pool::new(u64::default);
            filled(&pool, 7);
            let steps = stepped(&pool, 7, after, || take_and_put(&pool));
            adds_up(&pool);
            steps
        }),
        "another pool makes way" => at_each_step(|after| {
            let pools = pools(0..9);
            filled(&pools[8], 7);
            for (pool, value) in pools[..8].iter().zip(100..) {
                pool.put(value);
            }
            let steps = stepped(&pools[8], 7, after, || take_and_put(&pools[8]));
            for (pool, value) in pools[..8].iter().zip(100..) {
                assert_eq!(pool.try_take(), Some(value));
            }
            steps
        }),
        "the table grows" => at_each_step(|after| {
            let pools = pools(0..9);
            for _ in 0..2 {
                pools.iter().for_each(|pool| pool.put(5));
            }
            // Its entry has made way for the last one's.
            let steps = stepped(&pools[1], 5, after, || take_and_put(&pools[0]));
            pools.iter().for_each(adds_up);
            steps
        }),
        "every step" => {
            let pool = Pool::new(u64::default);
            pool.extend([7; 100]);
            let operations: [&dyn Fn(); 4] = [
                &|| drop((0..70).map(|_| pool.get()).collect::<Vec<_>>()),
                &|| {
                    let taken: Vec<u64> = (0..70).map(|_| pool.take_or_else(|| 7)).collect();
                    pool.extend(taken);
                },
                &|| pool.age(),
                &|| pool.clear(),
            ];
            pool.put(7);
            for operation in operations {
                let steps = stepped(&pool, 7, ALL, operation);
                println!("{steps} steps");
                adds_up(&pool);
            }
        }
        other => panic!("no such case: {other}"),
    }
    println!("case passed");
}

fn in_a_process_of_its_own(case: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_case_that_the_parent_asked_for", "--nocapture", "--test-threads=1"])
        .env(CASE, case)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}");
    assert!(output.status.success() && out.contains("case passed"), "{}\n{out}\n{err}", output.status);
}

#[test]
fn a_handler_may_use_a_pool_at_each_step_of_its_threads_first_use() {
    in_a_process_of_its_own("first use");
}

#[test]
fn a_handler_may_use_a_pool_at_each_step_of_a_first_use_that_displaces_another_pool() {
    in_a_process_of_its_own("another pool makes way");
}

#[test]
fn a_handler_may_use_a_pool_at_each_step_of_a_growth_of_the_threads_table() {
    in_a_process_of_its_own("the table grows");
}

#[test]
fn a_handler_may_use_a_pool_at_every_step_of_gets_puts_aging_and_clearing() {
    in_a_process_of_its_own("every step");
}
