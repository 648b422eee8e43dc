#!/usr/bin/env python3
"""Makes the fixtures of `tmws token-report` anew: fixtures/fairway.bundle, fixtures/memories.jsonl, fixtures/desk/.

Usage: compat/tokens/make.py [--check]

Everything depends on nothing but this file: a repository of some hundred commits and files in three languages, what a
team remembers of it, and what lies uncommitted on somebody's desk. With --check nothing is written: what is there is
compared with what would be made. Needs git and python3.
"""

import datetime
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
FIXTURES = HERE / "fixtures"
BUNDLE = FIXTURES / "fairway.bundle"
SEED = 20260301
DAY = 86400
#: 2026-02-28T12:00:00Z, the last commit but few.
END = 1772280000
PEOPLE = [("Ada Quill", "ada"), ("Ben Osei", "ben"), ("Chio Mori", "chio"), ("Dagny Holm", "dagny"),
          ("Emre Aydin", "emre"), ("Farah Nasser", "farah")]

# domain: (noun of its record, fields)
DOMAINS = {
    "berth": ("Berth", ["length_m", "depth_cm", "quay", "bollards"]),
    "vessel": ("Vessel", ["imo", "length_m", "draught_cm", "flag"]),
    "tide": ("TideLevel", ["station", "level_cm", "measured_at", "source"]),
    "pilot": ("Pilot", ["licence", "grade", "rest_until", "boat"]),
    "tug": ("Tug", ["bollard_pull_t", "station", "crew", "fuel_l"]),
    "crane": ("Crane", ["reach_m", "lift_t", "wind_limit_ms", "rail"]),
    "cargo": ("Consignment", ["weight_kg", "un_number", "origin", "sealed"]),
    "customs": ("Declaration", ["office", "tariff", "value_cents", "cleared_at"]),
    "invoice": ("Invoice", ["total_cents", "currency", "due_at", "paid"]),
    "weather": ("Forecast", ["wind_ms", "gusts_ms", "visibility_m", "issued_at"]),
    "radar": ("Track", ["bearing_deg", "range_m", "speed_kn", "seen_at"]),
    "permit": ("Permit", ["holder", "valid_until", "zone", "revoked"]),
}
VERBS = ["assign", "release", "check", "estimate", "merge", "split", "confirm", "withdraw", "rank", "close", "reopen",
         "forward", "measure", "renew", "compare", "announce"]
OBJECTS = ["slot", "window", "order", "notice", "queue", "limit", "route", "fee", "report", "batch", "request", "shift",
           "alarm", "draft", "record", "plan"]
REASONS = ["the harbour master asked for it", "two stations may report at once", "the old table rounded down",
           "a missing value is not zero", "the night shift counts twice", "clocks of boats run late",
           "the other side sends metres", "an order may come twice", "the fee depends on the day of arrival"]
NOTES = ["say so in the type", "two calls at once may both win", "the limit belongs in the settings",
         "ask the station before guessing", "this table is rebuilt whole every time", "drop once the old form is gone",
         "measure before making it clever", "the unit is only in the name", "tell the caller why",
         "a second time zone breaks this"]


def rust_function(rng, domain, name, calls):
    noun, fields = DOMAINS[domain]
    field, other = rng.sample(fields, 2)
    bound = rng.randrange(3, 900)
    call = f"        let slot = berth::service::reserve_slot({domain}.id, now)?;\n" if calls else ""
    return rng.choice([
        f"""    /// {name.replace("_", " ").capitalize()}: {rng.choice(REASONS)}.
    pub fn {name}(&mut self, {domain}: &{noun}, now: Timestamp) -> Result<u32, {noun}Error> {{
        if {domain}.{field}.is_empty() {{
            return Err({noun}Error::Missing("{field}"));
        }}
{call}        let before = self.{other}.len();
        self.{other}.retain(|entry| entry.id != {domain}.id);
        tracing::debug!(id = {domain}.id, dropped = before - self.{other}.len(), "{name.replace("_", " ")}");
        Ok((before.min({bound}) - self.{other}.len()) as u32)
    }}
""",
        f"""    /// Whether {name.replace("_", " ")} is due; {rng.choice(REASONS)}.
    pub fn {name}(&self, {domain}: &{noun}, now: Timestamp) -> Option<Decision> {{
        let age = now.since({domain}.changed_at).as_secs();
        match self.{other}.get(&{domain}.id) {{
            Some(entry) if age < {bound} => Some(Decision::keep(entry.clone())),
            Some(_) => Some(Decision::drop("{field} is older than {bound} s")),
            None => None,
        }}
    }}
""",
        f"""    /// {name.replace("_", " ").capitalize()} for all at once, because {rng.choice(REASONS)}.
    pub async fn {name}(&self, ids: &[{noun}Id], limit: usize) -> Result<Vec<{noun}>, {noun}Error> {{
        let mut found = Vec::with_capacity(limit.min({bound}));
        for chunk in ids.chunks({rng.choice([16, 32, 64, 128])}) {{
            let rows = self.store.select("{domain}", chunk).await?;
            found.extend(rows.into_iter().filter(|row| row.{field} != row.{other}));
        }}
        found.truncate(limit);
        Ok(found)
    }}
""",
    ])


def ts_function(rng, domain, name):
    noun, fields = DOMAINS[domain]
    field, other = rng.sample(fields, 2)
    camel = "".join(part if index == 0 else part.capitalize() for index, part in enumerate(name.split("_")))
    return rng.choice([
        f"""/** {name.replace("_", " ").capitalize()}: {rng.choice(REASONS)}. */
export async function {camel}(ids: string[], signal?: AbortSignal): Promise<{noun}[]> {{
  const answer = await fetch(`/api/{domain}?ids=${{ids.join(",")}}`, {{ signal }});
  if (!answer.ok) throw new HarbourError(answer.status, "{name}");
  const rows: {noun}[] = await answer.json();
  return rows.filter((row) => row.{field} !== undefined).sort((a, b) => compare(a.{other}, b.{other}));
}}
""",
        f"""/** A cell of the {domain} table. */
export function {camel}(row: {noun}, width = {rng.randrange(8, 40)}): string {{
  const text = String(row.{field} ?? "");
  return text.length > width ? text.slice(0, width - 1) + "…" : text.padEnd(width);
}}
""",
    ])


def py_function(rng, domain, name):
    _, fields = DOMAINS[domain]
    field, other = rng.sample(fields, 2)
    return f'''def {name}(rows, limit={rng.randrange(10, 900)}):
    """{name.replace("_", " ").capitalize()}; {rng.choice(REASONS)}."""
    kept = [row for row in rows if row.get("{field}") is not None]
    kept.sort(key=lambda row: (row["{other}"], row["id"]))
    if len(kept) > limit:
        log.warning("{domain}: %d rows, only {field} of the first %d are used", len(kept), limit)
    return kept[:limit]
'''


class File:
    """A source file: a head, blocks, a tail."""

    def __init__(self, path, domain, language, head, tail=""):
        self.path, self.domain, self.language, self.head, self.tail = path, domain, language, head, tail
        self.blocks, self.names = [], []

    def text(self):
        return self.head + "\n".join(self.blocks) + self.tail

    def add(self, rng, name, calls=False):
        make = {"rust": lambda: rust_function(rng, self.domain, name, calls),
                "ts": lambda: ts_function(rng, self.domain, name), "py": lambda: py_function(rng, self.domain, name)}
        self.blocks.append(make[self.language]())
        self.names.append(name)

    def note(self, rng, who):
        """Puts a note for later into a block."""
        mark = rng.choice(["TODO", "TODO", "FIXME", "HACK"])
        comment = {"rust": "        //", "ts": "  //", "py": "    #"}[self.language]
        at = rng.randrange(len(self.blocks))
        lines = self.blocks[at].split("\n")
        # After the signature, which is the second line of each template, or the second but one of python's.
        lines.insert(2, f"{comment} {mark}({who}): {rng.choice(NOTES)}")
        self.blocks[at] = "\n".join(lines)

    def tune(self, rng):
        """Changes a number, as fixes do."""
        at = rng.randrange(len(self.blocks))
        old = self.blocks[at]
        for digits in sorted({word.strip("(),;{}:<)") for word in old.split() if word.strip("(),;{}:<)").isdigit()}):
            self.blocks[at] = old.replace(digits, str(int(digits) + rng.randrange(1, 50)), 1)
            return True
        return False


def first_files():
    files = {}
    for domain, (noun, fields) in DOMAINS.items():
        members = "".join(f"    pub {field}: {noun}{''.join(p.capitalize() for p in field.split('_'))},\n" for field in fields)
        for part in ["service", "rules", "store"]:
            head = (f"//! {part.capitalize()} of {domain}s.\n\nuse crate::model::{{{noun}, {noun}Error, {noun}Id}};\n"
                    f"use harbour_time::Timestamp;\n\npub struct {noun}{part.capitalize()} {{\n{members}}}\n\n"
                    f"impl {noun}{part.capitalize()} {{\n")
            path = f"crates/{domain}/src/{part}.rs"
            files[path] = File(path, domain, "rust", head, "}\n")
        for part in ["api", "table"]:
            path = f"web/src/{domain}/{part}.ts"
            files[path] = File(path, domain, "ts", f'import {{ compare, HarbourError }} from "../shared";\n'
                               f'import type {{ {noun} }} from "./model";\n\n')
        path = f"tools/{domain}_import.py"
        files[path] = File(path, domain, "py", f'"""Imports {domain}s from the old system."""\n\nimport logging\n\n'
                           f'log = logging.getLogger("{domain}")\n\n\n')
    return files


def fixed_files():
    crates = "".join(f'    "crates/{domain}",\n' for domain in DOMAINS)
    commands = "\n".join(f"| `crates/{d}` | {n.lower()}s: {', '.join(f)} |" for d, (n, f) in DOMAINS.items())
    out = {
        "Cargo.toml": f'[workspace]\nresolver = "3"\nmembers = [\n{crates}]\n\n[workspace.package]\nversion = "4.2.0"\nedition = "2024"\n',
        ".gitignore": "/target\nnode_modules/\n__pycache__/\n",
        "Makefile": "all: build test\n\nbuild:\n\tcargo build --workspace\n\tnpm --prefix web run build\n\ntest:\n\tcargo test --workspace\n\tnpm --prefix web test\n\tpytest tools\n\nlint:\n\tcargo clippy --workspace\n\tnpm --prefix web run lint\n",
        "web/package.json": json.dumps({"name": "fairway-web", "private": True, "scripts": {
            "dev": "vite", "build": "tsc -b && vite build", "test": "vitest run", "lint": "eslint src"},
            "dependencies": {"preact": "^10.24.0"}, "devDependencies": {
                "eslint": "^9.12.0", "typescript": "^5.6.2", "vite": "^5.4.8", "vitest": "^2.1.2"}}, indent=2) + "\n",
        "pyproject.toml": '[project]\nname = "fairway-tools"\nversion = "4.2.0"\nrequires-python = ">=3.11"\n\n[tool.pytest.ini_options]\ntestpaths = ["tools"]\n',
        "README.md": f"""# Fairway

Plans arrivals and departures of a harbour: berths, pilots, tugs, cranes, papers and fees in one place.

[![build](https://ci.example.org/fairway.svg)](https://ci.example.org/fairway)

## Run

    cargo run -p fairway-server -- --listen 127.0.0.1:7480
    npm --prefix web run dev

The server needs a PostgreSQL database. `DATABASE_URL` names it; migrations run at the start. Without `TIDE_STATION` the
levels of the nearest station are taken, which is wrong in the outer harbour.

## Test

    make test

Tests that need a database make their own and drop it. A test that sleeps is a bug.

## Layout

| folder | holds |
|---|---|
{commands}
| `web` | the page of the harbour office |
| `tools` | imports from the system before this one |
| `docs` | how the office works, by subject |
| `migrations` | the database, one file a change, never edited |

## How an arrival is planned

1. The agent of a vessel announces it by form or by message. The announcement has the vessel's number, draught, cargo and
   the wish for a time. What is missing is asked for; nothing is guessed.
2. `vessel` checks the papers against `permit` and `customs`. Dangerous goods need a berth of their own class.
3. `berth` looks for a slot: long and deep enough at the tide that `tide` foretells, with cranes that reach.
   A slot is reserved with `reserve_slot`, which is the only place that writes the table of slots.
4. `pilot` and `tug` get orders. An order is confirmed by a person; a boat that does not answer in ten minutes is passed
   over and the next one asked.
5. `weather` may withdraw a slot: above the wind limit of a crane nothing is lifted, in fog nothing moves.
6. After departure `invoice` adds up fees by the table that was valid on the day of arrival.

## Releases

A release is a tag on `main`. The change log is written by hand from the commits since the last tag. Migrations of a release
are rehearsed on last night's copy of the database; a migration that takes longer than a minute is split.

## Contact

harbour-it@example.org, or the channel `#fairway`. On call: see `docs/oncall.md`.
""",
    }
    for number, (domain, (noun, fields)) in enumerate(DOMAINS.items(), 1):
        out[f"crates/{domain}/Cargo.toml"] = f'[package]\nname = "fairway-{domain}"\nversion.workspace = true\nedition.workspace = true\n'
        out[f"crates/{domain}/src/lib.rs"] = f"//! {noun}s of the harbour.\n\npub mod model;\npub mod rules;\npub mod service;\npub mod store;\n"
        members = "".join(f"    pub {field}: String,\n" for field in fields)
        out[f"crates/{domain}/src/model.rs"] = (
            f"//! What a {noun.lower()} is.\n\n#[derive(Clone, Debug)]\npub struct {noun} {{\n    pub id: {noun}Id,\n{members}    pub changed_at: Timestamp,\n}}\n\n"
            f"#[derive(Clone, Copy, Debug, PartialEq, Eq)]\npub struct {noun}Id(pub u64);\n\n"
            f"#[derive(Debug)]\npub enum {noun}Error {{\n    Missing(&'static str),\n    Store(StoreError),\n}}\n")
        ts = "".join(f"  {field}?: string;\n" for field in fields)
        out[f"web/src/{domain}/model.ts"] = f"export interface {noun} {{\n  id: string;\n{ts}}}\n"
        columns = ", ".join(f"{field} text" for field in fields)
        out[f"migrations/{number:04}_{domain}.sql"] = f"create table {domain} (id bigint primary key, {columns}, changed_at timestamptz not null);\n"
        out[f"docs/{domain}.md"] = (f"# {noun}s\n\nThe office keeps a {noun.lower()} by number. Fields: {', '.join(fields)}.\n\n"
                                    f"## Rules\n\n- {REASONS[number % len(REASONS)].capitalize()}.\n- {REASONS[(number + 3) % len(REASONS)].capitalize()}.\n")
    return out


def history():
    """(author, time, subject, {path: text or None})"""
    rng = random.Random(SEED)
    files, written = first_files(), fixed_files()
    commits = []
    used = set()

    def name_of(domain):
        while True:
            name = f"{rng.choice(VERBS)}_{rng.choice(OBJECTS)}"
            if (domain, name) not in used:
                used.add((domain, name))
                return name

    time = END - 420 * DAY
    commits.append((0, time, "project: the workspace, its crates and its page", dict(written)))
    for domain in DOMAINS:
        changed = {}
        for file in [file for file in files.values() if file.domain == domain]:
            for _ in range({"rust": 5, "ts": 3, "py": 2}[file.language]):
                file.add(rng, name_of(domain), calls=rng.random() < 0.4)
            changed[file.path] = file.text()
        if domain == "berth":
            service = files["crates/berth/src/service.rs"]
            service.blocks.insert(0, """    /// Reserves a slot for a vessel: the only place that writes the table of slots.
    pub fn reserve_slot(vessel: VesselId, now: Timestamp) -> Result<Slot, BerthError> {
        let tide = tide::service::level_at(now)?;
        let slot = SLOTS.lock().find(|slot| slot.is_free(now) && slot.depth_cm > tide.level_cm)?;
        Ok(slot.taken_by(vessel))
    }
""")
            service.names.insert(0, "reserve_slot")
            changed[service.path] = service.text()
        time += 2 * DAY + rng.randrange(DAY // 2)
        commits.append((rng.randrange(6), time, f"{domain}: the first of it, with import and page", changed))
    total, begun = 1000, time
    for number in range(1, total + 1):
        # Ever more happens: the last two weeks have fifty commits.
        time = begun + int((END - begun) * (number / total) ** 0.6) - 3000
        who = rng.choices(range(6), [9, 7, 5, 4, 2, 2])[0]
        file = rng.choice(sorted(files.values(), key=lambda file: file.path))
        if number % 11 == 4:  # the scheduler of the harbour grows most
            file = files["crates/berth/src/rules.rs"]
        kind = rng.choices(["add", "tune", "note"], [6, 5, 2])[0]
        if kind == "tune" and file.tune(rng):
            subject = f"{file.domain}: {rng.choice(REASONS)}"
        elif kind == "note":
            file.note(rng, PEOPLE[who][1])
            subject = f"{file.domain}: what is left to do in {file.path.rsplit('/', 1)[1]} is written down"
        else:
            name = name_of(file.domain)
            file.add(rng, name, calls=rng.random() < 0.4)
            verb, thing = name.split("_")
            subject = f"{file.domain}: {verb}s the {thing}"
        commits.append((who, time + rng.randrange(3000), subject, {file.path: file.text()}))
    # What the questions are about.
    day = END - 2 * DAY
    migration = "alter table invoice add column paid_by bigint references party (id);\nupdate invoice set paid_by = holder where paid;\n"
    commits.append((1, day, "invoice: who paid is kept, with a migration", {"migrations/0013_invoice_paid_by.sql": migration}))
    rules = files["crates/permit/src/rules.rs"]
    rules.blocks.append("""    /// A revoked permit opens nothing, whatever its date says.
    pub fn is_revoked(&self, permit: &Permit) -> bool {
        permit.revoked == "yes"
    }
""")
    commits.append((3, day + 3600, "permit: a revoked permit opens nothing (security)", {rules.path: rules.text()}))
    text = written["docs/tide.md"] + "\nThe outer harbour takes the levels of station Kap Nord.\n"
    commits.append((0, day + 7200, "docs: the outer harbour has a station of its own", {"docs/tide.md": text}))
    return commits, files


def data(text):
    raw = text.encode()
    return b"data %d\n%s\n" % (len(raw), raw)


def stream(commits):
    out = []
    for mark, (who, time, subject, changed) in enumerate(commits, 1):
        name, short = PEOPLE[who]
        line = f"{name} <{short}@example.org> {time} +0000"
        out.append(f"commit refs/heads/main\nmark :{mark}\nauthor {line}\ncommitter {line}\n".encode())
        out.append(data(subject + "\n"))
        if mark > 1:
            out.append(b"from :%d\n" % (mark - 1))
        for path, text in changed.items():
            out.append(b"M 100644 inline %s\n" % path.encode())
            out.append(data(text))
        out.append(b"\n")
    out.append(b"done\n")
    return b"".join(out)


def git(folder, *arguments, **options):
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
                   "HOME": str(folder)}
    return subprocess.run(["git", *arguments], cwd=folder, env=environment, check=True, capture_output=True, **options).stdout


SUBJECTS = [
    ("berth", "Berths of the outer harbour take no vessel above {n} m after dark."),
    ("berth", "A slot is reserved for {n} minutes and then given to the next vessel in the queue."),
    ("pilot", "Pilots rest {n} hours between two orders, whatever the grade."),
    ("tug", "Tugs at station {n} keep a third of their fuel for emergencies."),
    ("crane", "Crane {n} is out of service above 14 m/s, the others above 18 m/s."),
    ("customs", "Office {n} clears sealed cargo without opening it."),
    ("invoice", "Invoices are due after {n} days, counted from the day of arrival."),
    ("weather", "Forecasts older than {n} minutes are not shown."),
    ("radar", "Tracks below {n} kn are taken for buoys."),
    ("permit", "Permits of zone {n} are renewed by hand."),
    ("testing", "The suite of crate number {n} runs against a database of its own and drops it."),
    ("ci", "Runner {n} is slower than the others; time-outs are set for it."),
    ("web", "The table of {n} columns is drawn in one pass; sorting happens on the server."),
    ("people", "Station {n} is called by telephone only, at the full hour."),
    ("release", "Release 4.{n} was rehearsed on last night's copy before it went out."),
    ("vessel", "Vessels of class {n} announce themselves a day ahead."),
]
PLANTED = [
    ("2025-09-02T09:00:00Z", "decision", ["cache", "tide"], 0.6, "user", "Tide levels are cached for ten minutes, because the station answers slowly.", None),
    ("2025-11-18T10:00:00Z", "decision", ["cache", "tide"], 0.8, "user", "Tide levels are cached for one minute: ten let a vessel touch ground in the outer harbour.", 0),
    ("2025-10-06T08:30:00Z", "decision", ["storage"], 0.9, "user", "The slots live in PostgreSQL with serialisable transactions; SQLite lost a reservation when two offices wrote at once.", None),
    ("2025-08-11T08:30:00Z", "decision", ["storage"], 0.5, "agent", "The slots live in SQLite beside the server.", None),
    ("2025-12-01T12:00:00Z", "decision", ["api", "naming"], 0.7, "user", "Units stand in the name of a field: length_m, draught_cm, wind_ms.", None),
    ("2026-01-15T15:00:00Z", "decision", ["security", "permit"], 0.9, "user", "A revoked permit opens nothing, whatever its date says; the check comes before every other rule.", None),
    ("2026-02-10T11:00:00Z", "decision", ["release", "database"], 0.8, "user", "A migration that takes longer than a minute on last night's copy is split in two releases.", None),
    ("2026-02-20T09:00:00Z", "todo", ["invoice", "database"], 0.6, "agent", "Backfill paid_by for invoices before 2025; the old rows have no holder.", None),
    ("2026-02-24T16:00:00Z", "todo", ["tide"], 0.7, "agent", "Switch the outer harbour to station Kap Nord once its feed has run a week.", None),
    ("2026-02-26T10:00:00Z", "fact", ["ci", "testing"], 0.5, "agent", "test_overbooked_slot fails about once in forty runs: the clock of the runner jumps; fixed by the stopped clock.", None),
    ("2026-01-22T10:00:00Z", "fact", ["oncall", "people"], 0.7, "user", "Dagny Holm is on call for billing, Emre Aydin for everything with pilots and tugs.", None),
    ("2025-07-03T10:00:00Z", "fact", ["weather", "crane"], 0.8, "user", "The wind limit of a crane is taken from its plate, never from the maker's page: crane 7 was refitted.", None),
]
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def identifier(number, moment):
    """An id like those of the store: time, then a number."""
    milliseconds = int(seconds(moment) * 1000)
    value = (milliseconds << 80) | (number * 0x9E3779B97F4A7C15F39C & (1 << 80) - 1)
    return "m_" + "".join(CROCKFORD[value >> 5 * at & 31] for at in reversed(range(26)))


def seconds(moment):
    return datetime.datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()


def memories():
    rng = random.Random(SEED + 1)
    lines = []
    for number in range(228):
        subject, text = SUBJECTS[number % len(SUBJECTS)]
        month, day = rng.randrange(6), rng.randrange(1, 28)
        year, month = (2025, 7 + month) if month < 6 else (2026, month - 5)
        extra = rng.choice(["", "", " Told by the office.", " Agreed in the weekly round.", " Nobody remembers why.",
                            " Asked again in the review and kept as it was, because nothing better was found."])
        lines.append((f"{year}-{month:02}-{day:02}T{rng.randrange(7, 18):02}:{rng.randrange(60):02}:00Z",
                      rng.choice(["note", "note", "fact", "fact", "decision"]), [subject], round(rng.uniform(0.1, 0.6), 1),
                      rng.choice(["user", "agent", "agent"]), text.format(n=number // len(SUBJECTS) + 2) + extra, None))
    planted_from = len(lines)
    lines += PLANTED
    ids = [identifier(number, line[0]) for number, line in enumerate(lines)]
    out = []
    for number, (moment, kind, tags, importance, trust, text, replaces) in enumerate(lines):
        memory = {"id": ids[number], "project": "test", "content": text, "tags": sorted(tags), "importance": importance,
                  "kind": kind, "visibility": "project", "trust": trust, "principal": "local", "agent": "default"}
        if replaces is not None:
            memory["supersedes"] = ids[planted_from + replaces]
        for later, line in enumerate(lines):
            if line[6] is not None and planted_from + line[6] == number:
                memory["superseded_by"] = ids[later]
        out.append({**memory, "created": moment, "updated": moment})
    out.sort(key=lambda memory: (memory["created"], memory["id"]))
    return "".join(json.dumps(memory, ensure_ascii=False) + "\n" for memory in out)


def desk(files):
    """Uncommitted work: {path: text}."""
    service, store = files["crates/invoice/src/service.rs"], files["crates/permit/src/store.rs"]
    changed = service.text().replace("impl InvoiceService {\n", """impl InvoiceService {
    /// Adds up the fees that were valid on the day of arrival.
    pub fn total_cents(&self, fees: &[Fee], arrived: Timestamp) -> u64 {
        fees.iter().filter(|fee| fee.valid_at(arrived)).map(|fee| fee.cents).sum()
    }

""", 1)
    trimmed = store.text().split("\n")
    text = "\n".join(trimmed[:20] + ["    // TODO(chio): the index is missing"] + trimmed[20:])
    return {service.path: changed, store.path: text,
            "migrations/0014_invoice_fee.sql": "create table fee (id bigint primary key, cents bigint not null, valid_from date not null);\ncreate index fee_by_date on fee (valid_from);\n",
            "crates/permit/src/auth.rs": "//! Who may open a gate.\n\npub fn may_open(token: &str, permit: &Permit) -> bool {\n    !permit.is_revoked() && constant_time_eq(token, &permit.secret)\n}\n"}


def main():
    commits, files = history()
    check = "--check" in sys.argv[1:]
    wanted = {FIXTURES / "memories.jsonl": memories()}
    wanted |= {FIXTURES / "desk" / path: text for path, text in desk(files).items()}
    for path, text in wanted.items():
        if check:
            if path.read_text() != text:
                sys.exit(f"{path.relative_to(HERE)} is not what make.py makes; run compat/tokens/make.py")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    with tempfile.TemporaryDirectory() as folder:
        git(folder, "init", "-q", "-b", "main", ".")
        git(folder, "fast-import", "--quiet", "--done", input=stream(commits))
        fresh = git(folder, "for-each-ref", "--format=%(objectname) %(refname)").decode()
        if check:
            heads = git(folder, "bundle", "list-heads", str(BUNDLE)).decode()
            if fresh not in heads:
                sys.exit("fairway.bundle is not what make.py makes; run compat/tokens/make.py")
            return
        git(folder, "-c", "pack.threads=1", "repack", "-q", "-a", "-d", "-f", "--depth=50", "--window=50")
        git(folder, "-c", "pack.threads=1", "bundle", "create", "-q", str(BUNDLE), "HEAD", "main")
        print(f"{len(commits)} commits, {BUNDLE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
