//! Instances of a JSON Schema: generated for the keywords that occur in `schemas/`, shrunk where a test fails.
//!
//! At every choice that a schema leaves (a branch, a type, a value of an enumeration, a member that may be absent, either
//! end of a range) what was chosen least often so far comes first, so that a few hundred instances reach all of them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
};

use jsonschema::{Draft, Validator};
use proptest::{
    prelude::RngExt as _,
    strategy::{NewTree, Strategy, ValueTree},
    test_runner::TestRunner,
};
use regex::Regex;
use serde_json::{Map, Value, json};

/// Deeper than this, members that may be absent are, and lists are short.
const DEPTH_MAX: usize = 8;
/// Longest list made where nothing bounds it, or the bound is larger.
const ITEMS_MAX: usize = 101;
/// Longest text made where nothing bounds it.
const TEXT_MAX: usize = 300;
/// Largest whole number made where nothing bounds it; doubles hold it exactly.
const WHOLE_MAX: i64 = 1 << 53;

/// Longest text made by hand for a pattern without a bound.
const PATTERN_TEXT_MAX: usize = 40;
/// Members made beside the named ones where nothing bounds them.
const MEMBERS_MAX: usize = 12;
/// Choices that make large instances.
const LARGE: [&str; 4] = ["longest", "most items", "most members", "many members"];

const ANNOTATIONS: &[&str] = &[
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "contentEncoding",
    "default",
    "description",
    "examples",
    "format",
    "title",
    "x-says",
];

/// A schema whose references are all `#/$defs/…`, with its validator.
pub(crate) struct Schema {
    root: Value,
    validator: Validator,
    /// How often each choice was made, by place and name.
    chosen: RefCell<BTreeMap<String, usize>>,
    known: RefCell<HashMap<String, Rc<Vec<Shape>>>>,
    patterns: RefCell<HashMap<String, Regex>>,
}

/// A schema without references, branches and conditions, and where it stands.
struct Shape {
    place: String,
    members: Map<String, Value>,
}

impl Schema {
    pub(crate) fn new(root: Value) -> Self {
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .should_validate_formats(false)
            .build(&root)
            .unwrap_or_else(|error| panic!("{error}"));
        Self {
            root,
            validator,
            chosen: RefCell::default(),
            known: RefCell::default(),
            patterns: RefCell::default(),
        }
    }

    pub(crate) fn is_valid(&self, instance: &Value) -> bool {
        self.validator.is_valid(instance)
    }

    /// What is wrong with `instance`, with its place, in one line.
    pub(crate) fn fault(&self, instance: &Value) -> Option<String> {
        let error = self.validator.iter_errors(instance).next()?;
        Some(format!("{}: {error}", error.instance_path()))
    }

    /// One instance; perhaps not a valid one where the schema has conditions that the generator only approximates.
    pub(crate) fn draft(&self, runner: &mut TestRunner) -> Value {
        self.value(&self.root, "#", 0, runner)
    }

    /// Every choice that the schema leaves, and how often it was made.
    pub(crate) fn choices(&self) -> BTreeMap<String, usize> {
        let mut all = BTreeSet::new();
        self.explore(&self.root, "#", &mut all);
        let chosen = self.chosen.borrow();
        all.into_iter().map(|choice| (choice.clone(), chosen.get(&choice).copied().unwrap_or(0))).collect()
    }

    fn explore(&self, schema: &Value, place: &str, all: &mut BTreeSet<String>) {
        let shapes = self.shapes_at(schema, place);
        for (index, shape) in shapes.iter().enumerate() {
            if shapes.len() > 1 {
                all.insert(format!("{place} branch {index}"));
            }
            let types = types(&shape.members);
            if types.is_empty() {
                continue;
            }
            if !all.insert(format!("{} met", shape.place)) {
                continue;
            }
            for name in &types {
                let options = options(&shape.members, name);
                for option in options.iter().filter(|_| options.len() > 1) {
                    all.insert(format!("{} {name} {option}", shape.place));
                }
                if types.len() > 1 {
                    all.insert(format!("{} type {name}", shape.place));
                }
                match name.as_str() {
                    "object" => {
                        for (member, schema) in properties(&shape.members) {
                            let inner = format!("{}/properties/{member}", shape.place);
                            if self.shapes_at(schema, &inner).is_empty() {
                                continue;
                            }
                            if !is_required(&shape.members, member) {
                                all.insert(format!("{inner} absent"));
                                all.insert(format!("{inner} present"));
                            }
                            self.explore(schema, &inner, all);
                        }
                        if let Some(schema @ Value::Object(_)) = shape.members.get("additionalProperties") {
                            self.explore(schema, &format!("{}/additionalProperties", shape.place), all);
                        }
                        if let Some(schema) = shape.members.get("propertyNames") {
                            self.explore(schema, &format!("{}/propertyNames", shape.place), all);
                        }
                    }
                    "array" => {
                        for (at, schema) in prefix(&shape.members).iter().enumerate() {
                            self.explore(schema, &format!("{}/prefixItems/{at}", shape.place), all);
                        }
                        if let Some(schema) = shape.members.get("items") {
                            self.explore(schema, &format!("{}/items", shape.place), all);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// The option at `place` chosen least often, or now and then any.
    fn choose(&self, place: &str, kind: &str, options: &[String], runner: &mut TestRunner) -> usize {
        let mut chosen = self.chosen.borrow_mut();
        let name = |index: usize| format!("{place} {kind}{}", options[index]);
        // What makes large instances comes up less often: they cost most, and show least.
        let weight = |index: usize| if LARGE.contains(&options[index].as_str()) { 8 } else { 1 };
        let start = runner.rng().random_range(0..options.len());
        let index = if runner.rng().random_bool(0.5) && weight(start) == 1 {
            start
        } else {
            (0..options.len())
                .map(|offset| (start + offset) % options.len())
                .min_by_key(|&index| chosen.get(&name(index)).copied().unwrap_or(0) * weight(index))
                .unwrap_or(0)
        };
        *chosen.entry(name(index)).or_default() += 1;
        index
    }

    /// [`Schema::shapes`], worked out once for each place.
    fn shapes_at(&self, schema: &Value, place: &str) -> Rc<Vec<Shape>> {
        if let Some(shapes) = self.known.borrow().get(place) {
            return Rc::clone(shapes);
        }
        let shapes = Rc::new(self.shapes(schema, place));
        self.known.borrow_mut().insert(place.to_owned(), Rc::clone(&shapes));
        shapes
    }

    /// Every way to fit `schema`, each without references, branches and conditions.
    fn shapes(&self, schema: &Value, place: &str) -> Vec<Shape> {
        let Some(members) = schema.as_object() else {
            let impossible = *schema == Value::Bool(false);
            let any = Shape { place: place.to_owned(), members: Map::new() };
            return if impossible { Vec::new() } else { vec![any] };
        };
        let own: Map<String, Value> = members
            .iter()
            .filter(|(key, _)| !ANNOTATIONS.contains(&key.as_str()))
            .filter(|(key, _)| {
                !["$ref", "allOf", "anyOf", "oneOf", "if", "then", "else"].contains(&key.as_str())
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let mut shapes = vec![Shape { place: place.to_owned(), members: own }];
        if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
            let target =
                self.root.pointer(&reference[1..]).unwrap_or_else(|| panic!("{reference} is not there"));
            shapes = cross(&shapes, &self.shapes(target, reference));
        }
        for (index, part) in list(members, "allOf").iter().enumerate() {
            shapes = cross(&shapes, &self.shapes(part, &format!("{place}/allOf/{index}")));
        }
        for keyword in ["anyOf", "oneOf"] {
            if members.contains_key(keyword) {
                let branches: Vec<Shape> = list(members, keyword)
                    .iter()
                    .enumerate()
                    .flat_map(|(index, branch)| self.shapes(branch, &format!("{place}/{keyword}/{index}")))
                    .collect();
                shapes = cross(&shapes, &branches);
            }
        }
        if let Some(condition) = members.get("if") {
            let branch = |keyword: &str| {
                let always = Value::Bool(true);
                self.shapes(members.get(keyword).unwrap_or(&always), &format!("{place}/{keyword}"))
            };
            let held =
                cross(&cross(&shapes, &self.shapes(condition, &format!("{place}/if"))), &branch("then"));
            let mut not_held = cross(&shapes, &branch("else"));
            if let Some(excluded) = condition.get("type").and_then(Value::as_str) {
                for shape in &mut not_held {
                    let left: Vec<Value> = types(&shape.members)
                        .into_iter()
                        .filter(|name| name != excluded)
                        .map(Value::from)
                        .collect();
                    shape.members.insert("type".to_owned(), left.into());
                }
            }
            shapes = held.into_iter().chain(not_held).collect();
        }
        shapes.retain(|shape| !types(&shape.members).is_empty());
        shapes
    }

    fn value(&self, schema: &Value, place: &str, depth: usize, runner: &mut TestRunner) -> Value {
        let shapes = self.shapes_at(schema, place);
        assert!(!shapes.is_empty(), "nothing fits {place}");
        let names: Vec<String> = (0..shapes.len()).map(|index| index.to_string()).collect();
        let index = if names.len() > 1 { self.choose(place, "branch ", &names, runner) } else { 0 };
        let Shape { place, members } = &shapes[index];
        *self.chosen.borrow_mut().entry(format!("{place} met")).or_default() += 1;
        let types = types(members);
        let index = if types.len() > 1 { self.choose(place, "type ", &types, runner) } else { 0 };
        let name = &types[index];
        let options = options(members, name);
        let option = if options.len() > 1 {
            options[self.choose(place, &format!("{name} "), &options, runner)].as_str()
        } else {
            options.first().map_or("", String::as_str)
        };
        if let Some(value) = option.strip_prefix("= ") {
            return serde_json::from_str(value).unwrap();
        }
        match name.as_str() {
            "object" => self.object(members, place, option, depth, runner),
            "array" => self.array(members, place, option, depth, runner),
            "string" => self.text(members, option, runner).into(),
            "integer" => whole(members, option, runner),
            "number" => fraction(members, option, runner),
            "boolean" => runner.rng().random_bool(0.5).into(),
            "any" => any(runner),
            _ => Value::Null,
        }
    }

    fn object(
        &self,
        members: &Map<String, Value>,
        place: &str,
        option: &str,
        depth: usize,
        runner: &mut TestRunner,
    ) -> Value {
        let mut out = Map::new();
        let presence = ["absent".to_owned(), "present".to_owned()];
        for (name, schema) in properties(members) {
            let inner = format!("{place}/properties/{name}");
            if self.shapes_at(schema, &inner).is_empty() {
                continue;
            }
            let wanted = is_required(members, name)
                || (depth < DEPTH_MAX && self.choose(&inner, "", &presence, runner) == 1);
            if wanted {
                out.insert(name.clone(), self.value(schema, &inner, depth + 1, runner));
            }
        }
        let always = Value::Bool(true);
        let additional = members.get("additionalProperties").unwrap_or(&always);
        let inner = format!("{place}/additionalProperties");
        for name in list(members, "required").iter().filter_map(Value::as_str) {
            if !out.contains_key(name) {
                out.insert(name.to_owned(), self.value(additional, &inner, depth + 1, runner));
            }
        }
        let bound = |keyword: &str| members.get(keyword).and_then(Value::as_u64).map(|bound| bound as usize);
        let most = bound("maxProperties").unwrap_or(usize::MAX);
        let least = bound("minProperties").unwrap_or(0);
        let wanted = match option {
            "most members" if depth < DEPTH_MAX => most.min(ITEMS_MAX),
            "many members" if depth < DEPTH_MAX => out.len() + MEMBERS_MAX,
            "more members" => (out.len() + 1 + runner.rng().random_range(0..2)).min(most),
            _ => 0,
        };
        if *additional == Value::Bool(false) {
            // What is missing can only come from the members that have a name.
            for (name, schema) in properties(members) {
                if out.len() < least && !out.contains_key(name) {
                    let value = self.value(schema, &format!("{place}/properties/{name}"), depth + 1, runner);
                    out.insert(name.clone(), value);
                }
            }
        } else {
            for number in 0..wanted.max(least) * 2 {
                if out.len() >= wanted.max(least) {
                    break;
                }
                let name = match members.get("propertyNames") {
                    Some(schema) => self.value(schema, &format!("{place}/propertyNames"), depth, runner),
                    None => format!("x made-up/{number}").into(),
                };
                if let (Some(name), false) =
                    (name.as_str(), properties(members).any(|(known, _)| *known == name))
                {
                    out.insert(name.to_owned(), self.value(additional, &inner, depth + 1, runner));
                }
            }
        }
        for (name, needed) in
            members.get("dependentRequired").and_then(Value::as_object).into_iter().flatten()
        {
            for needed in needed.as_array().into_iter().flatten().filter_map(Value::as_str) {
                if out.contains_key(name) && !out.contains_key(needed) {
                    let schema = members.get("properties").and_then(|all| all.get(needed)).unwrap_or(&always);
                    let value =
                        self.value(schema, &format!("{place}/properties/{needed}"), depth + 1, runner);
                    out.insert(needed.to_owned(), value);
                }
            }
        }
        Value::Object(out)
    }

    /// A text that fits, as short or as long as the option says and the schema lets it.
    fn text(&self, members: &Map<String, Value>, option: &str, runner: &mut TestRunner) -> String {
        const WORDS: &[&str] = &["a", "text", "file:///tmp/a", "2026-07-28", "ünïcödé", "a/b~c", " ", "3.5"];
        const LETTERS: &[char] = &['a', '0', '.', '/', '*', 'Z', '}'];
        let bound = |keyword: &str| members.get(keyword).and_then(Value::as_u64).map(|bound| bound as usize);
        let least = bound("minLength").unwrap_or(0);
        let pattern = members.get("pattern").and_then(Value::as_str);
        // One more letter at the end of a pattern that is not open there has to be found by trying.
        let is_closed = pattern.is_some_and(|pattern| pattern.ends_with('$'));
        let usual = if is_closed { PATTERN_TEXT_MAX } else { TEXT_MAX };
        let most = bound("maxLength").unwrap_or(usual.max(least));
        let regex = pattern.map(|pattern| {
            let mut known = self.patterns.borrow_mut();
            known.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).unwrap()).clone()
        });
        let fits = |text: &[char]| {
            regex.as_ref().is_none_or(|regex| regex.is_match(&text.iter().collect::<String>()))
        };
        let text = match pattern {
            Some(pattern) => matching(pattern, runner),
            None if option == "shortest" => String::new(),
            None => WORDS[runner.rng().random_range(0..WORDS.len())].to_owned(),
        };
        let mut text: Vec<char> = text.chars().collect();
        let goal = match option {
            "longest" => most,
            "shortest" => least,
            _ => text.len().clamp(least, most),
        };
        while text.len() < goal.max(least) {
            let longer = |letter: &char| [&text, std::slice::from_ref(letter)].concat();
            let Some(longer) = LETTERS.iter().map(longer).find(|text| fits(text)) else { break };
            text = longer;
        }
        if text.len() > goal.min(most) {
            let goal = goal.min(most);
            let mut ends = (least..=goal).rev().chain(goal + 1..=most.min(text.len()));
            if let Some(end) = ends.find(|&end| fits(&text[..end])) {
                text.truncate(end);
            }
        }
        while text.len() > goal.min(most) {
            let without = |at: usize| [&text[..at], &text[at + 1..]].concat();
            let places = [text.len() - 1, text.len() / 2, 0];
            let Some(shorter) = places.into_iter().map(without).find(|text| fits(text)) else { break };
            text = shorter;
        }
        text.into_iter().collect()
    }

    fn array(
        &self,
        members: &Map<String, Value>,
        place: &str,
        option: &str,
        depth: usize,
        runner: &mut TestRunner,
    ) -> Value {
        let bound = |keyword: &str| members.get(keyword).and_then(Value::as_u64).map(|bound| bound as usize);
        let least = bound("minItems").unwrap_or(0);
        let most = bound("maxItems").unwrap_or(ITEMS_MAX);
        let count = match option {
            "most items" if depth < DEPTH_MAX => most.min(ITEMS_MAX),
            "some items" if depth < DEPTH_MAX => (least + runner.rng().random_range(1..3)).min(most),
            _ => least,
        };
        // What stands in a long list is small.
        let depth = if count > 3 { DEPTH_MAX } else { depth + 1 };
        let always = Value::Bool(true);
        let schema = members.get("items").unwrap_or(&always);
        let is_set = members.get("uniqueItems") == Some(&Value::Bool(true));
        let mut out: Vec<Value> = Vec::new();
        for _ in 0..count * (1 + 3 * usize::from(is_set)) {
            if out.len() == count {
                break;
            }
            let (schema, part) = match prefix(members).get(out.len()) {
                Some(schema) => (schema, format!("{place}/prefixItems/{}", out.len())),
                None => (schema, format!("{place}/items")),
            };
            let item = self.value(schema, &part, depth, runner);
            if !is_set || !out.contains(&item) {
                out.push(item);
            }
        }
        out.into()
    }
}

/// What the first items of an array are, each for itself.
fn prefix(members: &Map<String, Value>) -> &[Value] {
    members.get("prefixItems").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The types that an instance may have; `any` where the schema says nothing, none where nothing fits.
fn types(members: &Map<String, Value>) -> Vec<String> {
    match members.get("type") {
        Some(Value::String(name)) => vec![name.clone()],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ if members.contains_key("const") || members.contains_key("enum") => vec!["any".to_owned()],
        _ => {
            let says = |keywords: &[&str]| keywords.iter().any(|keyword| members.contains_key(*keyword));
            let name = if says(&[
                "properties",
                "required",
                "additionalProperties",
                "propertyNames",
                "minProperties",
            ]) {
                "object"
            } else if says(&["items", "minItems", "maxItems", "uniqueItems"]) {
                "array"
            } else if says(&["pattern", "minLength", "maxLength"]) {
                "string"
            } else if says(&["minimum", "maximum"]) {
                "number"
            } else {
                "any"
            };
            vec![name.to_owned()]
        }
    }
}

/// What there is to choose for an instance of this type.
fn options(members: &Map<String, Value>, name: &str) -> Vec<String> {
    let fits = |value: &&Value| match name {
        "any" => true,
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "array" => value.is_array(),
        _ => value.is_object(),
    };
    if let Some(value) = members.get("const") {
        return vec![format!("= {value}")];
    }
    if let Some(values) = members.get("enum").and_then(Value::as_array) {
        return values.iter().filter(fits).map(|value| format!("= {value}")).collect();
    }
    let words: &[&str] = match name {
        "integer" => &["least", "between", "most"],
        "number" => &["least", "between", "whole", "most"],
        "string" => &["shortest", "between", "longest"],
        "array" if list_is_closed(members) => &["no items"],
        "array" => &["fewest items", "some items", "most items"],
        "object" if members.get("additionalProperties") == Some(&Value::Bool(false)) => &["named members"],
        "object" if members.contains_key("maxProperties") => {
            &["named members", "more members", "most members"]
        }
        "object" => &["named members", "more members", "many members"],
        _ => &[],
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn list_is_closed(members: &Map<String, Value>) -> bool {
    members.get("maxItems").and_then(Value::as_u64) == Some(0)
}

fn list<'a>(members: &'a Map<String, Value>, keyword: &str) -> &'a [Value] {
    members.get(keyword).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn properties(members: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    members.get("properties").and_then(Value::as_object).into_iter().flatten()
}

fn is_required(members: &Map<String, Value>, name: &str) -> bool {
    list(members, "required").iter().any(|required| required == name)
}

/// Every pair of a left and a right shape that can hold at once.
fn cross(left: &[Shape], right: &[Shape]) -> Vec<Shape> {
    let pairs = left.iter().flat_map(|left| right.iter().map(move |right| (left, right)));
    pairs
        .map(|(left, right)| Shape {
            place: match (left.members.is_empty(), right.members.is_empty()) {
                (true, _) => right.place.clone(),
                (_, true) => left.place.clone(),
                _ => format!("{} & {}", left.place, right.place),
            },
            members: both(&left.members, &right.members),
        })
        .filter(|shape| !types(&shape.members).is_empty())
        .collect()
}

/// What fits both.
fn both(left: &Map<String, Value>, right: &Map<String, Value>) -> Map<String, Value> {
    let mut out = left.clone();
    for (key, new) in right {
        let Some(old) = out.get_mut(key) else {
            out.insert(key.clone(), new.clone());
            continue;
        };
        let (first, second) = (old.as_f64(), new.as_f64());
        match key.as_str() {
            "type" => {
                let of = |value: &Value| types(&Map::from_iter([("type".to_owned(), value.clone())]));
                let (old_types, new_types) = (of(old), of(new));
                let has = |types: &[String], name: &str| {
                    types.iter().any(|other| other == name || (name == "integer" && other == "number"))
                };
                let mut common: Vec<String> =
                    old_types.iter().filter(|name| has(&new_types, name)).cloned().collect();
                common.extend(new_types.iter().filter(|name| has(&old_types, name)).cloned());
                common.sort();
                common.dedup();
                *old = common.into();
            }
            "properties" => {
                if let (Value::Object(old), Value::Object(new)) = (old, new) {
                    for (name, schema) in new {
                        let schema = match old.get(name) {
                            Some(earlier) => json!({"allOf": [earlier, schema]}),
                            None => schema.clone(),
                        };
                        old.insert(name.clone(), schema);
                    }
                }
            }
            "required" => {
                if let (Value::Array(old), Value::Array(new)) = (old, new) {
                    old.extend(new.iter().cloned());
                }
            }
            "items" => *old = json!({"allOf": [old.clone(), new]}),
            "minimum" | "minLength" | "minItems" | "minProperties" if second > first => *old = new.clone(),
            "maximum" | "maxLength" | "maxItems" | "maxProperties" if second < first => *old = new.clone(),
            "additionalProperties" if *new == Value::Bool(false) => *old = new.clone(),
            "const" | "enum" => *old = new.clone(),
            _ => {}
        }
    }
    out
}

fn any(runner: &mut TestRunner) -> Value {
    const VALUES: &[&str] =
        &["null", "true", "0", "-1", "0.5", "\"\"", "\"text\"", "[]", "[null]", "{}", r#"{"x":{"y":[1]}}"#];
    serde_json::from_str(VALUES[runner.rng().random_range(0..VALUES.len())]).unwrap()
}

fn whole(members: &Map<String, Value>, option: &str, runner: &mut TestRunner) -> Value {
    let bound = |keyword: &str| members.get(keyword).and_then(Value::as_f64).map(|bound| bound as i64);
    let (least, most) = (bound("minimum").unwrap_or(-WHOLE_MAX), bound("maximum").unwrap_or(WHOLE_MAX));
    match option {
        "least" => least.into(),
        "most" => most.into(),
        _ => {
            let near = least.max(-9).min(most);
            runner.rng().random_range(near..=most.min(near.saturating_add(99))).into()
        }
    }
}

fn fraction(members: &Map<String, Value>, option: &str, runner: &mut TestRunner) -> Value {
    let bound = |keyword: &str| members.get(keyword).and_then(Value::as_f64);
    let (least, most) = (bound("minimum"), bound("maximum"));
    let start = least.or(most.map(|most| most - 1.0)).unwrap_or(-1.0);
    match option {
        "least" => least.unwrap_or(-1e300).into(),
        "most" => most.unwrap_or(1e300).into(),
        "whole" => (start.ceil() as i64).into(),
        _ => {
            let end = most.unwrap_or(start + 9.0);
            (start + (end - start) * runner.rng().random_range(0.1..0.9)).into()
        }
    }
}

/// A text that matches somewhere, or as a whole where the expression says so.
fn matching(pattern: &str, runner: &mut TestRunner) -> String {
    let (open, inner) = pattern.strip_prefix('^').map_or((true, pattern), |inner| (false, inner));
    let inner = inner.strip_suffix('$').unwrap_or(inner);
    let around = if open && runner.rng().random_bool(0.5) { " a " } else { "" };
    // An end in the middle is an end wherever a text is made for it alone.
    let inner = inner.replace("$)", ")");
    let text = proptest::string::string_regex(&inner).unwrap_or_else(|error| panic!("{pattern}: {error}"));
    // JSON Schema has ECMAScript's expressions, where a dot fits no end of a line.
    let ends = ['\r', '\u{2028}', '\u{2029}'];
    let mut texts = std::iter::repeat_with(|| text.new_tree(runner).unwrap().current());
    let text = texts.find(|text| !pattern.contains('.') || !text.contains(ends)).unwrap_or_default();
    // Nor is this one white there.
    let text = text.replace('\u{85}', " ");
    format!("{around}{text}{}", if pattern.ends_with('$') { "" } else { around })
}

/// The valid instances of a schema, as a strategy: what fails is made as small as it can be and stay valid.
#[derive(Clone)]
pub(crate) struct Valid(pub(crate) Rc<Schema>);

impl std::fmt::Debug for Valid {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Valid")
    }
}

impl Strategy for Valid {
    type Tree = Shrinking;
    type Value = Value;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        for _ in 0..50 {
            let current = self.0.draft(runner);
            if self.0.is_valid(&current) {
                return Ok(Shrinking { schema: Rc::clone(&self.0), current, before: None, smaller: None });
            }
        }
        Err("of fifty instances none was valid".into())
    }
}

/// An instance on its way to a smaller one.
pub(crate) struct Shrinking {
    schema: Rc<Schema>,
    current: Value,
    /// What failed last, while `current` is tried.
    before: Option<Value>,
    /// What else is to be tried instead of `before`.
    smaller: Option<std::vec::IntoIter<Value>>,
}

impl Shrinking {
    /// Tries the next smaller valid instance, or returns to what failed last.
    fn next(&mut self) -> bool {
        let Some(smaller) = &mut self.smaller else { return false };
        if let Some(next) = smaller.find(|value| self.schema.is_valid(value)) {
            self.current = next;
            return true;
        }
        if let Some(before) = self.before.take() {
            self.current = before;
        }
        false
    }
}

impl ValueTree for Shrinking {
    type Value = Value;

    fn current(&self) -> Value {
        self.current.clone()
    }

    fn simplify(&mut self) -> bool {
        self.smaller = Some(smaller(&self.current).into_iter());
        self.before = Some(self.current.clone());
        self.next()
    }

    fn complicate(&mut self) -> bool {
        self.next()
    }
}

/// Copies of `value` that are smaller in one place; the largest steps first.
fn smaller(value: &Value) -> Vec<Value> {
    let mut out = Vec::new();
    match value {
        Value::Object(members) => {
            for name in members.keys() {
                let mut copy = members.clone();
                copy.shift_remove(name);
                out.push(copy.into());
            }
            for (name, member) in members {
                for replacement in smaller(member) {
                    let mut copy = members.clone();
                    copy.insert(name.clone(), replacement);
                    out.push(copy.into());
                }
            }
        }
        Value::Array(items) => {
            if items.len() > 3 {
                out.push(items[..items.len() / 2].into());
            }
            for index in 0..items.len() {
                let mut copy = items.clone();
                copy.remove(index);
                out.push(copy.into());
            }
            for (index, item) in items.iter().enumerate() {
                for replacement in smaller(item) {
                    let mut copy = items.clone();
                    copy[index] = replacement;
                    out.push(copy.into());
                }
            }
        }
        Value::String(text) if !text.is_empty() => {
            let characters: Vec<char> = text.chars().collect();
            for length in [0, 1, characters.len() / 2, characters.len() - 1] {
                if length < characters.len() {
                    out.push(characters[..length].iter().collect::<String>().into());
                }
            }
        }
        Value::Number(number) => {
            let float = number.as_f64().unwrap_or_default();
            let candidates = [json!(0), json!(1), json!((float / 2.0) as i64)];
            out.extend(
                candidates.into_iter().filter(|other| other.as_f64().unwrap_or_default().abs() < float.abs()),
            );
        }
        Value::Bool(true) => out.push(false.into()),
        _ => {}
    }
    out
}
