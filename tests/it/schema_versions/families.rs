//! The schema files of the source tree by family, and what a version promises to those who rely on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use serde_json::{Map, Value, json};

/// What a version of a schema promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Others write what it describes, and we read it: all that it accepts, every later version accepts.
    Taken,
    /// We write what it describes, and others read it: what a later version lets us write has all that this one says is
    /// there, of the types and among the values that it names. Readers pass over members that they do not know.
    Given,
    /// The wire format of a revision of MCP: there is no next version, an erratum can only loosen it.
    Loosened,
}

/// Families by what their names begin and end with: the first row that fits.
pub(crate) const PROMISES: &[(&str, &str, Promise)] = &[
    ("mcp/", "", Promise::Loosened),
    ("acceptance", "", Promise::Taken),
    ("config", "", Promise::Taken),
    ("dashboard", "", Promise::Given),
    ("pattern", "", Promise::Taken),
    ("transcript", "", Promise::Taken),
    ("tool/", ".input", Promise::Taken),
    ("tool/", ".output", Promise::Given),
    ("dialect#", "Result", Promise::Given),
    ("dialect#", "Response", Promise::Given),
    ("dialect#", "Error", Promise::Given),
    ("dialect#Welcome", "", Promise::Given),
    ("dialect#", "", Promise::Taken),
];

/// Every version of one schema; of a file that is a collection of definitions, of one definition.
pub(crate) struct Family {
    /// `config`, `dialect#Request`, `tool/remember.input`, `mcp/2025-06-18/tools`.
    pub(crate) name: String,
    pub(crate) promise: Promise,
    /// By number, the version's schema and the instances recorded for it. A revision of MCP has the one version 1.
    pub(crate) versions: BTreeMap<u32, Version>,
}

pub(crate) struct Version {
    pub(crate) schema: Value,
    pub(crate) recorded: Vec<Value>,
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every family, by name; or the files that belong to none.
pub(crate) fn families() -> Result<Vec<Family>, String> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut strange = Vec::new();
    for path in files(&root().join("schemas"), "json") {
        let relative =
            path.strip_prefix(root().join("schemas")).unwrap().to_str().unwrap().replace('\\', "/");
        let Some((name, number)) = name_and_version(&relative) else {
            strange.push(relative);
            continue;
        };
        for (name, schema) in definitions(name, read(&path)) {
            let fits =
                |(start, end, _): &&(&str, &str, Promise)| name.starts_with(start) && name.ends_with(end);
            let Some((.., promise)) = PROMISES.iter().find(fits) else {
                strange.push(name);
                continue;
            };
            let version = Version { schema, recorded: recorded(&name, number) };
            let family = Family { name: name.clone(), promise: *promise, versions: BTreeMap::new() };
            families.entry(name).or_insert(family).versions.insert(number, version);
        }
    }
    if strange.is_empty() {
        Ok(families.into_values().collect())
    } else {
        Err(format!("of no family: {strange:?}"))
    }
}

/// A file that says nothing of itself is a collection: each of its definitions stands for itself.
fn definitions(name: String, schema: Value) -> Vec<(String, Value)> {
    let members = schema.as_object().unwrap();
    let is_collection =
        members.keys().all(|key| ["$schema", "$id", "title", "description", "$defs"].contains(&key.as_str()));
    if !is_collection || name.starts_with("mcp/") {
        return vec![(name, schema)];
    }
    let definition = |inner: &String| {
        let schema = json!({"$ref": format!("#/$defs/{inner}"), "$defs": schema["$defs"]});
        (format!("{name}#{inner}"), schema)
    };
    members["$defs"].as_object().unwrap().keys().map(definition).collect()
}

/// `tool/remember/v2.input.json` is version 2 of `tool/remember.input`.
fn name_and_version(path: &str) -> Option<(String, u32)> {
    let stem = path.strip_suffix(".json")?;
    if stem.starts_with("mcp/") {
        return Some((stem.to_owned(), 1));
    }
    let (folder, file) = stem.rsplit_once('/')?;
    let (number, direction) = file.strip_prefix('v')?.split_once('.').map_or_else(
        || (file.get(1..).unwrap_or_default(), String::new()),
        |(number, direction)| (number, format!(".{direction}")),
    );
    Some((format!("{folder}{direction}"), number.parse().ok()?))
}

/// Where the recorded instances of a version stand: every file there belongs to it.
pub(crate) fn folder_of_recorded(name: &str, number: u32) -> PathBuf {
    let version = if name.starts_with("mcp/") { String::new() } else { format!("v{number}") };
    root().join("fixtures/schemas").join(name).join(version)
}

fn recorded(name: &str, number: u32) -> Vec<Value> {
    let lines =
        |path: &PathBuf| fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
    files(&folder_of_recorded(name, number), "jsonl")
        .iter()
        .flat_map(lines)
        .map(|line| {
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{name} {number}: {error}: {line}"))
        })
        .collect()
}

/// Every file below `folder` with this ending, in a fixed order; none where there is no such folder.
pub(crate) fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

pub(crate) fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// One definition of the MCP files (`2025-06-18/tools.json#/$defs/CallRequest`) with all that it refers to, read from the
/// files themselves.
pub(crate) fn mcp_definition(place: &str) -> Value {
    let mut definitions = Map::new();
    let mut missing = BTreeSet::from([place.to_owned()]);
    while let Some(place) = missing.pop_first() {
        let (file, name) = place.split_once("#/$defs/").unwrap();
        let mut definition = mcp_documents()[file]["$defs"][name].clone();
        assert!(!definition.is_null(), "{place} is not there");
        localize(&mut definition, file, &mut |target| {
            if !definitions.contains_key(&local_name(&target)) && target != place {
                missing.insert(target);
            }
        });
        definitions.insert(local_name(&place), definition);
    }
    json!({"$ref": format!("#/$defs/{}", local_name(place)), "$defs": definitions})
}

/// The MCP files by their path (`2025-06-18/tools.json`).
fn mcp_documents() -> &'static BTreeMap<String, Value> {
    static DOCUMENTS: OnceLock<BTreeMap<String, Value>> = OnceLock::new();
    DOCUMENTS.get_or_init(|| {
        let folder = root().join("schemas/mcp");
        let named = |path: PathBuf| {
            let name = path.strip_prefix(&folder).unwrap().to_str().unwrap().replace('\\', "/");
            (name, read(&path))
        };
        files(&folder, "json").into_iter().map(named).collect()
    })
}

fn local_name(place: &str) -> String {
    place.replace(".json#/$defs/", "-").replace('/', "-")
}

/// Makes every reference of a part of `file` a local one, and tells `met` of what it refers to.
fn localize(schema: &mut Value, file: &str, met: &mut impl FnMut(String)) {
    match schema {
        Value::Object(members) => {
            for (key, value) in members {
                match value {
                    Value::String(reference) if key == "$ref" => {
                        let (other, name) = reference.split_once("#/$defs/").unwrap();
                        let revision = file.split_once('/').unwrap().0;
                        let other = match other {
                            "" => file.to_owned(),
                            other => other
                                .strip_prefix("../")
                                .map_or_else(|| format!("{revision}/{other}"), str::to_owned),
                        };
                        let target = format!("{other}#/$defs/{name}");
                        *reference = format!("#/$defs/{}", local_name(&target));
                        met(target);
                    }
                    _ => localize(value, file, met),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| localize(item, file, met)),
        _ => {}
    }
}
