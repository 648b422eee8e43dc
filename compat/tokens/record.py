#!/usr/bin/env python3
"""Records the arms of `tmws token-report` that are not TMWS: reference MCP servers, the same with a grep tool, a shell.

    compat/tokens/record.py --work .test/tokens [--only TASK,TASK] [--arms a,a-plus,c] [--pin]

Runs the recipes of tasks.toml against the servers that servers.json pins by version and hash, installed below the work
folder, and against bash, each in a fresh copy of its fixture, and writes transcripts/ARM/TASK.jsonl and
transcripts/definitions.json. Paths of this machine become /home/dev. `--pin` writes the hashes found into servers.json.

A recipe is a list of calls: `SERVER TOOL {JSON}` for servers, `$ COMMAND` for the host's Bash, `Read PATH` for its file
reader. `$ROOT` is the workspace, `$NOTES` the notes of a team that keeps its memory in a file.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
TRANSCRIPTS = HERE / "transcripts"
HOME = "/home/dev"
ARMS = {"a": ["git", "filesystem", "memory"], "a-plus": ["git", "filesystem", "memory", "ripgrep"], "c": []}
REVISION = "2025-06-18"
ANSWER_SECONDS = 60


def install(work, pin):
    """Installs the pinned packages and returns {name: version and hash}; a hash that differs ends the run."""
    servers = json.loads((HERE / "servers.json").read_text())
    found = {}
    python, node = work / "python", work / "node"
    packages = [f"{name}=={pinned['version']}" for name, pinned in servers["python"].items()]
    report = work / "pip.json"
    if not report.exists():
        work.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", python], check=True)
        subprocess.run([python / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check",
                        "--report", report, *packages], check=True)
    for item in json.loads(report.read_text())["install"]:
        name = item["metadata"]["name"]
        if name in servers["python"]:
            found[name] = {"version": item["metadata"]["version"],
                           "sha256": item["download_info"]["archive_info"]["hashes"]["sha256"]}
    packages = [f"{name}@{pinned['version']}" for name, pinned in servers["node"].items()]
    lock = node / "node_modules/.package-lock.json"
    if not lock.exists():
        node.mkdir(parents=True, exist_ok=True)
        (node / "package.json").write_text('{"private": true}')
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", *packages],
                       cwd=node, check=True)
    locked = json.loads(lock.read_text())["packages"]
    for name in servers["node"]:
        entry = locked[f"node_modules/{name}"]
        found[name] = {"version": entry["version"], "integrity": entry["integrity"]}
    for part in servers.values():
        for name in part:
            if pin:
                part[name] = found[name]
            elif part[name] != found[name]:
                sys.exit(f"{name} is {found[name]}, pinned is {part[name]}")
    if pin:
        (HERE / "servers.json").write_text(json.dumps(servers, indent=2) + "\n")
    return found


class Server:
    """An MCP server on stdin and stdout."""

    def __init__(self, command, env, cwd):
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, env=env, cwd=cwd)
        self.next = 0
        hello = self.ask("initialize", {"protocolVersion": REVISION, "capabilities": {},
                                        "clientInfo": {"name": "tmws-token-report", "version": "1"}})
        self.instructions = hello.get("instructions", "")
        self.version = hello["serverInfo"].get("version", "")
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def send(self, message):
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, method, params):
        self.next += 1
        self.send({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params})
        while True:
            line = self.process.stdout.readline()
            if not line:
                sys.exit(f"a server ended at {method} {json.dumps(params)[:200]}")
            message = json.loads(line)
            if message.get("id") == self.next and "method" not in message:
                if "error" in message:
                    sys.exit(f"{method} {json.dumps(params)[:300]}: {message['error']}")
                return message["result"]

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def environment(home, extra=()):
    """Nothing of the caller but the path."""
    return {"PATH": ":".join([*extra, os.environ["PATH"]]), "HOME": str(home), "LC_ALL": "C.UTF-8", "TZ": "UTC",
            "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_PAGER": "cat",
            "NODE_NO_WARNINGS": "1"}


def memories(task):
    if "memories" not in task:
        return []
    return [json.loads(line) for line in (HERE / task["memories"]).read_text().splitlines() if line]


def notes(task):
    """The same memories as a team without a memory server keeps them: one line each in a file, oldest first."""
    lines = []
    for memory in memories(task):
        replaced = next((other for other in memories(task) if other["id"] == memory.get("superseded_by")), None)
        suffix = f" (replaced {replaced['created'][:10]})" if replaced else ""
        lines.append(f"- {memory['created'][:10]} {memory['kind']} [{', '.join(memory['tags'])}] {memory['content']}{suffix}\n")
    return "".join(lines)


def graph(task):
    """The same memories as server-memory keeps them: an entity each, and who replaced whom."""
    known, lines, names = {}, [], {}
    for memory in memories(task):
        tag = memory["tags"][0] if memory["tags"] else "note"
        known[tag] = known.get(tag, 0) + 1
        names[memory["id"]] = f"{tag}-{known[tag]}"
        lines.append({"type": "entity", "name": names[memory["id"]], "entityType": memory["kind"], "observations": [
            memory["content"], f"{memory['created'][:10]} [{', '.join(memory['tags'])}]"]})
    for memory in memories(task):
        if memory.get("superseded_by") in names:
            lines.append({"type": "relation", "from": names[memory["superseded_by"]], "to": names[memory["id"]],
                          "relationType": "replaces"})
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def workspace(task, home):
    """A fresh copy of the task's fixture, as `tmws token-report` makes it, too."""
    root = home / task["name"]
    if "repo" in task:
        subprocess.run(["git", "clone", "-q", HERE / task["repo"], root], check=True, env=environment(home))
    else:
        root.mkdir()
    if "overlay" in task:
        shutil.copytree(HERE / task["overlay"], root, dirs_exist_ok=True)
    for copied in task.get("files", []):
        source = HERE / copied
        target = root / "ci" / source.name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, target)
    (home / "notes.md").write_text(notes(task))
    (home / "memory.json").write_text(graph(task))
    return root


def launch(name, work, home, root):
    env = environment(home, [str(work / "python/bin")])
    modules = work / "node/node_modules"
    if name == "git":
        return Server([work / "python/bin/mcp-server-git"], env, home)
    if name == "filesystem":
        return Server(["node", modules / "@modelcontextprotocol/server-filesystem/dist/index.js", home], env, home)
    if name == "memory":
        env["MEMORY_FILE_PATH"] = str(home / "memory.json")
        return Server(["node", modules / "@modelcontextprotocol/server-memory/dist/index.js"], env, home)
    return Server(["node", modules / "mcp-ripgrep/dist/index.js"], env, root)


def parse(call, root, notes_file):
    """(server, tool, arguments)"""
    call = call.replace("$ROOT", str(root)).replace("$NOTES", str(notes_file))
    if call.startswith("$ "):
        return "host", "Bash", {"command": call[2:]}
    if call.startswith("Read "):
        return "host", "Read", {"file_path": call[5:]}
    server, tool, arguments = call.split(" ", 2)
    return server, tool, json.loads(arguments)


def on_host(tool, arguments, home, root):
    if tool == "Read":
        return {"content": [{"type": "text", "text": pathlib.Path(arguments["file_path"]).read_text()}]}
    done = subprocess.run(["bash", "-c", arguments["command"]], cwd=root, env=environment(home), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=ANSWER_SECONDS)
    text = done.stdout.decode()
    if done.returncode not in (0, 1):
        sys.exit(f"`{arguments['command']}` ended with {done.returncode}: {text[:500]}")
    return {"content": [{"type": "text", "text": text.rstrip("\n")}]}


def record(task, arm, work, versions):
    recipe = task.get(arm.replace("-", "_"))
    target = TRANSCRIPTS / arm / f"{task['id']}.jsonl"
    if not recipe:
        target.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory(prefix="tmws-tokens-") as folder:
        home = pathlib.Path(folder).resolve()
        root = workspace(task, home)
        servers, lines = {}, []
        used = {}
        for number, call in enumerate(recipe, 1):
            server, tool, arguments = parse(call, root, home / "notes.md")
            if server == "host":
                begun = time.monotonic()
                result = on_host(tool, arguments, home, root)
            else:
                if server not in servers:
                    servers[server] = launch(server, work, home, root)
                    used[server] = servers[server].version
                begun = time.monotonic()
                result = servers[server].ask("tools/call", {"name": tool, "arguments": arguments})
            ms = round((time.monotonic() - begun) * 1000, 1)
            if result.get("isError"):
                sys.exit(f"{task['id']}, {arm}: {call}\n{json.dumps(result)[:800]}")
            lines.append({"turn": number, "server": server, "call": {"name": tool, "arguments": arguments},
                          "result": result, "ms": ms})
        for server in servers.values():
            server.close()
        header = {"format": "tmws-tokens/1", "arm": arm, "task": task["id"], "servers": used}
        text = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in [header, *lines])
        # Times of the recording machine's clock, as `list_directory` and `git status` do not have them, do not occur.
        text = text.replace(str(home), HOME)
        if re.search(r"/tmp/|/root/|/work/", text):
            sys.exit(f"{task['id']}, {arm}: a path of this machine is left")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    print(f"{arm:7} {task['id']:28} {len(recipe)} calls {len(text):8} bytes")


def definitions(work, versions):
    """What each server says of itself: instructions and tools as on the wire."""
    out = {}
    with tempfile.TemporaryDirectory(prefix="tmws-tokens-") as folder:
        home = pathlib.Path(folder).resolve()
        (home / "memory.json").write_text("")
        packages = {"git": "mcp-server-git", "filesystem": "@modelcontextprotocol/server-filesystem",
                    "memory": "@modelcontextprotocol/server-memory", "ripgrep": "mcp-ripgrep"}
        for name, package in packages.items():
            server = launch(name, work, home, home)
            tools = server.ask("tools/list", {})["tools"]
            out[name] = {"package": package, **versions[package], "instructions": server.instructions, "tools": tools}
            server.close()
    text = json.dumps({"arms": ARMS, "servers": out}, ensure_ascii=False, indent=1).replace(str(home), HOME)
    TRANSCRIPTS.mkdir(exist_ok=True)
    (TRANSCRIPTS / "definitions.json").write_text(text + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, required=True, help="where servers are installed and kept")
    parser.add_argument("--only", help="these tasks alone, with commas between")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--pin", action="store_true")
    options = parser.parse_args()
    work = options.work.resolve()
    versions = install(work, options.pin)
    tasks = tomllib.loads((HERE / "tasks.toml").read_text())["task"]
    definitions(work, versions)
    for task in tasks:
        if options.only is None or task["id"] in options.only.split(","):
            for arm in options.arms.split(","):
                record(task, arm, work, versions)


if __name__ == "__main__":
    main()
