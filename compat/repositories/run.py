#!/usr/bin/env python3
"""Runs every built-in pattern on four real repositories: a crate, a Python package, an npm package, and this one.

    compat/repositories/run.py --tmws target/debug/tmws --work .test/repositories [--only=NAME] [--pattern=NAME] [--show]

The packages come from their registries, pinned by version and SHA-256 (the crate by this repository's own Cargo.lock),
and are laid into git repositories with a history of several authors and one uncommitted change; of this repository a
clone is taken. Each has memories, recorded outputs (of real tools where those run), a database about its own files
and history, and two MCP servers: `tmws stdio` and one of somebody else.

`repositories.json` says what is run where and what an answer must tell (`facts`, regexes) or must not (`never`). Every
pattern of `tmws pattern list` must stand there for every repository. Each is run again: the text must be the same but for
handles and ids, within the declared budget. Prints a line per run, then a table; `--show` prints the answers.
"""

import argparse
import datetime
import hashlib
import importlib.util
import io
import json
import os
import pathlib
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
RUN_SECONDS = 600
INSTALL_SECONDS = 300
# What differs between two runs by design: handles, ids, and how long a program took.
PASSING = [(r"\b(r|s|m|mem|ses)_[A-Za-z0-9_-]{16,}", "HANDLE"), (r"\b01[0-9A-HJKMNP-TV-Z]{24}\b", "ID"),
           (r"\bin \d+\.\d+ ?s\b", "in TIME"), (r"\b\d+(?:\.\d+)? ?ms\b", "TIME"), (r'"etag":"[a-z0-9]+"', '"etag":"ETAG"'),
           (r'"p\d\d":[\d.]+', '"p":MS'), (r'"since":"\d{4}-[^"]+"', '"since":"TIME"'), (r'"seconds":[\d.]+', '"seconds":TIME'),
           (r'"(tokens_out|tokens_estimated|compression)":[\d.]+,?', ""), (r'"degraded":\[[^\]]*\]', '"degraded":[]')]


def load_clients():
    """What the checks with real clients have already: installing and running."""
    spec = importlib.util.spec_from_file_location("clients", HERE.parent / "clients/run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


clients = load_clients()
expect, run, Failed = clients.expect, clients.run, clients.Failed


# Packages

def checked(path, wanted, what):
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    expect(found == wanted, f"{what} has the SHA-256 {found}, not {wanted}")
    return data


def crate(work, package):
    """The .crate that this repository depends on, from cargo's own cache, as Cargo.lock pins it."""
    lock = tomllib.loads((CHECKOUT / "Cargo.lock").read_text())["package"]
    found = [one for one in lock if one["name"] == package["package"] and one["version"] == package["version"]]
    expect(found, f"{package['package']} {package['version']} is not in Cargo.lock; name the version there in repositories.json")
    name = f"{package['package']}-{package['version']}.crate"
    cache = pathlib.Path(os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo")) / "registry/cache"
    if not list(cache.glob(f"*/{name}")):
        run(["cargo", "fetch", "--locked"], INSTALL_SECONDS, "cargo fetch", at={"cwd": CHECKOUT})
    return checked(next(cache.glob(f"*/{name}")), found[0]["checksum"], name)


def sdist(work, package):
    name = f"{package['package']}-{package['version']}.tar.gz"
    if not (work / name).exists():
        run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:",
             "-d", work, f"{package['package']}=={package['version']}"], INSTALL_SECONDS, f"downloading {name}")
    return checked(work / name, package["sha256"], name)


def npm(work, package):
    name = f"{package['package']}-{package['version']}.tgz"
    if not (work / name).exists():
        run(["npm", "pack", "--silent", f"{package['package']}@{package['version']}"], INSTALL_SECONDS, f"downloading {name}",
            at={"cwd": work})
    return checked(work / name, package["sha256"], name)


def contents(archive):
    """Path below the package's folder, mode and bytes of every file."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            path = pathlib.PurePosixPath(*pathlib.PurePosixPath(member.name).parts[1:])
            if member.isfile() and ".." not in path.parts:
                yield path, member.mode, tar.extractfile(member).read()


# Repositories

def git(folder, *arguments, author=None, when=None):
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    if author:
        mail = author.split()[0].lower() + "@example.org"
        env |= {"GIT_AUTHOR_NAME": author, "GIT_AUTHOR_EMAIL": mail, "GIT_COMMITTER_NAME": author, "GIT_COMMITTER_EMAIL": mail,
                "GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
    return run(["git", "-c", "init.defaultBranch=main", "-C", folder, *arguments], 60, f"git {arguments[0]}", at={"env": env})


def edit(folder, change):
    path = folder / change["path"]
    text = path.read_text() if path.exists() else ""
    if "find" in change:
        expect(text.count(change["find"]) >= 1, f"{change['path']} does not hold {change['find']!r}")
        text = text.replace(change["find"], change["replace"], 1)
    else:
        text += change["append"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make_repository(folder, archive, package, now):
    """Lays the files into commits; each takes what its globs name, or edits a file."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    files = {str(path): (mode, data) for path, mode, data in contents(archive)}
    for path, (mode, data) in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        target.chmod(0o755 if mode & 0o100 else 0o644)
    for commit in package["commits"]:
        # Half an hour off the full hour, so that no age ticks while it runs.
        when = now - datetime.timedelta(days=commit["days"], minutes=30)
        if "edit" in commit:
            edit(folder, commit["edit"])
            git(folder, "add", "--", commit["edit"]["path"])
        else:
            git(folder, "add", "-f", "--", *[f":(glob){glob}" for glob in commit["files"]])
        git(folder, "commit", "-q", "-m", commit["subject"], author=commit["author"], when=when.strftime("%Y-%m-%dT%H:%M:%SZ"))
    left = git(folder, "status", "--porcelain").strip()
    expect(not left, f"files that no commit takes:\n{left}")
    edit(folder, package["uncommitted"])


def make_clone(folder, package):
    """This repository at HEAD."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    run(["git", "clone", "-q", "--no-hardlinks", "--single-branch", CHECKOUT, folder], 120, "git clone")
    edit(folder, package["uncommitted"])


def make_database(folder, path):
    """Files, commits and which touched what."""
    base = sqlite3.connect(path)
    base.executescript("""
        CREATE TABLE files (path TEXT PRIMARY KEY, kind TEXT NOT NULL, bytes INTEGER NOT NULL, lines INTEGER NOT NULL);
        CREATE TABLE commits (hash TEXT PRIMARY KEY, author TEXT NOT NULL, day TEXT NOT NULL, subject TEXT NOT NULL);
        CREATE TABLE touched (hash TEXT NOT NULL REFERENCES commits(hash), path TEXT NOT NULL REFERENCES files(path),
                              PRIMARY KEY (hash, path));
        CREATE VIEW kinds AS SELECT kind, count(*) AS files, sum(lines) AS lines FROM files GROUP BY kind;
    """)
    for name in git(folder, "ls-files", "-z").split("\0"):
        file = folder / name
        if name and file.is_file() and not file.is_symlink():
            data = file.read_bytes()
            base.execute("INSERT INTO files VALUES (?, ?, ?, ?)", (name, file.suffix.lstrip(".") or "none", len(data), data.count(b"\n")))
    for block in git(folder, "log", "-200", "--name-only", "--format=%x00%h%x01%an%x01%as%x01%s").split("\0")[1:]:
        head, *names = block.strip("\n").split("\n")
        commit = head.split("\x01")
        base.execute("INSERT OR IGNORE INTO commits VALUES (?, ?, ?, ?)", commit)
        base.executemany("INSERT OR IGNORE INTO touched SELECT ?, path FROM files WHERE path = ?",
                         [(commit[0], name) for name in names if name])
    base.commit()
    base.close()


QUERIES = """
[sources.history]
url = "sqlite:{database}"

[sources.history.queries.largest]
sql = "SELECT path, lines FROM files WHERE kind = ?1 ORDER BY lines DESC, path LIMIT 5"
description = "the largest files of a kind"
params = ["kind"]

[sources.history.queries.authors]
sql = "SELECT author, count(*) AS commits FROM commits GROUP BY author ORDER BY 2 DESC, 1"
description = "commits by author"
"""

SERVERS = """
[servers.patterns]
command = {own}
env = {{ TMWS_DATABASE_URL = "sqlite:{other}", XDG_CONFIG_HOME = "{config}" }}

[servers.knowledge]
command = {command}
env = {{ MEMORY_FILE_PATH = "{knowledge}" }}
start = "1min"
"""


class Place:
    """A repository with all that its patterns need, outside of it."""

    def __init__(self, tmws, home, package, servers, path):
        self.tmws, self.home, self.repository, self.package = tmws, home, home / package["name"], package
        self.config = home / "config/tmws"
        self.config.mkdir(parents=True)
        self.store = home / "store"
        self.env = {**os.environ, "TMWS_DATABASE_URL": f"sqlite:{self.store / 'store.db'}", "PATH": path,
                    "XDG_CONFIG_HOME": str(home / "config"), "XDG_DATA_HOME": str(home / "data")}
        self.store.mkdir()
        self.servers = servers

    def tmws_run(self, *arguments, env=None):
        return subprocess.run([str(self.tmws), *arguments], cwd=self.repository, env=env or self.env, text=True,
                              capture_output=True, timeout=RUN_SECONDS, stdin=subprocess.DEVNULL)

    def say(self, *arguments):
        done = self.tmws_run(*arguments)
        expect(done.returncode == 0, f"tmws {' '.join(arguments)[:80]}: {done.stderr}")
        return done.stdout

    def prepare(self):
        make_database(self.repository, self.home / "history.db")
        for memory in self.package["memories"]:
            self.say("memory", "add", memory["text"], "--kind", memory["kind"], *[f"--tag={tag}" for tag in memory.get("tags", [])],
                     "--importance", str(memory.get("importance", 0.5)))
        knowledge = self.home / "knowledge.jsonl"
        knowledge.write_text("".join(json.dumps({"type": "entity", "name": name, "entityType": "fact", "observations": [text]}) + "\n"
                                     for name, text in self.package["knowledge"].items()))
        text = QUERIES.format(database=self.home / "history.db")
        text += SERVERS.format(own=json.dumps([str(self.tmws), "stdio", "--root", str(self.repository)]), other=self.home / "other.db",
                               config=self.home / "nothing", command=json.dumps(self.servers), knowledge=knowledge)
        path = self.config / "tmws.toml"
        path.write_text(text)
        listed = [json.loads(line) for line in self.tmws_run("tools", "--json").stdout.splitlines()]
        pins = {(server["server"], tool["name"]): tool["schema"] for server in listed for tool in server["tools"]}
        for server, tool in [("patterns", "find_patterns"), ("knowledge", "search_nodes")]:
            pin = pins.get((server, tool))
            expect(pin, f"the server {server} lists no {tool}: {sorted(map(str, pins))}")
            text += f"\n[servers.{server}.tools.{tool}]\nschema = \"{pin}\"\nreads = true\nquery = \"query\"\n"
        path.write_text(text)
        self.record()
        self.keep()

    def record(self):
        """Output of the repository's own tools, ignored by git."""
        logs = self.repository / "logs"
        logs.mkdir()
        with (self.repository / ".git/info/exclude").open("a") as exclude:
            exclude.write("/logs/\n/target/\n__pycache__/\n.pytest_cache/\n")
        for name, how in self.package["outputs"].items():
            if "fixture" in how:
                shutil.copy(CHECKOUT / how["fixture"], logs / name)
                continue
            done = subprocess.run(how["command"], cwd=self.repository, env=self.env, stdin=subprocess.DEVNULL, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=RUN_SECONDS)
            (logs / name).write_text(done.stdout)

    def keep(self):
        """The store as it is before any pattern ran."""
        shutil.copytree(self.store, self.home / "kept")

    def restore(self):
        shutil.rmtree(self.store)
        shutil.copytree(self.home / "kept", self.store)

    def input_of(self, case):
        """The case's input; `$newest` is the id of the newest memory."""
        text = json.dumps(case.get("input", {}), ensure_ascii=False)
        if "$newest" in text:
            text = text.replace("$newest", json.loads(self.say("memory", "search", "--json"))["hits"][0]["id"])
        return text

    def once(self, pattern, case):
        """Exit code, what was answered or complained of, and the receipt."""
        self.restore()
        if case.get("before"):
            self.say("run", case["before"]["pattern"], "--json", "--input", json.dumps(case["before"]["input"]))
        if "talk" in case:
            return self.talk([*case["talk"], [pattern, case.get("input", {})]])
        started = time.monotonic()
        done = self.tmws_run("run", pattern, "--json", "--fresh", "--input", self.input_of(case))
        seconds = time.monotonic() - started
        if done.returncode != 0:
            return done.returncode, done.stderr + done.stdout, {"ms": seconds * 1000}
        answer = json.loads(done.stdout)
        return 0, json.dumps(answer.get("output"), ensure_ascii=False, separators=(",", ":")), answer["receipt"]

    def talk(self, calls):
        """What the last of some calls answers, all to one server over stdio; `$session` is the handle that one gave."""
        process = subprocess.Popen([str(self.tmws), "stdio"], cwd=self.repository, env=self.env, text=True, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

        def ask(number, method, params):
            process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())["result"]

        try:
            ask(0, "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "repositories", "version": "1"}})
            process.stdin.write('{"jsonrpc": "2.0", "method": "notifications/initialized"}\n')
            session = ""
            for number, (pattern, given) in enumerate(calls, 1):
                given = json.loads(json.dumps(given).replace("$session", session))
                answer = ask(number, "tools/call", {"name": "execute_pattern", "arguments": {"pattern": pattern, "input": given}})
                text = answer["content"][0]["text"]
                expect(not answer.get("isError"), f"{pattern}: {text}")
                session = json.loads(text).get("session", session)
            return 0, text, answer["_meta"]["tmws/receipt"]
        finally:
            process.stdin.close()
            process.wait(RUN_SECONDS)


def passing(text):
    for regex, word in PASSING:
        text = re.sub(regex, word, text)
    return text


def check(place, pattern, case, budget, show):
    """Tokens and milliseconds of the pattern's answer."""
    code, text, receipt = place.once(pattern, case)
    if show:
        print(f"--- {place.package['name']} {pattern} {json.dumps(case.get('input', {}))} ({receipt.get('tokens_out')} tokens)\n{text}\n", flush=True)
    wanted = 1 if "error" in case else 0
    expect(bool(code) == bool(wanted), f"exit code {code}: {text[:600]}")
    if wanted:
        expect(case["error"] in text, f"{case['error']!r} is not in {text[:600]!r}")
    for fact in case.get("facts", []):
        expect(re.search(fact, text), f"it does not tell /{fact}/: {text[:1500]}")
    for word in case.get("never", []):
        expect(not re.search(word, text), f"it tells /{word}/: {text[:1500]}")
    if wanted:
        return "refused"
    tokens = receipt["tokens_out"]
    expect(tokens <= budget, f"{tokens} tokens; the budget is {budget}")
    if not case.get("once"):
        # Handles are random and differ by a token or two: beside one, a little more or less may fit. So of some runs two
        # must be the same; what is told in another order, or at random, never is.
        seen = {passing(text)}
        while (other := passing(place.once(pattern, case)[1])) not in seen:
            seen.add(other)
            if len(seen) > 3:
                raise Failed("it differs from run to run:\n" + "\n".join(one[:1500] for one in seen))
    return tokens, receipt["ms"]


def budgets(tmws):
    """Every built-in pattern with its declared budget, as the binary says."""
    listed = json.loads(run([tmws, "pattern", "list", "--json"], 60, "tmws pattern list"))["patterns"]
    found = {}
    for one in listed:
        if one["origin"] == "built-in":
            shown = run([tmws, "pattern", "show", one["name"]], 60, "tmws pattern show")
            found[one["name"]] = int(re.search(r"budget:\s*(?:\{\s*)?tokens: (\d+)", shown)[1])
    return found


def table(rows, names):
    width = max(map(len, rows), default=0)
    print(f"\n{'pattern':{width}}  " + "  ".join(f"{name:>18}" for name in names))
    for pattern, row in sorted(rows.items()):
        cells = [(f"{row[name][0]} t {row[name][1]:.0f} ms" if isinstance(row[name], tuple) else row[name]) if name in row else "" for name in names]
        print(f"{pattern:{width}}  " + "  ".join(f"{cell:>18}" for cell in cells))


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tmws", type=pathlib.Path, required=True, help="the binary")
    arguments.add_argument("--work", type=pathlib.Path, required=True, help="where packages are kept and repositories are made")
    arguments.add_argument("--only", default="", help="only the repository of this name")
    arguments.add_argument("--pattern", default="", help="only patterns whose name holds this")
    arguments.add_argument("--show", action="store_true", help="print every answer")
    options = arguments.parse_args()
    tmws, work = options.tmws.resolve(), options.work.resolve()
    if not os.access(tmws, os.X_OK):
        sys.exit(f"run.py: there is no program {tmws}; `cargo build` makes it")
    clients.forget_settings()
    work.mkdir(parents=True, exist_ok=True)
    plan = json.loads((HERE / "repositories.json").read_text())
    known = budgets(tmws)
    now = datetime.datetime.now(datetime.timezone.utc).replace(minute=0, second=0, microsecond=0)
    rows, passed, failed = {}, 0, 0
    clients.install_node(work, {"name": "server", "package": plan["server"]["package"], "driver": ""})
    server = [word.format(home=work / "server") for word in plan["server"]["command"]]
    clients.install_python(work, {"name": "python", "package": plan["pytest"], "driver": ""})
    path = f"{work / 'python/bin'}{os.pathsep}{os.environ['PATH']}"
    shutil.rmtree(work / "runs" / options.only, ignore_errors=True)
    for package in plan["repositories"]:
        name = package["name"]
        if options.only and options.only != name:
            continue
        try:
            home = work / "runs" / name
            if package["kind"] == "checkout":
                make_clone(home / name, package)
            else:
                archive = {"crate": crate, "sdist": sdist, "npm": npm}[package["kind"]](work, package)
                make_repository(home / name, archive, package, now)
            if "python_path" in package:  # As an editable install does.
                for site in (work / "python/lib").glob("python3*/site-packages"):
                    (site / "repository.pth").write_text(str(home / name / package["python_path"]) + "\n")
            place = Place(tmws, home, package, server, path)
            place.prepare()
        except Exception as error:  # every repository gets its turn
            failed += 1
            print(f"FAILED {name}: {type(error).__name__}: {error}", flush=True)
            continue
        for pattern in sorted({*plan["everywhere"], *package["runs"], *known}):
            here, everywhere = package["runs"].get(pattern, {}), plan["everywhere"].get(pattern, {})
            case = {**everywhere, **here, **{key: everywhere.get(key, []) + here.get(key, []) for key in ("facts", "never")}}
            if options.pattern not in pattern:
                continue
            row = rows.setdefault(pattern, {})
            try:
                expect(pattern in known, "there is no such built-in pattern")
                expect(pattern in package["runs"], "repositories.json says nothing of it")
                if "not_here" in case:
                    row[name] = "-"
                    continue
                row[name] = check(place, pattern, case, known[pattern], options.show)
                for more in case.get("also", []):
                    check(place, pattern, more, known[pattern], options.show)
            except Exception as error:  # every pattern gets its turn
                failed += 1
                row[name] = "FAILED"
                print(f"FAILED {name} {pattern}: {type(error).__name__}: {error}", flush=True)
                continue
            passed += 1
    table(rows, [package["name"] for package in plan["repositories"]])
    print(f"{passed} passed, {failed} failed")
    sys.exit(0 if passed and not failed else 1)


if __name__ == "__main__":
    main()
