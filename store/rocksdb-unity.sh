#!/usr/bin/env bash
# The C++ compiler as `.cargo/config.toml` names it to build scripts: c++, but RocksDB's 340 sources become eight units.
# Each source of RocksDB reads the same headers for most of its seconds; eight units read them eight times.
#
# librocksdb-sys compiles its list of sources one by one. The first of every UNIT_SOURCES of them compiles all of them in one
# unit, the others compile to nothing. Whatever is not in that list goes to c++ as it came.
set -euo pipefail

UNIT_SOURCES=43
LIST=rocksdb_lib_sources.txt

# For another machine than this one it is the compiler that its packages on Debian call so.
if [[ -n "${TARGET:-}" && "${TARGET:-}" != "${HOST:-}" ]]; then
    exec "${TARGET/-unknown/}-g++" "$@"
fi

# The crate brings a version of its own of util/build_version.cc.
sources() { awk 'NF == 1 && $1 != "util/build_version.cc" { print $1 }' "$LIST"; }

place=""
if [[ -f "$LIST" && " $* " =~ \ rocksdb/([^ ]+\.cc)\  ]]; then
    # What is not in the list has no place.
    place="$(sources | awk -v source="${BASH_REMATCH[1]}" '$1 == source { print NR - 1 }')"
fi
if [[ -z "$place" ]]; then
    exec c++ "$@"
fi

arguments=()
for argument in "$@"; do
    [[ "$argument" == rocksdb/*.cc ]] || arguments+=("$argument")
done
if ((place % UNIT_SOURCES == 0)); then
    sources | awk -v first="$place" -v count="$UNIT_SOURCES" \
        'NR > first && NR <= first + count { printf "#include \"%s\"\n", $1 }'
fi | c++ "${arguments[@]}" -x c++ -
