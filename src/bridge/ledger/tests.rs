use tokio::time::Instant;

use super::*;

const INITIALIZE: &str =
    r#"{"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"2025-06-18"}}"#;

fn texts(frames: &[Vec<u8>]) -> Vec<String> {
    frames.iter().map(|frame| String::from_utf8(frame.clone()).unwrap()).collect()
}

fn passes(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Pass)
}

/// A ledger whose host has sent `frames` over a connection.
fn sending(ledger: &mut Ledger, frames: &[&str]) {
    for frame in frames {
        assert!(passes(&ledger.host_sent(frame.as_bytes(), &mut Vec::new())), "{frame}");
    }
}

fn opened() -> Ledger {
    let mut ledger = Ledger::default();
    sending(&mut ledger, &[INITIALIZE]);
    let seen = ledger.server_sent(br#"{"jsonrpc":"2.0","id":"i","result":{"protocolVersion":"2025-06-18"}}"#);
    assert_eq!(seen.negotiated.as_deref(), Some("2025-06-18"));
    sending(&mut ledger, &[r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#]);
    ledger
}

#[test]
fn what_was_in_flight_is_answered_once_with_its_exact_id() {
    let mut ledger = Ledger::default();
    for id in ["\"a\"", "-7", "123456789012345678901234567890", "1.0"] {
        sending(&mut ledger, &[&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call"}}"#)]);
    }
    let mut answers = Vec::new();
    ledger.lose(Instant::now(), "the connection was lost", &mut answers);
    let mut ids: Vec<String> = texts(&answers)
        .iter()
        .map(|text| text.split("\"id\":").nth(1).unwrap().split(",\"error\"").next().unwrap().to_owned())
        .collect();
    ids.sort();
    assert_eq!(ids, ["\"a\"", "-7", "1.0", "123456789012345678901234567890"]);
    assert!(texts(&answers)[0].contains("may or may not have been carried out"));
    let late = ledger.server_sent(br#"{"jsonrpc":"2.0","id":-7,"result":{}}"#);
    assert!(matches!(late.verdict, Verdict::Drop), "answered already");
}

#[test]
fn what_waits_is_not_lost_with_a_connection_and_expires() {
    let mut ledger = Ledger::default();
    let frame = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let now = Instant::now();
    let mut answers = Vec::new();
    ledger.host_sent(frame, &mut answers);
    ledger.wait(frame.to_vec(), now, &mut answers, "no connection");
    ledger.lose(Instant::now(), "lost", &mut answers);
    ledger.expire(Some(now), "no connection", &mut answers);
    assert_eq!(texts(&answers), [""; 0]);
    ledger.expire(Some(now + WAIT_MAX), "no connection", &mut answers);
    assert!(texts(&answers)[0].contains("no connection. This request was not sent"));
    assert!(ledger.is_idle());
}

#[test]
fn what_no_connection_takes_goes_first_and_waits_no_longer_for_being_tried_often() {
    let mut ledger = Ledger::default();
    let frame = |id: u8| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#).into_bytes();
    let (now, mut answers) = (Instant::now(), Vec::new());
    for id in [1, 2] {
        ledger.host_sent(&frame(id), &mut answers);
        ledger.wait(frame(id), now, &mut answers, "no connection");
    }
    for _ in 0..3 {
        assert_eq!(ledger.next_waiting(), Some(frame(1)));
        ledger.wait_first(frame(1), now + WAIT_MAX / 2, &mut answers, "no connection");
    }
    assert_eq!(ledger.next_timeout(), Some(now + WAIT_MAX));
    ledger.expire(Some(now + WAIT_MAX), "no connection", &mut answers);
    assert_eq!(answers.len(), 2, "{:?}", texts(&answers));
}

#[test]
fn a_cancelled_request_that_waits_is_forgotten() {
    let mut ledger = Ledger::default();
    let frame = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    ledger.host_sent(frame, &mut Vec::new());
    ledger.wait(frame.to_vec(), Instant::now(), &mut Vec::new(), "");
    let cancelled = br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1.0}}"#;
    assert!(matches!(ledger.host_sent(cancelled, &mut Vec::new()), Verdict::Drop));
    assert!(ledger.is_idle() && ledger.next_waiting().is_none());
}

#[test]
fn a_new_connection_is_told_what_the_session_was() {
    let mut ledger = opened();
    let told = [
        (r#"{"id":1,"method":"logging/setLevel","params":{"level":"info"}}"#, r#"{"id":1,"result":{}}"#),
        (r#"{"id":2,"method":"logging/setLevel","params":{"level":"x"}}"#, r#"{"id":2,"error":{}}"#),
        (r#"{"id":3,"method":"resources/subscribe","params":{"uri":"a:b"}}"#, r#"{"id":3,"result":{}}"#),
        (r#"{"id":4,"method":"resources/subscribe","params":{"uri":"a:c"}}"#, r#"{"id":4,"result":{}}"#),
        (r#"{"id":5,"method":"resources/unsubscribe","params":{"uri":"a:c"}}"#, r#"{"id":5,"result":{}}"#),
    ];
    for (request, answer) in told {
        sending(&mut ledger, &[request]);
        assert!(passes(&ledger.server_sent(answer.as_bytes()).verdict));
    }
    let again = String::from_utf8(ledger.replay_initialize().unwrap()).unwrap();
    assert_eq!(
        again,
        r#"{"jsonrpc":"2.0","id":"tmws-connect-1","method":"initialize","params":{"protocolVersion":"2025-06-18"}}"#
    );
    let seen = ledger.server_sent(br#"{"id":"tmws-connect-1","result":{"protocolVersion":"2025-06-18"}}"#);
    assert!(matches!(seen.verdict, Verdict::Drop) && matches!(seen.replayed, Some(Replayed::Session { .. })));
    assert_eq!(
        texts(&ledger.replay_rest()),
        [
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            r#"{"jsonrpc":"2.0","id":"tmws-connect-2","method":"logging/setLevel","params":{"level":"info"}}"#,
            r#"{"jsonrpc":"2.0","id":"tmws-connect-3","method":"resources/subscribe","params":{"uri":"a:b"}}"#,
        ]
    );
}

#[test]
fn a_listen_is_made_again_and_acknowledged_once() {
    let mut ledger = Ledger::default();
    let listen = r#"{"jsonrpc":"2.0","id":"l","method":"subscriptions/listen","params":{}}"#;
    let acknowledged = br#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"l"}}}"#;
    sending(&mut ledger, &[listen]);
    assert!(passes(&ledger.server_sent(acknowledged).verdict));
    let mut answers = Vec::new();
    ledger.lose(Instant::now(), "lost", &mut answers);
    assert_eq!(texts(&answers), [""; 0]);
    assert_eq!(ledger.next_waiting().as_deref(), Some(listen.as_bytes()));
    assert!(matches!(ledger.server_sent(acknowledged).verdict, Verdict::Drop), "it stands since before");
    assert!(passes(&ledger.server_sent(br#"{"jsonrpc":"2.0","id":"l","result":{}}"#).verdict));
}

#[test]
fn another_revision_is_noticed() {
    let mut ledger = opened();
    ledger.replay_initialize().unwrap();
    let seen = ledger.server_sent(br#"{"id":"tmws-connect-1","result":{"protocolVersion":"2025-03-26"}}"#);
    assert!(matches!(seen.replayed, Some(Replayed::OtherRevision { .. })));
}

#[test]
fn an_answer_goes_only_to_the_connection_that_asked() {
    let mut ledger = opened();
    let ask = br#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#;
    let answer = br#"{"jsonrpc":"2.0","id":1,"result":{"roots":[]}}"#;
    assert!(passes(&ledger.server_sent(ask).verdict));
    let mut told = Vec::new();
    ledger.lose(Instant::now(), "lost", &mut told);
    assert!(texts(&told)[0].contains(r#""method":"notifications/cancelled","params":{"requestId":1,"#));
    // The next connection asks under the same id before the host has answered the first.
    let Verdict::Replace(shown) = ledger.server_sent(ask).verdict else { panic!("the id is taken") };
    assert_eq!(
        String::from_utf8(shown).unwrap(),
        r#"{"jsonrpc":"2.0","id":"tmws-connect-1","method":"roots/list"}"#
    );
    assert!(matches!(ledger.host_sent(answer, &mut Vec::new()), Verdict::Drop), "too late");
    let second = br#"{"jsonrpc":"2.0","id":"tmws-connect-1","result":{"roots":[]}}"#;
    let Verdict::Replace(sent) = ledger.host_sent(second, &mut Vec::new()) else { panic!("not passed on") };
    assert_eq!(sent, answer);
}
