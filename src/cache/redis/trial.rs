//! What the doctor tries: everything that the cache does, with a key of its own that lives for a second.

use std::{collections::BTreeSet, sync::Arc};

use redis::{Cmd, ErrorKind, ServerErrorKind, cmd};
use tokio::time::timeout;

use super::{
    ANSWER_MAX, Redis,
    link::Node,
    nodes::{Map, slot},
    trouble::{Trouble, says},
};

/// How long the key lives, in ms.
const LIFE_MS: u64 = 1000;
/// It looks for a key of a server among so many: each server holds one of them, however few its slots are.
const TAGS_MAX: u32 = 1 << 20;

impl Redis {
    /// Tries at every server what the cache does, where they are connected; what is not allowed, or does not work.
    pub async fn try_out(&self) -> Option<String> {
        let map = self.map();
        for node in map.nodes() {
            if let Some(found) = try_node(&map, node).await {
                let is_alone = map.nodes().count() == 1;
                return Some(if is_alone { found } else { format!("{}: {found}", node.place) });
            }
        }
        None
    }
}

async fn try_node(map: &Map, node: &Arc<Node>) -> Option<String> {
    let is_its = |tag: &String| map.node(slot(tag.as_bytes())).is_some_and(|found| Arc::ptr_eq(found, node));
    let tag = (0..TAGS_MAX).map(|number| number.to_string()).find(is_its)?;
    let mut connection = node.live()?.connection;
    let (mut lacking, mut trouble) = (Vec::new(), None);
    for (name, command) in commands(&format!("tmws:doctor:{{{tag}}}")) {
        match timeout(ANSWER_MAX, command.exec_async(&mut connection)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => {
                // `No permissions to access a key`, or to run a command.
                lacking.push(if says(&error, "access") { "~tmws:*".to_owned() } else { format!("+{name}") });
            }
            Ok(Err(error)) => trouble = trouble.or(Trouble::of(&error)),
            Err(_) => return Some(Trouble::Silent.to_string()),
        }
    }
    if lacking.is_empty() {
        return trouble.map(|trouble| trouble.to_string());
    }
    let mut seen = BTreeSet::new();
    lacking.retain(|right| seen.insert(right.clone()));
    Some(format!("its user lacks {}; docs/cache.md has the line with all that is needed", lacking.join(" ")))
}

/// Everything that is sent to `key`, by its name.
fn commands(key: &str) -> [(&'static str, Cmd); 6] {
    const SCRIPT: &str = "return 1";
    let with_key = |name: &str| cmd(name).arg(key).to_owned();
    let hash = redis::Script::new(SCRIPT).get_hash().to_owned();
    [
        ("set", with_key("SET").arg("").arg("PX").arg(LIFE_MS).to_owned()),
        ("get", with_key("GET")),
        ("getrange", with_key("GETRANGE").arg(0).arg(0).to_owned()),
        ("time", cmd("TIME")),
        ("eval", cmd("EVAL").arg(SCRIPT).arg(1).arg(key).to_owned()),
        // One that is not known was allowed.
        ("evalsha", cmd("EVALSHA").arg(hash).arg(1).arg(key).to_owned()),
    ]
}
