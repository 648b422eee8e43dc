//! The report for people: plain rows, and Markdown for the documents.

use std::fmt::Write as _;

use super::{
    Arm, Figures, HostKind, Policy, Report, Row, SESSIONS,
    gate::{GATE_SESSION, SMALL_EXCESS_MAX},
};

const HEAD: [&str; 9] = ["task", "size", "class", "A", "A+", "C", "B", "B against A+", "B against C"];

fn percent(saving: Option<f64>) -> String {
    // What rounds to nothing has no sign.
    saving.map_or("–".to_owned(), |saving| {
        format!("{:+.0} %", -saving).replace("-0 %", "0 %").replace("+0 %", "0 %")
    })
}

fn cells(row: &Row, session: usize, promoted: bool) -> Vec<String> {
    let tokens = |arm: Arm| {
        row.figures.get(&arm).map_or("–".to_owned(), |figures| {
            let mark = if figures.missing.is_empty() { "" } else { " (facts missing)" };
            format!("{:.0}{mark}", figures.context_end(session))
        })
    };
    let shell = (row.host == HostKind::Shell).then(|| row.saving(Arm::Tmws, Arm::Shell, session)).flatten();
    let mut cells = vec![
        row.id.clone(),
        row.size.name().to_owned(),
        row.class.name().to_owned(),
        tokens(Arm::Servers),
        tokens(Arm::ServersWithGrep),
        if row.host == HostKind::Shell { tokens(Arm::Shell) } else { format!("({})", tokens(Arm::Shell)) },
        tokens(Arm::Tmws),
        percent(row.saving(Arm::Tmws, Arm::ServersWithGrep, session)),
        percent(shell),
    ];
    if promoted {
        cells.insert(7, tokens(Arm::Promoted));
    }
    cells
}

fn head(promoted: bool) -> Vec<String> {
    let mut head: Vec<String> = HEAD.iter().map(|&cell| cell.to_owned()).collect();
    if promoted {
        head.insert(7, "B'".to_owned());
    }
    head
}

fn has_promoted(report: &Report) -> bool {
    report.rows.iter().any(|row| row.figures.contains_key(&Arm::Promoted))
}

fn totals(report: &Report) -> Vec<Vec<String>> {
    report
        .aggregates()
        .iter()
        .map(|it| {
            vec![
                format!("{} against {}", it.ours.label(), it.theirs.label()),
                if it.tasks == "S" { "class S".to_owned() } else { it.tasks.to_owned() },
                it.n.to_string(),
                it.session.to_string(),
                percent(Some(it.median)),
                format!("{} ({})", percent(Some(it.worst.1)), it.worst.0),
            ]
        })
        .collect()
}

const SUMMARY_HEAD: [&str; 6] = ["arms", "tasks", "n", "K", "median", "worst"];

fn verdict(report: &Report) -> String {
    let failures: Vec<String> = report.failures().into_iter().map(|miss| miss.text).collect();
    if failures.is_empty() {
        let goal = if report.reaches_goal() { "reached" } else { "not reached" };
        return format!("The gate is passed; the goal is {goal}.");
    }
    format!("The gate is NOT passed: {}.", failures.join("; "))
}

/// What the gate says of small tasks, none of them left out.
fn small_tasks(report: &Report) -> String {
    let each: Vec<String> = [Arm::ServersWithGrep, Arm::Shell]
        .into_iter()
        .filter_map(|theirs| {
            let (task, excess) = report.worst_small(theirs)?;
            Some(format!("{} against {} ({task})", percent(Some(-excess)), theirs.label()))
        })
        .collect();
    format!(
        "Of the small tasks the worst is {} at K = {GATE_SESSION}; the gate allows {}.",
        each.join(" and "),
        percent(Some(-SMALL_EXCESS_MAX))
    )
}

fn definitions(report: &Report) -> String {
    let each: Vec<String> = report
        .definitions
        .iter()
        .filter(|(_, (visible, _))| *visible > 0)
        .map(|(arm, (visible, wire))| format!("{} {visible} ({wire} on the wire)", arm.label()))
        .collect();
    format!("Instructions and definitions in tokens: {}.", each.join(", "))
}

fn markdown_table(text: &mut String, head: &[String], rows: &[Vec<String>]) {
    let _ = writeln!(text, "| {} |\n|{}", head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
}

/// The medians in one short table, for the front page.
#[must_use]
pub fn summary(report: &Report) -> String {
    let mut text = String::new();
    let rows: Vec<Vec<String>> = totals(report)
        .into_iter()
        .zip(report.aggregates())
        .filter(|(_, of)| of.session == 5 && (of.tasks == "S" || of.theirs != Arm::Shell))
        .map(|(row, _)| row)
        .collect();
    let head: Vec<String> = SUMMARY_HEAD.iter().map(|&cell| cell.to_owned()).collect();
    markdown_table(&mut text, &head, &rows);
    text
}

/// Each task in a row, with those that cost more than the shell named, for the front page.
#[must_use]
pub fn tasks(report: &Report, session: usize) -> String {
    /// Columns of [`cells`] that are shown: promoted tools and plain servers are left to the whole report.
    const SHOWN: [&str; 8] = ["task", "size", "class", "A+", "C", "B", "B against A+", "B against C"];
    let all = head(false);
    let short = |cells: Vec<String>| -> Vec<String> {
        let shown = all.iter().zip(cells).filter(|(name, _)| SHOWN.contains(&name.as_str()));
        shown.map(|(_, cell)| cell).collect()
    };
    let mut text = format!("{}\n\n{}\n\n", verdict(report), small_tasks(report));
    for line in losers_by_session(report) {
        let _ = writeln!(text, "{line}\n");
    }
    let _ = writeln!(text, "<details>\n<summary>Every task, tokens at its end, K = {session}</summary>\n");
    let rows: Vec<Vec<String>> = report.rows.iter().map(|row| short(cells(row, session, false))).collect();
    markdown_table(&mut text, &short(all.clone()), &rows);
    text.push_str("\n</details>\n");
    text
}

/// The whole report for a document; no figure in it differs between two runs over the same texts.
#[must_use]
pub fn markdown(report: &Report, session: usize) -> String {
    let promoted = has_promoted(report);
    let mut text = format!("{}\n\n", verdict(report));
    let head_of_summary: Vec<String> = SUMMARY_HEAD.iter().map(|&cell| cell.to_owned()).collect();
    markdown_table(&mut text, &head_of_summary, &totals(report));
    let _ = write!(
        text,
        "\n{}\n\n{}\n\nTokens at the end of each task, K = {session}:\n\n",
        small_tasks(report),
        definitions(report)
    );
    let rows: Vec<Vec<String>> = report.rows.iter().map(|row| cells(row, session, promoted)).collect();
    markdown_table(&mut text, &head(promoted), &rows);
    let losers: Vec<String> = report
        .losers(Arm::Tmws, session)
        .into_iter()
        .map(|(row, saving)| {
            let why = row.loses.as_ref().map_or(String::new(), |why| format!(" Expected: {why}"));
            format!("- `{}`: {}.{why}\n", row.id, percent(Some(saving)))
        })
        .collect();
    if !losers.is_empty() {
        let _ = write!(text, "\nDearer than the shell in arm B, K = {session}:\n\n{}", losers.concat());
    }
    for line in losers_by_session(report) {
        let _ = write!(text, "\n{line}\n");
    }
    let _ = write!(text, "\n{}\n\nWhat is sent, by arm A+ / C / B:\n\n", policies(report));
    let head = SENT_HEAD.map(str::to_owned);
    let rows: Vec<Vec<String>> = report.rows.iter().map(|row| sent(row, false)).collect();
    markdown_table(&mut text, &head[..4], &rows);
    text
}

const SENT_HEAD: [&str; 5] = ["task", "turns", "input billed, alone in its session", "bytes", "ms"];

/// Turns, tokens billed, bytes and, where asked for, milliseconds, which differ from run to run.
fn sent(row: &Row, with_ms: bool) -> Vec<String> {
    let each = |what: &dyn Fn(&Figures) -> String| {
        [Arm::ServersWithGrep, Arm::Shell, Arm::Tmws]
            .map(|arm| row.figures.get(&arm).map_or("–".to_owned(), what))
            .join(" / ")
    };
    let mut cells = vec![
        row.id.clone(),
        each(&|figures| figures.turns().to_string()),
        each(&|figures| format!("{:.0}", figures.billed_input(1.0))),
        each(&|figures| figures.bytes.to_string()),
    ];
    if with_ms {
        cells.push(each(&|figures| format!("{:.0}", figures.ms)));
    }
    cells
}

fn losers_by_session(report: &Report) -> Vec<String> {
    SESSIONS
        .iter()
        .map(|session| {
            let names: Vec<String> = report
                .losers(Arm::Tmws, *session)
                .iter()
                .map(|(row, saving)| format!("{} {}", row.id, percent(Some(*saving))))
                .collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            format!("Dearer than the shell at K = {session}: {names}.")
        })
        .collect()
}

/// The medians under each policy of hosts.
fn policies(report: &Report) -> String {
    let each: Vec<String> = Policy::ALL
        .iter()
        .map(|policy| {
            let medians: Vec<String> = report
                .under(*policy)
                .iter()
                .map(|it| format!("{} against {}", percent(Some(it.median)), it.theirs.label()))
                .collect();
            format!("{}: {}", policy.name(), medians.join(", "))
        })
        .collect();
    format!("Medians of B where all hosts show results alike: {}.", each.join("; "))
}

/// The report for a terminal: tables, each with its head, and lines below.
#[must_use]
pub fn text(report: &Report, session: usize) -> (Vec<Vec<Vec<String>>>, Vec<String>) {
    let promoted = has_promoted(report);
    let mut rows = vec![head(promoted)];
    rows.extend(report.rows.iter().map(|row| cells(row, session, promoted)));
    let mut sums = vec![SUMMARY_HEAD.iter().map(|&cell| cell.to_owned()).collect::<Vec<_>>()];
    sums.extend(totals(report));
    let mut sendings = vec![SENT_HEAD.map(str::to_owned).to_vec()];
    sendings.extend(report.rows.iter().map(|row| sent(row, true)));
    let mut lines =
        vec!["Turns, input, bytes and milliseconds stand for A+ / C / B.".to_owned(), definitions(report)];
    lines.extend(losers_by_session(report));
    lines.extend([
        small_tasks(report),
        policies(report),
        format!(
            "Scripted, no model ran; o200k_base; definitions spread over K tasks ({session} here, of {SESSIONS:?}).",
        ),
        verdict(report),
    ]);
    (vec![rows, sums, sendings], lines)
}
