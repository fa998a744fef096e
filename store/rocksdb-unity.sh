#!/usr/bin/env bash
# The C++ compiler as `.cargo/config.toml` names it to build scripts: c++, but RocksDB's 340 sources become eight units.
# Each source of RocksDB reads the same headers for most of its seconds; eight units read them eight times.
#
# librocksdb-sys compiles its list of sources one by one. The first of every UNIT_SOURCES of them compiles all of them in one
# unit, the others compile to nothing. Whatever is not in that list goes to c++ as it came.
set -euo pipefail

UNIT_SOURCES=43
LIST=rocksdb_lib_sources.txt

source_index=-1
if [[ -f "$LIST" && " $* " =~ \ rocksdb/([^ ]+\.cc)\  ]]; then
    # Of a list with another form nothing matches, and everything is compiled as it came.
    source_index="$(awk -v source="${BASH_REMATCH[1]}" '$1 == source { print NR - 1; exit }' "$LIST")"
fi
if [[ -z "$source_index" || "$source_index" -lt 0 ]]; then
    exec c++ "$@"
fi

arguments=()
for argument in "$@"; do
    [[ "$argument" == rocksdb/*.cc ]] || arguments+=("$argument")
done
if ((source_index % UNIT_SOURCES == 0)); then
    # The crate brings a version of its own of util/build_version.cc.
    awk -v first="$source_index" -v count="$UNIT_SOURCES" \
        'NR > first && NR <= first + count && $1 != "util/build_version.cc" { printf "#include \"%s\"\n", $1 }' "$LIST"
fi | c++ "${arguments[@]}" -x c++ -
