//! The harness itself.

use super::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_answers_and_ends() {
    let server = Server::start().await;
    let mut client = server.http().await;
    let answer = client.send("GET", "/healthz", &[], "").await;
    assert_eq!(answer.status, 200);
    server.stop();
    drop(client);
    server.ended().await;
}
