//! What each fuzz target does with some bytes. Also run by `cargo test` on bytes of its own.
#![allow(dead_code, unreachable_pub, reason = "each target uses one of them")]

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use serde_json::{Map, Value};
use tmws::{
    engine::{ErrorKind, NobodyToAsk, steps},
    pattern::{Expression, ExpressionError, Origin, STEPS, loader::load},
    scope::{ProjectId, Scope},
    store::{SharedStore, SqliteOptions, SqliteStore},
};
use tokio_util::sync::CancellationToken;

/// Bytes that an expression or a step may give.
const BYTES_MAX: usize = 64 << 10;
/// How long an evaluation may take.
const TIME_MAX: Duration = Duration::from_millis(200);
/// How much later it may notice: what one step of the evaluator may take, on a busy machine.
const LATE_MAX: Duration = Duration::from_secs(10);

/// A pattern file: it loads, or every error is at a place in the file.
pub fn loader(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines = text.lines().count() + 1;
    match load("fuzz.yaml", text, Origin::User(PathBuf::new())) {
        Ok(loaded) => assert!(!loaded.pattern.name.is_empty()),
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without a word");
            for error in errors {
                assert!((1..=lines).contains(&error.line) && error.column >= 1, "{error}");
            }
        }
    }
}

/// A line of jq, and the JSON that it is evaluated on: refused, or over in time and within its bytes.
pub fn expression(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (source, input) = text.split_once('\n').unwrap_or((text, "null"));
    let Ok(expression) = Expression::compile(source) else { return };
    let input: Value = serde_json::from_str(input).unwrap_or(Value::Null);
    let begun = Instant::now();
    let result = expression.evaluate(&input, begun + TIME_MAX, BYTES_MAX);
    let took = begun.elapsed();
    assert!(took < TIME_MAX + LATE_MAX, "{took:?} for {source}");
    match result {
        Ok(value) => assert!(value.to_string().len() <= BYTES_MAX * 2, "too much from {source}"),
        Err(ExpressionError::Refused(why)) => panic!("compiled and then refused ({why}): {source}"),
        Err(_) => {}
    }
}

/// A step, named by the first byte, and its arguments as JSON: a value, or a typed error that is not our bug.
pub fn steps(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let rows: Vec<_> = STEPS.iter().filter(|row| !steps::BLOCKS.contains(&row.uses)).collect();
    let row = rows[usize::from(*first) % rows.len()];
    let Ok(Value::Object(with)) = serde_json::from_slice(rest) else { return };
    let place = &*PLACE;
    let begun = Instant::now();
    let result = place.runtime.block_on(steps::run(row, &place.context(), &with_root(with)));
    assert!(begun.elapsed() < TIME_MAX + LATE_MAX, "{} took {:?}", row.uses, begun.elapsed());
    match result {
        Ok(output) => assert!(output.value.to_string().len() <= BYTES_MAX * 8, "{} gave too much", row.uses),
        Err(error) => assert_ne!(error.kind, ErrorKind::Internal, "{}: {}", row.uses, error.message),
    }
    // Whatever the arguments were, what lies beside the root is untouched and unread.
    assert_eq!(fs::read_to_string(place.folder.path().join("outside.txt")).ok().as_deref(), Some(SECRET));
}

const SECRET: &str = "what no step may read";

/// Steps work on a root; where the arguments name none, it is filled in, so that more than the refusal is reached.
fn with_root(mut with: Map<String, Value>) -> Map<String, Value> {
    for name in ["root", "repo"] {
        with.entry(name).or_insert_with(|| PLACE.root().to_string_lossy().into());
    }
    with
}

static PLACE: LazyLock<Place> = LazyLock::new(Place::new);

struct Place {
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    store: SharedStore,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("src")).expect("a folder");
        fs::write(root.join("src/main.rs"), "fn main() {\n    // TODO say hello\n}\n").expect("a file");
        fs::write(root.join("README.md"), "# Root\n\nText.\n").expect("a file");
        fs::write(folder.path().join("outside.txt"), SECRET).expect("a file");
        std::os::unix::fs::symlink("../outside.txt", root.join("link")).expect("a link");
        let options = SqliteOptions::new(folder.path().join("store.db"));
        let store = runtime.block_on(SqliteStore::open(options)).expect("a store");
        Self { folder, runtime, store: Arc::new(store) }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn context(&self) -> steps::StepContext {
        let root = self.root();
        steps::StepContext {
            scope: Scope::mint(ProjectId::personal(), "local", "default", None),
            store: SharedStore::clone(&self.store),
            listener: None,
            roots: BTreeMap::from([(root.to_string_lossy().into_owned(), root)]),
            permissions: Arc::default(),
            outside: Arc::default(),
            asker: Arc::new(NobodyToAsk),
            id: "fuzz".to_owned(),
            now: jiff::Timestamp::UNIX_EPOCH,
            deadline: Instant::now() + TIME_MAX,
            cancel: CancellationToken::new(),
            bytes_max: BYTES_MAX,
        }
    }
}
