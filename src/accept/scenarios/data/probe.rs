//! What the scenarios ask with: patterns that show one step each, texts to remember, and the program by hand.

use std::{
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use serde_json::{Value, json};

use crate::accept::{
    client::{Called, Client, MODERN, Target},
    load::{Dice, workers},
    scenario::Broken,
    stage::{AGENTS, Instance, Program, Setup, Stage, Where},
};

/// A command of the program ends within this.
const COMMAND_MAX: Duration = Duration::from_mins(3);

/// Patterns of the run: a step each, as it is. Name, needed inputs, all inputs, whether it writes, the step's arguments,
/// the answer.
const PATTERNS: [(&str, &str, &str, bool, &str, &str); 6] = [
    (
        "probe.search",
        "[query]",
        "query: {type: string}\n    k: {type: integer, default: 10}",
        false,
        "memory.search, with: {query: '${ .inputs.query }', k: '${ .inputs.k }'}",
        "{ids: [.steps.done.hits[] | .id], total: .steps.done.total}",
    ),
    (
        "probe.list",
        "[k]",
        "k: {type: integer}\n    order: {type: string}\n    kind: {type: string}\n    tags: {type: array, items: {type: string}}\n    superseded: {type: boolean}",
        false,
        "memory.list, with: {k: '${ .inputs.k }', order: '${ .inputs.order }', kind: '${ .inputs.kind }', tags: '${ .inputs.tags }', superseded: '${ .inputs.superseded }'}",
        ".steps.done",
    ),
    (
        "probe.get",
        "[id]",
        "id: {type: string}",
        false,
        "memory.get, with: {id: '${ .inputs.id }'}",
        ".steps.done",
    ),
    ("probe.stats", "[]", "", false, "memory.stats", ".steps.done"),
    (
        "probe.update",
        "[id]",
        "id: {type: string}\n    tags: {type: array, items: {type: string}}\n    importance: {type: number}\n    kind: {type: string}\n    expires: {type: string}",
        true,
        "memory.update, with: {id: '${ .inputs.id }', tags: '${ .inputs.tags }', importance: '${ .inputs.importance }', kind: '${ .inputs.kind }', expires: '${ .inputs.expires }'}",
        ".steps.done",
    ),
    (
        "probe.forget",
        "[ids]",
        "ids: {type: array, items: {type: string}}",
        true,
        "memory.forget, with: {ids: '${ .inputs.ids }'}",
        ".steps.done",
    ),
];

/// Patterns that write: each is a tool of its own, for no other way leads to them.
const WRITING: [&str; 4] = ["memory.forget", "memory.remember", "probe.forget", "probe.update"];

/// Calls the tool `remember`, or a pattern in the way that leads to it.
pub(super) async fn call(client: &mut Client, name: &str, input: Value) -> Result<Called, Broken> {
    match name {
        "remember" | "find_patterns" => client.call(name, input).await,
        writing if WRITING.contains(&writing) => client.call(&tool_of(name), input).await,
        pattern => client.run(pattern, input).await,
    }
}

/// The parameters of a call of the same.
pub(super) fn params(name: &str, input: &Value) -> Value {
    match name {
        "remember" => json!({"name": name, "arguments": input}),
        writing if WRITING.contains(&writing) => json!({"name": tool_of(name), "arguments": input}),
        pattern => json!({"name": "execute_pattern", "arguments": {"pattern": pattern, "input": input}}),
    }
}

fn tool_of(pattern: &str) -> String {
    pattern.replace(['.', '-'], "_")
}

fn patterns() -> Vec<(String, String)> {
    let one = |&(name, required, properties, writes, step, value): &(&str, &str, &str, bool, &str, &str)| {
        let right = if writes { "write" } else { "read" };
        let properties = if properties.is_empty() {
            "  properties: {}".to_owned()
        } else {
            format!("  properties:\n    {properties}")
        };
        let text = format!(
            "apiVersion: tmws/v1\nkind: Pattern\nname: {name}\nversion: 1.0.0\ntype: memory\n\
             description: One step on memories as it is. For the acceptance run.\n\
             inputs:\n  type: object\n  additionalProperties: false\n  required: {required}\n{properties}\n\
             permissions: {{memory: [{right}]}}\n\
             limits: {{timeout: 25s, max_steps: 1, max_bytes: 4MiB}}\n\
             steps:\n  - {{id: done, uses: {step}}}\n\
             output:\n  schema: {{type: object}}\n  value: '${{ {value} }}'\n  budget: {{tokens: 20000, overflow: cut}}\n\
             annotations: {{readOnlyHint: {}, destructiveHint: {writes}}}\n",
            !writes
        );
        (format!("{name}.yaml"), text)
    };
    PATTERNS.iter().map(one).collect()
}

/// A server with the patterns of the run.
pub(super) fn setup(store: Where) -> Setup {
    let environment = vec![("TMWS_PROMOTE", WRITING.join(","))];
    Setup { store, environment, patterns: patterns(), ..Setup::default() }
}

/// A client of the first agent in `project`.
pub(super) async fn client(instance: &Instance, name: &str, project: &str) -> Result<Client, Broken> {
    Client::socket(name, &Target::of(instance, AGENTS[0], project), MODERN).await
}

/// Asks a pattern, and breaks off where the answer is an error.
pub(super) async fn well(client: &mut Client, pattern: &str, input: Value) -> Result<Value, Broken> {
    let called = call(client, pattern, input).await?;
    Ok(answer(client.well(pattern, called)?.body))
}

/// Stores a memory, and gives its id.
pub(super) async fn remember(client: &mut Client, arguments: Value) -> Result<String, Broken> {
    let called = client.call("remember", arguments).await?;
    let body = answer(client.well("remember", called)?.body);
    id_in(&body).ok_or_else(|| client.broken("remember", "an id", &body))
}

/// The answer of a pattern, without what is around it.
pub(super) fn answer(mut body: Value) -> Value {
    let Some(members) = body.as_object_mut() else { return body };
    members.remove("etag");
    members.remove("more");
    if let Some(value) = members.remove("value") {
        return value;
    }
    members.remove("project");
    body
}

/// The code of an error answer; nothing of any other.
pub(super) fn code(called: &Called) -> &str {
    if called.is_error { called.body["error"].as_str().unwrap_or("unknown") } else { "" }
}

/// The id of a memory that an answer of `remember` has.
pub(super) fn id_in(body: &Value) -> Option<String> {
    body["id"].as_str().map(str::to_owned)
}

/// Runs the program by hand on a store: its status, and what it said.
pub(super) async fn command(
    stage: &Stage,
    home: &Path,
    store: &str,
    arguments: &[&str],
) -> Result<(ExitStatus, String), Broken> {
    let mut program = Program::new(stage.program(), stage.path(), false);
    program
        .command()
        .args(arguments)
        .current_dir(home)
        .env("HOME", home)
        .env("XDG_DATA_HOME", home.join("data"))
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("TMWS_DATABASE_URL", store);
    let ended = program.run(&format!("tmws {}", arguments.join(" ")), COMMAND_MAX).await?;
    stage.ran(store, arguments)?;
    Ok(ended)
}

/// The JSON among what a command said; `null` where there is none.
pub(super) fn json_in(said: &str) -> Value {
    said.lines().find_map(|line| serde_json::from_str(line).ok().filter(Value::is_object)).unwrap_or_default()
}

/// Whether `tmws memory verify` finds the store whole: a check.
pub(super) async fn verify(
    stage: &Stage,
    home: &Path,
    store: &str,
    seen: &mut crate::accept::scenario::Seen,
    what: &str,
) -> Result<(), Broken> {
    let (status, said) = command(stage, home, store, &["memory", "verify", "--json"]).await?;
    let told = json_in(&said);
    seen.check(
        format!("tmws memory verify: {what}"),
        status.success() && told["whole"] == true,
        "whole, nothing found",
        if told.is_null() { format!("{status}: {said}") } else { told.to_string() },
    );
    Ok(())
}

/// The address of a SQLite file.
pub(super) fn file_url(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

/// A file for a store, in a folder that holds nothing else.
pub(super) fn store_file(stage: &Stage, of: &str) -> Result<PathBuf, Broken> {
    Ok(stage.folder(of)?.join("tmws.db"))
}

/// Subjects: words that memories about one hold, and words that questions about it hold and no memory does, nor a word that
/// begins so or has the same stem.
const SUBJECTS: [(&str, &str); 12] = [
    (
        "harbour vessel berth tide anchor cargo crew deck pilot mast sail hull buoy quay freight captain lighthouse ferry",
        "boat sea dock ocean maritime sailor",
    ),
    (
        "kitchen recipe flour butter oven yeast dough sugar cinnamon pastry whisk batter crust vanilla bake loaf bread icing",
        "cake cooking dessert chef food bakery",
    ),
    (
        "hospital nurse surgeon patient fever vaccine clinic diagnosis therapy symptom pharmacy dose ward ambulance infection blood heart lung",
        "doctor medicine illness disease health treatment",
    ),
    (
        "orchestra violin cello melody rhythm conductor piano symphony chord concert soprano trumpet drum flute tempo choir opera score",
        "music song musician instrument tune band",
    ),
    (
        "football goalkeeper referee stadium penalty striker coach league tournament defender kick match trophy jersey whistle pitch fans scoreboard",
        "soccer sport team athlete game player",
    ),
    (
        "glacier mountain summit ridge avalanche climber rope slope valley cliff trail boulder altitude peak canyon snow hut guide",
        "alpine hiking hill trekking mountaineer ascent",
    ),
    (
        "bank loan interest mortgage deposit currency invoice budget audit credit debt tax account payment dividend bond stock fund",
        "money finance wealth cash economy lender",
    ),
    (
        "garden seed soil tulip rose compost watering greenhouse pruning weed hedge lawn blossom bulb shovel rake fern orchard",
        "plant flower botany horticulture yard shrub",
    ),
    (
        "railway locomotive carriage platform timetable conductor track signal tunnel bridge junction freight ticket station commuter express rail switch",
        "tram subway metro transit railroad passenger",
    ),
    (
        "painting canvas brush gallery sculpture portrait museum sketch palette pigment exhibition fresco easel artist mural watercolour marble frame",
        "aesthetics drawing painter masterpiece picture creative",
    ),
    (
        "court judge verdict lawyer witness jury trial evidence appeal statute contract defendant prosecutor sentence testimony hearing clerk bail",
        "constitution legal justice attorney crime legislation",
    ),
    (
        "telescope planet orbit comet galaxy nebula rocket satellite crater eclipse meteor launch asteroid star lunar probe observatory spectrum",
        "astronomy space cosmos universe astronaut sky",
    ),
];

/// The text of memory `number`: about one subject, a little about another. Lower-case words alone.
pub(super) fn text(dice: &mut Dice, number: usize) -> String {
    let mut words = Vec::with_capacity(14);
    let own = number % SUBJECTS.len();
    let mut draw = |subject: usize, words: &mut Vec<&str>| {
        let all: Vec<&str> = SUBJECTS[subject].0.split(' ').collect();
        words.push(all[dice.roll(all.len() as u64) as usize]);
    };
    for _ in 0..9 {
        draw(own, &mut words);
    }
    let other = number * 7 % SUBJECTS.len();
    for _ in 0..4 {
        draw(other, &mut words);
    }
    words.join(" ")
}

/// Question `number`: three words about a subject that no memory holds.
pub(super) fn question(dice: &mut Dice, number: usize) -> String {
    let words: Vec<&str> = SUBJECTS[number % SUBJECTS.len()].1.split(' ').collect();
    let first = dice.roll(words.len() as u64) as usize;
    let step = 1 + dice.roll(2) as usize;
    (0..3).map(|nth| words[(first + nth * step) % words.len()]).collect::<Vec<_>>().join(" ")
}

/// Question `number` with words that memories hold, too.
pub(super) fn mixed_question(dice: &mut Dice, number: usize) -> String {
    let (held, asked) = SUBJECTS[number % SUBJECTS.len()];
    let held: Vec<&str> = held.split(' ').collect();
    let asked: Vec<&str> = asked.split(' ').collect();
    let mut draw = |words: &[&'static str]| words[dice.roll(words.len() as u64) as usize];
    format!("what about {} {} and {}", draw(&held), draw(&held), draw(&asked))
}

/// Stores `texts` in `project` through `agents` clients at once.
pub(super) async fn remember_all(
    instance: &Instance,
    project: &str,
    texts: Vec<String>,
    agents: usize,
) -> Result<(), Broken> {
    let target = Target::of(instance, AGENTS[0], project);
    let texts = std::sync::Arc::new(texts);
    let ended = workers(agents, |worker| {
        let (target, texts) = (target.clone(), std::sync::Arc::clone(&texts));
        async move {
            let mut client = Client::socket(&format!("writer {worker}"), &target, MODERN).await?;
            for text in texts.iter().skip(worker).step_by(agents) {
                remember(&mut client, json!({"content": text})).await?;
            }
            Ok::<_, Broken>(())
        }
    })
    .await;
    if ended.len() < agents {
        return Err(Broken::new("storing memories", "all writers end", "one of them did not"));
    }
    ended.into_iter().collect()
}
