#!/bin/sh
# The publisher of the testbed: makes the swarm, keeps a pool of tickets for nodes, boots one workload VM.
#
# PAGESWARM_TICKETS      directory shared with the nodes, default /tickets
# PAGESWARM_TICKET_POOL  tickets that lie ready, default 8
# PAGESWARM_WORKLOAD     specjbb or kernel-build, default specjbb; "none" boots no VM
# PAGESWARM_MEMORY       RAM of the VM, default 256MiB
# PAGESWARM_INTERVAL     from checkpoint to checkpoint, default 500ms
# PAGESWARM_CHECKPOINTS  the VM ends after so many, default 120
set -eu

tickets=${PAGESWARM_TICKETS:-/tickets}
pool=${PAGESWARM_TICKET_POOL:-8}
workload=${PAGESWARM_WORKLOAD:-specjbb}
# A ticket names the address that the data plane listens on, so it has to be one that nodes can reach.
set -- "$(hostname -i)" "$@"
address=${1%% *}
shift

say() { echo "publisher: $*" >&2; }

boot() {
    until pageswarm status --json >/dev/null 2>&1; do sleep 0.2; done
    [ "$workload" = none ] && return 0
    pageswarm vm run --workload "$workload" --memory "${PAGESWARM_MEMORY:-256MiB}" \
        --interval "${PAGESWARM_INTERVAL:-500ms}" --checkpoints "${PAGESWARM_CHECKPOINTS:-120}" >&2 ||
        say "the VM does not start; the swarm runs without it"
}

# Tickets are written under another name first: a node sees a whole ticket or none. They are renewed long before
# they expire, and those of an earlier start may be of another swarm.
hand_out() {
    until pageswarm status --json >/dev/null 2>&1; do sleep 0.2; done
    rm -f "$tickets"/*.ticket "$tickets"/*.part
    number=0
    while :; do
        find "$tickets" -name '*.ticket' -mmin +120 -delete
        ready=$(find "$tickets" -name '*.ticket' | wc -l)
        while [ "$ready" -lt "$pool" ]; do
            number=$((number + 1))
            part="$tickets/$number.part"
            if pageswarm swarm ticket --role reader --open-for 3h >"$part"; then
                mv "$part" "$tickets/$number.ticket"
            else
                rm -f "$part"
                say "no ticket could be made; trying again"
                break
            fi
            ready=$((ready + 1))
        done
        sleep 1
    done
}

hand_out &
boot &
exec pageswarm node run --create-swarm --listen "$address:7420" --gossip-listen "$address:7421" --http 0.0.0.0:7422 "$@"
