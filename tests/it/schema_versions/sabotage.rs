//! The tests of this folder must be able to fail: copies of the files, each spoilt in one way.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Value, json};
use tmws::schema::Loosening;

use super::{
    compatibility::{CASES, breaks, broken},
    families::{Promise, Version, families},
    released,
};

/// A change to a copy of a schema.
enum Change {
    /// The value at this JSON Pointer becomes this one.
    Set(&'static str, Value),
    /// What is at this JSON Pointer goes.
    Remove(&'static str),
    /// The member at the pointer has this name from now on.
    Rename(&'static str, &'static str),
    /// The list at the pointer has this item too.
    Add(&'static str, Value),
    /// The item goes from the list at the pointer.
    Drop(&'static str, Value),
}

use Change::{Add, Drop, Remove, Rename, Set};

fn changed(schema: &Value, changes: &[Change]) -> Value {
    let mut schema = schema.clone();
    let parts = |pointer: &'static str| pointer.rsplit_once('/').unwrap();
    for change in changes {
        match change {
            Set(pointer, value) => {
                let (parent, name) = parts(pointer);
                schema.pointer_mut(parent).unwrap()[name] = value.clone();
            }
            Remove(pointer) => {
                let (parent, name) = parts(pointer);
                let members = schema.pointer_mut(parent).unwrap().as_object_mut().unwrap();
                assert!(members.shift_remove(name).is_some(), "{pointer}");
            }
            Rename(pointer, new) => {
                let (parent, name) = parts(pointer);
                let members = schema.pointer_mut(parent).unwrap().as_object_mut().unwrap();
                let value = members.shift_remove(name).unwrap_or_else(|| panic!("{pointer}"));
                members.insert((*new).to_owned(), value);
            }
            Add(pointer, value) => {
                schema.pointer_mut(pointer).unwrap().as_array_mut().unwrap().push(value.clone());
            }
            Drop(pointer, value) => {
                let items = schema.pointer_mut(pointer).unwrap().as_array_mut().unwrap();
                let before = items.len();
                items.retain(|item| item != value);
                assert_eq!(items.len() + 1, before, "{pointer}");
            }
        }
    }
    schema
}

/// `(family, what the second version changes, whether that breaks the promise of the first)`.
fn second_versions() -> Vec<(&'static str, Change, bool)> {
    vec![
        // What others write.
        ("tool/find_patterns.input", Set("/required", json!(["query"])), true),
        ("tool/find_patterns.input", Set("/properties/limit/maximum", json!(49)), true),
        ("tool/find_patterns.input", Set("/properties/limit/minimum", json!(2)), true),
        ("tool/find_patterns.input", Drop("/properties/limit/type", json!("null")), true),
        ("tool/find_patterns.input", Set("/properties/query/maxLength", json!(1_999)), true),
        ("tool/find_patterns.input", Set("/properties/query/minLength", json!(1)), true),
        ("tool/find_patterns.input", Rename("/properties/query", "words"), true),
        ("tool/find_patterns.input", Remove("/properties/limit"), true),
        ("tool/find_patterns.input", Set("/properties/query/pattern", json!("^[a-z ]*$")), true),
        ("tool/execute_pattern.input", Drop("/properties/mode/enum", json!("comprehensive")), true),
        ("tool/execute_pattern.input", Drop("/properties/mode/enum", json!(null)), true),
        (
            "tool/execute_pattern.input",
            Drop(
                "/oneOf",
                json!({"required": ["query"], "properties": {"query": {"type": "string"}, "pattern": {"type": "null"}}}),
            ),
            true,
        ),
        ("tool/execute_pattern.input", Set("/properties/input/maxProperties", json!(2)), true),
        ("tool/remember.input", Set("/properties/tags/maxItems", json!(32)), true),
        ("tool/remember.input", Set("/properties/tags/uniqueItems", json!(true)), true),
        ("tool/remember.input", Set("/properties/importance/type", json!(["integer", "null"])), true),
        ("tool/remember.input", Set("/properties/content/maxLength", json!(200)), true),
        ("config", Drop("/properties/payload/enum", json!("both")), true),
        ("config", Remove("/properties/tls_cert"), true),
        ("config", Set("/properties/limits/properties/inflight_requests/maximum", json!(65_535)), true),
        ("config", Set("/required", json!(["root"])), true),
        ("pattern", Drop("/$defs/step/properties/on_error/then/enum", json!("continue")), true),
        ("pattern", Add("/$defs/step/required", json!("timeout")), true),
        ("pattern", Set("/$defs/identifier/maxLength", json!(39)), true),
        ("pattern", Set("/properties/apiVersion/const", json!("tmws/v2")), true),
        // What others write may become more.
        ("tool/find_patterns.input", Set("/properties/offset", json!({"type": "integer"})), false),
        ("tool/find_patterns.input", Set("/properties/limit/maximum", json!(100)), false),
        ("tool/find_patterns.input", Remove("/properties/query/maxLength"), false),
        ("tool/execute_pattern.input", Add("/properties/mode/enum", json!("thorough")), false),
        ("tool/get_result.input", Remove("/required"), false),
        ("config", Set("/properties/new_setting", json!({"type": "boolean"})), false),
        ("pattern", Set("/properties/apiVersion", json!({"enum": ["tmws/v1", "tmws/v2"]})), false),
        // What others read.
        ("tool/find_patterns.output", Remove("/$defs/found/required"), true),
        ("tool/find_patterns.output", Rename("/$defs/found/properties/total", "count"), false),
        (
            "tool/find_patterns.output",
            Set("/$defs/found/properties/total/type", json!(["integer", "string"])),
            true,
        ),
        ("tool/find_patterns.output", Set("/$defs/found/properties/total/minimum", json!(0)), true),
        (
            "tool/find_patterns.output",
            Drop("/$defs/found/properties/patterns/items/required", json!("inputs")),
            true,
        ),
        ("tool/find_patterns.output", Set("/$defs/found/properties/patterns/maxItems", json!(60)), true),
        ("tool/find_patterns.output", Add("/$defs/failure/properties/error/enum", json!("too_tired")), true),
        (
            "tool/get_result.output",
            Add(
                "/anyOf",
                json!({"type": "object", "required": ["gone"], "properties": {"gone": {"const": true}}}),
            ),
            true,
        ),
        ("tool/remember.output", Remove("/$defs/remembered/properties/id/pattern"), true),
        // What others read may say more, and be held to less.
        (
            "tool/find_patterns.output",
            Set("/$defs/found/properties/took_ms", json!({"type": "integer"})),
            false,
        ),
        ("tool/find_patterns.output", Add("/$defs/found/required", json!("total")), false),
        ("tool/find_patterns.output", Drop("/$defs/failure/properties/error/enum", json!("busy")), false),
        (
            "tool/find_patterns.output",
            Set("/$defs/found/properties/patterns", json!({"type": "array", "maxItems": 0})),
            false,
        ),
    ]
}

#[test]
fn a_second_version_that_breaks_a_promise_is_found_and_one_that_keeps_it_passes() {
    let families: BTreeMap<String, _> =
        families().unwrap().into_iter().map(|family| (family.name.clone(), family)).collect();
    for (index, (name, change, is_break)) in second_versions().into_iter().enumerate() {
        let family = &families[name];
        let first = &family.versions[&1];
        let second = Version { schema: changed(&first.schema, &[change]), recorded: Vec::new() };
        // The generated instances alone must show it; recorded ones come on top.
        let bare = Version { schema: first.schema.clone(), recorded: Vec::new() };
        assert_eq!(breaks(family.promise, &bare, &second, CASES), is_break, "row {index} of {name}");
    }
}

#[test]
fn recorded_instances_alone_show_a_break_too() {
    for family in families()
        .unwrap()
        .iter()
        .filter(|family| family.promise == Promise::Taken && !family.name.contains('#'))
    {
        let first = &family.versions[&1];
        let mut second = first.schema.clone();
        second["not"] = json!({"const": first.recorded[0]});
        let second = Version { schema: second, recorded: Vec::new() };
        let older = Version { schema: first.schema.clone(), recorded: first.recorded.clone() };
        let found = broken(family.promise, &older, &second, 0).unwrap_or_default();
        assert!(found.starts_with("recorded "), "{}: {found}", family.name);
    }
}

/// A copy of what the list names, whole at first.
fn copy() -> tempfile::TempDir {
    fn all(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                all(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, _) in released::FOLDERS {
        all(&super::root().join(name), &folder.path().join(name));
    }
    folder
}

#[test]
fn the_build_finds_what_was_changed_after_release() {
    const RELEASED: &str = "schemas/mcp/2024-11-05/tools.json";
    type Spoil = fn(&Path);
    let rows: &[(&str, Spoil, &[&str])] = &[
        ("nothing", |_| {}, &[]),
        (
            "one byte of a released file",
            |root| {
                let path = root.join(RELEASED);
                fs::write(&path, fs::read_to_string(&path).unwrap().replacen("tool", "tuol", 1)).unwrap();
            },
            &[RELEASED, "has changed since its release with 0.1.0", "src/schema/errata.rs"],
        ),
        (
            "line ends, as a checkout writes them",
            |root| {
                let path = root.join(RELEASED);
                fs::write(&path, fs::read_to_string(&path).unwrap().replace('\n', "\r\n")).unwrap();
            },
            &[],
        ),
        (
            "a lone carriage return at the end",
            |root| {
                let path = root.join(RELEASED);
                fs::write(&path, fs::read_to_string(&path).unwrap() + "\r").unwrap();
            },
            &[RELEASED, "has changed"],
        ),
        (
            "a released file gone",
            |root| fs::remove_file(root.join(RELEASED)).unwrap(),
            &[RELEASED, "is gone"],
        ),
        (
            "a file that the list does not name",
            |root| fs::write(root.join("schemas/tool/remember/v9.input.json"), "{}").unwrap(),
            &["schemas/tool/remember/v9.input.json", "is not listed", "--pending"],
        ),
        (
            "a released schema of a tool",
            |root| {
                let path = root.join("schemas/tool/remember/v1.input.json");
                fs::write(&path, fs::read_to_string(&path).unwrap().replacen("64", "63", 1)).unwrap();
            },
            &["schemas/tool/remember/v1.input.json", "next version"],
        ),
        (
            "a recorded instance",
            |root| {
                let path = root.join("fixtures/schemas/tool/remember.input/v1/recorded.jsonl");
                fs::write(&path, "{}\n").unwrap();
            },
            &["fixtures/schemas/tool/remember.input/v1/recorded.jsonl", "has changed"],
        ),
        (
            "no recorded instances at all, as a package may have it",
            |root| fs::remove_dir_all(root.join("fixtures/schemas")).unwrap(),
            &[],
        ),
        (
            "no list",
            |root| fs::remove_file(root.join(released::MANIFEST)).unwrap(),
            &["released.toml", "restore"],
        ),
        (
            "a line that is neither",
            |root| {
                let path = root.join(released::MANIFEST);
                fs::write(&path, fs::read_to_string(&path).unwrap() + "\"schemas/x.json\" = \"0\"\n")
                    .unwrap();
            },
            &["released.toml:", "neither"],
        ),
        (
            "a file named twice",
            |root| {
                let path = root.join(released::MANIFEST);
                let text = fs::read_to_string(&path).unwrap();
                let line = text.lines().find(|line| line.contains(RELEASED)).unwrap().to_owned();
                fs::write(&path, format!("{text}{line}\n")).unwrap();
            },
            &["a second time"],
        ),
        (
            "a released file that is called pending",
            |root| {
                let path = root.join(released::MANIFEST);
                let text = fs::read_to_string(&path).unwrap();
                fs::write(&path, text.replace("pending = [", &format!("pending = [\n  \"{RELEASED}\",")))
                    .unwrap();
            },
            &["as released and as pending"],
        ),
    ];
    for (what, spoil, expected) in rows {
        let folder = copy();
        spoil(folder.path());
        let faults = released::faults(folder.path());
        assert_eq!(faults.len(), usize::from(!expected.is_empty()), "{what}: {faults:?}");
        // The build goes on where nothing that was promised is concerned.
        let unlisted = what.starts_with("a file that the list");
        assert!(faults.iter().all(|fault| fault.is_fatal != unlisted), "{what}: {faults:?}");
        for words in *expected {
            assert!(faults[0].text.contains(words), "{what}: {faults:?}");
        }
    }
}

#[test]
fn the_build_script_is_what_asks() {
    let text = fs::read_to_string(super::root().join("build.rs")).unwrap();
    assert!(text.contains("released::faults(root)") && text.contains(r#""cargo::{}={}""#));
}

/// Each kind of change that an erratum may make to a released definition.
#[test]
fn a_loosening_takes_nothing_away() {
    let schema = json!({
        "type": "object",
        "required": ["kind", "size"],
        "additionalProperties": false,
        "properties": {
            "kind": {"enum": ["a", "b"]},
            "size": {"type": "integer", "minimum": 0, "maximum": 9},
            "name": {"type": "string", "maxLength": 3},
        },
    });
    let rows: Vec<(&str, Loosening, Option<Value>)> = vec![
        ("/properties/size", Loosening::Types(&["null"]), Some(json!({"kind": "a", "size": null}))),
        ("/properties/kind", Loosening::Values(&["\"c\"", "null"]), Some(json!({"kind": null, "size": 1}))),
        ("", Loosening::Optional(&["size"]), Some(json!({"kind": "a"}))),
        (
            "/properties/name",
            Loosening::Without("maxLength"),
            Some(json!({"kind": "a", "size": 1, "name": "long"})),
        ),
        ("", Loosening::Without("additionalProperties"), Some(json!({"kind": "a", "size": 1, "more": 1}))),
        // That closes what was open by name: the generated instances find it.
        ("", Loosening::Without("properties"), None),
    ];
    for (pointer, loosening, accepted) in rows {
        let mut loosened = schema.clone();
        assert!(loosening.apply(loosened.pointer_mut(pointer).unwrap()), "{pointer} {loosening:?}");
        let version = |schema: &Value| Version { schema: schema.clone(), recorded: Vec::new() };
        let found = broken(Promise::Loosened, &version(&schema), &version(&loosened), CASES);
        assert_eq!(found.is_none(), accepted.is_some(), "{loosening:?}: {found:?}");
        if let Some(instance) = accepted {
            assert!(!super::Schema::new(schema.clone()).is_valid(&instance), "{instance}");
            assert!(super::Schema::new(loosened).is_valid(&instance), "{instance}");
        }
    }
    // What there is nothing of to loosen is a stale erratum.
    assert!(!Loosening::Without("pattern").apply(&mut schema.clone()));
    assert!(!Loosening::Optional(&["name"]).apply(&mut schema.clone()));
}
