//! One figure in a line, as OpenMetrics and the text format of Prometheus write it.

/// A figure: `tmws_calls_total{method="tools/call"} 3`.
pub(crate) struct Line<'a> {
    pub(crate) name: &'a str,
    /// In their order.
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) value: f64,
}

/// Reads a line; `None` where it is no figure.
pub(crate) fn read(line: &str) -> Option<Line<'_>> {
    let named = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(named);
    let mut labels = Vec::new();
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            inner = inner.trim_start_matches([',', ' ']);
            if let Some(after) = inner.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, quoted) = inner.split_once("=\"")?;
            let (value, after) = quoted_text(quoted)?;
            labels.push((label.to_owned(), value));
            inner = after;
        }
    }
    // A timestamp or an exemplar may follow.
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Line { name, labels, value })
}

/// What stands until the closing quote, without its escapes; and what follows.
fn quoted_text(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((text, &quoted[at + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => text.push('\n'),
                other => text.push(other),
            },
            letter => text.push(letter),
        }
    }
    None
}
