#!/bin/sh
# Real work on pooled and on fresh buffers, with each of three allocators. See real_work.rs.
set -eu
cd "$(dirname "$0")"
for feature in '' jemalloc mimalloc; do
    cargo bench --quiet --bench real_work --features "$feature"
done
