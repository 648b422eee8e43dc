//! What every `tmws serve` that is launched as a program needs: tokens, a pattern that says back, its address.

use std::{fmt::Write as _, fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path};

use sha2::{Digest as _, Sha256};

/// A pattern that says back what it is given, by a handle where that is much.
pub(crate) const ECHO: &str = "\
apiVersion: tmws/v1
kind: Pattern
name: test.echo
version: 1.0.0
type: infrastructure
description: Says back what it is given. For tests only.
triggers:
  phrases: [echo to me]
  examples:
    match: [please echo to me now, echo to me, 'do echo to me']
    no_match: [say it again, repeat that, an echoing hall]
  priority: 10
  auto: read-only
inputs:
  type: object
  additionalProperties: false
  required: [mark]
  properties:
    mark: {type: string}
    lines: {type: array, items: {type: string}}
limits: {timeout: 10s, max_steps: 2, max_bytes: 1MiB}
steps:
  - {id: said, uses: data.template, with: {template: '{{mark}}', values: {mark: '${ .inputs.mark }'}}}
output:
  schema: {type: object, required: [said], properties: {said: {type: string}, lines: {type: array}}}
  value: '${ {said: .steps.said, lines: (.inputs.lines // [])} }'
  budget: {tokens: 120, shrink: [{truncate: lines, keep: 3}], overflow: handle}
annotations: {readOnlyHint: true}
tests:
  - {name: it says it, inputs: {mark: a}, expect: {jq: '.said == \"a\"', max_tokens: 120}}
  - {name: it says nothing else, inputs: {mark: b}, expect: {jq: '.said == \"b\"', max_tokens: 120}}
";

/// The token of the principal `name`.
pub(crate) fn token(name: &str) -> String {
    format!("tmws_for_tests_only_{name}_0123456789abcdef")
}

/// The token of `evangeline`, who looks after the server and works in no project of the others.
pub(crate) const ADMIN_TOKEN: &str = "tmws_for_tests_only_evangeline_0123456789abcdef";

/// Writes the file of tokens: the administrator's, and those of others with where each may write beside `personal`.
pub(crate) fn write_tokens(path: &Path, principals: &[(&str, &[&str])]) {
    let mut text = String::new();
    let hash = |token: &str| {
        Sha256::digest(token.as_bytes()).iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    let _ = writeln!(
        text,
        "[[token]]\nsha256 = \"{}\"\nprincipal = \"evangeline\"\nprojects = {{ personal = \"read\" }}\nscopes = [\"admin\"]\n",
        hash(ADMIN_TOKEN)
    );
    for (name, projects) in principals {
        let hash = hash(&token(name));
        let projects: Vec<String> =
            projects.iter().chain(&["personal"]).map(|name| format!("{name} = \"write\"")).collect();
        let _ = writeln!(
            text,
            "[[token]]\nsha256 = \"{hash}\"\nprincipal = \"{name}\"\nprojects = {{ {} }}\n\
             scopes = [\"pattern:run\", \"memory:read\", \"memory:write\"]\n",
            projects.join(", ")
        );
    }
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The address in a line of the log, where it says one.
pub(crate) fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("address=")?;
    let end = rest.find(|c: char| !(c.is_ascii_digit() || ".:".contains(c))).unwrap_or(rest.len());
    rest[..end].parse().ok()
}
