//! A live answer beside the recorded one.

use serde_json::{Map, Value};

use super::rules::Rule;
use crate::revision::Revision;

/// How a live answer differs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Difference {
    pub(super) rule: Rule,
    /// JSON pointer into the message.
    pub(super) at: String,
    pub(super) text: String,
}

/// Differences told of one answer at most.
const DIFFERENCES_MAX: usize = 8;

/// Members that may be absent, and differ.
const FREE: &[&str] = &[
    "_meta",
    "instructions",
    "title",
    "description",
    "icons",
    "annotations",
    "ttlMs",
    "cacheScope",
    "total",
    "hasMore",
    "nextCursor",
    "size",
    "lastModified",
    "websiteUrl",
    "pollInterval",
    "ttl",
    "statusMessage",
];
/// Members that must be there, whatever they hold.
const CLOSED: &[&str] = &["serverInfo", "inputSchema", "outputSchema", "supportedVersions", "execution"];
/// Lists whose items have names: member, and the member of an item that names it.
const NAMED: &[(&str, &str)] = &[
    ("tools", "name"),
    ("prompts", "name"),
    ("resources", "uri"),
    ("resourceTemplates", "uriTemplate"),
    ("arguments", "name"),
];
/// Lists that have as many items of the same types.
const SEQUENCES: &[&str] = &["content", "contents", "messages"];

/// Members and capabilities that older revisions do not have: servers leave them out there.
const SINCE: &[(&str, Revision)] = &[
    ("completions", Revision::V2025_03_26),
    ("structuredContent", Revision::V2025_06_18),
    ("outputSchema", Revision::V2025_06_18),
    ("tasks", Revision::V2025_11_25),
    ("extensions", Revision::V2026_07_28),
];

/// Compares a live answer under `revision` with the recorded one; `recorded` has its made-up names replaced already.
pub(super) fn compare(recorded: &Value, live: &Value, revision: Revision, is_exact: bool) -> Vec<Difference> {
    let mut walk = Walk { found: Vec::new(), revision, is_exact };
    match (recorded.get("result"), live.get("result")) {
        (Some(recorded), Some(live)) => walk.result(recorded, live),
        (None, None) => walk.error(&recorded["error"], &live["error"]),
        (Some(_), None) => {
            let error = &live["error"];
            let text =
                format!("a result was recorded, and error {} came: {}", error["code"], error["message"]);
            walk.tell(Rule::Kind, "/error", text);
        }
        (None, Some(_)) => {
            let text = format!("error {} was recorded, and a result came", recorded["error"]["code"]);
            walk.tell(Rule::Kind, "/result", text);
        }
    }
    walk.found.truncate(DIFFERENCES_MAX);
    walk.found
}

/// The family of an error: codes that say the same in different revisions and SDKs.
const fn family(code: i64) -> i64 {
    match code {
        // Not found is a case of invalid params since 2026-07-28.
        -32002 => -32602,
        code => code,
    }
}

struct Walk {
    found: Vec<Difference>,
    revision: Revision,
    is_exact: bool,
}

impl Walk {
    /// Whether the revision has this member or capability.
    fn knows(&self, name: &str) -> bool {
        SINCE.iter().all(|(newer, since)| *newer != name || self.revision >= *since)
    }

    fn tell(&mut self, rule: Rule, at: impl Into<String>, text: impl Into<String>) {
        self.found.push(Difference { rule, at: at.into(), text: text.into() });
    }

    fn error(&mut self, recorded: &Value, live: &Value) {
        let [was, is] = [recorded, live].map(|error| error["code"].as_i64().unwrap_or_default());
        if family(was) != family(is) {
            let text = format!("error {was} was recorded, and {is} came: {}", live["message"]);
            self.tell(Rule::Kind, "/error/code", text);
        }
        if self.is_exact {
            self.exact("/error", recorded, live);
        }
    }

    fn result(&mut self, recorded: &Value, live: &Value) {
        let kind = |result: &Value| result["resultType"].as_str().unwrap_or("complete").to_owned();
        let (was, is) = (kind(recorded), kind(live));
        if was != is {
            self.tell(Rule::Kind, "/result/resultType", format!("`{was}` was recorded, and `{is}` came"));
            return;
        }
        let failed = |result: &Value| result["isError"].as_bool().unwrap_or_default();
        if failed(recorded) != failed(live) {
            let words = |failed| if failed { "a failure (`isError`)" } else { "a success" };
            let said =
                live["content"][0]["text"].as_str().map(|text| format!(": {text:?}")).unwrap_or_default();
            let text =
                format!("{} was recorded, and {} came{said}", words(failed(recorded)), words(failed(live)));
            self.tell(Rule::Kind, "/result/isError", text);
            return;
        }
        if let (Some(was), Some(is)) =
            (recorded["protocolVersion"].as_str(), live["protocolVersion"].as_str())
            && was != is
        {
            self.tell(
                Rule::Revision,
                "/result/protocolVersion",
                format!("{was} was recorded, and {is} came"),
            );
        }
        self.value("/result", recorded, live);
        if self.is_exact {
            self.exact("/result", recorded, live);
        }
    }

    fn value(&mut self, at: &str, recorded: &Value, live: &Value) {
        match (recorded, live) {
            (Value::Object(recorded), Value::Object(live)) => self.object(at, recorded, live),
            (Value::Array(recorded), Value::Array(live)) => {
                // Without names there is only the shape of an item to go by.
                if let (Some(recorded), Some(live)) = (recorded.first(), live.first()) {
                    self.value(&format!("{at}/0"), recorded, live);
                }
            }
            _ if type_of(recorded) != type_of(live) => {
                let text = format!("{} was recorded, and {} came", type_of(recorded), type_of(live));
                self.tell(Rule::Members, at, text);
            }
            _ => {}
        }
    }

    fn object(&mut self, at: &str, recorded: &Map<String, Value>, live: &Map<String, Value>) {
        for (key, value) in recorded {
            if FREE.contains(&key.as_str()) || !self.knows(key) || (key == "isError" && value == false) {
                continue;
            }
            let at = format!("{at}/{key}");
            let Some(other) = live.get(key) else {
                self.tell(Rule::Members, at, "is missing");
                continue;
            };
            let named = NAMED.iter().find(|(list, _)| list == key);
            match (value, other) {
                _ if CLOSED.contains(&key.as_str()) => {}
                (Value::Object(recorded), Value::Object(live)) if key == "capabilities" => {
                    let missing = |name: &&String| !live.contains_key(*name) && self.knows(name);
                    let missing: Vec<&String> = recorded.keys().filter(missing).collect();
                    for name in missing {
                        self.tell(Rule::Listed, &at, format!("the capability `{name}` is not declared"));
                    }
                }
                (Value::Array(recorded), Value::Array(live)) => {
                    if let Some((_, name)) = named {
                        self.named(&at, name, recorded, live);
                    } else if SEQUENCES.contains(&key.as_str()) {
                        self.sequence(&at, recorded, live);
                    } else {
                        self.value(&at, value, other);
                    }
                }
                _ => self.value(&at, value, other),
            }
        }
    }

    fn named(&mut self, at: &str, name: &str, recorded: &[Value], live: &[Value]) {
        for item in recorded {
            match live.iter().position(|other| other[name] == item[name]) {
                Some(place) => {
                    self.value(&format!("{at}/{place}"), item, &live[place]);
                    let times =
                        |list: &[Value]| list.iter().filter(|other| other[name] == item[name]).count();
                    let count = times(live);
                    if count > times(recorded) {
                        let text = format!("{} is listed {count} times", item[name]);
                        self.tell(Rule::Listed, format!("{at}/{place}"), text);
                    }
                }
                None => self.tell(Rule::Listed, at, format!("{} is not listed", item[name])),
            }
        }
    }

    fn sequence(&mut self, at: &str, recorded: &[Value], live: &[Value]) {
        if recorded.len() != live.len() {
            let text = format!("{} were recorded, and {} came", items(recorded.len()), live.len());
            self.tell(Rule::Members, at, text);
        }
        // Links lead where they like; what was asked for is under its own address.
        let told = if at.ends_with("/contents") { "uri" } else { "role" };
        for (index, (item, other)) in recorded.iter().zip(live).enumerate() {
            let at = format!("{at}/{index}");
            let odd = Some(told).filter(|member| {
                item[member].is_string() && other[member].is_string() && item[member] != other[member]
            });
            if let Some(member) = odd {
                let text = format!("{} was recorded, and {} came", item[member], other[member]);
                self.tell(Rule::Members, format!("{at}/{member}"), text);
            } else if item["type"] == other["type"] {
                self.value(&at, item, other);
            } else {
                let text = format!("type {} was recorded, and {} came", item["type"], other["type"]);
                self.tell(Rule::Members, at, text);
            }
        }
    }

    /// The first place where a recorded value is not the live one.
    fn exact(&mut self, at: &str, recorded: &Value, live: &Value) {
        match (recorded, live) {
            (Value::Object(recorded), Value::Object(live)) => {
                for (key, value) in recorded {
                    if matches!(key.as_str(), "_meta" | "serverInfo" | "ttlMs") {
                        continue;
                    }
                    if let Some(other) = live.get(key) {
                        self.exact(&format!("{at}/{key}"), value, other);
                    } else if FREE.contains(&key.as_str()) {
                        self.tell(Rule::Exact, format!("{at}/{key}"), "is missing");
                    }
                }
                for key in live.keys().filter(|key| !recorded.contains_key(*key) && *key != "_meta") {
                    self.tell(Rule::Exact, format!("{at}/{key}"), "was not recorded");
                }
            }
            (Value::Array(recorded), Value::Array(live)) if recorded.len() == live.len() => {
                for (index, (value, other)) in recorded.iter().zip(live).enumerate() {
                    self.exact(&format!("{at}/{index}"), value, other);
                }
            }
            _ if recorded != live => {
                let [was, is] = [recorded, live].map(|value| super::message::clip(&value.to_string(), 200));
                self.tell(Rule::Exact, at, format!("{was} was recorded, and {is} came"));
            }
            _ => {}
        }
    }
}

fn items(count: usize) -> String {
    if count == 1 { "1 item".to_owned() } else { format!("{count} items") }
}

const fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(recorded: &Value, live: &Value, is_exact: bool) -> String {
        let found = compare(recorded, live, Revision::V2025_06_18, is_exact);
        let lines: Vec<String> =
            found.iter().map(|found| format!("{} {} {}", found.rule.name(), found.at, found.text)).collect();
        lines.join("\n")
    }

    #[test]
    fn what_differs_is_told_by_its_rule_and_its_place() {
        let result = |result: Value| json!({"jsonrpc": "2.0", "id": 1, "result": result});
        let error = |code: i64| json!({"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": "no"}});
        let text = |text: &str| json!({"content": [{"type": "text", "text": text}], "isError": false});
        let table = [
            (result(text("a")), result(json!({"content": [{"type": "text", "text": "b"}]})), ""),
            (
                result(text("a")),
                error(-32602),
                "kind /error a result was recorded, and error -32602 came: \"no\"",
            ),
            (error(-32602), result(text("a")), "kind /result error -32602 was recorded, and a result came"),
            (error(-32602), error(-32002), ""),
            (
                error(-32602),
                error(-32601),
                "kind /error/code error -32602 was recorded, and -32601 came: \"no\"",
            ),
            (
                result(text("a")),
                result(json!({"content": [{"type": "text", "text": "b"}], "isError": true})),
                "kind /result/isError a success was recorded, and a failure (`isError`) came: \"b\"",
            ),
            (
                result(json!({"resultType": "input_required"})),
                result(json!({"resultType": "complete"})),
                "kind /result/resultType `input_required` was recorded, and `complete` came",
            ),
            (
                result(text("a")),
                result(json!({"content": []})),
                "members /result/content 1 item were recorded, and 0 came",
            ),
            (
                result(text("a")),
                result(json!({"content": [{"type": "image"}]})),
                "members /result/content/0 type \"text\" was recorded, and \"image\" came",
            ),
            (
                result(
                    json!({"tools": [{"name": "a", "inputSchema": {}}, {"name": "b", "outputSchema": {}}]}),
                ),
                result(json!({"tools": [{"name": "b"}, {"name": "c"}]})),
                "listed /result/tools \"a\" is not listed\nmembers /result/tools/0/outputSchema is missing",
            ),
            (
                result(
                    json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}, "logging": {}}}),
                ),
                result(
                    json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {"listChanged": true}}}),
                ),
                "revision /result/protocolVersion 2025-06-18 was recorded, and 2025-11-25 came\n\
                 listed /result/capabilities the capability `logging` is not declared",
            ),
            (
                result(json!({"tools": [{"name": "a"}]})),
                result(json!({"tools": [{"name": "a"}, {"name": "a"}]})),
                "listed /result/tools/0 \"a\" is listed 2 times",
            ),
            (
                result(json!({"messages": [{"role": "user", "content": {"type": "text"}}]})),
                result(json!({"messages": [{"role": "assistant", "content": {"type": "text"}}]})),
                "members /result/messages/0/role \"user\" was recorded, and \"assistant\" came",
            ),
            (
                result(json!({"contents": [{"uri": "a://b", "text": "c"}]})),
                result(json!({"contents": [{"uri": "a://c", "text": "c"}]})),
                "members /result/contents/0/uri \"a://b\" was recorded, and \"a://c\" came",
            ),
            (
                result(json!({"content": [{"type": "resource_link", "uri": "tmp://1", "name": "n"}]})),
                result(json!({"content": [{"type": "resource_link", "uri": "tmp://2", "name": "n"}]})),
                "",
            ),
            (
                result(json!({"structuredContent": {"sum": 5, "of": [1]}})),
                result(json!({"structuredContent": {"sum": "5", "of": []}})),
                "members /result/structuredContent/sum a number was recorded, and a text came",
            ),
        ];
        for (recorded, live, expected) in table {
            assert_eq!(told(&recorded, &live, false), expected, "{recorded}\n{live}");
        }
        let older = result(json!({"capabilities": {"completions": {}}, "structuredContent": {}}));
        assert_eq!(compare(&older, &result(json!({"capabilities": {}})), Revision::V2024_11_05, false), []);
        let exactly = "exact /result/content/0/text \"a\" was recorded, and \"b\" came";
        assert_eq!(told(&result(text("a")), &result(text("b")), true), exactly);
    }
}
