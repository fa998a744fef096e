"""One instance of libtorrent. A publisher seeds. A receiver makes the file `ready`, adds the torrent once it reads a line
from standard input, and makes the file `done` when it has everything. Both run until standard input ends."""

import sys

import libtorrent as lt

torrent, role, address, port, *peers = sys.argv[1:]

settings = lt.high_performance_seed()
settings.update({
    "listen_interfaces": f"{address}:{port}",
    "enable_dht": False,
    "enable_lsd": True,
    "enable_upnp": False,
    "enable_natpmp": False,
    # TCP without encryption.
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "in_enc_policy": 2,
    "out_enc_policy": 2,
    # What was best of what was tried at this job: shallow queues, so that the publisher sends little twice.
    "request_queue_time": 1,
    "max_out_request_queue": 16,
    "strict_end_game_mode": True,
    "unchoke_interval": 2,
    # A receiver that was asked before it had added the torrent is asked again soon, not after a minute.
    "min_reconnect_time": 1,
})
if role == "publisher":
    # Three slots, in turn.
    settings.update({"unchoke_slots_limit": 3, "seed_choking_algorithm": 0})
session = lt.session(settings)
parameters = {"ti": lt.torrent_info(torrent), "save_path": "."}
if role == "publisher":
    parameters["flags"] = lt.torrent_flags.seed_mode


def mark(name):
    with open(name, "w", encoding="ascii"):
        pass


def add():
    handle = session.add_torrent(parameters)
    for peer in peers:
        handle.connect_peer((peer, int(port)))
    return handle


if role == "publisher":
    handle = add()
    mark("ready")
else:
    mark("ready")
    sys.stdin.readline()
    handle = add()
    while not handle.status().is_seeding:
        session.wait_for_alert(20)
        session.pop_alerts()
    mark("done")
sys.stdin.read()
