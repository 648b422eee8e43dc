//! W: of `src/accept/scenarios/wire`.

use std::sync::Arc;

use tmws::accept::{
    proxy::{Proxy, Way},
    stage::Sabotage,
};

use super::{Row, spoil};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row {
            id: "W1",
            how: "a proxy before the server changes the token under which it tells progress",
            red: &[
                "2024-11-05: progress",
                "2025-03-26: progress",
                "2025-06-18: progress",
                "2025-11-25: progress",
            ],
            sabotage: Sabotage {
                clients: Some(|proxy, _| {
                    spoil::replace_in_answers(proxy, r#""progressToken":"of "#, r#""progressToken":"to "#);
                }),
                ..Sabotage::default()
            },
            ..Row::default()
        },
        Row {
            id: "W2",
            how: "a proxy before the server takes the subscription's id out of what it tells",
            red: &["subscriptions/listen is acknowledged", "a change is told"],
            sabotage: Sabotage {
                clients: Some(|proxy, _| {
                    let named = "io.modelcontextprotocol/subscriptionId";
                    spoil::replace_in_answers(proxy, named, "io.modelcontextprotocol/subscriptionNo");
                }),
                ..Sabotage::default()
            },
            ..Row::default()
        },
        Row {
            id: "W3",
            how: "a proxy before the server takes `resultType` out of answers to calls without a session that came in \
                  between those of one",
            red: &["20 calls of each era at the same time"],
            sabotage: Sabotage {
                clients: Some(|proxy, _| {
                    let (kind, other) = (r#""resultType""#, r#""resultKind""#);
                    spoil::replace_where(proxy, Way::Back, r#""id":"new-"#, kind, other);
                }),
                ..Sabotage::default()
            },
            ..Row::default()
        },
        Row {
            id: "W4",
            how: "the server may have 8 connections",
            red: &["served"],
            sabotage: Sabotage {
                setup: Some(|setup, _| spoil::setting(setup, "limits.connections", "8")),
                ..Sabotage::default()
            },
            ..Row::default()
        },
        Row {
            id: "W5",
            how: "a proxy before the server puts the token of one principal in the place of the other's",
            red: &["crossed"],
            sabotage: Sabotage { clients: Some(as_ada), ..Sabotage::default() },
            ..Row::default()
        },
        Row {
            id: "W6",
            how: "a proxy before the fixture server gives another name to the content of answers that say hello",
            red: &["replayed"],
            sabotage: Sabotage {
                others: Some(|proxy, _| {
                    let (content, other) = (r#""content""#, r#""context""#);
                    spoil::replace_where(proxy, Way::Back, r#""text":"hello""#, content, other);
                }),
                ..Sabotage::default()
            },
            ..Row::default()
        },
        Row {
            id: "W7",
            how: "a proxy before the server makes an internal error of each parse error",
            red: &["half an object", "a hundred thousand brackets", "cases that came as listed"],
            sabotage: Sabotage {
                clients: Some(|proxy, _| spoil::replace_in_answers(proxy, "-32700", "-32603")),
                ..Sabotage::default()
            },
            ..Row::default()
        },
        Row {
            id: "W8",
            how: "the server has ten minutes of patience with a client that takes nothing",
            red: &["and cuts it off"],
            sabotage: Sabotage {
                setup: Some(|setup, _| spoil::setting(setup, "limits.write_stall", "10min")),
                ..Sabotage::default()
            },
            ..Row::default()
        },
        Row {
            id: "W9",
            how: "a proxy before the server makes of each close for its end a usual one",
            red: &["an idle connection is closed with", "their connections, closed with 1001"],
            sabotage: Sabotage { clients: Some(usual_ends), ..Sabotage::default() },
            ..Row::default()
        },
        Row {
            id: "W10",
            how: "the server counts a host of somebody else as its own, and takes the pages of another",
            red: &[
                "WebSocket: a Host of somebody else",
                "POST: a Host of somebody else",
                "WebSocket: an Origin of somebody else",
                "POST: an Origin of somebody else",
            ],
            sabotage: Sabotage {
                setup: Some(|setup, _| {
                    spoil::setting(setup, "allowed_hosts", "evil.example");
                    spoil::setting(setup, "allowed_origins", "https://evil.example");
                }),
                ..Sabotage::default()
            },
            ..Row::default()
        },
    ]
}

/// Whoever comes as ben comes as ada.
fn as_ada(proxy: &Arc<Proxy>, _: usize) {
    proxy.edit(Some(Arc::new(|way, piece: &mut Vec<u8>| {
        if way == Way::There {
            spoil::replace(piece, b"Bearer tmws_accept_ben_", b"Bearer tmws_accept_ada_");
        }
    })));
}

/// Close frames with 1001 (going away) have 1000 (normal).
fn usual_ends(proxy: &Arc<Proxy>, _: usize) {
    proxy.edit(Some(Arc::new(|way, piece: &mut Vec<u8>| {
        if way == Way::There {
            return;
        }
        // No text has these bytes: 0x03 is in no JSON, and of lengths below 126 a server's frame says just one byte.
        for at in 0..piece.len().saturating_sub(3) {
            if piece[at] == 0x88 && piece[at + 1] < 126 && piece[at + 2..at + 4] == 1001_u16.to_be_bytes() {
                piece[at + 2..at + 4].copy_from_slice(&1000_u16.to_be_bytes());
            }
        }
    })));
}
