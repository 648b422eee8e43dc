//! What a released schema promised holds in every later version and in the code: on instances recorded when it was
//! current (`fixtures/schemas`) and on generated ones. Which promise a schema makes stands in `families::PROMISES`.

#[path = "../../../build/released.rs"]
mod released;

mod compatibility;
mod families;
mod instances;
mod recordings;
mod sabotage;

use std::{collections::BTreeMap, fs, rc::Rc};

use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tmws::{
    revision::Revision,
    schema::{Cause, Definition, ERRATA, verdict},
};

use self::{
    compatibility::{CASES, broken, generated},
    families::{Promise, families, mcp_definition, root},
    instances::Schema,
};
use crate::tools;

/// Generated instances of each definition of a revision of MCP; there are hundreds of definitions.
const MCP_CASES: u32 = 24;

#[test]
fn the_files_are_as_the_list_of_released_ones_says() {
    let faults: Vec<String> = released::faults(root()).into_iter().map(|fault| fault.text).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_schema_belongs_to_a_family_whose_versions_follow_one_another() {
    for family in families().unwrap() {
        let numbers: Vec<u32> = family.versions.keys().copied().collect();
        assert_eq!(numbers, (1..=numbers.len() as u32).collect::<Vec<_>>(), "{}", family.name);
    }
}

#[test]
fn recorded_instances_fit_the_version_that_they_were_recorded_for() {
    for family in families().unwrap() {
        if family.promise == Promise::Loosened {
            continue;
        }
        for (number, version) in &family.versions {
            let place = format!("{} version {number}", family.name);
            let is_part = family.name.contains('#');
            assert!(
                is_part || version.recorded.len() >= 3,
                "{place} has too few recorded instances: see scripts/release-schemas"
            );
            let schema = Schema::new(version.schema.clone());
            for instance in &version.recorded {
                assert_eq!(schema.fault(instance), None, "{place}: {instance}");
            }
        }
    }
}

#[test]
fn every_later_version_keeps_what_each_earlier_one_promised() {
    for family in families().unwrap().iter().filter(|family| family.promise != Promise::Loosened) {
        for (number, newer) in &family.versions {
            // A version is compatible with itself: that holds the test to something while there is one version only.
            for (earlier, older) in family.versions.range(..=number) {
                let found = broken(family.promise, older, newer, CASES);
                assert_eq!(found, None, "{}: version {number} after version {earlier}", family.name);
            }
        }
    }
}

/// The gate is asked, which has the errata; the instances are made from the files alone.
#[test]
fn what_the_released_files_of_mcp_accept_is_accepted_by_the_gate() {
    let mut recorded: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for family in families().unwrap() {
        for version in family.versions.into_values().filter(|_| family.promise == Promise::Loosened) {
            for mut line in version.recorded {
                let place =
                    format!("{}.json#/$defs/{}", &family.name[4..], line["definition"].as_str().unwrap());
                recorded.entry(place).or_default().push(line["instance"].take());
            }
        }
    }
    for (revision, definition) in Definition::all() {
        let id = definition.id(revision);
        let place = id.trim_start_matches("tmws:/mcp/");
        let schema = Rc::new(Schema::new(mcp_definition(place)));
        let refused =
            |instance: &Value| verdict(revision, definition, instance).err().map(|why| why.to_string());
        for instance in recorded.remove(place).unwrap_or_default() {
            assert_eq!(schema.fault(&instance), None, "{place}: {instance}");
            assert_eq!(refused(&instance), None, "{place}: {instance}");
        }
        assert_eq!(generated(&schema, MCP_CASES, refused), None, "{place}");
    }
    assert!(recorded.is_empty(), "recorded for what no message is: {:?}", recorded.keys());
}

/// That it refuses nothing that the files accept is the test above.
#[test]
fn an_erratum_about_a_released_file_accepts_what_the_file_refuses() {
    for erratum in ERRATA.iter().filter(|erratum| matches!(erratum.cause, Cause::ReleasedTooStrict { .. })) {
        let instance: Value = serde_json::from_str(erratum.tripwire).unwrap();
        for &revision in erratum.revisions {
            let id = erratum.definition.id(revision);
            let file = Schema::new(mcp_definition(id.trim_start_matches("tmws:/mcp/")));
            assert!(!file.is_valid(&instance), "{}: the file accepts it already", erratum.reason);
            assert_eq!(verdict(revision, erratum.definition, &instance), Ok(()), "{}", erratum.reason);
        }
    }
}

/// Tools take what any released version of their arguments takes: the code, not a schema, has the last word.
#[tokio::test]
async fn the_tools_take_arguments_of_every_version() {
    let bench = tools::Bench::new();
    for family in families().unwrap() {
        let Some(tool) = family.name.strip_prefix("tool/").and_then(|name| name.strip_suffix(".input"))
        else {
            continue;
        };
        for (number, version) in &family.versions {
            let schema = Rc::new(Schema::new(version.schema.clone()));
            let mut runner = TestRunner::deterministic();
            let drafts: Vec<Value> = (0..150).map(|_| schema.draft(&mut runner)).collect();
            let valid = drafts.into_iter().filter(|arguments| schema.is_valid(arguments));
            // How many tags there may be, and how long they are, is a setting.
            let within_settings = |arguments: &Value| {
                let tags = arguments["tags"].as_array().map_or(&[][..], Vec::as_slice);
                tags.len() <= 32 && tags.iter().all(|tag| tag.as_str().is_none_or(|tag| tag.len() <= 64))
            };
            for arguments in version.recorded.iter().cloned().chain(valid.filter(within_settings)) {
                let (answer, ..) = bench.tool(tool, arguments.clone()).await;
                // An input of a pattern is that pattern's to refuse, a path is the engine's.
                let names_an_argument = answer["error"] == "invalid_input"
                    && answer["part"].as_str().is_some_and(|part| {
                        version.schema["properties"].get(part).is_some()
                            && !["input", "select"].contains(&part)
                    });
                assert!(!names_an_argument, "{tool} version {number}: {arguments}: {answer}");
            }
        }
    }
}

/// What the tools answer today is what readers of any released version were promised.
#[tokio::test]
async fn the_tools_answer_as_every_version_promised() {
    let bench = tools::Bench::new();
    let families = families().unwrap();
    for (tool, arguments) in tools::calls_of_every_shape(&bench).await {
        let (answer, ..) = bench.tool(tool, arguments).await;
        let family = families.iter().find(|family| family.name == format!("tool/{tool}.output")).unwrap();
        for (number, version) in &family.versions {
            let fault = Schema::new(compatibility::open(&version.schema)).fault(&answer);
            assert_eq!(fault, None, "{tool} version {number}: {answer}");
        }
    }
}

/// What is generated is valid, and all that the schema leaves open is met.
#[test]
fn the_generator_reaches_every_choice_of_every_schema() {
    let mut schemas: Vec<(String, Value)> = Vec::new();
    for family in families().unwrap() {
        if family.promise != Promise::Loosened {
            schemas
                .extend(family.versions.into_values().map(|version| (family.name.clone(), version.schema)));
        }
    }
    for name in ["CallRequest", "CallResponse", "ListResponse"] {
        for revision in [Revision::V2024_11_05, Revision::V2025_11_25, Revision::V2026_07_28] {
            let place = format!("{revision}/tools.json#/$defs/{name}");
            schemas.push((place.clone(), mcp_definition(&place)));
        }
    }
    for (name, schema) in schemas {
        let schema = Schema::new(schema);
        let mut runner = TestRunner::deterministic();
        let never =
            || schema.choices().into_iter().filter(|(_, times)| *times == 0).map(|(choice, _)| choice);
        let (mut drafts, mut refused) = (0, Vec::new());
        while drafts < 300 || (drafts < 3_000 && never().next().is_some()) {
            let draft: Vec<Value> = (0..100).map(|_| schema.draft(&mut runner)).collect();
            drafts += draft.len();
            refused.extend(draft.into_iter().filter(|draft| !schema.is_valid(draft)));
        }
        if let Some(first) = refused.first() {
            // Conditions (`if`, `not`) are approximated, and what does not fit is made again.
            let share = refused.len() as f64 / drafts as f64;
            assert!(share < 0.25, "{name}: {share} refused: {:?}", schema.fault(first));
        }
        let never: Vec<String> = never().collect();
        assert!(never.is_empty(), "{name}: never chosen: {never:#?}");
    }
}

#[test]
fn what_fails_is_made_as_small_as_it_can_be() {
    let schema = json!({
        "type": "object",
        "required": ["a"],
        "properties": {
            "a": {"type": "array", "items": {"type": "integer"}},
            "b": {"type": "string", "minLength": 3},
        },
    });
    let schema = Rc::new(Schema::new(schema));
    let found = generated(&schema, 500, |instance| instance.get("b").map(|_| "has b".to_owned())).unwrap();
    assert!(found.starts_with(r#"generated {"a":[],"b":""#), "{found}");
    let found = generated(&schema, 500, |instance| {
        (instance["a"].as_array().unwrap().len() > 2).then(|| "three items".to_owned())
    });
    assert_eq!(found.as_deref(), Some(r#"generated {"a":[0,0,0]}: three items"#));
}

/// With this set, the recorded instances of what is still pending are collected anew.
const WRITE: &str = "TMWS_WRITE_INSTANCES";

#[tokio::test]
async fn recorded_instances_can_be_collected_for_every_family() {
    let manifest =
        released::Manifest::parse(&fs::read_to_string(root().join(released::MANIFEST)).unwrap()).unwrap();
    let collected = recordings::collect().await;
    for family in families().unwrap() {
        let number = *family.versions.keys().next_back().unwrap();
        let Some(instances) = collected.get(&family.name) else {
            assert!(
                family.promise == Promise::Loosened || family.name.contains('#'),
                "nothing is recorded for {}",
                family.name
            );
            continue;
        };
        let path = families::folder_of_recorded(&family.name, number).join("recorded.jsonl");
        let listed = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
        if std::env::var_os(WRITE).is_some() && !manifest.released.contains_key(&listed) {
            let lines: Vec<String> = instances.iter().map(Value::to_string).collect();
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, lines.join("\n") + "\n").unwrap();
        }
    }
}
