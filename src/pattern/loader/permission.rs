//! Permissions: read from the file, and compared with what each step does.

use super::Report;
use crate::pattern::{
    BindSource, Effect, Expression, Family, Permissions, StepRow, Template, expression::expression_source,
};

/// Reads `permissions`.
pub(super) fn read(report: &mut Report<'_>, binds: &[(String, BindSource)]) -> Permissions {
    let mut fs_read = Vec::new();
    for (index, text) in report.texts("/permissions/fs.read").iter().enumerate() {
        let at = format!("/permissions/fs.read/{index}");
        match bound_name(text).filter(|name| is_root(binds, name)) {
            Some(name) => fs_read.push(name),
            None => report.at_with_hint(
                &at,
                "permissions name bound roots only",
                Some(
                    "bind one with `bind: {root: {from: workspace.root}}` and say ${ .bind.root }".to_owned(),
                ),
            ),
        }
    }
    let memory = report.texts("/permissions/memory");
    Permissions {
        fs_read,
        git: report.texts("/permissions/git"),
        memory_read: memory.iter().any(|word| word == "read"),
        memory_write: memory.iter().any(|word| word == "write"),
    }
}

/// `name` of a text `${ .bind.name }`.
fn bound_name(text: &str) -> Option<String> {
    plain_bind(&Expression::compile(expression_source(text)?).ok()?)
}

/// `name` of an expression that is `.bind.name` and nothing else.
fn plain_bind(expression: &Expression) -> Option<String> {
    let name = expression.source().strip_prefix(".bind.")?;
    let reads = expression.reads();
    (reads.paths.len() == 1 && reads.paths[0].len() == 2 && reads.paths[0][1] == name)
        .then(|| name.to_owned())
}

fn is_root(binds: &[(String, BindSource)], name: &str) -> bool {
    binds.iter().any(|(known, source)| known == name && *source == BindSource::WorkspaceRoot)
}

/// Reports what the step at `pointer` does beyond `permissions`.
pub(super) fn check(
    report: &mut Report<'_>,
    pointer: &str,
    row: &StepRow,
    with: &Template,
    binds: &[(String, BindSource)],
    permissions: &Permissions,
) {
    let uses = format!("{pointer}/uses");
    let root = |member: &str| match with.member(member) {
        Some(Template::Expression(expression)) => plain_bind(&expression),
        _ => None,
    };
    match row.family {
        Family::Memory => {
            let (granted, word) = match row.effect {
                Effect::ReadOnly => (permissions.memory_read, "read"),
                Effect::Writes | Effect::Executes => (permissions.memory_write, "write"),
            };
            if !granted {
                report.at_with_hint(
                    &uses,
                    format!("{} needs the permission to {word} memories", row.uses),
                    Some(format!("add `permissions: {{memory: [{word}]}}`")),
                );
            }
        }
        Family::Fs => match root("root") {
            Some(name) if permissions.fs_read.contains(&name) => {}
            Some(name) => report.at_with_hint(
                &uses,
                format!("{} reads below .bind.{name} without the permission", row.uses),
                Some(format!("add `permissions: {{fs.read: [\"${{ .bind.{name} }}\"]}}`")),
            ),
            None if with.member("root").is_none() => {}
            None => report.at_with_hint(
                &format!("{pointer}/with/root"),
                "the root of a file step is a bound value",
                Some("say ${ .bind.root }; a path below it goes into `path`".to_owned()),
            ),
        },
        Family::Git => {
            let command = row.uses.split('.').nth(1).unwrap_or_default();
            if !permissions.git.iter().any(|granted| granted == command) {
                report.at_with_hint(
                    &uses,
                    format!("{} is not among the permissions", row.uses),
                    Some(format!("add `permissions: {{git: [{command}]}}`")),
                );
            }
            if with.member("repo").is_some() && !root("repo").is_some_and(|name| is_root(binds, &name)) {
                report.at_with_hint(
                    &format!("{pointer}/with/repo"),
                    "the repository of a git step is a bound root",
                    Some(
                        "bind one with `bind: {root: {from: workspace.root}}` and say ${ .bind.root }"
                            .to_owned(),
                    ),
                );
            }
        }
        Family::Data | Family::Control | Family::Session => {}
    }
}
