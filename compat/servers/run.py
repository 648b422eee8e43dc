#!/usr/bin/env python3
"""Installs MCP servers of others and calls their tools from a pattern: on stdio and over HTTP, in Node and in Python.

    compat/servers/run.py --tmws target/debug/tmws --work .test/servers [--only=NAME]

Each server is configured without pins and refused, listed by `tmws tools`, pinned as that says, and called by
`tmws run` of a pattern with `mcp.call`; then everything that was started is gone. Prints a line per server, and `N passed, N failed`. What cannot be installed is a failure.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
CALL_SECONDS = 60
START_SECONDS = 30

PATTERN = """\
apiVersion: tmws/v1
kind: Pattern
name: compat.call
version: 1.0.0
type: infrastructure
description: Calls a tool of a server of somebody else. For the compatibility checks only.
triggers:
  phrases: [call the tool of somebody else]
  examples:
    match: [call the tool of somebody else, please call the tool of somebody else, call the tool of somebody else now]
    no_match: [one thing, two things, three things]
  priority: 10
  auto: read-only
inputs:
  type: object
  additionalProperties: false
  required: [server, tool]
  properties: {server: {type: string}, tool: {type: string}, arguments: {type: object, default: {}}}
permissions: {mcp: ['*']}
limits: {timeout: 1m, max_steps: 4, max_bytes: 4MiB}
steps:
  - {id: called, uses: mcp.call, with: {server: '${ .inputs.server }', tool: '${ .inputs.tool }', arguments: '${ .inputs.arguments }'}}
output:
  schema: {type: object, required: [is_error], properties: {is_error: {type: boolean}, text: {type: string}}}
  value: '${ {is_error: .steps.called.is_error, text: (.steps.called.text // (.steps.called.json | tojson))[:2000]} }'
  budget: {tokens: 1000}
annotations: {readOnlyHint: true}
tests:
  - {name: none, inputs: {server: none, tool: none}, expect: {error: denied}}
"""


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# What the checks with real clients have already: installing, running, making a repository.
clients = load("clients", HERE.parent / "clients/run.py")
graph = load("graph", HERE / "graph.py")
expect, run, Failed = clients.expect, clients.run, clients.Failed


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def processes_with(marker):
    """Processes whose environment holds `marker`: whatever was started for a case, and what that started."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if marker.encode() in (folder / "environ").read_bytes() and clients.is_running(int(folder.name)):
                found.append(int(folder.name))
    return found


class Place:
    def __init__(self, tmws, work):
        shutil.rmtree(work, ignore_errors=True)
        self.tmws, self.work, self.repository = tmws, work, work / "repository"
        clients.make_repository(self.repository)
        self.config = work / "config/tmws"
        (self.config / "patterns").mkdir(parents=True)
        (self.config / "patterns/compat.call.yaml").write_text(PATTERN)
        self.marker = f"case-{os.getpid()}-{work.name}"
        self.env = {**os.environ, "TMWS_DATABASE_URL": f"sqlite:{work / 'store.db'}",
                    "XDG_CONFIG_HOME": str(work / "config"), "XDG_DATA_HOME": str(work / "data")}

    def configure(self, tables):
        (self.config / "tmws.toml").write_text("".join(tables))

    def run(self, *arguments):
        """Exit code, stdout and stderr of tmws; then nobody is left."""
        done = subprocess.run([str(self.tmws), *arguments], cwd=self.repository, env=self.env, text=True,
                              capture_output=True, timeout=CALL_SECONDS, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 5
        while (left := processes_with(self.marker)) and time.monotonic() < deadline:
            time.sleep(0.02)
        expect(not left, f"tmws {arguments[0]} left processes behind: {left}")
        return done.returncode, done.stdout, done.stderr


def text_of(value):
    return json.dumps(value, ensure_ascii=False)


def table(server, place, home, url):
    """The server's part of tmws.toml."""
    if url:
        return f"[servers.{server['name']}]\nurl = {text_of(url)}\n"
    words = [word.format(home=home, repository=place.repository) for word in server["command"]]
    return (f"[servers.{server['name']}]\ncommand = {text_of(words)}\nstart = \"1min\"\n"
            f"env = {{ TMWS_CASE = {text_of(place.marker)} }}\n")


@contextlib.contextmanager
def listening(server, home):
    """The address of a server that listens by itself, for the time of a `with`."""
    if "listens" not in server:
        yield None
        return
    port = free_port()
    words = [word.format(home=home) for word in server["listens"]]
    process = subprocess.Popen(words, env={**os.environ, "PORT": str(port)}, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            expect(time.monotonic() < deadline and process.poll() is None, "it does not listen")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}{server['path']}"
    finally:
        clients.end_group(process)
        process.wait()


def check(server, home, place):
    """Returns the server's table with its pin, for the last case."""
    with listening(server, home) as url:
        own = table(server, place, home, url)
        call = server["call"]
        arguments = {name: value.format(repository=place.repository) if isinstance(value, str) else value
                     for name, value in call["arguments"].items()}
        given = text_of({"server": server["name"], "tool": call["tool"], "arguments": arguments})
        place.configure([own])
        code, _, errors = place.run("run", "compat.call", "--input", given)
        expect(code != 0 and "not among the tools that the user pinned" in errors, f"without a pin: {errors}")
        code, listed, errors = place.run("tools", server["name"], "--json")
        expect(code == 0, f"tmws tools: {errors}")
        tools = {tool["name"]: tool for tool in json.loads(listed)["tools"]}
        expect(call["tool"] in tools, f"it lists {sorted(tools)}")
        pin = tools[call["tool"]]["schema"]
        tool = f"[servers.{server['name']}.tools.{call['tool']}]\nreads = true\n"
        place.configure([own, tool, f"schema = \"{pin}\"\n"])
        code, answer, errors = place.run("run", "compat.call", "--input", given)
        expect(code == 0, f"the call: {errors}")
        expect(call["says"] in answer, f"it said {answer[:500]}")
        # A tool that has changed since it was pinned.
        place.configure([own, tool, f"schema = \"sha256:{'0' * 64}\"\n"])
        code, _, errors = place.run("run", "compat.call", "--input", given)
        expect(code != 0 and pin in errors and "0" * 64 in errors, f"with another pin: {errors}")
        return len(tools)


def check_graph(server, home, place):
    """What the server has written is imported, and imported once only."""
    file = place.work / "graph.jsonl"
    graph.write([word.format(home=home) for word in server["command"]], file)
    for imported, skipped in ((graph.MEMORIES, 0), (0, graph.MEMORIES)):
        code, told, errors = place.run("memory", "import", "--from", "server-memory", str(file), "--json")
        expect(code == 0, f"import: {errors}")
        expect(json.loads(told) == {"imported": imported, "skipped": skipped, "conflicts": []}, f"import: {told}")
    code, told, errors = place.run("memory", "search", "who maintains the billing api", "--json")
    expect(code == 0 and "Ada Lindqvist maintains billing-api" in told, f"search: {told} {errors}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tmws", type=pathlib.Path, required=True, help="the binary")
    arguments.add_argument("--work", type=pathlib.Path, required=True, help="where servers are installed")
    arguments.add_argument("--only", default="", help="only servers whose name holds this")
    options = arguments.parse_args()
    tmws, work = options.tmws.resolve(), options.work.resolve()
    if not os.access(tmws, os.X_OK):
        sys.exit(f"run.py: there is no program {tmws}; `cargo build` makes it")
    clients.forget_settings()
    work.mkdir(parents=True, exist_ok=True)
    passed = failed = 0
    for server in json.loads((HERE / "servers.json").read_text())["servers"]:
        if options.only not in server["name"]:
            continue
        package = server["package"]
        install = clients.install_python if server["kind"] == "python" else clients.install_node
        home = work / package.replace("/", "_").replace("@", "_").replace("=", "_")
        try:
            install(work, {"name": home.name, "package": package, "driver": ""})
            started = time.monotonic()
            place = Place(tmws, work / "runs" / server["name"])
            tools = check(server, home, place)
            if "graph" in server:
                check_graph(server, home, place)
        except Exception as error:  # every server gets its turn
            failed += 1
            print(f"FAILED {server['name']}: {type(error).__name__}: {error}", flush=True)
            continue
        passed += 1
        print(f"ok     {server['name']} ({package}) lists {tools} tools ({time.monotonic() - started:.1f} s)", flush=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(0 if passed and not failed else 1)


if __name__ == "__main__":
    main()
