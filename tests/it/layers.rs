//! Who may import whom: a module uses only those listed before it in `lib.rs`, and the two columns stay apart.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Names after `crate::`, one per use; `crate::{a, b::c}` counts `a` and `b`.
fn imports(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n");
    for (start, _) in code.match_indices("crate::") {
        let rest = &code[start + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let (mut depth, mut name) = (0, String::new());
            for character in group.chars() {
                match character {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    name.push(character);
                }
            }
            names.extend(name.split(',').map(|item| word(item.trim_start())));
        } else {
            names.push(word(rest));
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn word(text: &str) -> String {
    text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

#[test]
fn modules_import_only_from_those_before_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let order: BTreeMap<String, usize> = fs::read_to_string(root.join("lib.rs"))
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod ")))
        .enumerate()
        .map(|(level, rest)| (word(rest), level))
        .collect();
    let protocol_column = ["wire", "schema", "protocol"];
    let engine_column = ["pattern", "store", "engine"];
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut faults = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let module = word(relative.to_str().unwrap());
        let Some(level) = order.get(&module) else { continue };
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            let crosses = protocol_column.contains(&module.as_str())
                && engine_column.contains(&import.as_str())
                || engine_column.contains(&module.as_str()) && protocol_column.contains(&import.as_str());
            let upward = import != module && order.get(&import).is_some_and(|other| other > level);
            if crosses || upward {
                faults.push(format!("{}: `{module}` uses `{import}`", relative.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_core_has_no_clock_no_tokio_and_no_environment() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for module in ["wire", "schema", "protocol"] {
        sources(&root.join(module), &mut files);
    }
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for forbidden in
            ["tokio", "Instant::now", "SystemTime", "getrandom", "std::env", "std::fs", "std::net"]
        {
            let used = text.lines().any(|line| {
                let code = line.split("//").next().unwrap_or("");
                code.contains(forbidden)
            });
            let in_tests = text.contains("#[cfg(test)]") || file.to_string_lossy().contains("tests");
            assert!(!used || in_tests, "{} uses {forbidden}", file.display());
        }
    }
}
