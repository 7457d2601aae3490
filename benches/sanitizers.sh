#!/bin/sh
# The tests of `SyncPool` and `BlockPool` under AddressSanitizer, ThreadSanitizer and valgrind.
#
#   benches/sanitizers.sh [address|thread|valgrind]...     all three, if none is named
#
# `CENOTE_STRESS_OPS` says how long the stress tests are. x86-64 Linux, stable Rust (the sanitizers are switched on with
# RUSTC_BOOTSTRAP=1), without an instrumented std. What follows from that:
#
# * AddressSanitizer sees what the crate and the tests do, and each allocation, of std too (malloc is its own). LeakSanitizer
#   runs with it.
# * ThreadSanitizer does not see into the compiled part of std: its locks, `Once`, the handover of a thread's result. What these
#   order looks unordered. So the stress test keeps its own mail behind a lock of its own, and does what is done once before its
#   threads begin. That the life of a thread comes before the lives that begin after its end, it must learn from the crate's own
#   numbers of threads. What is left, inside of std itself, is suppressed by name below. Compiled with optimization, since
#   else not even std's inlined functions are instrumented. Other tests than the stress test would need the same care, and are
#   not run.
# * Nor does ThreadSanitizer know of fences: neither `membarrier(2)` with a compiler fence on the other side, nor the full fences
#   of the symmetric fallback. That is no trouble here: the two words that they order, `busy` and `claim`, are atomics, and
#   that the objects have one visitor at a time shows by the Release stores and Acquire loads of these words. A report
#   is a true one: that an Acquire or a Release is missing, or that two were inside. What it cannot show is that two never
#   will be: that is the business of loom, and of the stress test.
# * `crossbeam-epoch` orders its reclamation by fences, too; it has stronger accesses for this case, switched on by
#   `--cfg crossbeam_sanitize_thread`.
# * Objects that a test leaks on purpose are no leak: see LSAN below.
set -eu
cd "$(dirname "$0")/.."

target=x86_64-unknown-linux-gnu
base=${CARGO_TARGET_DIR:-target}
runs=${*:-address thread valgrind}
: "${CENOTE_STRESS_OPS:=500000}"
export CENOTE_STRESS_OPS

suppressions=$(mktemp -d)
trap 'rm -r "$suppressions"' EXIT
cat > "$suppressions/thread" << 'END'
race:std::thread::lifecycle
race:std::thread::thread::Inner
race:test::event
END
# `Box::leak`, in a test.
cat > "$suppressions/leak" << 'END'
leak:sync_pool_promises/thread_locals.rs
END

sanitized() {
    sanitizer=$1
    flags=$2
    shift 2
    for test in "$@"; do
        echo "== $sanitizer: $test"
        RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=$sanitizer $flags" CARGO_TARGET_DIR="$base/$sanitizer" \
            CARGO_PROFILE_RELEASE_DEBUG=line-tables-only \
            cargo test --quiet --release --target "$target" --test "$test" -- --test-threads=1 $only
    done
}

for run in $runs; do
    case $run in
    address)
        only=""
        LSAN_OPTIONS="suppressions=$suppressions/leak print_suppressions=0 ${LSAN_OPTIONS:-}" \
            sanitized address "" sync_pool_conservation sync_pool_no_membarrier sync_pool_fork sync_pool_promises sync_pool_go \
            block_pool block_pool_stress
        ;;
    thread)
        only="each_in_one_place one_visitor"
        TSAN_OPTIONS="suppressions=$suppressions/thread ${TSAN_OPTIONS:-}" \
            sanitized thread "--cfg crossbeam_sanitize_thread -Cunsafe-allow-abi-mismatch=sanitizer" \
            sync_pool_conservation sync_pool_no_membarrier
        ;;
    valgrind)
        command -v valgrind > /dev/null || { echo "sanitizers: valgrind is missing" >&2; exit 2; }
        echo "== valgrind: sync_pool_conservation, block_pool_stress"
        CARGO_PROFILE_RELEASE_DEBUG=line-tables-only CARGO_TARGET_DIR="$base/valgrind" \
            CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="valgrind --quiet --leak-check=full --show-leak-kinds=definite,indirect --errors-for-leak-kinds=definite,indirect --error-exitcode=9 --fair-sched=yes" \
            cargo test --quiet --release --target "$target" --test sync_pool_conservation --test block_pool_stress -- --test-threads=1
        ;;
    *)
        echo "sanitizers: no such run: $run" >&2
        exit 2
        ;;
    esac
done
