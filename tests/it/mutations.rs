//! The list of mutations (`compat/mutations/mutations.toml`): each still says where it applies.

use std::{collections::BTreeSet, fs, path::Path};

use toml::Table;

#[test]
fn every_mutation_applies_at_exactly_one_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("compat/mutations/mutations.toml")).unwrap();
    let list: Table = text.parse().unwrap();
    let mutations = list["mutation"].as_array().unwrap();
    let (mut names, mut changes) = (BTreeSet::new(), BTreeSet::new());
    for mutation in mutations {
        let member = |key: &str| mutation[key].as_str().unwrap();
        let name = member("name");
        assert!(names.insert(name), "{name} is there twice");
        assert!(
            changes.insert((member("file"), member("find"), member("replace"))),
            "{name} repeats another"
        );
        assert!(!member("rule").is_empty() && !member("spec").is_empty(), "{name} says not what it breaks");
        let source = fs::read_to_string(root.join(member("file"))).unwrap();
        let found = source.matches(member("find")).count();
        assert_eq!(
            found,
            1,
            "{name}: its text stands {found} times in {}: say what the rule is now",
            member("file")
        );
        assert_ne!(member("find"), member("replace"), "{name} changes nothing");
    }
    assert!(names.len() >= 26, "{} mutations", names.len());
}
