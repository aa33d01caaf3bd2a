#!/usr/bin/env python3
"""Drives Mooncake Store over TCP loopback for `make bench`.

`mooncake.py store ...` mounts a memory segment and holds it until stdin closes.
`mooncake.py client ...` has no segment of its own, so that every byte crosses the transfer engine's TCP transport, as
it does between our client and our server. It reads one JSON command a line from stdin and answers one JSON line each:
{"seconds": wall time, "ops": objects moved or keys asked, "cpu": CPU seconds of this process}.
"""

import argparse
import ctypes
import json
import sys
import time

from mooncake.store import MooncakeDistributedStore


def connect(args, segment_bytes, buffer_bytes):
    """Joins the store; `segment_bytes` is the RAM it offers to others, 0 for a pure client."""
    store = MooncakeDistributedStore()
    code = store.setup(
        f"127.0.0.1:{args.port}",
        f"http://127.0.0.1:{args.metadata_port}/metadata",
        segment_bytes,
        buffer_bytes,
        "tcp",
        "",
        f"127.0.0.1:{args.master_port}",
    )
    if code != 0:
        sys.exit(f"mooncake setup answered {code}")
    return store


def serve_commands(store, buffer_bytes):
    """Answers commands until stdin closes; values live in one registered buffer of `buffer_bytes`."""
    buffer = (ctypes.c_char * buffer_bytes)()
    ctypes.memset(buffer, 0x5A, buffer_bytes)
    base = ctypes.addressof(buffer)
    if store.register_buffer(base, buffer_bytes) != 0:
        sys.exit("mooncake refused to register the client's buffer")
    for line in sys.stdin:
        command = json.loads(line)
        keys, size, rounds = command["keys"], command["bytes"], command.get("rounds", 1)
        addresses = [base + i * size for i in range(len(keys))] if size else []
        sizes = [size] * len(keys)
        cpu, start = time.process_time(), time.perf_counter()
        for _ in range(rounds):
            if command["op"] == "put":
                codes = store.batch_put_from(keys, addresses, sizes)
                ok = all(code == 0 for code in codes)
            elif command["op"] == "get":
                codes = store.batch_get_into(keys, addresses, sizes)
                ok = all(code == size for code in codes)
            else:
                ok = len(store.batch_is_exist(keys)) == len(keys)
            if not ok:
                sys.exit(f"mooncake {command['op']} failed: {codes[:4]}")
        answer = {
            "seconds": time.perf_counter() - start,
            "ops": rounds * len(keys),
            "cpu": time.process_time() - cpu,
        }
        print(json.dumps(answer), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["store", "client"])
    parser.add_argument("--port", type=int, required=True, help="this process's own transfer port")
    parser.add_argument("--master-port", type=int, required=True)
    parser.add_argument("--metadata-port", type=int, required=True)
    parser.add_argument("--bytes", type=int, required=True, help="segment (store) or value buffer (client) in bytes")
    args = parser.parse_args()
    if args.role == "store":
        store = connect(args, args.bytes, 16 << 20)
        print(json.dumps({"ready": True}), flush=True)
        sys.stdin.read()
    else:
        store = connect(args, 0, 16 << 20)
        print(json.dumps({"ready": True}), flush=True)
        serve_commands(store, args.bytes)
    store.close()


main()
