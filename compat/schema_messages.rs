//! Messages to compare verdicts on: generated from a schema, then spoilt. Equal seeds give equal messages.

use serde_json::{Map, Value, json};

/// splitmix64: small, even, and the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    pub(crate) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }
}

/// Values at the edges of types and bounds.
fn boundary(random: &mut Random) -> Value {
    const EDGES: &[&str] = &[
        "null",
        "true",
        "false",
        "0",
        "-1",
        "1",
        "2",
        "1.0",
        "0.5",
        "-0.5",
        "1.0000001",
        "1e300",
        "18446744073709551615",
        "\"\"",
        "\"x\"",
        "\"2.0\"",
        "\"text\"",
        "\"user\"",
        "\"file:///a\"",
        "\"complete\"",
        "[]",
        "{}",
        "[null]",
        "[\"x\"]",
        "[1]",
        "[{}]",
        "{\"x\":null}",
        "{\"x\":0.5}",
        "{\"x\":{}}",
        "{\"type\":\"object\"}",
        "{\"x\":[]}",
        "[\"x\",1]",
        "[true]",
        "-32042",
        "-32020",
    ];
    let text = EDGES[random.below(EDGES.len())];
    serde_json::from_str(text).expect("every edge is JSON")
}

/// Makes values that fit a schema, as far as the keywords that occur here go.
pub(crate) struct Generator<'a> {
    pub(crate) root: &'a Value,
    pub(crate) random: &'a mut Random,
}

impl Generator<'_> {
    const DEPTH_MAX: usize = 10;

    pub(crate) fn value(&mut self, schema: &Value, depth: usize) -> Value {
        let Some(members) = schema.as_object() else { return boundary(self.random) };
        // Deep parts are many, so a mutation of the finished message hits each of them seldom.
        if depth > 1 && self.random.one_in(150) {
            return boundary(self.random);
        }
        if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
            let root = self.root;
            let target = root.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null);
            return self.value(target, depth);
        }
        if let Some(value) = members.get("const") {
            return value.clone();
        }
        if let Some(options) = members.get("enum").and_then(Value::as_array) {
            return self.random.pick(options).cloned().unwrap_or_default();
        }
        for keyword in ["anyOf", "oneOf"] {
            if let Some(alternatives) = members.get(keyword).and_then(Value::as_array) {
                let alternative = self.random.pick(alternatives).cloned().unwrap_or_default();
                return self.value(&alternative, depth);
            }
        }
        let mut out = Map::new();
        if let Some(parts) = members.get("allOf").and_then(Value::as_array) {
            for part in parts.iter().rev() {
                if let Value::Object(part) = self.value(part, depth) {
                    out.extend(part);
                }
            }
            if !members.contains_key("properties") {
                return Value::Object(out);
            }
        }
        let wanted = match members.get("type") {
            Some(Value::String(name)) => name.clone(),
            Some(Value::Array(names)) => {
                self.random.pick(names).and_then(Value::as_str).unwrap_or_default().to_owned()
            }
            _ if members.contains_key("properties") => "object".to_owned(),
            _ => return boundary(self.random),
        };
        match wanted.as_str() {
            "object" => self.object(members, out, depth),
            "array" => self.array(members, depth),
            "string" => {
                let words = ["", "a", "text", "file:///tmp/a", "2026-07-28", "ünïcode", "a/b~c"];
                json!(words[self.random.below(words.len())])
            }
            "boolean" => json!(self.random.one_in(2)),
            "integer" | "number" if members.contains_key("minimum") && self.random.one_in(2) => {
                let edge = |keyword: &str| members.get(keyword).and_then(Value::as_f64);
                let (least, most) = (edge("minimum").unwrap_or(0.0), edge("maximum").unwrap_or(9.0));
                let edges = [least, most, least - 1.0, most + 1.0, least + 0.5];
                json!(edges[self.random.below(edges.len())])
            }
            "integer" => json!(self.random.below(3)),
            "number" if self.random.one_in(2) => json!(0.5),
            "number" => json!(self.random.below(2)),
            _ => Value::Null,
        }
    }

    fn object(&mut self, members: &Map<String, Value>, mut out: Map<String, Value>, depth: usize) -> Value {
        let required: Vec<&str> = members
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        for (name, schema) in members.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let wanted = required.contains(&name.as_str());
            if wanted || (depth < Self::DEPTH_MAX && self.random.one_in(2 + depth / 4)) {
                out.insert(name.clone(), self.value(schema, depth + 1));
            }
        }
        if let Some(schema @ Value::Object(_)) = members.get("additionalProperties")
            && depth < Self::DEPTH_MAX
        {
            for name in ["k", "a/b", "x"] {
                if self.random.one_in(3) {
                    out.insert(name.to_owned(), self.value(schema, depth + 1));
                }
            }
        }
        if self.random.one_in(12) {
            out.insert("unknown".to_owned(), boundary(self.random));
        }
        Value::Object(out)
    }

    fn array(&mut self, members: &Map<String, Value>, depth: usize) -> Value {
        if depth >= Self::DEPTH_MAX {
            return json!([]);
        }
        let item = members.get("items").unwrap_or(&Value::Bool(true));
        let length = match members.get("maxItems").and_then(Value::as_u64) {
            Some(most) if self.random.one_in(8) => most as usize + self.random.below(2),
            _ => self.random.below(3),
        };
        (0..length).map(|_| self.value(item, depth + 1)).collect()
    }
}

/// Every member name that the published file mentions, to rename members to.
pub(crate) fn member_names(schema: &Value) -> Vec<String> {
    fn collect(schema: &Value, names: &mut Vec<String>) {
        match schema {
            Value::Object(members) => {
                if let Some(properties) = members.get("properties").and_then(Value::as_object) {
                    names.extend(properties.keys().cloned());
                }
                members.values().for_each(|value| collect(value, names));
            }
            Value::Array(items) => items.iter().for_each(|value| collect(value, names)),
            _ => {}
        }
    }
    let mut names = Vec::new();
    collect(schema, &mut names);
    names.sort();
    names.dedup();
    names
}

/// Changes one place: drops, renames or adds a member, changes a type, sets null or a boundary value, misspells a word,
/// repeats or swaps parts.
pub(crate) fn mutate(value: &mut Value, names: &[String], random: &mut Random) {
    let mut pointers = Vec::new();
    list_pointers(value, &mut String::new(), &mut pointers);
    let pointer = pointers[random.below(pointers.len())].clone();
    let other = pointers[random.below(pointers.len())].clone();
    let graft = value.pointer(&other).cloned().unwrap_or_default();
    let Some(place) = value.pointer_mut(&pointer) else { return };
    match (random.below(8), place) {
        (0, place) => *place = Value::Null,
        (1, Value::String(text)) => text.push('x'),
        (1 | 2, Value::Object(members)) if !members.is_empty() => {
            let name = members.keys().nth(random.below(members.len())).cloned().unwrap_or_default();
            members.shift_remove(&name);
        }
        (3, Value::Object(members)) if !members.is_empty() => {
            let name = members.keys().nth(random.below(members.len())).cloned().unwrap_or_default();
            if let (Some(moved), Some(new)) = (members.shift_remove(&name), random.pick(names)) {
                members.insert(new.clone(), moved);
            }
        }
        (4 | 5, Value::Object(members)) => {
            if let Some(name) = random.pick(names) {
                members.insert(name.clone(), boundary(random));
            }
        }
        (1..=3, Value::Array(items)) => {
            let item = if random.one_in(2) { items.first().cloned() } else { None };
            items.push(item.unwrap_or_else(|| boundary(random)));
        }
        (6, place) => *place = graft,
        (7, place) if random.one_in(3) => *place = json!([graft]),
        (_, place) => *place = boundary(random),
    }
}

fn list_pointers(value: &Value, here: &mut String, pointers: &mut Vec<String>) {
    pointers.push(here.clone());
    let end = here.len();
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                here.push('/');
                here.push_str(&name.replace('~', "~0").replace('/', "~1"));
                list_pointers(member, here, pointers);
                here.truncate(end);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                here.push('/');
                here.push_str(&index.to_string());
                list_pointers(item, here, pointers);
                here.truncate(end);
            }
        }
        _ => {}
    }
}
