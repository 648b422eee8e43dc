//! What a tool answered.

use serde_json::Value;

/// The answer of one call.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// The JSON of its text.
    pub(super) body: Value,
    pub(super) is_error: bool,
    /// `hit`, `miss` or `off`.
    pub(super) cache: Option<String>,
    /// Where a kept answer was found: `local` or `shared`.
    pub(super) layer: Option<String>,
    /// What of the server did not work on the way.
    pub(super) degraded: Vec<String>,
    /// How often it was asked for before it came.
    pub(super) repeats: usize,
}

impl Answer {
    /// That of a JSON-RPC answer.
    ///
    /// # Errors
    /// It has none: the whole of it.
    pub(super) fn read(frame: &Value, repeats: usize) -> Result<Self, String> {
        let result = &frame["result"];
        let text = result["content"][0]["text"].as_str().ok_or_else(|| frame.to_string())?;
        let body = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
        let receipt = &result["_meta"]["tmws/receipt"];
        let told = |name: &str| receipt[name].as_str().map(str::to_owned);
        Ok(Self {
            body,
            is_error: result["isError"] == true,
            cache: told("cache"),
            layer: told("cache_layer"),
            degraded: serde_json::from_value(receipt["degraded"].clone()).unwrap_or_default(),
            repeats,
        })
    }

    /// The body of one that went well.
    ///
    /// # Errors
    /// It failed: what it says.
    pub(super) fn well(self) -> Result<Self, String> {
        if self.is_error { Err(self.body.to_string()) } else { Ok(self) }
    }
}
