//! `x-mcp-header`: which arguments of a tool clients of 2026-07-28 repeat in headers, read from its `inputSchema`.

use serde_json::{Map, Value};

use super::MirroredArgument;

/// The annotation.
pub const MIRROR_KEYWORD: &str = "x-mcp-header";

/// Keywords whose values are data, not schemas: nothing in them is an annotation.
pub(super) const DATA: [&str; 4] = ["const", "default", "enum", "examples"];

/// Why a schema's annotations are no good: HTTP clients silently drop a tool with such a schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MirrorFault {
    /// It is no token of RFC 9110.
    #[error("`x-mcp-header` at {place} is no header name: use letters, digits and `-`")]
    Name {
        /// Where, as a JSON pointer.
        place: String,
    },
    /// Two have the same name; case does not count.
    #[error("`x-mcp-header` at {place} repeats the name {header:?}: each must be unique, whatever its case")]
    Repeated {
        /// Where the second is.
        place: String,
        /// The name.
        header: String,
    },
    /// The property is none of string, integer and boolean.
    #[error(
        "`x-mcp-header` at {place} stands on a property whose type is not exactly string, integer or boolean"
    )]
    Type {
        /// Where.
        place: String,
    },
    /// It is behind something else than `properties`.
    #[error("`x-mcp-header` at {place} cannot be reached from the root through `properties` alone")]
    Place {
        /// Where.
        place: String,
    },
}

/// The arguments that `schema` annotates, in the order of the schema. To be called when a tool is registered.
///
/// # Errors
/// The first annotation that breaks a rule.
///
/// Spec: 2026-07-28 basic/transports#custom-headers.
pub fn mirrored_arguments(schema: &Map<String, Value>) -> Result<Vec<MirroredArgument>, MirrorFault> {
    let mut found = Vec::new();
    visit(schema, "", Some(&[]), &mut found)?;
    Ok(found)
}

/// `path` leads to this schema through `properties` alone, where it does.
fn visit(
    schema: &Map<String, Value>,
    place: &str,
    path: Option<&[String]>,
    found: &mut Vec<MirroredArgument>,
) -> Result<(), MirrorFault> {
    for (keyword, value) in schema {
        let here = format!("{place}/{keyword}");
        match (keyword.as_str(), value) {
            (MIRROR_KEYWORD, header) => {
                let argument = annotated(schema, header, here, path, found)?;
                found.push(argument);
            }
            ("properties", Value::Object(properties)) => {
                for (name, property) in properties {
                    if let Value::Object(property) = property {
                        let path = path.map(|path| [path, std::slice::from_ref(name)].concat());
                        visit(property, &format!("{here}/{name}"), path.as_deref(), found)?;
                    }
                }
            }
            (keyword, _) if DATA.contains(&keyword) => {}
            (_, value) => visit_unreachable(value, &here, found)?,
        }
    }
    Ok(())
}

fn visit_unreachable(
    value: &Value,
    place: &str,
    found: &mut Vec<MirroredArgument>,
) -> Result<(), MirrorFault> {
    match value {
        Value::Object(schema) => visit(schema, place, None, found),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, item)| visit_unreachable(item, &format!("{place}/{index}"), found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn annotated(
    schema: &Map<String, Value>,
    header: &Value,
    place: String,
    path: Option<&[String]>,
    found: &[MirroredArgument],
) -> Result<MirroredArgument, MirrorFault> {
    let Some(header) = header.as_str().filter(|header| is_token(header)) else {
        return Err(MirrorFault::Name { place });
    };
    let Some(path) = path.filter(|path| !path.is_empty()) else {
        return Err(MirrorFault::Place { place });
    };
    let kind = schema.get("type").and_then(Value::as_str);
    if !matches!(kind, Some("string" | "integer" | "boolean")) {
        return Err(MirrorFault::Type { place });
    }
    if found.iter().any(|other| other.header.eq_ignore_ascii_case(header)) {
        return Err(MirrorFault::Repeated { place, header: header.to_owned() });
    }
    Ok(MirroredArgument { header: header.to_owned(), path: path.to_vec() })
}

/// A token of RFC 9110.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    type Expected<'a> = &'a dyn Fn(&MirrorFault) -> bool;

    fn read(schema: &Value) -> Result<Vec<MirroredArgument>, MirrorFault> {
        mirrored_arguments(schema.as_object().unwrap())
    }

    #[test]
    fn annotated_properties_are_found_at_every_depth_of_properties() {
        let schema = json!({"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "x-mcp-header": {"type": "string"},
            "where": {"type": "object", "properties": {
                "floor": {"type": "integer", "x-mcp-header": "Floor"},
                "open": {"type": "boolean", "x-mcp-header": "Open", "default": {"x-mcp-header": 1}},
            }},
        }});
        let found: Vec<(String, Vec<String>)> =
            read(&schema).unwrap().into_iter().map(|argument| (argument.header, argument.path)).collect();
        let expected: Vec<(String, Vec<String>)> =
            [("Region", vec!["region"]), ("Floor", vec!["where", "floor"]), ("Open", vec!["where", "open"])]
                .into_iter()
                .map(|(header, path)| (header.to_owned(), path.into_iter().map(str::to_owned).collect()))
                .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn our_own_tools_keep_the_rules() {
        for tool in crate::tool::ToolName::ALL {
            assert_eq!(
                mirrored_arguments(&tool.definition().input_schema),
                Ok(Vec::new()),
                "{}",
                tool.as_str()
            );
        }
    }

    #[test]
    fn an_annotation_that_clients_would_drop_the_tool_for_is_refused() {
        let property = |property: Value| json!({"type": "object", "properties": {"a": property}});
        let name = |fault: &MirrorFault| matches!(fault, MirrorFault::Name { .. });
        let kind = |fault: &MirrorFault| matches!(fault, MirrorFault::Type { .. });
        let place = |fault: &MirrorFault| matches!(fault, MirrorFault::Place { .. });
        let repeated = |fault: &MirrorFault| matches!(fault, MirrorFault::Repeated { .. });
        let string = |header: Value| json!({"type": "string", "x-mcp-header": header});
        let table: [(Value, Expected<'_>); 14] = [
            (property(string(json!(""))), &name),
            (property(string(json!("a b"))), &name),
            (property(string(json!("ä"))), &name),
            (property(string(json!(1))), &name),
            (property(json!({"type": "number", "x-mcp-header": "A"})), &kind),
            (property(json!({"type": "object", "x-mcp-header": "A"})), &kind),
            (property(json!({"type": ["string", "null"], "x-mcp-header": "A"})), &kind),
            (property(json!({"x-mcp-header": "A"})), &kind),
            (json!({"type": "string", "x-mcp-header": "A"}), &place),
            (property(json!({"type": "array", "items": string(json!("A"))})), &place),
            (json!({"anyOf": [property(string(json!("A")))]}), &place),
            (json!({"$defs": {"d": string(json!("A"))}}), &place),
            (property(json!({"if": property(string(json!("A")))})), &place),
            (json!({"properties": {"a": string(json!("Same")), "b": string(json!("sAME"))}}), &repeated),
        ];
        for (schema, expected) in table {
            let fault = read(&schema).unwrap_err();
            assert!(expected(&fault), "{schema}: {fault}");
        }
    }
}
