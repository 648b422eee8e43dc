#!/usr/bin/env python3
"""Has the real @modelcontextprotocol/server-memory write a knowledge graph, for `tmws memory import --from server-memory`.

    compat/servers/graph.py --server .test/servers/HOME/node_modules/…/dist/index.js fixtures/memories/server-memory.jsonl

`run.py` does the same with the server that it installs, and has the file imported.
"""

import argparse
import json
import os
import pathlib
import subprocess

ENTITIES = [
    {"name": "Ada Lindqvist", "entityType": "Person", "observations": [
        "Ada Lindqvist owns the release process",
        "Prefers reviews before noon",
        "Speaks Swedish: \"lagom är bäst\"",
    ]},
    {"name": "billing-api", "entityType": "service", "observations": [
        "Retries failed webhooks five times, then parks them in the table `webhook_dead`",
        "Deployed to Fly.io\nfrom the branch `stable`",
    ]},
    {"name": "Q3 audit", "entityType": "event", "observations": []},
]
RELATIONS = [
    {"from": "Ada Lindqvist", "to": "billing-api", "relationType": "maintains"},
    {"from": "billing-api", "to": "Q3 audit", "relationType": "is_in_scope_of"},
]
LATER = [{"entityName": "billing-api", "contents": ["Its on-call rota changes on Tuesdays"]}]
# Observations, the entity without any, relations.
MEMORIES = 3 + 2 + 1 + 1 + 2


def write(command, path):
    """Has the server that `command` starts write the graph into `path`."""
    path.unlink(missing_ok=True)
    process = subprocess.Popen(command, env={**os.environ, "MEMORY_FILE_PATH": str(path.resolve())},
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    number = 0

    def ask(method, params):
        nonlocal number
        number += 1
        process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}) + "\n")
        process.stdin.flush()
        while True:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the server ended at {method}")
            answer = json.loads(line)
            if answer.get("id") == number:
                if "error" in answer or answer["result"].get("isError"):
                    raise RuntimeError(f"{method}: {line}")
                return answer["result"]

    try:
        ask("initialize", {"protocolVersion": "2025-06-18", "capabilities": {},
                           "clientInfo": {"name": "graph", "version": "1"}})
        process.stdin.write(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}) + "\n")
        ask("tools/call", {"name": "create_entities", "arguments": {"entities": ENTITIES}})
        ask("tools/call", {"name": "create_relations", "arguments": {"relations": RELATIONS}})
        ask("tools/call", {"name": "add_observations", "arguments": {"observations": LATER}})
    finally:
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--server", required=True, help="the server's program, for node")
    arguments.add_argument("file", type=pathlib.Path)
    options = arguments.parse_args()
    write(["node", options.server], options.file)


if __name__ == "__main__":
    main()
