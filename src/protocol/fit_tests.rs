//! Tests of fitting: each row of each table, and the conversions that are more than leaving out.

use serde_json::{Value, json};

use super::*;

const A: Revision = Revision::V2024_11_05;

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(members) = value else { panic!("no object: {value}") };
    members
}

fn call(revision: Revision, content: Value) -> Value {
    let mut fitted = object(content);
    result(revision, Method::ToolsCall, &mut fitted);
    Value::Object(fitted)
}

#[test]
fn every_field_is_there_exactly_in_its_revisions() {
    for revision in Revision::ALL {
        for (subject, field, first, last) in FIELDS {
            let mut members = object(json!({"name": "n"}));
            members.insert((*field).to_owned(), json!({"x": 1}));
            strip(*subject, revision, &mut members);
            assert_eq!(
                members.contains_key(*field),
                (*first..=*last).contains(&revision),
                "{subject:?} {field} under {revision}"
            );
            assert!(members.contains_key("name"));
        }
    }
}

#[test]
fn every_capability_is_advertised_exactly_in_its_revisions() {
    let offered = Capabilities {
        tools: Some(true),
        prompts: Some(false),
        resources: Some(super::super::ResourcesCapability { subscribe: true, list_changed: false }),
        completions: true,
        logging: true,
        tasks: true,
        extensions: object(json!({"org.example/x": {}})),
        experimental: object(json!({"y": {}})),
    };
    for revision in Revision::ALL {
        let shown = capabilities(revision, &offered);
        for (name, first, last) in CAPABILITIES {
            assert_eq!(
                shown.contains_key(*name),
                (*first..=*last).contains(&revision),
                "{name} under {revision}"
            );
        }
        let extensions = shown.get("extensions");
        let declared = json!({"org.example/x": {}, "io.modelcontextprotocol/tasks": {}});
        assert_eq!(extensions, (revision == E).then_some(&declared), "{revision}");
        let tasks = json!({"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}});
        assert_eq!(shown.get("tasks"), (revision == D).then_some(&tasks), "{revision}");
        let told = if revision == A { json!({}) } else { json!({"listChanged": true}) };
        assert_eq!(shown["tools"], told, "{revision}");
        assert_eq!(shown["prompts"], json!({}));
        assert_eq!(shown["resources"], json!({"subscribe": true}));
        assert!(capabilities(revision, &Capabilities::default()).is_empty());
    }
}

#[test]
fn content_is_told_in_words_that_each_revision_has() {
    let audio = json!({"type": "audio", "data": "AAAA", "mimeType": "audio/wav", "_meta": {"k": 1}});
    let link = json!({"type": "resource_link", "uri": "test://a", "name": "a", "title": "The A", "description": "first",
        "icons": [{"src": "https://example.org/i.png"}], "annotations": {"priority": 1, "lastModified": "2025-01-01T00:00:00Z"}});
    let all = json!({"content": [audio, link]});
    assert_eq!(
        call(A, all.clone()),
        json!({"content": [
            {"type": "resource", "resource": {"uri": "attachment:audio", "mimeType": "audio/wav", "blob": "AAAA"}},
            {"type": "text", "text": "The A (test://a): first", "annotations": {"priority": 1}},
        ]})
    );
    assert_eq!(
        call(B, all.clone()),
        json!({"content": [
            {"type": "audio", "data": "AAAA", "mimeType": "audio/wav"},
            {"type": "text", "text": "The A (test://a): first", "annotations": {"priority": 1}},
        ]})
    );
    let mut without_icons = all.clone();
    without_icons["content"][1].as_object_mut().unwrap().shift_remove("icons");
    assert_eq!(call(C, all.clone()), without_icons);
    for revision in [D, E] {
        assert_eq!(call(revision, all.clone()), all);
    }
}

#[test]
fn structured_content_is_an_object_or_absent_before_2026_07_28() {
    for (value, kept_since) in [(json!({"a": 1}), C), (json!([1]), E), (json!(null), E), (json!("x"), E)] {
        for revision in Revision::ALL {
            let fitted = call(revision, json!({"content": [], "structuredContent": value}));
            assert_eq!(
                fitted.get("structuredContent").is_some(),
                revision >= kept_since,
                "{value} under {revision}"
            );
        }
    }
}

#[test]
fn no_legacy_result_carries_a_modern_envelope_and_our_own_meta_stays() {
    let newest = json!({"content": [], "resultType": "complete", "ttlMs": 1, "cacheScope": "public",
        "_meta": {meta::SERVER_INFO: {"name": "n"}, "org.example/mine": 1}});
    for revision in Revision::LEGACY {
        assert_eq!(call(revision, newest.clone()), json!({"content": [], "_meta": {"org.example/mine": 1}}));
    }
    assert_eq!(call(E, newest.clone()), newest);
}

#[test]
fn a_tool_has_only_schemas_that_its_revision_can_read() {
    let newest = json!({"name": "t", "inputSchema": {"type": "object", "additionalProperties": false,
        "properties": {"any": true, "none": false, "deep": {"properties": {"x": true}, "const": {"properties": {"y": true}}}}},
        "outputSchema": {"type": "array"}});
    let mut fitted = newest.clone();
    item(D, Method::ToolsList, &mut fitted);
    assert_eq!(
        fitted,
        json!({"name": "t", "inputSchema": {"type": "object", "additionalProperties": false,
            "properties": {"any": {}, "none": {"not": {}}, "deep": {"properties": {"x": {}}, "const": {"properties": {"y": true}}}}}})
    );
    let mut fitted = newest.clone();
    item(E, Method::ToolsList, &mut fitted);
    assert_eq!(fitted, newest);
}

#[test]
fn a_completion_has_at_most_a_hundred_values_and_says_so() {
    let values: Vec<String> = (0..150).map(|n| n.to_string()).collect();
    for revision in Revision::ALL {
        let mut completed = object(json!({"completion": {"values": values}}));
        result(revision, Method::CompletionComplete, &mut completed);
        let completion = &completed["completion"];
        assert_eq!(completion["values"].as_array().unwrap().len(), 100);
        assert_eq!((&completion["total"], &completion["hasMore"]), (&json!(150), &json!(true)));
    }
}

#[test]
fn what_a_client_has_no_words_for_is_not_asked() {
    let url = json!({"mode": "url", "message": "m", "url": "https://example.org", "elicitationId": "e"});
    let tools = json!({"maxTokens": 1, "messages": [{"role": "user", "content": {"type": "tool_use", "id": "1", "name": "t", "input": {}}}]});
    let choices = json!({"message": "m", "requestedSchema": {"type": "object", "properties": {"x": {"type": "array"}}}});
    let table = [
        (Method::ElicitationCreate, url, D),
        (Method::SamplingCreateMessage, tools, D),
        (Method::ElicitationCreate, choices, D),
    ];
    for (method, params, since) in table {
        for revision in Revision::ALL {
            let fitted = ask(revision, method, &mut object(params.clone()));
            assert_eq!(fitted.is_ok(), revision >= since, "{params} under {revision}");
        }
    }
}

#[test]
fn asks_are_told_in_older_words_where_there_are_some() {
    let mut sampling = object(json!({"maxTokens": 1, "tools": [], "messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "_meta": {}}]}));
    ask(C, Method::SamplingCreateMessage, &mut sampling).unwrap();
    assert_eq!(
        Value::Object(sampling),
        json!({"maxTokens": 1, "messages": [
            {"role": "user", "content": {"type": "text", "text": "a"}},
            {"role": "user", "content": {"type": "text", "text": "b"}}]})
    );
    let mut form = object(
        json!({"mode": "form", "message": "m", "requestedSchema": {"type": "object", "properties": {
        "x": {"type": "string", "default": "1", "oneOf": [{"const": "1", "title": "One"}, {"const": "2", "title": "Two"}]}}}}),
    );
    ask(C, Method::ElicitationCreate, &mut form).unwrap();
    assert_eq!(
        Value::Object(form),
        json!({"message": "m", "requestedSchema": {"type": "object", "properties": {
            "x": {"type": "string", "enum": ["1", "2"], "enumNames": ["One", "Two"]}}}})
    );
}
