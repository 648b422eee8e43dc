//! From OpenMetrics to the text format of Prometheus, version 0.0.4: what a scraper gets that does not ask for the first.
//!
//! They differ in the names of counters (a family's name has its `_total`), in the type of build information, and in the
//! lines `# UNIT` and `# EOF`.

/// The same figures in the older format.
pub(super) fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 1_024);
    let mut helps: Option<(&str, &str)> = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            // The name depends on the type, which comes with the next line.
            helps = rest.split_once(' ');
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = rest.split_once(' ') else { continue };
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some((_, help)) = helps.take() {
                push(&mut text, &["# HELP ", name, suffix, " ", help, "\n"]);
            }
            push(&mut text, &["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with("# ") {
            push(&mut text, &[line, "\n"]);
        }
    }
    text
}

fn push(text: &mut String, parts: &[&str]) {
    for part in parts {
        text.push_str(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_carry_their_suffix_and_nothing_else_changes() {
        let open = "# HELP a_calls Calls.\n# TYPE a_calls counter\na_calls_total{m=\"x\"} 1\n# HELP b B.\n\
                    # TYPE b gauge\n# UNIT b seconds\nb 2.0\n# HELP c C.\n# TYPE c info\nc_info{v=\"1\"} 1\n# EOF\n";
        let expected = "# HELP a_calls_total Calls.\n# TYPE a_calls_total counter\na_calls_total{m=\"x\"} 1\n\
                        # HELP b B.\n# TYPE b gauge\nb 2.0\n# HELP c_info C.\n# TYPE c_info gauge\n\
                        c_info{v=\"1\"} 1\n";
        assert_eq!(classic(open), expected);
    }
}
