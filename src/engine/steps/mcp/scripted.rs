//! Servers for patterns' own tests: they speak MCP over a pipe as others do, and say what a file says.
//!
//! The file is JSON: `{"<server>": {"tools": [{"name", "description", "inputSchema", "reads"?, "query"?, …}],
//! "results": {"<tool>": <result of tools/call>}}}`. A tool without a result is never answered; `"dies"` as the result
//! ends the server.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream};

use super::{
    pin::Pin,
    setting::{Reach, ServerSetting, ToolSetting},
};

/// Bytes between the two ends.
const PIPE_BYTES: usize = 64 << 10;
/// A tool that is never answered is given up after so long.
const TIMEOUT: Duration = Duration::from_millis(500);

/// What one server says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    tools: Vec<Value>,
    results: Map<String, Value>,
}

impl Script {
    /// The servers of a file, their tools pinned as they are.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn read(text: &str) -> Result<Vec<(String, ServerSetting)>, String> {
        let all: BTreeMap<String, Map<String, Value>> =
            serde_json::from_str(text).map_err(|error| format!("not servers: {error}"))?;
        all.into_iter().map(|(name, server)| Ok((name, Self::setting(server)?))).collect()
    }

    fn setting(mut server: Map<String, Value>) -> Result<ServerSetting, String> {
        let Some(Value::Array(given)) = server.remove("tools") else {
            return Err("a server has a list of tools".to_owned());
        };
        let mut tools = BTreeMap::new();
        let mut listed = Vec::new();
        for tool in given {
            let Value::Object(mut tool) = tool else { return Err("a tool is an object".to_owned()) };
            let reads = tool.remove("reads").is_some_and(|reads| reads == true);
            let query = tool.remove("query").and_then(|query| query.as_str().map(str::to_owned));
            let name = tool.get("name").and_then(Value::as_str).ok_or("a tool has a name")?.to_owned();
            tools.insert(name, ToolSetting { pin: Pin::of(&tool), reads, query });
            listed.push(Value::Object(tool));
        }
        let results = server.remove("results").and_then(|results| results.as_object().cloned());
        let script = Self { tools: listed, results: results.unwrap_or_default() };
        let mut setting = ServerSetting::new(Reach::Scripted(script));
        (setting.tools, setting.timeout) = (tools, TIMEOUT);
        Ok(setting)
    }

    /// Starts it: the near end of its pipe.
    pub(super) fn start(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        tokio::spawn(serve(self.clone(), far));
        near
    }

    fn answer(&self, method: &str, params: &Value) -> Option<Value> {
        Some(match method {
            "initialize" => json!({
                "protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}},
                "serverInfo": {"name": "scripted", "version": "1"}
            }),
            "tools/list" => json!({"tools": self.tools}),
            "tools/call" => self.results.get(params["name"].as_str().unwrap_or_default())?.clone(),
            _ => return None,
        })
    }
}

async fn serve(script: Script, stream: DuplexStream) {
    let (output, mut input) = tokio::io::split(stream);
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        let (Some(method), Some(id)) = (message["method"].as_str(), message.get("id")) else { continue };
        let Some(result) = script.answer(method, &message["params"]) else { continue };
        if result == "dies" {
            return;
        }
        let answer = json!({"jsonrpc": "2.0", "id": id, "result": result});
        if input.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}
