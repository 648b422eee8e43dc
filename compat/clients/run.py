#!/usr/bin/env python3
"""Installs real MCP clients and drives each against `tmws stdio` and `tmws serve` in a real git repository.

    compat/clients/run.py --tmws target/debug/tmws --work .test/clients [--only=NAME] [--jobs N]

Each client connects, lists what there is, runs `repo.digest` on a repository made here, reads a resource, gets a
prompt, stores a memory and leaves; after a restart of the server it finds the memory again. A client that knows of tasks
runs `todo.sweep` as one, and finds that again, too. One that knows of forms is shown the one of `ask.yaml`, and fills it
in. Over the network it then comes once more with a token, which nobody gets in without.

On stdio the server must be gone after each launch, must have written nothing to stderr and, in the second, nothing but
frames to stdout. On the network it must end by itself at a signal, and complain of nothing.

Prints a line per client, mode and transport, and `N passed, N failed`. What cannot be installed is a failure, never a
skip. Clients stay installed in the work folder; the folder of a run is kept only where it failed.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
TOOLS = ["execute_pattern", "find_patterns", "get_result", "remember"]
INSTALL_SECONDS = 300
DRIVE_SECONDS = 60
START_SECONDS = 20
END_SECONDS = 6
ENDPOINTS = {"ws": "ws", "http": "mcp", "sse": "sse"}


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
    packages = [client["package"], *client.get("with", [])]

    def install():
        (home / "package.json").write_text('{"private": true}')
        run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", *packages],
            INSTALL_SECONDS, f"installing {' '.join(packages)} from the npm registry", at={"cwd": home})

    installed(home, packages, install)
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


def drive(command, plan, repository):
    """Runs the client once and returns what it saw."""
    out = run(command, DRIVE_SECONDS, "the client", input=json.dumps(plan), at={"cwd": repository})
    try:
        return json.loads(out)
    except ValueError:
        raise Failed(f"the driver printed no JSON: {out[:500]}") from None


def is_running(pid):
    try:
        os.kill(pid, 0)
        stat = pathlib.Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


class Launch:
    """How the client launches the server: a script that becomes it, so that its process and output can be watched."""

    def __init__(self, tmws, folder, arguments, env, copy_stdout=False):
        folder.mkdir(parents=True)
        self.arguments, self.env = arguments, env
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
        plan = {"over": "stdio", "command": str(self.script), "args": self.arguments, "env": self.env, **plan}
        try:
            seen = drive(command, plan, repository)
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
        return seen

    def check_frames(self):
        lines = self.stdout.read_text().split("\n")
        expect(lines.pop() == "" and lines, "stdout does not end with a whole frame")
        for line in lines:
            try:
                frame = json.loads(line)
            except ValueError:
                raise Failed(f"on stdout is something that is no frame: {line[:200]!r}") from None
            expect(isinstance(frame, dict) and frame.get("jsonrpc") == "2.0", f"no frame: {line[:200]!r}")


class Served:
    """A shared server on a free port, or what else listens on one, for the time of a `with`."""

    def __init__(self, tmws, folder, flags, env, repository, command="serve"):
        folder.mkdir(parents=True)
        self.stderr = folder / "stderr"
        with self.stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [str(tmws), command, "--listen", "127.0.0.1:0", *flags], cwd=repository, env={**os.environ, **env},
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True)

    def __enter__(self):
        deadline = time.monotonic() + START_SECONDS
        while not (found := re.search(r"address=([0-9.]+:\d+)", self.stderr.read_text())):
            ended = self.process.poll()
            if ended is not None or time.monotonic() > deadline:
                end_group(self.process)
                raise Failed(f"the server does not listen (exit code {ended}): {self.stderr.read_text()[:2000]}")
            time.sleep(0.01)
        self.address = found[1]
        return self

    def __exit__(self, kind, *_):
        self.process.terminate()
        try:
            code = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            code = f"none {END_SECONDS} s after the signal"
        end_group(self.process)
        if kind:
            return
        said = [line for line in self.stderr.read_text().splitlines()
                if re.search(r"\b(WARN|ERROR)\b|panicked", line) and "need no token" not in line]
        expect(code == 0, f"the server's exit code: {code}")
        expect(not said, f"the server complained: {said[:5]}")


def project(tmws, repository, env):
    """The id of the repository's project, as `tmws doctor` tells it."""
    out = run([tmws, "doctor", "--no-probe", "--json"], 30, "tmws doctor",
              at={"cwd": repository, "env": {**os.environ, **env}})
    found = re.search(r'"project":\s*"(p_[0-9a-f]+)"', out)
    expect(found, f"tmws doctor names no project: {out[:500]}")
    return found[1]


class Place:
    """Where one case happens: a repository, a store, and nothing of whoever runs this."""

    def __init__(self, tmws, work):
        shutil.rmtree(work, ignore_errors=True)
        self.tmws, self.work, self.repository = tmws, work, work / "repository"
        make_repository(self.repository)
        self.env = {"TMWS_DATABASE_URL": f"sqlite:{work / 'store.db'}", "XDG_CONFIG_HOME": str(work / "config"),
                    "XDG_DATA_HOME": str(work / "data")}

    def token(self):
        """The token that the first start of a server made."""
        files = list(self.work.glob("**/token"))
        expect(len(files) == 1, f"the server made one token file: {files}")
        expect(files[0].stat().st_mode & 0o777 == 0o600, f"nobody else may read {files[0]}")
        return files[0].read_text().strip()


def over_stdio(place, command, plan):
    """Yields what drives the client, once per launch of the server."""
    for number, copy_stdout in (("first", False), ("second", True)):
        launch = Launch(place.tmws, place.work / number, ["stdio"], place.env, copy_stdout)
        yield lambda steps: launch.drive(command, {**plan, **steps}, place.repository)


def over_bridge(place, command, plan, scheme):
    """The same, each launch being a bridge to a server of its own; the last of them wants a token."""
    for number, flags in (("first", ["--no-auth"]), ("second", ["--no-auth"]), ("third", [])):
        with Served(place.tmws, place.work / f"{number}-server", flags, place.env, place.repository) as served:
            launch = Launch(place.tmws, place.work / number, ["connect", f"{scheme}://{served.address}"], place.env, True)
            yield lambda steps: launch.drive(command, {**plan, **steps}, place.repository)


def over_network(place, command, plan, sends_token):
    """The same over a server's endpoint; the last of them wants a token."""
    over = plan["over"]
    path = f"/p/{project(place.tmws, place.repository, place.env)}/{ENDPOINTS[over]}"
    for number in ("first", "second"):
        with Served(place.tmws, place.work / number, ["--no-auth"], place.env, place.repository) as served:
            url = f"{'ws' if over == 'ws' else 'http'}://{served.address}{path}"
            yield lambda steps: drive(command, {**plan, "url": url, **steps}, place.repository)
    with Served(place.tmws, place.work / "third", [], place.env, place.repository) as served:
        token = place.token()
        for wrong in (None, "tmws_wrong"):
            refused = status(f"http://{served.address}{path}", wrong)
            expect(refused == 401, f"with token {wrong}: status {refused}")
        if sends_token:
            url = f"ws://x:{token}@{served.address}{path}" if over == "ws" else f"http://{served.address}{path}"
            yield lambda steps: drive(command, {**plan, "url": url, "token": token, **steps}, place.repository)


def status(url, token):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def answer(seen, index):
    call = seen["calls"][index]
    expect(not call["isError"], f"call {index} failed: {call['text']}")
    return json.loads(call["text"])


def check(command, tmws, over, client, mode, revision, work):
    place = Place(tmws, work)
    marker = f"The deploy key of {work.name} rotates on Fridays"
    plan = {"mode": mode, "over": over}
    if over == "stdio":
        visits = over_stdio(place, command, plan)
    elif over.startswith("connect-"):
        visits = over_bridge(place, command, {**plan, "over": "stdio"}, over.removeprefix("connect-"))
    else:
        visits = over_network(place, command, plan, client.get("token", True))

    has_tasks, has_forms = client.get("tasks", False), client.get("forms", False)
    if has_forms:
        patterns = work / "config" / "tmws" / "patterns"
        patterns.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "ask.yaml", patterns / "test.ask.yaml")
    first = next(visits)({
        "calls": [
            ["execute_pattern", {"pattern": "repo.digest", "input": {"since": "14d"}}],
            ["remember", {"content": marker, "tags": ["deploy"]}],
            ["find_patterns", {"query": "what changed"}],
            *([["execute_pattern", {"pattern": "test.ask"}]] if has_forms else []),
        ],
        "resources": ["pattern://repo.digest"],
        "prompts": [["repo.digest", {"since": "14d"}]],
        **({"tasks": [["execute_pattern", {"pattern": "todo.sweep"}]]} if has_tasks else {}),
        **({"form": {"port": "443"}} if has_forms else {}),
    })
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

    if has_forms:
        expect(first["asked"] == ["Which port?"], f"asked: {first.get('asked')}")
        expect(answer(first, 3)["choice"] == {"action": "accept", "content": {"port": "443"}}, f"form: {first['calls'][3]}")

    if has_tasks:
        task = first["tasks"][0]
        expect((task["statuses"][0], task["statuses"][-1]) == ("working", "completed"), f"task: {task}")
        expect(not task["isError"] and json.loads(task["text"])["kinds"] == {"TODO": 1}, f"task: {task}")

    # The server has ended since, and another has begun. With a token, the same user comes to the same memory.
    again = {
        "calls": [
            ["execute_pattern", {"pattern": "memory.recall", "input": {"query": "deploy key"}}],
            ["execute_pattern", {"query": "catch me up"}],
            ["execute_pattern", {"pattern": "no.such"}],
        ],
        "resources": [f"memory://{stored}"],
        "prompts": [["memory.recall", {"query": "deploy"}]],
        **({"tasks": []} if has_tasks else {}),
    }
    for visit in visits:
        second = visit(again)
        if has_tasks:
            expect(second["kept"] == [[task["id"], "completed"]], f"tasks after a restart: {second['kept']}")
        hits = answer(second, 0)["hits"]
        expect(any(stored.endswith(hit["id"]) and marker in hit["text"] for hit in hits), f"recalled: {hits}")
        expect(answer(second, 1)["commits"] == 3, f"routed: {second['calls'][1]}")
        unknown = second["calls"][2]
        expect(unknown["isError"] and "unknown_pattern" in unknown["text"], f"unknown pattern: {unknown}")
        expect(marker in second["resources"][0], f"memory as a resource: {second['resources'][0][:500]}")
        expect(marker in second["prompts"][0], f"memory in a prompt: {second['prompts'][0][:500]}")
    shutil.rmtree(work, ignore_errors=True)


def cases(table):
    """Every client in every mode over every transport that it has."""
    for kind, install in (("python", install_python), ("node", install_node)):
        for client in table[kind]:
            for mode, revision in client.get("modes", {"": client.get("revision")}).items():
                for over in client.get("over", ["stdio"]):
                    name = "-".join(part for part in (client["name"], mode, over) if part)
                    yield name, install, client, mode, revision, over


def forget_settings():
    """Settings of whoever runs this stay out of it."""
    for name in [name for name in os.environ if name.startswith(("TMWS_", "CLAUDE_PROJECT_DIR", "GIT_"))]:
        del os.environ[name]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tmws", type=pathlib.Path, required=True, help="the binary to drive")
    arguments.add_argument("--work", type=pathlib.Path, required=True, help="where clients are installed")
    arguments.add_argument("--only", default="", help="only cases whose name holds this, as in --only=-ws")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count(), help="cases at once")
    options = arguments.parse_args()
    tmws, work = options.tmws.resolve(), options.work.resolve()
    if not os.access(tmws, os.X_OK):
        sys.exit(f"run.py: there is no program {tmws}; `cargo build` makes it")
    forget_settings()
    work.mkdir(parents=True, exist_ok=True)
    table = json.loads((HERE / "clients.json").read_text())
    installing = {client["name"]: threading.Lock() for kind in ("python", "node") for client in table[kind]}

    def attempt(case):
        """Whether the case passed, and the line that tells it."""
        name, install, client, mode, revision, over = case
        try:
            with installing[client["name"]]:
                command = install(work, client)
            started = time.monotonic()
            check(command, tmws, over, client, mode, revision, work / "runs" / name)
        except Exception as error:  # every client gets its turn
            kind_of = "" if isinstance(error, Failed) else f"{type(error).__name__}: "
            return False, f"FAILED {name}: {kind_of}{error}"
        return True, f"ok     {name} speaks {revision} ({time.monotonic() - started:.1f} s)"

    chosen = [case for case in cases(table) if options.only in case[0]]
    passed = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for held, line in pool.map(attempt, chosen):
            passed += held
            print(line, flush=True)
    failed = len(chosen) - passed
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
