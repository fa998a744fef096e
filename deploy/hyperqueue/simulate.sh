#!/bin/bash
# Simulates each interval of a lineage as one task of HyperQueue. A pageswarm node runs on every machine (deploy/systemd).
#
#   LINEAGE=... hq submit --array 0-63 --cpus 1 --env LINEAGE="$LINEAGE" --max-fails 0 ./simulate.sh
set -u

for _ in 1 2 3; do
    code=0
    pageswarm sim run --publish --dir "${PAGESWARM_DIR:-/var/lib/pageswarm}" --patience 10m \
        "${LINEAGE:?}" "${HQ_TASK_ID:?}" || code=$?
    case "$code" in
        # Done, or what no second try changes: wrong command line, another end, an interval that cannot be simulated.
        0 | 2 | 3 | 20) exit "$code" ;;
    esac
done
exit "$code"
