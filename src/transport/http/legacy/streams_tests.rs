use super::*;
use crate::{revision::Revision, schema::Gate, wire::Method};

fn frame(number: i64) -> Sealed {
    let id = RequestId::from_integer(number);
    Gate::new().seal_result(Revision::V2025_11_25, Method::Ping, &id, &serde_json::json!({})).unwrap()
}

/// Somebody who reads.
fn reader_of() -> Arc<Principal> {
    crate::access::Access::open("ada").authenticate(&hyper::HeaderMap::new()).unwrap()
}

/// What a reader gets now, as the ids of the answers in it.
fn read(streams: &mut Streams, stream: u64, generation: u64) -> Result<Vec<u32>, Read> {
    match streams.read(stream, generation, Waker::noop()) {
        Read::Events(bytes) => {
            let text = std::str::from_utf8(&bytes).unwrap();
            let ids = text.split("\"id\":").skip(1);
            Ok(ids.map(|rest| rest.split(',').next().unwrap().parse().unwrap()).collect())
        }
        other => Err(other),
    }
}

fn stream(streams: &mut Streams, id: i64) -> u64 {
    streams.open(vec![RequestId::from_integer(id)], None, Rights::NONE)
}

#[test]
fn only_this_stream_is_read_from_behind_the_event_named() {
    let mut streams = Streams::new(0xAB, 8, 1 << 20);
    let (one, two) = (stream(&mut streams, 1), stream(&mut streams, 2));
    for (number, id) in [(one, 10), (two, 20), (one, 11), (two, 21), (one, 12)] {
        streams.put_to(number, frame(id), false);
    }
    let (generation, start) = streams.attach(one, &reader_of()).unwrap();
    assert_eq!(read(&mut streams, one, generation).unwrap(), [10, 11, 12]);
    assert!(matches!(read(&mut streams, one, generation), Err(Read::Later)));
    assert_eq!(streams.resume(&start, Rights::NONE), Ok(one));
    let (again, _) = streams.attach(one, &reader_of()).unwrap();
    assert!(matches!(read(&mut streams, one, generation), Err(Read::End)), "another took its place");
    assert_eq!(read(&mut streams, one, again).unwrap(), [10, 11, 12]);
    let refused = [
        String::new(),
        "x".to_owned(),
        start.replace("000000ab", "000000ac"),
        start.replace("-1-", "-7-"),
        event_id(0xAB, two, 0),
        event_id(0xAB, one, 99),
        format!("{start}-0"),
    ];
    for id in refused {
        assert_eq!(streams.resume(&id, Rights::NONE), Err(CannotResume), "{id}");
    }
    // The session's own stream goes on whatever memory the event is of.
    assert_eq!(streams.resume(&event_id(1, SESSION, 99), Rights::NONE), Ok(SESSION));
}

#[test]
fn whoever_resumes_is_allowed_as_much_as_the_caller() {
    let mut streams = Streams::new(1, 8, 1 << 20);
    let number = streams.open(vec![RequestId::from_integer(1)], None, Rights::MEMORY_READ);
    let (_, start) = streams.attach(number, &reader_of()).unwrap();
    assert_eq!(streams.resume(&start, Rights::PATTERN_RUN), Err(CannotResume));
    assert_eq!(streams.resume(&start, Rights::ALL), Ok(number));
}

#[test]
fn what_was_read_goes_first_and_the_newest_stays() {
    let mut streams = Streams::new(1, 3, 1 << 20);
    let (read_up, unread) = (stream(&mut streams, 1), stream(&mut streams, 2));
    let (reader, _) = streams.attach(unread, &reader_of()).unwrap();
    streams.put_to(unread, frame(1), false);
    let (other, _) = streams.attach(read_up, &reader_of()).unwrap();
    for id in 10..20 {
        streams.put_to(read_up, frame(id), false);
        read(&mut streams, read_up, other).unwrap();
    }
    assert_eq!(streams.log.len(), 3);
    assert_eq!(read(&mut streams, unread, reader).unwrap(), [1], "somebody waits for it");
    // One event beyond the bytes allowed is still said.
    let mut streams = Streams::new(1, 3, 1);
    let number = stream(&mut streams, 1);
    let (reader, _) = streams.attach(number, &reader_of()).unwrap();
    streams.put_to(number, frame(1), true);
    assert_eq!(read(&mut streams, number, reader).unwrap(), [1]);
    assert!(matches!(read(&mut streams, number, reader), Err(Read::End)));
}

#[test]
fn a_reader_that_lags_is_sent_away_and_may_come_again() {
    let mut streams = Streams::new(1, 4, 1 << 20);
    let number = stream(&mut streams, 1);
    let (reader, start) = streams.attach(number, &reader_of()).unwrap();
    for id in 0..9 {
        streams.put_to(number, frame(id), false);
    }
    assert!(streams.is_congested());
    assert!(matches!(read(&mut streams, number, reader), Err(Read::Lagged)));
    assert!(matches!(read(&mut streams, number, reader), Err(Read::End)));
    streams.put_to(number, frame(9), true);
    assert_eq!(streams.resume(&start, Rights::NONE), Ok(number));
    let (reader, _) = streams.attach(number, &reader_of()).unwrap();
    let kept = read(&mut streams, number, reader).unwrap();
    assert_eq!(kept.last(), Some(&9), "the answer is the newest: {kept:?}");
}

#[test]
fn nothing_is_left_of_streams_whose_events_are_gone() {
    let mut streams = Streams::new(1, 2, 1 << 20);
    for id in 1..50 {
        let number = stream(&mut streams, id);
        streams.put_to(number, frame(id), true);
    }
    assert!(streams.all.len() <= 3 && streams.open.is_empty(), "{}", streams.all.len());
    let (sender, receiver) = oneshot::channel();
    drop(receiver);
    let number = streams.open(vec![RequestId::from_integer(99)], Some(sender), Rights::NONE);
    streams.put_to(number, frame(99), false);
    assert!(!streams.all.contains_key(&number), "its client left before it had an id");
}
