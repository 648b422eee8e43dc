//! Compares our schemas' verdicts with a folder of published schema files (`<revision>/schema.json`) over generated and
//! mutated messages, and fails on every difference that the errata table does not explain. The schema of the tasks
//! extension of 2026-07-28 is `ext-tasks…/schema.json` beside them.
//!
//! `cargo run --release --example schema_verdicts -- FOLDER [--frames N] [--seed S] [--revision R]`
//!
//! The published definition is chosen by method, error code and `resultType`, never by a union; for 2024-11-05 to
//! 2025-06-18 it is the typed definition together with the JSON-RPC envelope. Equal seeds give equal messages. Exit
//! status: 0 all explained, 1 unexplained differences, 2 the folder or an argument is unusable.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the report is what the program is for")]

mod schema_messages;

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use jsonschema::{Draft, ValidationError, Validator, error::ValidationErrorKind};
use schema_messages::{Generator, Random, member_names, mutate};
use serde_json::{Value, json};
use tmws::{
    revision::Revision,
    schema::{Cause, Definition, ERRATA, Erratum, ErrorShape, Verdict, verdict},
    wire::{Gate, Kind, Method},
};

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("schema_verdicts: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool, Box<dyn Error>> {
    let options = Options::parse()?;
    let mut agreed = true;
    for revision in Revision::ALL {
        if options.revision.is_none_or(|only| only == revision) {
            agreed &= compare(revision, &options)?;
        }
    }
    Ok(agreed)
}

struct Options {
    folder: PathBuf,
    frames: usize,
    seed: u64,
    revision: Option<Revision>,
}

impl Options {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let (mut folder, mut frames, mut seed, mut revision) = (None, 200_000, 1, None);
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--frames" => frames = value()?.parse()?,
                "--seed" => seed = value()?.parse()?,
                "--revision" => {
                    let text = value()?;
                    revision = Some(Revision::parse(&text).ok_or_else(|| format!("no revision {text}"))?);
                }
                _ => folder = Some(PathBuf::from(argument)),
            }
        }
        let folder = folder.ok_or("name the folder that holds <revision>/schema.json")?;
        Ok(Self { folder, frames, seed, revision })
    }
}

/// One definition of ours and the published one for the same messages.
struct Pair {
    ours: Definition,
    our_schema: Value,
    published_schema: Value,
    published: Validator,
}

/// Smallest example of one kind of disagreement.
struct Disagreement {
    text: String,
    times: usize,
}

fn compare(revision: Revision, options: &Options) -> Result<bool, Box<dyn Error>> {
    let path = options.folder.join(revision.as_str()).join("schema.json");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut unrepaired: Value = serde_json::from_str(&text)?;
    if revision == Revision::V2026_07_28 {
        insert_extension(&options.folder, &mut unrepaired)?;
    }
    let mut repaired = unrepaired.clone();
    for erratum in ERRATA.iter().filter(|erratum| erratum.revisions.contains(&revision)) {
        repair(&mut repaired, erratum.cause)?;
    }
    let stale = stale_errata(revision, &unrepaired, &repaired)?;

    let mut pairs = Vec::new();
    for (_, ours) in Definition::all().filter(|(of, _)| *of == revision) {
        let published_schema = published_schema(revision, ours, &repaired)?;
        let published = compile(revision, &published_schema)?;
        let our_schema = ours.schema(revision).ok_or("a definition that is listed exists")?;
        pairs.push(Pair { ours, our_schema, published_schema, published });
    }

    let mut random = Random(options.seed ^ (revision.index() as u64 + 1) << 32);
    let names = member_names(&repaired);
    let (mut accepted, mut refused) = (0_usize, 0_usize);
    let mut disagreements: BTreeMap<String, Disagreement> = BTreeMap::new();
    // Every definition has its turn, large ones more often.
    let turns: Vec<usize> = (0..pairs.len())
        .flat_map(|index| std::iter::repeat_n(index, 1 + pairs[index].our_schema.to_string().len() / 1_000))
        .collect();
    for frame in 0..options.frames.max(turns.len()) {
        let pair = &pairs[turns[frame % turns.len()]];
        // One message in twenty is of another definition altogether.
        let source = if random.one_in(20) { &pairs[random.below(pairs.len())] } else { pair };
        let schema = if random.one_in(2) { &source.our_schema } else { &source.published_schema };
        let mut value = Generator { root: schema, random: &mut random }.value(schema, 0);
        for _ in 0..[0, 1, 1, 1, 2, 3][random.below(6)] {
            mutate(&mut value, &names, &mut random);
        }
        match (verdict(revision, pair.ours, &value), pair.published.is_valid(&value)) {
            (Ok(()), true) => accepted += 1,
            (Err(_), false) => refused += 1,
            (ours, _) => {
                let why = match ours {
                    Err(violation) => {
                        let fault = &violation.faults[0];
                        format!("we refuse {} ({})", without_indices(&fault.instance_path), fault.message)
                    }
                    Ok(()) => format!("published refuses {}", leaf(pair.published.iter_errors(&value))),
                };
                let text = value.to_string();
                let seen = disagreements
                    .entry(format!("{}: {why}", pair.ours.describe(revision)))
                    .or_insert_with(|| Disagreement { text: text.clone(), times: 0 });
                seen.times += 1;
                if text.len() < seen.text.len() {
                    seen.text = text;
                }
            }
        }
    }
    let differing: usize = disagreements.values().map(|seen| seen.times).sum();
    println!(
        "{revision}: {} definitions, {} messages: {accepted} accepted by both, {refused} refused by both, \
         {differing} unexplained, {} errata ({} stale)",
        pairs.len(),
        accepted + refused + differing,
        ERRATA.iter().filter(|erratum| erratum.revisions.contains(&revision)).count(),
        stale.len(),
    );
    for (what, seen) in &disagreements {
        println!("  {what}, {} times, smallest: {}", seen.times, seen.text);
    }
    for reason in &stale {
        println!("  stale erratum: {reason}");
    }
    Ok(disagreements.is_empty() && stale.is_empty())
}

/// Names of the extension's definitions, put beside those of its revision, begin with this.
const EXTENSION: &str = "ext-tasks.";

/// Puts the definitions of the tasks extension beside those of its revision.
fn insert_extension(folder: &Path, published: &mut Value) -> Result<(), Box<dyn Error>> {
    let mut folders = fs::read_dir(folder)?.filter_map(Result::ok).map(|entry| entry.path());
    let is_extension = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("ext-tasks"))
    };
    let path = folders.find(is_extension).ok_or("no folder ext-tasks… with the schema of the extension")?;
    let text = fs::read_to_string(path.join("schema.json"))?;
    let mut extension: Value =
        serde_json::from_str(&text.replace("#/$defs/", &format!("#/$defs/{EXTENSION}")))?;
    let definitions = extension["$defs"].as_object_mut().ok_or("the extension has no $defs")?;
    for (name, mut definition) in std::mem::take(definitions) {
        // Within one file every definition speaks the file's dialect.
        if let Some(members) = definition.as_object_mut() {
            members.remove("$schema");
        }
        published["$defs"][format!("{EXTENSION}{name}")] = definition;
    }
    Ok(())
}

/// Adds what a published type lacks, also in the extension's copy of it.
fn repair(published: &mut Value, cause: Cause) -> Result<(), Box<dyn Error>> {
    let Cause::MissingTypes { pointer, types } = cause else { return Ok(()) };
    let copy = pointer.replacen("/$defs/", &format!("/$defs/{EXTENSION}"), 1);
    let has_copy = copy != pointer && published.pointer(&copy).is_some();
    for pointer in [pointer, copy.as_str()].into_iter().take(1 + usize::from(has_copy)) {
        let place = published.pointer_mut(pointer).ok_or_else(|| format!("nothing at {pointer}"))?;
        let names = place.as_array_mut().ok_or_else(|| format!("no list of types at {pointer}"))?;
        names.extend(types.iter().map(|name| json!(name)));
    }
    Ok(())
}

/// Errata whose tripwire the published file judges as we do: they are to be deleted.
fn stale_errata(
    revision: Revision,
    unrepaired: &Value,
    repaired: &Value,
) -> Result<Vec<&'static str>, Box<dyn Error>> {
    let mut stale = Vec::new();
    // What loosens a released file of ours says nothing about the published one.
    let about_published = |erratum: &&Erratum| {
        erratum.revisions.contains(&revision) && !matches!(erratum.cause, Cause::ReleasedTooStrict { .. })
    };
    for erratum in ERRATA.iter().filter(about_published) {
        let tripwire: Value = serde_json::from_str(erratum.tripwire)?;
        let accepts = |published: &Value| -> Result<bool, Box<dyn Error>> {
            let schema = published_schema(revision, erratum.definition, published)?;
            Ok(compile(revision, &schema)?.is_valid(&tripwire))
        };
        let differs = match erratum.ours {
            Verdict::Accept => !accepts(unrepaired)? && accepts(repaired)?,
            Verdict::Reject => accepts(unrepaired)?,
        };
        if !differs {
            stale.push(erratum.reason);
        }
    }
    Ok(stale)
}

fn compile(revision: Revision, schema: &Value) -> Result<Validator, Box<dyn Error>> {
    let draft = if revision >= Revision::V2025_11_25 { Draft::Draft202012 } else { Draft::Draft7 };
    let options = jsonschema::options().with_draft(draft).should_validate_formats(false);
    Ok(options.build(schema)?)
}

/// The published definition of the same messages, with everything it may refer to.
fn published_schema(revision: Revision, ours: Definition, file: &Value) -> Result<Value, Box<dyn Error>> {
    let container = if file.get("$defs").is_some() { "$defs" } else { "definitions" };
    let reference = |name: &str| -> Result<Value, Box<dyn Error>> {
        let known = file[container].get(name).is_some();
        known
            .then(|| json!({"$ref": format!("#/{container}/{name}")}))
            .ok_or_else(|| format!("no {name}").into())
    };
    let early = revision < Revision::V2025_11_25;
    // A result or message of tasks: in 2026-07-28 the extension's.
    let of_tasks = |name: &str| {
        let prefix = if revision == Revision::V2026_07_28 { EXTENSION } else { "" };
        reference(&format!("{prefix}{name}"))
    };
    let typed = |method: Method, name: &str| {
        if method.row().gate == Gate::Tasks { of_tasks(name) } else { reference(name) }
    };
    let success = reference(if early { "JSONRPCResponse" } else { "JSONRPCResultResponse" })?;
    let response =
        |result: Value| json!({"allOf": [success, {"type": "object", "properties": {"result": result}}]});
    let all_of = match ours {
        Definition::Message(method) => {
            let (suffix, envelope) = match method.row().kind {
                Kind::Notification => ("Notification", "JSONRPCNotification"),
                Kind::Request | Kind::Ask => ("Request", "JSONRPCRequest"),
            };
            let name = format!("{}{suffix}", published_name(method));
            let typed = typed(method, &name)?;
            // The published requests of tasks leave `_meta` open, which every request of the revision has in common. The
            // extension adds its tasks to the filter of a subscription.
            let filter = |name: &str| -> Result<Value, Box<dyn Error>> {
                Ok(json!({"properties": {"params": {"properties": {"notifications": of_tasks(name)?}}}}))
            };
            match method {
                Method::SubscriptionsListen => json!([typed, filter("TaskSubscriptionNotifications")?]),
                Method::NotificationsSubscriptionsAcknowledged => {
                    json!([typed, filter("TaskSubscriptionAcknowledgedNotifications")?])
                }
                Method::TasksGet | Method::TasksResult | Method::TasksUpdate | Method::TasksCancel => {
                    json!([typed, {"properties": {"params": reference("RequestParams")?}}])
                }
                // Later typed definitions hold the envelope themselves.
                _ if early => json!([typed, reference(envelope)?]),
                _ => json!([typed]),
            }
        }
        Definition::Response(method) => json!([response(typed(method, &published_result(method))?)]),
        Definition::Result(method) => json!([typed(method, &published_result(method))?]),
        Definition::TaskCreated => json!([of_tasks("CreateTaskResult")?]),
        Definition::TaskCreatedResponse => json!([response(of_tasks("CreateTaskResult")?)]),
        Definition::Ask(method) => json!([reference(&format!("{}Request", published_name(method)))?]),
        Definition::InputRequired => json!([reference("InputRequiredResult")?]),
        Definition::InputRequiredResponse => json!([response(reference("InputRequiredResult")?)]),
        Definition::Error(shape) => json!([reference(match shape {
            ErrorShape::General if early => "JSONRPCError",
            ErrorShape::General => "JSONRPCErrorResponse",
            ErrorShape::UrlElicitationRequired => "URLElicitationRequiredError",
            ErrorShape::HeaderMismatch => "HeaderMismatchError",
            ErrorShape::MissingClientCapability => "MissingRequiredClientCapabilityError",
            ErrorShape::UnsupportedVersion => "UnsupportedProtocolVersionError",
        })?]),
    };
    Ok(json!({"allOf": all_of, container: file[container]}))
}

const fn published_name(method: Method) -> &'static str {
    match method {
        Method::Initialize => "Initialize",
        Method::Ping => "Ping",
        Method::ServerDiscover => "Discover",
        Method::ToolsList => "ListTools",
        Method::ToolsCall => "CallTool",
        Method::PromptsList => "ListPrompts",
        Method::PromptsGet => "GetPrompt",
        Method::ResourcesList => "ListResources",
        Method::ResourcesTemplatesList => "ListResourceTemplates",
        Method::ResourcesRead => "ReadResource",
        Method::ResourcesSubscribe => "Subscribe",
        Method::ResourcesUnsubscribe => "Unsubscribe",
        Method::SubscriptionsListen => "SubscriptionsListen",
        Method::CompletionComplete => "Complete",
        Method::LoggingSetLevel => "SetLevel",
        Method::RootsList => "ListRoots",
        Method::SamplingCreateMessage => "CreateMessage",
        Method::ElicitationCreate => "Elicit",
        Method::NotificationsInitialized => "Initialized",
        Method::NotificationsCancelled => "Cancelled",
        Method::NotificationsProgress => "Progress",
        Method::NotificationsRootsListChanged => "RootsListChanged",
        Method::NotificationsMessage => "LoggingMessage",
        Method::NotificationsToolsListChanged => "ToolListChanged",
        Method::NotificationsPromptsListChanged => "PromptListChanged",
        Method::NotificationsResourcesListChanged => "ResourceListChanged",
        Method::NotificationsResourcesUpdated => "ResourceUpdated",
        Method::NotificationsSubscriptionsAcknowledged => "SubscriptionsAcknowledged",
        Method::NotificationsElicitationComplete => "ElicitationComplete",
        Method::TasksGet => "GetTask",
        Method::TasksResult => "GetTaskPayload",
        Method::TasksList => "ListTasks",
        Method::TasksUpdate => "UpdateTask",
        Method::TasksCancel => "CancelTask",
        Method::NotificationsTasksStatus | Method::NotificationsTasks => "TaskStatus",
    }
}

fn published_result(method: Method) -> String {
    match method {
        Method::Ping
        | Method::LoggingSetLevel
        | Method::ResourcesSubscribe
        | Method::ResourcesUnsubscribe => "EmptyResult".to_owned(),
        other => format!("{}Result", published_name(other)),
    }
}

/// Path and keyword of the deepest error of the first failed alternative.
fn leaf<'i>(mut errors: impl Iterator<Item = ValidationError<'i>>) -> String {
    fn describe(error: &ValidationError<'_>) -> String {
        if let ValidationErrorKind::AnyOf { context } = error.kind()
            && let Some(longest) =
                context.iter().flatten().max_by_key(|inner| inner.instance_path().as_str().len())
        {
            return describe(longest);
        }
        format!("{} ({})", without_indices(error.instance_path().as_str()), error.kind().keyword())
    }
    errors.next().map_or_else(String::new, |error| describe(&error))
}

fn without_indices(path: &str) -> String {
    let segments = path.split('/').map(|segment| {
        if !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit()) { "*" } else { segment }
    });
    segments.collect::<Vec<_>>().join("/")
}
