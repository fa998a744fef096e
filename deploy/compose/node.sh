#!/bin/sh
# A node of the testbed: takes a ticket from the publisher's pool, once, and runs.
#
# PAGESWARM_TICKETS    directory shared with the publisher, default /tickets
# PAGESWARM_PUBLISHER  host name of the publisher, default publisher
set -eu

tickets=${PAGESWARM_TICKETS:-/tickets}
publisher=${PAGESWARM_PUBLISHER:-publisher}
set -- "$(hostname -i)" "$@"
address=${1%% *}
shift

# Of several nodes that reach for one ticket, one renames it and the others find it gone.
take_ticket() {
    mine="$tickets/taken-by-$(hostname)"
    while :; do
        for ticket in "$tickets"/*.ticket; do
            if mv "$ticket" "$mine" 2>/dev/null; then
                cat "$mine"
                rm -f "$mine"
                return 0
            fi
        done
        sleep 0.2
    done
}

# A node that is a member already needs no ticket; the publisher's address may have changed since it joined.
if [ ! -e "$PAGESWARM_DIR/certificate" ]; then
    set -- --join "$(take_ticket)" "$@"
fi
found=$(getent ahostsv4 "$publisher" || true)
if [ -n "$found" ]; then
    set -- --peer "${found%% *}:7420" "$@"
fi
exec pageswarm node run --listen "$address:7420" --gossip-listen "$address:7421" --http 0.0.0.0:7422 "$@"
