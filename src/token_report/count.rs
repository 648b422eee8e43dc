//! From conversations to figures, and what they must be.

use std::{collections::BTreeMap, time::Duration};

use regex::Regex;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Arm, Class, Conversation, Definitions, HostKind, SESSIONS, Size, Task,
    gate::{GATE_SESSION, Miss},
};
use crate::engine::tokens;

/// The share of its price at which a prefix is read again, where hosts cache.
const CACHED: f64 = 0.1;
/// Loading the vocabulary may take so long.
const LOADING: Duration = Duration::from_mins(2);

/// What a host shows of a result that has both texts and `structuredContent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    /// The texts.
    ContentOnly,
    /// `structuredContent`, and the texts where there is none.
    StructuredFirst,
    /// Both.
    Both,
}

impl Policy {
    /// All.
    pub const ALL: [Self; 3] = [Self::ContentOnly, Self::StructuredFirst, Self::Both];

    /// As in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ContentOnly => "content_only",
            Self::StructuredFirst => "structured_first",
            Self::Both => "both",
        }
    }
}

/// What one arm took for one task, in tokens where nothing else is said.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Instructions and definitions as a model sees them.
    pub definitions: usize,
    /// Instructions and definitions as on the wire.
    pub definitions_wire: usize,
    /// Calls, which a model writes.
    pub calls: usize,
    /// Results under each policy, turn by turn.
    pub results: [Vec<usize>; 3],
    /// Calls, turn by turn.
    pub call_of: Vec<usize>,
    /// Bytes of calls and results (texts only).
    pub bytes: usize,
    /// Milliseconds of all calls.
    pub ms: f64,
    /// Gold facts that no text of the arm has.
    pub missing: Vec<String>,
    /// Which policy is the worst for us in this arm.
    pub policy: Policy,
}

impl Figures {
    /// Calls made.
    #[must_use]
    pub fn turns(&self) -> usize {
        self.call_of.len()
    }

    /// Calls and results under the headline policy.
    #[must_use]
    pub fn talk(&self) -> usize {
        self.talk_under(self.policy)
    }

    /// The same under one policy.
    #[must_use]
    pub fn talk_under(&self, policy: Policy) -> usize {
        self.calls + self.results[policy as usize].iter().sum::<usize>()
    }

    /// Unique tokens at the end, with definitions spread over `session` tasks.
    #[must_use]
    pub fn context_end(&self, session: usize) -> f64 {
        self.definitions as f64 / session as f64 + self.talk() as f64
    }

    /// Input tokens that are billed for this task alone: every turn sends again all that was before. `cached` is the
    /// price of what was sent before.
    #[must_use]
    pub fn billed_input(&self, cached: f64) -> f64 {
        let (mut sent, mut billed) = (0.0, 0.0);
        let mut context = self.definitions as f64;
        let turns = self.call_of.iter().zip(&self.results[self.policy as usize]);
        for turn in std::iter::once(0).chain(turns.map(|(call, result)| call + result)) {
            context += turn as f64;
            billed += sent * cached + (context - sent);
            sent = context;
        }
        billed
    }

    fn to_json(&self) -> Value {
        let results: serde_json::Map<String, Value> = Policy::ALL
            .iter()
            .map(|policy| {
                (policy.name().to_owned(), self.results[*policy as usize].iter().sum::<usize>().into())
            })
            .collect();
        let sessions: serde_json::Map<String, Value> = SESSIONS
            .iter()
            .map(|session| (session.to_string(), json!(self.context_end(*session).round())))
            .collect();
        json!({
            "definitions": self.definitions, "definitions_wire": self.definitions_wire, "calls": self.calls,
            "results": results, "policy": self.policy.name(), "context_end": sessions,
            "billed_input": self.billed_input(1.0).round(),
            "billed_input_cached": self.billed_input(CACHED).round(),
            "turns": self.turns(), "bytes": self.bytes, "ms": (self.ms * 10.0).round() / 10.0,
            "missing": self.missing,
        })
    }
}

/// One task.
#[derive(Clone, Debug)]
pub struct Row {
    /// Of the task.
    pub id: String,
    /// Of the task.
    pub question: String,
    /// As the shell's figure says.
    pub size: Size,
    /// As declared.
    pub declared: Size,
    /// Of the task.
    pub class: Class,
    /// Of the task.
    pub host: HostKind,
    /// Why it was expected to cost more than in the shell.
    pub loses: Option<String>,
    /// By arm.
    pub figures: BTreeMap<Arm, Figures>,
}

impl Row {
    /// How much less `ours` takes than `theirs` in a session of so many tasks, in percent; negative where it takes more.
    /// `None` where theirs does not have the facts or was not recorded. Where ours does not have them, nothing is saved.
    #[must_use]
    pub fn saving(&self, ours: Arm, theirs: Arm, session: usize) -> Option<f64> {
        let (ours, theirs) = (self.figures.get(&ours)?, self.figures.get(&theirs)?);
        if !theirs.missing.is_empty() {
            return None;
        }
        if !ours.missing.is_empty() {
            return Some(0.0);
        }
        Some(100.0 * (1.0 - ours.context_end(session) / theirs.context_end(session)))
    }
}

impl Row {
    /// How much more TMWS takes than `theirs`, in percent; `None` where there is nothing to compare with, which for the shell
    /// are hosts without one.
    #[must_use]
    pub fn excess(&self, theirs: Arm, session: usize) -> Option<f64> {
        let compared = theirs != Arm::Shell || self.host == HostKind::Shell;
        compared.then(|| self.saving(Arm::Tmws, theirs, session)).flatten().map(|saving| -saving)
    }
}

/// A comparison over many tasks.
#[derive(Clone, Debug)]
pub struct Aggregate {
    /// Whose.
    pub ours: Arm,
    /// Against whom.
    pub theirs: Arm,
    /// Which tasks: `all`, or `S` for those that should beat a shell.
    pub tasks: &'static str,
    /// Tasks a session.
    pub session: usize,
    /// How many tasks were compared.
    pub n: usize,
    /// Median saving in percent.
    pub median: f64,
    /// The worst task, and its saving in percent.
    pub worst: (String, f64),
}

/// Everything measured.
#[derive(Clone, Debug)]
pub struct Report {
    /// In the order of the file.
    pub rows: Vec<Row>,
    /// The four tools in tokens, without instructions.
    pub surface: usize,
    /// What each arm pays before the first question: visible, and on the wire.
    pub definitions: BTreeMap<Arm, (usize, usize)>,
}

impl Report {
    /// Counts.
    pub(super) async fn of(
        rows: &[(&Task, BTreeMap<Arm, Conversation>)],
        definitions: &BTreeMap<Arm, Definitions>,
    ) -> Result<Self, String> {
        if tokens::count_exactly("", Instant::now() + LOADING).await.estimated {
            return Err("the token vocabulary could not be loaded".to_owned());
        }
        let mut counted = BTreeMap::new();
        let mut surface = 0;
        for (arm, all) in definitions {
            let tools: usize = all.tools.iter().map(|tool| count(&visible(tool))).sum();
            let instructions: usize = all.instructions.iter().map(|text| count(text)).sum();
            let wire: usize = all.tools.iter().map(|tool| count(&tool.to_string())).sum();
            counted.insert(*arm, (tools + instructions, wire + instructions));
            if *arm == Arm::Tmws {
                surface = tools;
            }
        }
        let rows = rows
            .iter()
            .map(|(task, conversations)| {
                let figures: BTreeMap<Arm, Figures> = conversations
                    .iter()
                    .map(|(arm, said)| {
                        (*arm, figures(task, *arm, said, counted.get(arm).copied().unwrap_or_default()))
                    })
                    .collect();
                let shell = figures.get(&Arm::Shell).map_or(0, Figures::talk);
                Row {
                    id: task.id.clone(),
                    question: task.question.clone(),
                    size: Size::of(shell),
                    declared: task.size,
                    class: task.class,
                    host: task.host,
                    loses: task.loses.clone(),
                    figures,
                }
            })
            .collect();
        Ok(Self { rows, surface, definitions: counted })
    }

    /// Median and worst of the tasks that `admits` lets in.
    #[must_use]
    pub fn aggregate(&self, ours: Arm, theirs: Arm, session: usize, only_s: bool) -> Option<Aggregate> {
        let shell = theirs == Arm::Shell;
        let mut savings: Vec<(&str, f64)> = self
            .rows
            .iter()
            .filter(|row| !only_s || row.class == Class::S)
            .filter(|row| !shell || row.host == HostKind::Shell)
            .filter_map(|row| Some((&*row.id, row.saving(ours, theirs, session)?)))
            .collect();
        savings.sort_by(|(_, one), (_, other)| one.total_cmp(other));
        let (name, worst) = *savings.first()?;
        let middle = savings.len() / 2;
        let median = if savings.len() % 2 == 1 {
            savings[middle].1
        } else {
            f64::midpoint(savings[middle - 1].1, savings[middle].1)
        };
        Some(Aggregate {
            ours,
            theirs,
            tasks: if only_s { "S" } else { "all" },
            session,
            n: savings.len(),
            median,
            worst: (name.to_owned(), worst),
        })
    }

    /// Medians at the gate's session where every host shows results after one policy, instead of the worst of all.
    #[must_use]
    pub fn under(&self, policy: Policy) -> Vec<Aggregate> {
        let mut report = self.clone();
        for row in &mut report.rows {
            row.figures.values_mut().for_each(|figures| figures.policy = policy);
        }
        [(Arm::ServersWithGrep, false), (Arm::Shell, true)]
            .into_iter()
            .filter_map(|(theirs, only_s)| report.aggregate(Arm::Tmws, theirs, GATE_SESSION, only_s))
            .collect()
    }

    /// Tasks that cost more than in the shell, worst first.
    #[must_use]
    pub fn losers(&self, ours: Arm, session: usize) -> Vec<(&Row, f64)> {
        let mut losers: Vec<(&Row, f64)> = self
            .rows
            .iter()
            .filter(|row| row.host == HostKind::Shell)
            .filter_map(|row| Some((row, row.saving(ours, Arm::Shell, session)?)))
            .filter(|(_, saving)| *saving < 0.0)
            .collect();
        losers.sort_by(|(_, one), (_, other)| one.total_cmp(other));
        losers
    }

    /// All comparisons, in the order printed.
    #[must_use]
    pub fn aggregates(&self) -> Vec<Aggregate> {
        let mut all = Vec::new();
        for ours in [Arm::Tmws, Arm::Promoted] {
            for (theirs, only_s) in [
                (Arm::ServersWithGrep, false),
                (Arm::Servers, false),
                (Arm::Shell, true),
                (Arm::Shell, false),
            ] {
                all.extend(
                    SESSIONS.iter().filter_map(|session| self.aggregate(ours, theirs, *session, only_s)),
                );
            }
        }
        all
    }

    /// For machines.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let arms: serde_json::Map<String, Value> =
                    row.figures.iter().map(|(arm, it)| (arm.name().to_owned(), it.to_json())).collect();
                let saving = |theirs| row.saving(Arm::Tmws, theirs, GATE_SESSION).map(tenth);
                json!({
                    "task": row.id, "question": row.question, "size": row.size.name(), "class": row.class.name(),
                    "host": if row.host == HostKind::Shell { "shell" } else { "none" }, "loses": row.loses,
                    "arms": arms,
                    "saving": {
                        "a": saving(Arm::Servers), "a-plus": saving(Arm::ServersWithGrep), "c": saving(Arm::Shell),
                    },
                    "saving_promoted": {
                        "a-plus": row.saving(Arm::Promoted, Arm::ServersWithGrep, GATE_SESSION).map(tenth),
                        "c": row.saving(Arm::Promoted, Arm::Shell, GATE_SESSION).map(tenth),
                    },
                })
            })
            .collect();
        let aggregates: Vec<Value> = self
            .aggregates()
            .iter()
            .map(|it| {
                json!({
                    "ours": it.ours.name(), "theirs": it.theirs.name(), "tasks": it.tasks, "k": it.session,
                    "n": it.n, "median": tenth(it.median),
                    "worst": {"task": it.worst.0, "saving": tenth(it.worst.1)},
                })
            })
            .collect();
        let policies: serde_json::Map<String, Value> = Policy::ALL
            .iter()
            .map(|policy| {
                let medians: serde_json::Map<String, Value> = self
                    .under(*policy)
                    .iter()
                    .map(|it| (it.theirs.name().to_owned(), json!(tenth(it.median))))
                    .collect();
                (policy.name().to_owned(), Value::Object(medians))
            })
            .collect();
        let losers: serde_json::Map<String, Value> = SESSIONS
            .iter()
            .map(|session| {
                let names: Vec<&str> =
                    self.losers(Arm::Tmws, *session).iter().map(|(row, _)| &*row.id).collect();
                (session.to_string(), json!(names))
            })
            .collect();
        let definitions: serde_json::Map<String, Value> = self
            .definitions
            .iter()
            .map(|(arm, (visible, wire))| (arm.name().to_owned(), json!({"visible": visible, "wire": wire})))
            .collect();
        let failures = self.failures();
        json!({
            "scripted": true, "tokenizer": "o200k_base", "ok": failures.is_empty(),
            "failures": failures.iter().map(Miss::to_json).collect::<Vec<_>>(),
            "goal": self.reaches_goal(), "surface": self.surface, "definitions": definitions,
            "aggregates": aggregates, "policies": policies, "losers": losers, "tasks": rows,
        })
    }
}

fn tenth(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

fn count(text: &str) -> usize {
    tokens::count(text).count
}

/// A tool's definition as hosts hand it to a model.
fn visible(tool: &Value) -> String {
    json!({"name": tool["name"], "description": tool["description"], "input_schema": tool["inputSchema"]})
        .to_string()
}

fn figures(task: &Task, arm: Arm, said: &Conversation, (definitions, wire): (usize, usize)) -> Figures {
    let mut results = [const { Vec::new() }; 3];
    let mut call_of = Vec::new();
    let (mut bytes, mut ms) = (0, 0.0);
    for exchange in &said.exchanges {
        let content = count(&exchange.content);
        let structured = exchange.structured.as_deref().map(count);
        results[Policy::ContentOnly as usize].push(content);
        results[Policy::StructuredFirst as usize].push(structured.unwrap_or(content));
        results[Policy::Both as usize].push(content + structured.unwrap_or(0));
        call_of.push(count(&exchange.call));
        bytes += exchange.call.len() + exchange.content.len();
        ms += exchange.ms;
    }
    let total = |policy: &Policy| results[*policy as usize].iter().sum::<usize>();
    let mut policies = Policy::ALL;
    policies.sort_by_key(total);
    let policy = if arm.is_ours() { policies[2] } else { policies[0] };
    let strict = if matches!(arm, Arm::Servers | Arm::ServersWithGrep) { &[][..] } else { &task.strict };
    let missing = task
        .facts
        .iter()
        .chain(strict)
        .filter(|fact| {
            let texts = said.exchanges.iter().map(|exchange| &exchange.content);
            let structured = said.exchanges.iter().filter_map(|exchange| exchange.structured.as_ref());
            // The folder checked them all when it was read.
            let Ok(regex) = Regex::new(fact) else { return true };
            !texts.chain(structured).any(|text| regex.is_match(text))
        })
        .cloned()
        .collect();
    Figures {
        definitions,
        definitions_wire: wire,
        calls: call_of.iter().sum(),
        results,
        call_of,
        bytes,
        ms,
        missing,
        policy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token_report::MissKind;

    fn texts(report: &Report) -> Vec<String> {
        report.failures().into_iter().map(|miss| miss.text).collect()
    }

    fn figures(definitions: usize, turns: &[(usize, usize)], missing: &[&str]) -> Figures {
        let results: Vec<usize> = turns.iter().map(|(_, result)| *result).collect();
        Figures {
            definitions,
            definitions_wire: definitions,
            calls: turns.iter().map(|(call, _)| call).sum(),
            results: [results.clone(), results.clone(), results],
            call_of: turns.iter().map(|(call, _)| *call).collect(),
            bytes: 0,
            ms: 0.0,
            missing: missing.iter().map(|&fact| fact.to_owned()).collect(),
            policy: Policy::ContentOnly,
        }
    }

    fn row(class: Class, ours: Figures, servers: Figures, shell: Figures) -> Row {
        Row {
            id: "one".to_owned(),
            question: String::new(),
            size: Size::Small,
            declared: Size::Small,
            class,
            host: HostKind::Shell,
            loses: None,
            figures: BTreeMap::from([
                (Arm::Tmws, ours),
                (Arm::ServersWithGrep, servers),
                (Arm::Shell, shell),
            ]),
        }
    }

    #[test]
    fn the_prefix_is_billed_again_with_every_turn() {
        let figures = figures(100, &[(10, 40), (10, 40)], &[]);
        assert!((figures.context_end(1) - 200.0).abs() < 1e-9);
        assert!((figures.context_end(5) - 120.0).abs() < 1e-9);
        assert!((figures.billed_input(1.0) - (100.0 + 150.0 + 200.0)).abs() < 1e-9);
        assert!((figures.billed_input(0.1) - (100.0 + (10.0 + 50.0) + (15.0 + 50.0))).abs() < 1e-9);
    }

    #[test]
    fn who_lacks_a_fact_saves_nothing_and_fails_the_gate() {
        let full = || figures(0, &[(10, 990)], &[]);
        let lacking = row(Class::S, figures(0, &[(10, 90)], &["gold"]), full(), full());
        assert_eq!(lacking.saving(Arm::Tmws, Arm::Shell, 5), Some(0.0));
        let report = Report { rows: vec![lacking], surface: 300, definitions: BTreeMap::new() };
        let failures = texts(&report).join("\n");
        assert!(
            failures.contains("lost the fact `gold`") && failures.contains("the median saving"),
            "{failures}"
        );
        let unfair = row(Class::S, full(), figures(0, &[(1, 1)], &["gold"]), full());
        assert_eq!(unfair.saving(Arm::Tmws, Arm::ServersWithGrep, 5), None, "nothing to hold ours against");
    }

    #[tokio::test]
    async fn an_answer_cut_by_one_fact_turns_the_gate_red() {
        let task: Task = toml::from_str(
            "id='t'\nquestion='q'\nsize='small'\nclass='S'\nname='n'\nfacts=['permit\\.c:49']\nstrict=['by Ada']\nc=[]\nb=[]",
        )
        .unwrap();
        let said = |text: &str| Conversation {
            exchanges: vec![super::super::data::exchange(
                &json!({"name": "x", "arguments": {}}),
                &json!({"content": [{"type": "text", "text": text}]}),
                1.0,
            )],
        };
        let whole = format!("permit.c:49 by Ada{}", " and so on".repeat(150));
        for (ours, shell, expected) in [
            ("permit.c:49 by Ada", &*whole, None),
            ("permit.c:4 by Ada", &whole, Some("t: arm B lost the fact `permit\\.c:49`")),
            ("permit.c:49 by …", &whole, Some("t: arm B lost the fact `by Ada`")),
            ("permit.c:49 by Ada", &whole[..12], Some("t: arm C lost the fact `by Ada`")),
        ] {
            let arms = BTreeMap::from([
                // The servers are not asked for strict facts.
                (Arm::ServersWithGrep, said(&format!("permit.c:49{}", " and so on".repeat(150)))),
                (Arm::Shell, said(shell)),
                (Arm::Tmws, said(ours)),
            ]);
            let report = Report::of(&[(&task, arms)], &BTreeMap::new()).await.unwrap();
            let failures = texts(&report);
            match expected {
                None => assert_eq!(failures, Vec::<String>::new()),
                Some(fact) => assert!(failures.iter().any(|failure| failure == fact), "{failures:?}"),
            }
        }
    }

    #[test]
    fn the_gate_asks_for_medians_and_for_no_loss_on_small_tasks() {
        let shell = || figures(0, &[(10, 990)], &[]);
        let report = |ours: usize, class| Report {
            rows: vec![row(class, figures(300, &[(10, ours)], &[]), shell(), shell())],
            surface: 300,
            definitions: BTreeMap::new(),
        };
        assert_eq!(texts(&report(190, Class::S)), Vec::<String>::new());
        assert!(report(190, Class::S).reaches_goal());
        assert!(!report(400, Class::S).reaches_goal());
        let dear = report(1_090, Class::S);
        let said = texts(&dear).join("\n");
        assert!(said.contains("costs 16 % more") && said.contains("against A+ is -16 %"), "{said}");
        let kinds: Vec<MissKind> = dear.failures().iter().map(|miss| miss.kind).collect();
        let each = [MissKind::Median, MissKind::Shell, MissKind::Servers, MissKind::Shell];
        assert_eq!(kinds, each, "medians, then the small task");
        assert_eq!(dear.to_json()["failures"][1]["kind"], "shell");
        // A host without a shell is no way around the gate.
        let shell_less = Report {
            rows: vec![Row { host: HostKind::None, ..report(1_090, Class::M).rows.remove(0) }],
            ..report(1_090, Class::M)
        };
        assert_eq!(shell_less.worst_small(Arm::Shell), None);
        let failures = texts(&shell_less).join("\n");
        assert!(
            failures.contains("costs 16 % more than with A+") && !failures.contains("in the shell"),
            "{failures}"
        );
        let wide = Report { surface: 351, ..report(190, Class::S) };
        assert_eq!(texts(&wide), ["the four tools take 351 tokens, allowed are 350"]);
        assert!(texts(&report(190, Class::N))[0].contains("nothing can be compared against C"));
    }

    #[tokio::test]
    async fn of_each_arm_the_policy_counts_that_is_worst_for_us() {
        tokens::count_exactly("", Instant::now() + LOADING).await;
        let task: Task = toml::from_str(
            "id='t'\nquestion='q'\nsize='small'\nclass='S'\nname='n'\nfacts=['b+']\nc=[]\nb=[]",
        )
        .unwrap();
        let said = Conversation {
            exchanges: vec![super::super::data::exchange(
                &json!({"name": "x", "arguments": {}}),
                &json!({"content": [{"type": "text", "text": "a bb c"}], "structuredContent": {"a": ["bb", "c", "d"]}}),
                1.0,
            )],
        };
        let ours = super::figures(&task, Arm::Tmws, &said, (0, 0));
        let theirs = super::figures(&task, Arm::Servers, &said, (0, 0));
        assert_eq!((ours.policy, theirs.policy), (Policy::Both, Policy::ContentOnly));
        assert!(ours.talk() > theirs.talk() && ours.missing.is_empty());
    }
}
