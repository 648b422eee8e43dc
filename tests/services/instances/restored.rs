//! A copy of the store that is put in its place: what was answered of the state that is gone is given to nobody, and what was
//! answered of the state that came back is good again.

use std::fs;

use serde_json::json;

use super::{Answer, Client, Instance, Service, Way};
use crate::{postgres::Database, redis_server::Server};

const TAG: &str = "berth";

async fn remember(client: &mut Client, content: &str) {
    client.call("remember", &json!({"content": content, "tags": [TAG]})).await.unwrap();
}

async fn ask(client: &mut Client) -> Answer {
    client.run("memory.by-tag", json!({"tag": TAG})).await.unwrap()
}

/// What is asked before the copy is made, and not again until it is in its place.
async fn ask_otherwise(client: &mut Client) -> Answer {
    client.run("memory.by-tag", json!({"tag": TAG, "k": 7})).await.unwrap()
}

fn client(instance: &Instance) -> Client {
    Client::new(instance.address, Way::Modern, "ada", "alpha")
}

/// Before the copy is made: one memory, and an answer of it that is kept in Redis.
async fn before(service: &Service) {
    let mut instance = service.start(0).await;
    let mut client = client(&instance);
    remember(&mut client, "ship one lies at berth 1").await;
    assert!(ask(&mut client).await.body.to_string().contains("ship one"));
    assert_eq!(ask_otherwise(&mut client).await.cache.as_deref(), Some("miss"));
    instance.terminate().await;
}

/// After the copy was made: one memory more, and an answer of both.
async fn lost(service: &Service) {
    let mut instance = service.start(1).await;
    let mut client = client(&instance);
    remember(&mut client, "ship two lies at berth 2").await;
    assert!(ask(&mut client).await.body.to_string().contains("ship two"));
    assert_eq!(ask(&mut client).await.cache.as_deref(), Some("hit"));
    instance.terminate().await;
}

/// With the copy in its place: as many writes as before, of something else.
async fn restored(service: &Service) {
    let instance = service.start(2).await;
    let mut client = client(&instance);
    let answer = ask_otherwise(&mut client).await;
    let text = answer.body.to_string();
    assert!(text.contains("ship one") && !text.contains("ship two"), "{text}");
    assert_eq!(answer.layer.as_deref(), Some("shared"), "it was answered before the copy was made");
    remember(&mut client, "ship three lies at berth 3").await;
    let answer = ask(&mut client).await;
    let text = answer.body.to_string();
    assert!(text.contains("ship three") && !text.contains("ship two"), "{:?}: {text}", answer.layer);
    assert_eq!(answer.cache.as_deref(), Some("miss"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_file_is_never_answered_with_what_was_written_after_the_copy() {
    let redis = Server::start(&[]);
    let mut service = Service::new(Some(&redis.url())).await;
    let folder = tempfile::tempdir().unwrap();
    let (store, copy) = (folder.path().join("store.db"), folder.path().join("copy.db"));
    service.set("TMWS_DATABASE_URL", format!("sqlite:{}", store.display()));
    before(&service).await;
    fs::copy(&store, &copy).unwrap();
    lost(&service).await;
    fs::rename(&copy, &store).unwrap();
    restored(&service).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_database_is_never_answered_with_what_was_written_after_the_copy() {
    let redis = Server::start(&[]);
    let mut service = Service::new(Some(&redis.url())).await;
    before(&service).await;
    service.database.wait_until_unused().await;
    let copy = Database::copied(&service.database.name).await;
    lost(&service).await;
    service.set("TMWS_DATABASE_URL", copy.url());
    restored(&service).await;
}
