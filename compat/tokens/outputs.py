#!/usr/bin/env python3
"""Records fixtures/outputs/ of `tmws token-report` anew: what pytest, gcc and a service print on a bad day.

    compat/tokens/outputs.py --pytest PYTHON

A test suite, C sources and a small service are written to a scratch folder and really run; paths become /home/dev. PYTHON
has pytest. Times and pointers in the outputs differ from run to run, so what is committed is one run.
"""

import argparse
import pathlib
import random
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "fixtures/outputs"

SERVICE = r'''
import datetime, logging, random, sys
rng = random.Random(5)
now = datetime.datetime(2026, 2, 27, 21, 0, tzinfo=datetime.timezone.utc)
class Clock(logging.Formatter):
    def formatTime(self, record, datefmt=None):
        return now.strftime("%Y-%m-%d %H:%M:%S") + ",%03d" % rng.randrange(1000)
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(Clock("%(asctime)s %(levelname)s %(name)s %(message)s"))
logging.basicConfig(level=logging.INFO, handlers=[handler])
berth, tide, invoice, web = map(logging.getLogger, ["fairway.berth", "fairway.tide", "fairway.invoice", "fairway.web"])
def levels(station):
    return {"Kap Nord": 312}[station]
for number in range(420):
    now += datetime.timedelta(seconds=rng.randrange(5, 40))
    vessel = rng.randrange(9000000, 9999999)
    web.info("GET /api/berth?ids=%d 200 %d ms", vessel, rng.randrange(2, 90))
    if number % 7 == 0:
        berth.info("slot %d reserved for vessel %d", rng.randrange(10, 99), vessel)
    if number % 23 == 5:
        tide.warning("station %s answered after %d ms, the cached level is used", rng.choice(["Kap Nord", "Inner Mole"]), rng.randrange(2000, 9000))
    if number > 150 and number % 19 == 3:
        try:
            levels(rng.choice(["Inner Mole", "Old Pier"]))
        except KeyError:
            tide.exception("no level for vessel %d", vessel)
    if number > 280 and number % 31 == 2:
        try:
            raise TimeoutError("could not serialize access due to concurrent update")
        except TimeoutError:
            berth.exception("reservation of slot %d for vessel %d failed", rng.randrange(10, 99), vessel)
    if number == 333:
        invoice.critical("ledger is out of balance by 1250 cents, no invoice is sent")
'''


def suite(folder):
    """Some hundred tests, nine of which fail in three ways."""
    rng = random.Random(11)
    bad = {("berth", 3): "depth", ("berth", 11): "depth", ("berth", 17): "depth", ("tide", 2): "station", ("tide", 9): "station",
           ("invoice", 5): "fee", ("invoice", 6): "fee", ("invoice", 14): "fee", ("permit", 8): "fee"}
    (folder / "harbour.py").write_text(
        'LEVELS = {"Kap Nord": 312}\n\n\ndef fits(draught_cm, depth_cm, level_cm):\n    """Whether a vessel floats."""\n'
        '    return draught_cm < depth_cm - level_cm\n\n\ndef level(station):\n    """The level at a station."""\n    return LEVELS[station]\n\n\n'
        'def fee(length_m, days):\n    """The fee in cents."""\n    return length_m * days * 125\n')
    for domain in ["berth", "tide", "invoice", "permit", "pilot", "tug", "crane", "customs"]:
        text = "import harbour\n"
        for number in range(22):
            name = f"test_{domain}_{rng.choice(['keeps', 'drops', 'ranks', 'renews', 'closes'])}_{rng.choice(['slot', 'order', 'window', 'queue', 'record'])}_{number}"
            kind = bad.get((domain, number))
            draught = rng.randrange(300, 900)
            if kind == "depth":
                body = f"    draught, depth = {draught}, {draught + 200}\n    level = harbour.level(\"Kap Nord\")\n    assert harbour.fits(draught, depth, level), \"a vessel of this draught floats here\"\n"
            elif kind == "station":
                body = f"    wanted = {draught}\n    found = harbour.level(\"Inner Mole\")\n    assert found == wanted\n"
            elif kind == "fee":
                body = f"    length, days = {draught}, 3\n    assert harbour.fee(length, days) == {draught * 3 * 120}\n"
            else:
                body = f"    assert harbour.fee({draught}, 2) == {draught * 250}\n"
            text += f"\n\ndef {name}():\n{body}"
        (folder / f"test_{domain}.py").write_text(text)


def sources(folder):
    """C files that warn again and again, and one that does not compile."""
    rng = random.Random(13)
    header = "#include <stdio.h>\n#include <string.h>\n\nstruct slot { int id; unsigned length_m; char quay[8]; };\n"
    (folder / "slot.h").write_text(header)
    for domain in ["berth", "tide", "pilot", "tug", "crane", "radar", "permit", "weather"]:
        text = '#include "slot.h"\n'
        for number in range(4):
            verb = rng.choice(["rank", "merge", "close", "check"])
            text += (f"\nint {domain}_{verb}_{number}(struct slot *slots, unsigned n, int flags)\n{{\n    int best = 0;\n    int unused_{number} = {rng.randrange(99)};\n"
                     f"    for (int i = 0; i < n; i++)\n        if (slots[i].length_m > best)\n            best = slots[i].length_m;\n"
                     f"    printf(\"%d of %s\\n\", slots[0].quay, n);\n    return best;\n}}\n")
        if domain == "permit":
            text += "\nint permit_is_revoked(struct slot *slot)\n{\n    return slot->revoked == 1;\n}\n"
        (folder / f"{domain}.c").write_text(text)


def run(command, folder):
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": str(folder), "COLUMNS": "100"})
    return done.stdout.decode().replace(str(folder), "/home/dev/fairway")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pytest", required=True)
    python = parser.parse_args().pytest
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name).resolve()
        suite(folder)
        sources(folder)
        (folder / "service.py").write_text(SERVICE)
        outputs = {
            "pytest.log": run([python, "-m", "pytest", "-v", "-p", "no:cacheprovider"], folder),
            "build.log": run(["sh", "-c", "for f in *.c; do echo \"cc -Wall -Wextra -c $f\"; gcc -Wall -Wextra -c $f; done"], folder),
            "service.log": run([sys.executable, "service.py"], folder),
        }
    # What somebody piped into a file while testing, at the place where `project.health` looks.
    outputs["../health/test.log"] = outputs["pytest.log"]
    for name, text in outputs.items():
        (OUT / name).parent.mkdir(parents=True, exist_ok=True)
        (OUT / name).write_text(text.replace(python, "/home/dev/.venv/bin/python"))
        print(name, len(text))


if __name__ == "__main__":
    main()
