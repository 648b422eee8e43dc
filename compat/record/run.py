#!/usr/bin/env python3
"""Installs real MCP clients and records each anew against `tmws` itself, through `tmws record`.

    compat/record/run.py --tmws target/debug/tmws --work .test/clients [--only=NAME] [--out compat/transcripts]

Clients, drivers and ways to install them are those of compat/clients. Each connects to a server of its own, on a clone
of fixtures/repos/small.bundle, lists what there is, runs `repo.digest`, looks for patterns, stores a memory, recalls it,
reads a resource, gets a prompt, has an argument completed, and leaves. What it said and what it heard becomes
`<client>-<version>/<revision>/own-<transport>.jsonl`; where a client has several modes that speak one revision, the
mode stands in the name too.

Nothing of this machine stands in a recording: the clone is /fixtures/small and its project id all zeros; on the network
it is the project `small`.
A recording that is there is replaced only when the new one is whole and the client saw what it should.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "clients"))

import run as clients  # noqa: E402
from run import Failed, Launch, Served, answer, drive, expect  # noqa: E402

PROJECT = "small"
MEMORY = "The deploy key rotates on Fridays"
PLAN = {
    "calls": [
        ["execute_pattern", {"pattern": "repo.digest", "input": {"since": "9999d"}}],
        ["find_patterns", {"query": "what changed"}],
        ["remember", {"content": MEMORY, "tags": ["deploy"]}],
        ["execute_pattern", {"pattern": "memory.recall", "input": {"query": "deploy key"}}],
        ["execute_pattern", {"pattern": "no.such"}],
    ],
    "resources": ["pattern://repo.digest"],
    "prompts": [["repo.digest", {"since": "9999d"}]],
    "completions": [["repo.digest", {"name": "since", "value": ""}]],
}


class Place:
    """Where one recording is made: the clone, a store, settings, and nothing of whoever runs this."""

    def __init__(self, tmws, work):
        shutil.rmtree(work, ignore_errors=True)
        self.tmws, self.work, self.repository, self.recordings = tmws, work, work / PROJECT, work / "recordings"
        (work / "config/tmws").mkdir(parents=True)
        clients.run(["git", "-c", "init.defaultBranch=main", "clone", "-q", "-b", "main",
                     ROOT / "fixtures/repos/small.bundle", self.repository], 30, "git clone")
        (work / "config/tmws/tmws.toml").write_text(f"[projects.{PROJECT}]\nroot = {json.dumps(str(self.repository))}\n")
        self.env = {
            "TMWS_DATABASE_URL": f"sqlite:{work / 'store.db'}", "XDG_CONFIG_HOME": str(work / "config"),
            "XDG_DATA_HOME": str(work / "data"), "PATH": f"{tmws.parent}{os.pathsep}{os.environ['PATH']}",
        }

    def flags(self, client, variant):
        """How the recorder is told what to write, and what not."""
        name, version = client["name"].rsplit("-", 1)
        hidden = {self.repository: f"/fixtures/{PROJECT}", self.work: "/work", pathlib.Path.home(): "/home/user",
                  clients.project(self.tmws, self.repository, self.env): f"p_{'0' * 32}"}
        flags = ["--out", str(self.recordings / "a.jsonl"), "--client", name, "--client-version", version,
                 "--variant", variant]
        return flags + [part for text, instead in hidden.items() for part in ("--replace", f"{text}={instead}")]


def over_stdio(tmws, place, command, plan, flags):
    # By its name alone: where it lies on this machine is nobody's affair.
    launch = Launch(tmws, place.work / "launch", ["record", *flags, "--", "tmws", "stdio"], place.env)
    return launch.drive(command, {**plan, "over": "stdio"}, place.repository)


def over_network(tmws, place, command, plan, flags, over):
    scheme = "ws" if over == "ws" else "http"
    # In a folder of its own: the repository is reached as the project that the settings name.
    with Served(tmws, place.work / "server", ["--no-auth"], place.env, place.work) as served:
        to = ["--to", f"{scheme}://{served.address}", *flags]
        with Served(tmws, place.work / "recorder", to, place.env, place.work, "record") as recorder:
            url = f"{scheme}://{recorder.address}/p/{PROJECT}/{clients.ENDPOINTS[over]}"
            return drive(command, {**plan, "over": over, "url": url}, place.repository)


def check(seen, revision):
    """The client saw what is to be recorded."""
    expect(seen["revision"] == revision, f"it spoke {seen['revision']}, expected {revision}")
    expect(seen["tools"] == clients.TOOLS, f"tools: {seen['tools']}")
    expect(answer(seen, 0)["commits"] == 24, f"digest: {seen['calls'][0]}")
    expect(any(MEMORY in hit["text"] for hit in answer(seen, 3)["hits"]), f"recalled: {seen['calls'][3]}")
    expect(seen["calls"][4]["isError"], f"unknown pattern: {seen['calls'][4]}")
    expect("name: repo.digest" in seen["resources"][0], f"resource: {seen['resources'][0][:500]}")
    expect("start message names the port" in seen["prompts"][0], f"prompt: {seen['prompts'][0][:500]}")
    expect("7d" in seen["completions"][0], f"completions: {seen['completions']}")


def joined(place, driver, seconds):
    """One transcript of all that was recorded: a client may launch its server more than once."""
    def order(path):
        found = re.fullmatch(r"a-(\d+)\.jsonl", path.name)
        return int(found[1]) if found else 1

    files = sorted(place.recordings.glob("*.jsonl"), key=order)
    expect(files, "nothing was recorded")
    header, lines = None, []
    for file in files:
        first, *rest = file.read_text().splitlines()
        if header is None:
            header = json.loads(first)
        lines += rest
    # `driver` stands where the format's other recordings have it: before the server.
    header = {key: value for key, value in header.items() if key not in ("server", "recorded")} | {
        "driver": [driver], "server": "tmws", "recorded": header["recorded"]}
    result = {"type": "result", "rc": 0, "ok": True, "seconds": round(seconds, 2)}
    compact = {"separators": (",", ":"), "ensure_ascii": False}
    text = "\n".join([json.dumps(header, **compact), *lines, json.dumps(result, **compact)]) + "\n"
    for hidden in {str(place.work), str(ROOT), str(pathlib.Path.home())} - {"/"}:
        expect(hidden not in text, f"the recording names a folder of this machine: {hidden}")
    return text


def record(tmws, place, client, command, mode, over):
    started = time.monotonic()
    plan, flags = {**PLAN, "mode": mode}, place.flags(client, "-".join(part for part in ("own", mode) if part))
    if over == "stdio":
        seen = over_stdio(tmws, place, command, plan, flags)
    else:
        seen = over_network(tmws, place, command, plan, flags, over)
    return seen, joined(place, client["driver"], time.monotonic() - started)


def file_of(client, mode, revision, over):
    """Where a recording lies."""
    modes = client.get("modes", {})
    shared = [other for other, spoken in modes.items() if spoken == revision]
    suffix = {revision: "-pin"}.get(mode, f"-{mode}") if len(shared) > 1 else ""
    return pathlib.Path(client["name"], revision, f"own-{over}{suffix}.jsonl")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tmws", type=pathlib.Path, required=True, help="the binary to record")
    arguments.add_argument("--work", type=pathlib.Path, required=True, help="where clients are installed")
    arguments.add_argument("--out", type=pathlib.Path, default=ROOT / "compat/transcripts", help="where recordings go")
    arguments.add_argument("--only", default="", help="only cases whose name holds this, as in --only=-ws")
    options = arguments.parse_args()
    tmws, work = options.tmws.resolve(), options.work.resolve()
    if not os.access(tmws, os.X_OK):
        sys.exit(f"run.py: there is no program {tmws}; `cargo build` makes it")
    clients.forget_settings()
    work.mkdir(parents=True, exist_ok=True)
    table = json.loads((HERE.parent / "clients/clients.json").read_text())
    recorded = failed = 0
    for name, install, client, mode, revision, over in clients.cases(table):
        # What goes through a bridge of ours is that bridge's conversation, not the client's.
        if options.only not in name or over.startswith("connect-"):
            continue
        place = work / "recordings" / name
        try:
            command = install(work, client)
            seen, text = record(tmws, Place(tmws, place), client, command, mode, over)
            check(seen, revision)
            file = options.out / file_of(client, mode, revision, over)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            shutil.rmtree(place)
            recorded += 1
            print(f"ok     {name}: {file_of(client, mode, revision, over)}, {len(text.splitlines())} lines", flush=True)
        except Exception as error:  # every client gets its turn
            failed += 1
            kind = "" if isinstance(error, Failed) else f"{type(error).__name__}: "
            print(f"FAILED {name}: {kind}{error}", flush=True)
    print(f"{recorded} recorded, {failed} failed")
    sys.exit(1 if failed or not recorded else 0)


if __name__ == "__main__":
    main()
