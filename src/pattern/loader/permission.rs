//! Permissions: read from the file, and compared with what each step does.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Report, did_you_mean};
use crate::pattern::{
    BindSource, Effect, Expression, Family, Permissions, StepRow, Template, argv,
    expression::expression_source,
    host::{self, HostRule},
    yaml::pointer_part,
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
        exec: exec(report),
        http: http(report),
        sql: report.texts("/permissions/sql"),
        mcp: report.texts("/permissions/mcp"),
        mcp_write: report.texts("/permissions/mcp.write"),
        llm: report.get("/permissions/llm").and_then(serde_json::Value::as_bool).unwrap_or(false),
    }
}

/// Reads the argv templates of `permissions.exec`.
fn exec(report: &mut Report<'_>) -> BTreeMap<String, Vec<String>> {
    let names: Vec<String> = report.members("/permissions/exec").map(|(name, _)| name.clone()).collect();
    let mut templates = BTreeMap::new();
    for name in names {
        let at = format!("/permissions/exec/{}", pointer_part(&name));
        let words = report.texts(&at);
        for (index, fault) in argv::faults(&words) {
            report.at(&format!("{at}/{index}"), fault);
        }
        templates.insert(name, words);
    }
    templates
}

/// Reads the hosts of `permissions.http`.
fn http(report: &mut Report<'_>) -> Vec<String> {
    let hosts = report.texts("/permissions/http");
    for (index, host) in hosts.iter().enumerate() {
        if let Err(fault) = HostRule::parse(host) {
            report.at(&format!("/permissions/http/{index}"), fault);
        }
    }
    hosts
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
        Family::Exec | Family::Http | Family::Sql | Family::Mcp | Family::Llm => {
            if row.family == Family::Exec {
                if with.member("root").is_some() && !root("root").is_some_and(|name| is_root(binds, &name)) {
                    report.at_with_hint(
                        &format!("{pointer}/with/root"),
                        "a program runs in a bound root",
                        Some(
                            "bind one with `bind: {root: {from: workspace.root}}` and say ${ .bind.root }"
                                .to_owned(),
                        ),
                    );
                }
                check_program(report, pointer, with, permissions);
            }
            if row.family == Family::Http {
                check_url(report, pointer, with, permissions);
            }
            if let ("sql.query", Some(Template::Expression(_))) = (row.uses, with.member("query")) {
                report.at_with_hint(
                    &format!("{pointer}/with/query"),
                    "the text of a query is never made of values",
                    Some(
                        "write it out with $1 or ?1 where a value goes, and give the values in `params`"
                            .to_owned(),
                    ),
                );
            }
            if let Some(word) = permissions.lacks(row.family) {
                report.at_with_hint(
                    &uses,
                    format!("{} is not among the permissions", row.uses),
                    Some(format!("add `permissions: {{{word}: …}}`")),
                );
            }
        }
        Family::Data | Family::Control | Family::Session | Family::Server => {}
    }
}

/// Compares the command and the arguments of an `exec.run` with its template.
fn check_program(report: &mut Report<'_>, pointer: &str, with: &Template, permissions: &Permissions) {
    let Some(command) = with.member("command") else { return };
    let at = format!("{pointer}/with/command");
    let Template::Literal(Value::String(command)) = command else {
        report.at(&at, "the command is one of the names in permissions.exec, not an expression");
        return;
    };
    let Some(template) = permissions.exec.get(&command) else {
        if !permissions.exec.is_empty() {
            let known = || permissions.exec.keys().map(String::as_str);
            let hint = did_you_mean(&command, known())
                .or_else(|| Some(format!("there are {}", known().collect::<Vec<_>>().join(", "))));
            report.at_with_hint(&at, format!("permissions.exec has no `{command:.40}`"), hint);
        }
        return;
    };
    let given: Vec<String> = match with.member("args") {
        None => Vec::new(),
        Some(Template::Object(members)) => members.into_iter().map(|(name, _)| name).collect(),
        Some(Template::Literal(Value::Object(members))) => members.keys().cloned().collect(),
        // What an expression gives is compared when it runs.
        Some(Template::Expression(_)) => return,
        Some(_) => {
            report.at(&format!("{pointer}/with/args"), "expects arguments by name: {filter: ${ … }}");
            return;
        }
    };
    for name in &given {
        if !argv::slots(template).any(|slot| slot.name == name) {
            let hint = did_you_mean(name, argv::slots(template).map(|slot| slot.name));
            report.at_key(
                &format!("{pointer}/with/args/{}", pointer_part(name)),
                format!("the template of `{command}` has no place for `{name:.40}`"),
                hint,
            );
        }
    }
    for slot in argv::slots(template).filter(|slot| !slot.optional) {
        if !given.iter().any(|name| name == slot.name) {
            let args = format!("{pointer}/with/args");
            let at = if report.get(&args).is_some() { args } else { format!("{pointer}/with") };
            report.at_key(&at, format!("`{command}` needs the argument `{}`", slot.name), None);
        }
    }
}

/// Compares a URL that stands in the file with the hosts of the permissions.
fn check_url(report: &mut Report<'_>, pointer: &str, with: &Template, permissions: &Permissions) {
    let Some(Template::Literal(Value::String(text))) = with.member("url") else { return };
    let at = format!("{pointer}/with/url");
    match host::url(&text, None) {
        Err(fault) => report.at(&at, format!("the URL {fault}")),
        Ok(url) => {
            let admits = |host: &String| HostRule::parse(host).is_ok_and(|rule| rule.admits(&url));
            if !permissions.http.is_empty() && !permissions.http.iter().any(admits) {
                report.at(&at, "the host of the URL is not among those in permissions.http");
            }
        }
    }
}
