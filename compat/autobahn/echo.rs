//! An echo endpoint on the server's own WebSocket stack, for the Autobahn fuzzing client (`run.py`) and nothing else.
//!
//! Prints the address that it listens on, and serves until its stdin ends.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a test program")]

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    task::{Context, Poll},
    time::Duration,
};

use hyper::{Request, Response, body::Incoming as RequestBody, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tmws::transport::{
    http::Body,
    websocket::{Ended, Handshake, Incoming, Socket},
};
use tokio::net::{TcpListener, TcpStream};

/// The suite sends messages of up to 16 MiB.
const MESSAGE_BYTES_MAX: usize = 32 << 20;
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// One round, as the server has it: everything that has come, then everything that is to be said.
fn round(socket: &mut Socket<TcpStream>, context: &mut Context<'_>) -> Poll<Ended> {
    loop {
        match socket.poll_incoming(context) {
            Poll::Ready(Ok(Incoming::Text(text))) => socket.queue_text(text.as_bytes()),
            Poll::Ready(Ok(Incoming::Binary(bytes))) => socket.queue_binary(&bytes),
            Poll::Ready(Ok(Incoming::Control)) => {}
            Poll::Ready(Err(ended)) => return Poll::Ready(ended),
            Poll::Pending => break,
        }
    }
    match socket.poll_send(context) {
        Poll::Ready(Err(_)) => Poll::Ready(Ended::Gone),
        Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
    }
}

async fn answer(request: Request<RequestBody>) -> Result<Response<Body>, Infallible> {
    let handshake = match Handshake::check(&request, "mcp") {
        Ok(handshake) => handshake,
        Err(error) => return Ok(error.response()),
    };
    let upgrading = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrading.await else { return };
        let parts = upgraded.downcast::<TokioIo<TcpStream>>().unwrap();
        let mut socket = Socket::new(parts.io.into_inner(), parts.read_buf.into(), MESSAGE_BYTES_MAX);
        let ended = poll_fn(|context| round(&mut socket, context)).await;
        if ended != Ended::Gone {
            socket.finish(CLOSE_LIMIT).await;
        }
    });
    Ok(handshake.response())
}

#[tokio::main]
async fn main() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
                let _ = connection.with_upgrades().await;
            });
        }
    });
    tokio::task::spawn_blocking(|| io::read_to_string(io::stdin())).await.unwrap().unwrap();
}
