#!/usr/bin/env python3
"""The Autobahn fuzzing client against our WebSocket stack.

Builds the echo example (compat/autobahn/echo.rs), starts it on a free loopback port, runs the suite's client cases
against it and prints a table. Exit 0 when every case is OK, NON-STRICT or INFORMATIONAL (behaviour and closing both),
1 when one is not, 2 when it could not be run.

The suite is autobahntestsuite 25.10.1 from PyPI and needs CPython 2.7 with pip. One is looked for in this order:
--python, `python2.7` on the PATH, pyenv's versions; where there is none and pyenv is there, `pyenv install 2.7.18`
builds it from the source of python.org (a C compiler, zlib and OpenSSL headers are needed). Elsewhere: Debian 11 and
Ubuntu 22.04 have `apt-get install python2.7-dev`, conda-forge has `conda create -n py27 python=2.7 pip`, FreeBSD and
Homebrew users have pyenv. The suite is installed into --dir, never into the interpreter.

Cases 12.* and 13.* are about permessage-deflate, which the server declines: they are left out. 9.* (sizes of up to 16 MiB
and round trips) takes most of the time: --quick leaves it out.
"""

import argparse
import collections
import glob
import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SUITE = "autobahntestsuite==25.10.1"
PYTHON = "2.7.18"
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
# The suite's entry point without its console script, which --target does not put on the PATH. As a site folder, because
# the namespace packages in it need their .pth files.
LAUNCH = """
import os, site, sys
sys.argv[0] = 'wstest'
site.addsitedir(os.environ['AUTOBAHN_SITE'])
from autobahntestsuite.wstest import run
run()
"""


def fail(message):
    print(f"run.py: {message}", file=sys.stderr)
    sys.exit(2)


def is_python27(program):
    check = "import sys, pip; assert sys.version_info[:2] == (2, 7)"
    try:
        return subprocess.run([program, "-c", check], capture_output=True).returncode == 0
    except OSError:
        return False


def find_python(named):
    if named:
        return named if is_python27(named) else fail(f"{named} is no CPython 2.7 with pip")
    pyenv = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv"))
    places = [shutil.which("python2.7")] + sorted(glob.glob(f"{pyenv}/versions/2.7*/bin/python2.7"))
    for place in filter(None, places):
        if is_python27(place):
            return place
    if shutil.which("pyenv"):
        print(f"building CPython {PYTHON} with pyenv", file=sys.stderr)
        if subprocess.run(["pyenv", "install", "--skip-existing", PYTHON]).returncode == 0:
            return find_python(f"{pyenv}/versions/{PYTHON}/bin/python2.7")
    return fail("no CPython 2.7 with pip was found, nor pyenv to build one; --help says where to get it")


def install(python, folder):
    site = folder / "site"
    if not (site / "autobahntestsuite").is_dir():
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", site, SUITE]
        if subprocess.run(command, stderr=subprocess.DEVNULL).returncode != 0:
            shutil.rmtree(site, ignore_errors=True)
            fail(f"`{' '.join(map(str, command))}` failed")
    return site


def build():
    command = ["cargo", "build", "--quiet", "--message-format=json", "--example", "websocket_echo"]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if built.returncode != 0:
        fail("the echo example does not build")
    artifacts = (json.loads(line) for line in built.stdout.splitlines())
    programs = [a["executable"] for a in artifacts if a.get("executable") and a["target"]["name"] == "websocket_echo"]
    return programs[-1]


def fuzz(python, site, folder, address, cases, excluded):
    reports = folder / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    specification = {
        "outdir": str(reports),
        "servers": [{"agent": "tmws", "url": f"ws://{address}"}],
        "cases": cases,
        "exclude-cases": excluded,
        "exclude-agent-cases": {},
    }
    (folder / "fuzzingclient.json").write_text(json.dumps(specification))
    environment = dict(os.environ, AUTOBAHN_SITE=str(site))
    command = [python, "-c", LAUNCH, "--mode", "fuzzingclient", "--spec", "fuzzingclient.json"]
    log = folder / "wstest.log"
    with log.open("w") as output:
        ran = subprocess.run(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    index = reports / "index.json"
    if ran.returncode != 0 or not index.exists():
        fail(f"the fuzzing client did not get through; {log} says why")
    return json.loads(index.read_text())["tmws"]


def natural(case):
    return [int(part) for part in case.split(".")]


def summarize(verdicts):
    groups = collections.defaultdict(collections.Counter)
    bad = []
    for case in sorted(verdicts, key=natural):
        verdict = verdicts[case]
        groups[case.split(".")[0]][verdict["behavior"]] += 1
        if verdict["behavior"] not in GOOD or verdict["behaviorClose"] not in GOOD:
            bad.append(f"{case}: {verdict['behavior']}, close {verdict['behaviorClose']} ({verdict['remoteCloseCode']})")
    columns = sorted({column for counts in groups.values() for column in counts})
    print(f"{'group':<6}" + "".join(f"{column:>15}" for column in columns))
    for group in sorted(groups, key=natural):
        print(f"{group + '.*':<6}" + "".join(f"{groups[group][column]:>15}" for column in columns))
    total = sum(groups.values(), collections.Counter())
    print(f"{'all':<6}" + "".join(f"{total[column]:>15}" for column in columns) + f"   of {len(verdicts)} cases")
    loose = [case for case in sorted(verdicts, key=natural) if verdicts[case]["behavior"] == "NON-STRICT"]
    if loose:
        print("NON-STRICT: " + " ".join(loose))
    for line in bad:
        print(f"FAILED {line}")
    return not bad and bool(verdicts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="a CPython 2.7 with pip")
    parser.add_argument("--dir", type=pathlib.Path, default=ROOT / "target" / "autobahn", help="the suite and its reports")
    parser.add_argument("--echo", help="an echo example that is built already")
    parser.add_argument("--cases", nargs="+", default=["*"], help="only these, e.g. 7.1.*")
    parser.add_argument("--quick", action="store_true", help="without 9.*")
    arguments = parser.parse_args()
    folder = arguments.dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    python = find_python(arguments.python)
    site = install(python, folder)
    program = arguments.echo or build()
    excluded = ["12.*", "13.*"] + (["9.*"] if arguments.quick else [])
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        address = server.stdout.readline().strip()
        verdicts = fuzz(python, site, folder, address, arguments.cases, excluded)
        # It ends with its input.
        server.stdin.close()
    sys.exit(0 if summarize(verdicts) else 1)


if __name__ == "__main__":
    main()
