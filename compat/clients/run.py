#!/usr/bin/env python3
"""Installs real MCP clients and drives each against `tmws stdio` in a real git repository.

    compat/clients/run.py --tmws target/debug/tmws --work .test/clients [--only NAME]

Each client connects, lists what there is, runs `repo.digest` on a repository made here, reads a resource, gets a
prompt, stores a memory and leaves; a second launch finds the memory again. After each launch the server must be gone,
must have written nothing to stderr and, in the second, nothing but frames to stdout.

Prints a line per client and mode, and `N passed, N failed`. What cannot be installed is a failure, never a skip.
Clients stay installed in the work folder; the folder of a run is kept only where it failed.
"""

import argparse
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
TOOLS = ["execute_pattern", "find_patterns", "get_result", "remember"]
INSTALL_SECONDS = 300
DRIVE_SECONDS = 60
END_SECONDS = 5


class Failed(Exception):
    """A client did not do what it should; the text says what."""


def expect(holds, text):
    if not holds:
        raise Failed(text)


def run(command, seconds, purpose, **options):
    """Runs `command` in a process group of its own, which is ended with it, and returns what it wrote to stdout."""
    try:
        process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   stdin=subprocess.PIPE, text=True, start_new_session=True, **options.pop("at", {}))
    except FileNotFoundError:
        raise Failed(f"{purpose}: `{command[0]}` is not installed; scripts/setup test installs it") from None
    try:
        out, err = process.communicate(options.get("input"), timeout=seconds)
    except subprocess.TimeoutExpired:
        end_group(process)
        out, err = process.communicate()
        raise Failed(f"{purpose}: not done after {seconds} s\n{err[-2000:]}") from None
    finally:
        end_group(process)
    expect(process.returncode == 0, f"{purpose}: exit code {process.returncode}\n{err[-2000:]}{out[-500:]}")
    return out


def end_group(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def installed(home, packages, install):
    """Calls `install` unless `home` holds just these packages from an earlier run."""
    wanted = json.dumps([sys.version, *packages])
    done = home / ".installed"
    if not done.exists() or done.read_text() != wanted:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        install()
        done.write_text(wanted)


def install_python(work, client):
    """A virtual environment per version."""
    home = work / client["name"]
    packages = [client["package"], *client.get("with", [])]

    def install():
        run([sys.executable, "-m", "venv", home], INSTALL_SECONDS, "making a virtual environment")
        run([home / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages],
            INSTALL_SECONDS, f"installing {' '.join(packages)} from the Python package index")

    installed(home, packages, install)
    return [home / "bin/python", HERE / client["driver"]]


def install_node(work, client):
    """A folder per version, so that versions do not meet."""
    home = work / client["name"]

    def install():
        (home / "package.json").write_text('{"private": true}')
        run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", client["package"]],
            INSTALL_SECONDS, f"installing {client['package']} from the npm registry", at={"cwd": home})

    installed(home, [client["package"]], install)
    return ["node", HERE / client["driver"], home / "node_modules" / client["package"].rsplit("@", 1)[0]]


def make_repository(folder):
    """A git repository with three commits, the last of them today."""
    folder.mkdir(parents=True)
    git = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false",
           "-c", "init.defaultBranch=main", "-C", folder]
    run([*git, "init", "-q"], 30, "git init")
    for number, (name, text) in enumerate([
        ("README.md", "# A small project\n"),
        ("src/main.rs", "fn main() {\n    // TODO: say hello\n}\n"),
        ("src/lib.rs", "pub fn answer() -> u32 {\n    42\n}\n"),
    ], 1):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        run([*git, "add", name], 30, "git add")
        run([*git, "commit", "-q", "-m", f"Change number {number}"], 30, "git commit")


def is_running(pid):
    try:
        os.kill(pid, 0)
        stat = pathlib.Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


class Launch:
    """How the client launches the server: a script that becomes it, so that its process and output can be watched."""

    def __init__(self, tmws, folder, copy_stdout):
        folder.mkdir(parents=True)
        self.pid, self.stderr = folder / "pid", folder / "stderr"
        self.stdout = folder / "stdout" if copy_stdout else None
        copy = f" > >(exec tee {shlex.quote(str(self.stdout))})" if copy_stdout else ""
        self.script = folder / "launch"
        self.script.write_text(f"#!/usr/bin/env bash\necho $$ >> {shlex.quote(str(self.pid))}\n"
                               f"exec {shlex.quote(str(tmws))} \"$@\" 2>> {shlex.quote(str(self.stderr))}{copy}\n")
        self.script.chmod(0o755)

    def pids(self):
        return [int(pid) for pid in self.pid.read_text().split()] if self.pid.exists() else []

    def drive(self, command, plan, repository):
        """Drives the client once and returns what it saw; then the server is gone, and was quiet."""
        plan = {"command": str(self.script), "args": ["stdio"], **plan}
        try:
            out = run(command, DRIVE_SECONDS, "the client", input=json.dumps(plan), at={"cwd": repository})
            deadline = time.monotonic() + END_SECONDS
            while any(map(is_running, self.pids())) and time.monotonic() < deadline:
                time.sleep(0.02)
            left = [pid for pid in self.pids() if is_running(pid)]
            expect(self.pids(), "the client never launched the server")
            expect(not left, f"the server still runs {END_SECONDS} s after the client closed it")
        finally:
            for pid in filter(is_running, self.pids()):
                os.kill(pid, signal.SIGKILL)
        said = self.stderr.read_text()
        expect(not said, f"the server wrote to stderr: {said[:2000]}")
        if self.stdout:
            self.check_frames()
        try:
            return json.loads(out)
        except ValueError:
            raise Failed(f"the driver printed no JSON: {out[:500]}") from None

    def check_frames(self):
        lines = self.stdout.read_text().split("\n")
        expect(lines.pop() == "" and lines, "stdout does not end with a whole frame")
        for line in lines:
            try:
                frame = json.loads(line)
            except ValueError:
                raise Failed(f"on stdout is something that is no frame: {line[:200]!r}") from None
            expect(isinstance(frame, dict) and frame.get("jsonrpc") == "2.0", f"no frame: {line[:200]!r}")


def answer(seen, index):
    call = seen["calls"][index]
    expect(not call["isError"], f"call {index} failed: {call['text']}")
    return json.loads(call["text"])


def check(command, tmws, mode, revision, work):
    shutil.rmtree(work, ignore_errors=True)
    repository = work / "repository"
    make_repository(repository)
    env = {"TMWS_DATABASE_URL": f"sqlite:{work / 'store.db'}", "XDG_CONFIG_HOME": str(work / "config"),
           "XDG_DATA_HOME": str(work / "data")}
    marker = f"The deploy key of {work.name} rotates on Fridays"

    first = Launch(tmws, work / "first", copy_stdout=False).drive(command, {
        "mode": mode, "env": env,
        "calls": [
            ["execute_pattern", {"pattern": "repo.digest", "input": {"since": "14d"}}],
            ["remember", {"content": marker, "tags": ["deploy"]}],
            ["find_patterns", {"query": "what changed"}],
        ],
        "resources": ["pattern://repo.digest"],
        "prompts": [["repo.digest", {"since": "14d"}]],
    }, repository)
    expect(first["revision"] == revision, f"it spoke {first['revision']}, expected {revision}")
    expect(first["tools"] == TOOLS, f"tools: {first['tools']}")
    digest = answer(first, 0)
    expect((digest["branch"], digest["commits"]) == ("main", 3), f"digest: {digest}")
    stored = answer(first, 1)["id"]
    expect("repo.digest" in first["calls"][2]["text"], f"patterns: {first['calls'][2]}")
    expect("pattern://repo.digest" in first["listed"]["resources"], f"resources: {first['listed']}")
    expect("repo.digest" in first["listed"]["prompts"], f"prompts: {first['listed']}")
    expect("name: repo.digest" in first["resources"][0], f"resource: {first['resources'][0][:500]}")
    expect("Change number 3" in first["prompts"][0], f"prompt: {first['prompts'][0][:500]}")

    second = Launch(tmws, work / "second", copy_stdout=True).drive(command, {
        "mode": mode, "env": env,
        "calls": [
            ["execute_pattern", {"pattern": "memory.recall", "input": {"query": "deploy key"}}],
            ["execute_pattern", {"query": "catch me up"}],
            ["execute_pattern", {"pattern": "no.such"}],
        ],
        "resources": [f"memory://{stored}"],
        "prompts": [["memory.recall", {"query": "deploy"}]],
    }, repository)
    hits = answer(second, 0)["hits"]
    expect(any(hit["id"] == stored and marker in hit["text"] for hit in hits), f"recalled: {hits}")
    expect(answer(second, 1)["commits"] == 3, f"routed: {second['calls'][1]}")
    unknown = second["calls"][2]
    expect(unknown["isError"] and "unknown_pattern" in unknown["text"], f"unknown pattern: {unknown}")
    expect(marker in second["resources"][0], f"memory as a resource: {second['resources'][0][:500]}")
    expect(marker in second["prompts"][0], f"memory in a prompt: {second['prompts'][0][:500]}")
    shutil.rmtree(work, ignore_errors=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tmws", type=pathlib.Path, required=True, help="the binary to drive")
    arguments.add_argument("--work", type=pathlib.Path, required=True, help="where clients are installed")
    arguments.add_argument("--only", default="", help="only clients whose name holds this")
    options = arguments.parse_args()
    tmws, work = options.tmws.resolve(), options.work.resolve()
    if not os.access(tmws, os.X_OK):
        sys.exit(f"run.py: there is no program {tmws}; `cargo build` makes it")
    # Settings of whoever runs this stay out of it.
    for name in [name for name in os.environ if name.startswith(("TMWS_", "CLAUDE_PROJECT_DIR", "GIT_"))]:
        del os.environ[name]
    work.mkdir(parents=True, exist_ok=True)
    table = json.loads((HERE / "clients.json").read_text())
    passed = failed = 0
    for kind, install in (("python", install_python), ("node", install_node)):
        for client in table[kind]:
            for mode, revision in client.get("modes", {"": client.get("revision")}).items():
                name = f"{client['name']}{'-' + mode if mode else ''}"
                if options.only not in name:
                    continue
                started = time.monotonic()
                try:
                    check(install(work, client), tmws, mode, revision, work / "runs" / name)
                except Exception as error:  # every client gets its turn
                    failed += 1
                    kind_of = "" if isinstance(error, Failed) else f"{type(error).__name__}: "
                    print(f"FAILED {name}: {kind_of}{error}", flush=True)
                else:
                    passed += 1
                    print(f"ok     {name} speaks {revision} ({time.monotonic() - started:.1f} s)", flush=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
