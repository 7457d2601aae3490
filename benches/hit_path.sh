#!/bin/sh
# A hit executes no `lock` prefix, no exchange with memory and no fence, on x86-64.
#
#   benches/hit_path.sh [BINARY]
#
# Builds `src/bin/hit_path.rs` in release, disassembles its functions (objdump of GNU binutils), and follows each from its
# entry. A hit calls nothing: the cold ways, the factory and the hook are calls. So what can be executed on a hit is what can
# be reached without passing a call, and that is what is looked at. Of such ways from the entry to the return
# the shortest one's length is printed.
set -eu

case "$(uname -m)" in
x86_64 | amd64) ;;
*) echo "hit_path: looks at x86-64 code only; nothing checked" && exit 0 ;;
esac
command -v objdump > /dev/null || { echo "hit_path: objdump is missing (binutils)" >&2; exit 2; }

cd "$(dirname "$0")"
if [ $# -gt 0 ]; then
    binary=$1
else
    cargo build --release --quiet --bin hit_path
    binary=${CARGO_TARGET_DIR:-../target}/release/hit_path
fi

failed=0
for function in hit_path_get_and_drop hit_path_take_and_put hit_path_try_take_and_put hit_path_alloc_and_free; do
    objdump -d --no-show-raw-insn --disassemble="$function" "$binary" | awk -v function_name="$function" '
        /^ *[0-9a-f]+:\t/ {
            address = $1; sub(/:$/, "", address)
            line = $0; sub(/^[^\t]*\t/, "", line); sub(/ *#.*/, "", line)
            count++
            at[address] = count
            code[count] = line
        }
        # Notes that an instruction can be reached in so many steps; breadth first, so the first time is the shortest.
        function reach(index_of, steps) {
            if (index_of in distance) return
            if (index_of < 1 || index_of > count) { print function_name ": runs out of the function"; bad = 1; return }
            distance[index_of] = steps
            queue[++last] = index_of
        }
        END {
            if (!count) { print function_name ": no such function in the binary"; exit 1 }
            reach(1, 1)
            for (first = 1; first <= last; first++) {
                i = queue[first]; steps = distance[i]; line = code[i]
                split(line, word, /[ \t]+/); name = word[1]
                if (line ~ /(^|[ \t])lock([ \t]|$)/ || name ~ /^[mls]fence$/ || (name ~ /^xchg/ && line ~ /\(/)) {
                    print function_name ": on the way of a hit: " line
                    bad = 1
                }
                if (name ~ /^ret/) { if (!shortest) shortest = steps; continue }
                if (name ~ /^call/ || name ~ /^ud2/) continue
                if (name ~ /^j/) {
                    if (word[2] in at) reach(at[word[2]], steps + 1)
                    else if (name == "jmp") continue # a tail call, or out of the function: a cold way
                    if (name == "jmp") continue
                }
                reach(i + 1, steps + 1)
            }
            if (!shortest) { print function_name ": no way from the entry to the return without a call"; bad = 1 }
            printf "%-28s %3d instructions, %3d without a call before them, %3d on a hit: %s\n", function_name, count, last, shortest, bad ? "FAILED" : "ok"
            exit bad
        }' || failed=1
done
exit $failed
