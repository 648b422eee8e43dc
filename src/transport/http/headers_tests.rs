use serde_json::json;

use super::*;
use crate::wire::{Envelope, Frame, parse_frame};

type Row<'a> = (&'a str, &'a [(&'a str, &'a [u8])], bool);
type MirroredRow<'a> = (Value, &'a [&'a [u8]], bool);

fn map(headers: &[(&str, &[u8])]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            hyper::header::HeaderValue::from_bytes(value).unwrap(),
        );
    }
    map
}

fn request(method: &str, params: &Value) -> Request {
    let text = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    match parse_frame(text.as_bytes()).unwrap() {
        Frame::Single(Envelope::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn routing_headers_repeat_the_body_exactly() {
    let version: (&str, &[u8]) = ("mcp-protocol-version", b"2026-07-28");
    let call: (&str, &[u8]) = ("mcp-method", b"tools/call");
    let table: &[Row<'_>] = &[
        ("echo", &[version, call, ("mcp-name", b"echo")], true),
        ("echo", &[version, call, ("mcp-name", b" \techo \t")], true),
        ("echo", &[version, call, ("mcp-name", b"=?base64?ZWNobw==?=")], true),
        ("\u{e9}", &[version, call, ("mcp-name", "=?base64?w6k=?=".as_bytes())], true),
        ("=?base64?x", &[version, call, ("mcp-name", b"=?base64?x")], true),
        ("x?=", &[version, call, ("mcp-name", b"x?=")], true),
        ("=?BASE64?ZWNobw==?=", &[version, call, ("mcp-name", b"=?BASE64?ZWNobw==?=")], true),
        ("", &[version, call, ("mcp-name", b"=?base64??=")], true),
        ("echo", &[version, call], false),
        ("echo", &[version, call, ("mcp-name", b"Echo")], false),
        ("echo", &[version, call, ("mcp-name", b"echo"), ("mcp-name", b"echo")], false),
        ("echo", &[version, call, ("mcp-name", b"=?base64?ZWNobw?=")], false),
        ("echo", &[version, call, ("mcp-name", b"=?base64?ZWNobx==?=")], false),
        ("echo", &[version, call, ("mcp-name", b"=?base64?ZWN obw==?=")], false),
        ("\u{e9}", &[version, call, ("mcp-name", b"=?base64?6Q==?=")], false),
        ("\u{e9}", &[version, call, ("mcp-name", "\u{e9}".as_bytes())], false),
        ("a\tb", &[version, call, ("mcp-name", b"a\tb")], false),
        ("echo", &[version, ("mcp-method", b"TOOLS/CALL"), ("mcp-name", b"echo")], false),
        ("echo", &[version, ("mcp-method", b"=?base64?dG9vbHMvY2FsbA==?="), ("mcp-name", b"echo")], false),
        ("echo", &[version, ("mcp-name", b"echo")], false),
        ("echo", &[version, call, call, ("mcp-name", b"echo")], false),
        ("echo", &[call, ("mcp-name", b"echo")], false),
        ("echo", &[("mcp-protocol-version", b"2025-11-25"), call, ("mcp-name", b"echo")], false),
        ("echo", &[version, version, call, ("mcp-name", b"echo")], false),
    ];
    for (name, headers, passes) in table {
        let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
        let request = request("tools/call", &json!({"name": name, "_meta": meta}));
        let seen = check_routing(&map(headers), &request);
        assert_eq!(seen.is_ok(), *passes, "{name:?} {headers:?}: {seen:?}");
    }
}

#[test]
fn a_name_is_only_due_where_the_method_has_one() {
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    let table: [(&str, Value, &[u8], bool); 10] = [
        ("resources/read", json!({"uri": "a:b", "_meta": meta}), b"a:b", true),
        ("resources/read", json!({"uri": "a:b", "_meta": meta}), b"a:c", false),
        ("prompts/get", json!({"name": "p", "_meta": meta}), b"p", true),
        ("prompts/get", json!({"name": "p", "_meta": meta}), b"q", false),
        ("tasks/get", json!({"taskId": "t", "_meta": meta}), b"t", true),
        ("tasks/get", json!({"taskId": "t", "_meta": meta}), b"u", false),
        ("tasks/update", json!({"taskId": "t", "_meta": meta}), b"u", false),
        ("tasks/cancel", json!({"taskId": "t", "_meta": meta}), b"u", false),
        ("tools/list", json!({"_meta": meta}), b"anything", true),
        // The params are wrong, not the header.
        ("tools/call", json!({"_meta": meta}), b"x", true),
    ];
    for (method, params, name, passes) in table {
        let headers = map(&[
            ("mcp-protocol-version", b"2026-07-28"),
            ("mcp-method", method.as_bytes()),
            ("mcp-name", name),
        ]);
        assert_eq!(check_routing(&headers, &request(method, &params)).is_ok(), passes, "{method} {params}");
    }
}

#[test]
fn mirrored_arguments_are_compared_by_their_type() {
    let mirrored =
        [MirroredArgument { header: "Deep".to_owned(), path: vec!["a".to_owned(), "b".to_owned()] }];
    let table: [MirroredRow<'_>; 29] = [
        (json!("eu"), &[b"eu"], true),
        (json!("eu"), &[b" eu "], true),
        (json!("eu"), &[b"EU"], false),
        (json!("\u{e9}"), &[b"=?base64?w6k=?="], true),
        (json!("\u{e9}"), &["\u{e9}".as_bytes()], false),
        (json!("eu"), &[], false),
        (json!("eu"), &[b"eu", b"eu"], false),
        (json!("42"), &[b"42"], true),
        (json!("42"), &[b"42.0"], false),
        (json!(42), &[b"42"], true),
        (json!(42), &[b"42.0"], true),
        (json!(42.0), &[b"42"], true),
        (json!(42), &[b"=?base64?NDI=?="], true),
        (json!(42), &[b"43"], false),
        (json!(42), &[b"42.5"], false),
        (json!(42), &[b"42."], false),
        (json!(42), &[b"+42"], false),
        (json!(42), &[b"4.2e1"], false),
        (json!(-7), &[b"-7"], true),
        (json!(1.5), &[b"1.5"], false),
        (json!(9_007_199_254_740_991_i64), &[b"9007199254740991"], true),
        (json!(9_007_199_254_740_993_i64), &[b"9007199254740993"], false),
        (json!(true), &[b"true"], true),
        (json!(false), &[b"false"], true),
        (json!(true), &[b"True"], false),
        (json!(true), &[b"1"], false),
        (Value::Null, &[], true),
        (Value::Null, &[b""], false),
        (json!([1]), &[b"[1]"], false),
    ];
    for (value, said, passes) in table {
        let headers: Vec<(&str, &[u8])> = said.iter().map(|said| ("mcp-param-deep", *said)).collect();
        let arguments = json!({"a": {"b": value}});
        let seen = check_mirrored(&map(&headers), &mirrored, arguments.as_object());
        assert_eq!(seen.is_ok(), passes, "{value} {said:?}: {seen:?}");
    }
    assert!(check_mirrored(&map(&[]), &mirrored, None).is_ok());
    assert!(check_mirrored(&map(&[("mcp-param-deep", b"x")]), &mirrored, None).is_err());
    assert!(check_mirrored(&map(&[("mcp-param-other", b"x")]), &mirrored, None).is_ok());
}

#[test]
fn accept_is_read_with_ranges_and_qualities() {
    let table: [(&[&str], bool, bool); 12] = [
        (&["application/json, text/event-stream"], true, true),
        (&["text/event-stream;q=0.5,application/json;q=0.1"], true, true),
        (&["application/json", "text/event-stream"], true, true),
        (&["*/*"], true, true),
        (&["application/*"], true, false),
        (&["application/json"], true, false),
        (&["text/event-stream"], false, true),
        (&["*/*, text/event-stream;q=0"], true, false),
        (&["text/event-stream;q=0, */*"], true, false),
        (&["APPLICATION/JSON, Text/Event-Stream"], true, true),
        (&["text/html"], false, false),
        (&[], true, true),
    ];
    for (values, json, stream) in table {
        let headers: Vec<(&str, &[u8])> = values.iter().map(|value| ("accept", value.as_bytes())).collect();
        let headers = map(&headers);
        assert_eq!(accepts(&headers, "application", "json"), json, "{values:?}");
        assert_eq!(accepts(&headers, "text", "event-stream"), stream, "{values:?}");
    }
}

#[test]
fn a_body_must_be_declared_as_json_once() {
    let table: [(&[&[u8]], bool); 6] = [
        (&[b"application/json"], true),
        (&[b"Application/JSON; charset=utf-8"], true),
        (&[b"application/json-rpc"], false),
        (&[b"text/plain"], false),
        (&[], false),
        (&[b"application/json", b"application/json"], false),
    ];
    for (values, passes) in table {
        let headers: Vec<(&str, &[u8])> = values.iter().map(|value| ("content-type", *value)).collect();
        assert_eq!(is_json(&map(&headers)), passes, "{values:?}");
    }
}
