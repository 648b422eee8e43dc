use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

const HEADER: &str = r#"{"type":"header","format":"mcp-rec/1","client":"c","version":"1","transport":"stdio","variant":"basic","recorded":"2026-11-22T10:55:10Z"}"#;

fn told(text: &str) -> String {
    Transcript::validate(text).map_or_else(|error| error.to_string(), |_| "a transcript".to_owned())
}

#[test]
fn each_kind_of_line_is_read_and_written_back() {
    let lines = [
        HEADER,
        r#"{"n":1,"t":0.1,"dir":"event","event":"start","argv":["--stdio"]}"#,
        r#"{"n":2,"t":0.2,"dir":"c2s","raw":"{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"ping\"}"}"#,
        r#"{"n":3,"t":0.25,"dir":"c2s","http":{"method":"POST","path":"/mcp","headers":{"Accept":"a","X":["1","2"]}},"raw":"{}"}"#,
        r#"{"n":4,"t":0.25,"dir":"s2c","http":{"status":200},"of":3}"#,
        r#"{"n":5,"t":0.25,"dir":"s2c","sse":"message","sse_id":"a-1","conn":2,"of":3,"raw":"{}"}"#,
        r#"{"n":6,"t":0.5,"dir":"c2s","ws":"handshake","path":"/ws","headers":{}}"#,
        r#"{"n":7,"t":0.5,"dir":"s2c","ws":"accept","subprotocol":"mcp"}"#,
        r#"{"n":8,"t":0.5,"dir":"event","event":"ws-close","code":1000,"reason":""}"#,
        r#"{"n":1,"t":0.0,"dir":"event","event":"start","argv":[]}"#,
        r#"{"type":"result","rc":0,"ok":true,"seconds":1.5}"#,
    ];
    let text = lines.join("\n") + "\n";
    let transcript = Transcript::validate(&text).unwrap();
    assert_eq!(transcript.entries.len(), 9);
    let (left, right) = (transcript.to_text().unwrap(), text);
    for (left, right) in left.lines().zip(right.lines()) {
        let [left, right] = [left, right].map(|line| serde_json::from_str::<Value>(line).unwrap());
        assert_eq!(left, right);
    }
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let after_header = |line: &str| format!("{HEADER}\n\n{line}\n");
    let table = [
        (String::new(), "the transcript is empty: its first line must be the header"),
        (HEADER.replace("mcp-rec/1", "mcp-rec/9"), "line 1 is no line of a transcript: /format: "),
        (HEADER.replace("2026-11-22", "yesterday"), "line 1 is no line of a transcript: /recorded: "),
        (after_header("nonsense"), "line 3 is no line of a transcript: expected"),
        (after_header(r#"{"n":1,"t":0,"dir":"up"}"#), "line 3 is no line of a transcript: /dir: "),
        (after_header(r#"{"n":0,"t":0,"dir":"c2s","raw":""}"#), "line 3 is no line of a transcript: /n: "),
        (
            after_header(r#"{"n":2,"t":0,"dir":"c2s","raw":""}"#),
            "line 3 is no line of a transcript: `n` is 2 where 1",
        ),
        (after_header(r#"{"n":1,"t":0,"dir":"c2s"}"#), "line 3 is no line of a transcript: "),
        (
            after_header(r#"{"n":1,"t":0,"dir":"event","raw":"x"}"#),
            "line 3 is no line of a transcript: \"event\"",
        ),
        (
            after_header(r#"{"n":1,"t":0,"dir":"c2s","http":{"status":200}}"#),
            "line 3 is no line of a transcript: /http: \"method\"",
        ),
        (
            after_header(
                "{\"type\":\"result\",\"rc\":0,\"ok\":true,\"seconds\":1}\n{\"n\":1,\"t\":0,\"dir\":\"c2s\",\"raw\":\"\"}",
            ),
            "line 4 is no line of a transcript: nothing may follow the result",
        ),
    ];
    for (text, expected) in table {
        let told = told(&text);
        assert!(told.starts_with(expected), "{text}\n{told}\n{expected}");
    }
}

#[test]
fn a_value_is_never_quoted_by_a_complaint() {
    let line = json!({"n": 1, "t": 0, "dir": "c2s", "http": {"method": "POST", "path": "/", "headers": {"Authorization": {"x": "Bearer secret"}}}});
    let told = told(&format!("{HEADER}\n{line}"));
    assert!(told.contains("/http/headers/Authorization"), "{told}");
    assert!(!told.contains("secret"), "{told}");
}

fn headers() -> impl Strategy<Value = Map<String, Value>> {
    proptest::collection::btree_map("[A-Za-z-]{1,12}", "\\PC{0,12}", 0..4)
        .prop_map(|headers| headers.into_iter().map(|(name, value)| (name, value.into())).collect())
}

fn entry() -> impl Strategy<Value = Entry> {
    let base = (0.0..1e6f64).prop_map(|t| Entry::new(1, t, Direction::C2s));
    let number = proptest::option::of(1..1_000_000u64);
    (base, 0..6u8, "\\PC{0,40}", headers(), number.clone(), number).prop_map(
        |(base, kind, raw, headers, conn, of)| {
            let base = Entry { conn, of, ..base };
            let raw = Some(raw);
            match kind {
                0 => Entry { raw, ..base },
                1 => Entry {
                    dir: Direction::S2c,
                    sse: Some("message".into()),
                    sse_id: raw.clone(),
                    raw,
                    ..base
                },
                2 => {
                    let (method, path) = (Some("POST".to_owned()), Some("/mcp".to_owned()));
                    Entry {
                        http: Some(Http { method, path, status: None, headers: Some(headers) }),
                        raw,
                        ..base
                    }
                }
                3 => {
                    let http = Http { method: None, path: None, status: Some(202), headers: Some(headers) };
                    Entry { dir: Direction::S2c, http: Some(http), ..base }
                }
                4 => Entry {
                    ws: Some("handshake".into()),
                    path: Some("/ws".into()),
                    headers: Some(headers),
                    ..base
                },
                _ => Entry {
                    dir: Direction::Event,
                    event: Some("ws-close".into()),
                    code: Some(1000),
                    reason: raw,
                    ..base
                },
            }
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_the_same(
        entries in proptest::collection::vec(entry(), 0..12),
        has_result in any::<bool>(),
    ) {
        let header = Transcript::parse(HEADER).unwrap().header;
        let numbered = entries.into_iter().zip(1..).map(|(entry, n)| Entry { n, ..entry }).collect();
        let result = has_result.then_some(RunResult { rc: -15, ok: false, seconds: 0.25 });
        let transcript = Transcript { header, entries: numbered, result };
        let text = transcript.to_text().unwrap();
        prop_assert_eq!(Transcript::validate(&text).unwrap(), transcript);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,80}") {
        let _ = Transcript::validate(&text);
        let _ = Transcript::validate(&format!("{HEADER}\n{text}"));
    }
}
