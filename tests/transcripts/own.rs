//! Recordings of our own server with its own tools (`compat/record`), played against it again: the real program, on a
//! clone of the recorded repository.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::LazyLock,
    thread,
};

use regex::{Captures, Regex};
use rustix::process::{Pid, Signal, kill_process};
use tmws::{
    replay::{Against, Options, ReplayError, Report, play},
    transcript::Transcript,
};
use tokio::runtime::Builder;

use crate::scratch::Scratch;

/// The project's name in recordings.
const PROJECT: &str = "small";

/// What our tools say otherwise at each run, and what stands for it.
static VARYING: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        // Ids of memories, of projects, and what memories make of an etag.
        (r"\bm_[0-9A-Z]{26}\b", "m_[id]"),
        (r#"(\\"id\\":\\")[0-9A-Z]{6}\\""#, r#"$1[end of id]\""#),
        (r"\bp_[0-9a-f]{32}\b", "p_[id]"),
        (r#"(\\"etag\\":\\")\w+"#, "$1[etag]"),
        // Of receipts: times, and sizes, which such an etag makes longer or shorter.
        (r#""(ms|tokens_out|bytes_seen|bytes)":[0-9.]+"#, r#""$1":"(measured)""#),
    ]
    .map(|(pattern, instead)| (Regex::new(pattern).unwrap(), instead))
    .into()
});

/// The steps of a receipt.
static STEPS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r#""steps":\[\{([^\]]*)\}\]"#).unwrap());

/// `text` without what varies; steps that ran at the same time, which are told as they ended, in one order.
pub(crate) fn redacted(text: &str) -> String {
    let text = VARYING
        .iter()
        .fold(text.to_owned(), |text, (pattern, instead)| pattern.replace_all(&text, *instead).into_owned());
    let ordered = |found: &Captures<'_>| {
        let mut steps: Vec<&str> = found[1].split("},{").collect();
        steps.sort_unstable();
        format!("\"steps\":[{{{}}}]", steps.join("},{"))
    };
    STEPS.replace_all(&text, ordered).into_owned()
}

/// A place with the repository that was recorded, as the project that its settings name.
fn place() -> Scratch {
    let place = Scratch::new();
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/repos/small.bundle");
    let cloned = Command::new("git")
        .args(["-c", "init.defaultBranch=main", "clone", "-q", "-b", "main"])
        .args([bundle, place.path(PROJECT)])
        .output()
        .unwrap();
    assert!(cloned.status.success(), "{}", String::from_utf8_lossy(&cloned.stderr));
    let settings = place.path("home/.config/tmws");
    fs::create_dir_all(&settings).unwrap();
    let root = serde_json::to_string(&place.path(PROJECT)).unwrap();
    fs::write(settings.join("tmws.toml"), format!("[projects.{PROJECT}]\nroot = {root}\n")).unwrap();
    place
}

/// A shared server, ended with a signal.
struct Served {
    child: Child,
    address: String,
}

impl Served {
    fn start(place: &Scratch) -> Self {
        let mut child = place
            .command(&["serve", "--no-auth", "--listen", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("the server says where it listens").unwrap();
            if let Some(rest) = line.split("address=").nth(1) {
                break rest.split(' ').next().unwrap().to_owned();
            }
        };
        // Nobody may wait for a reader of what it says.
        thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

/// Plays `transcript` against our own server, reached as `transport` (`stdio`, `ws`, `http`, `sse`) reaches one.
pub(crate) fn replay(
    transcript: &Transcript,
    transport: &str,
    options: &Options,
) -> Result<Report, ReplayError> {
    let place = place();
    let (_served, mut against) = if transport == "stdio" {
        let root = place.path(PROJECT).into_os_string();
        let command = vec![env!("CARGO_BIN_EXE_tmws").into(), "stdio".into(), "--root".into(), root];
        let home = vec![
            ("HOME".into(), place.path("home").into_os_string()),
            ("XDG_CONFIG_HOME".into(), place.path("home/.config").into_os_string()),
            ("XDG_DATA_HOME".into(), place.path("home/.local/share").into_os_string()),
        ];
        (None, Against::Within(command, home))
    } else {
        let served = Served::start(&place);
        let scheme = if transport == "ws" { "ws" } else { "http" };
        let endpoint = if transport == "http" { "mcp" } else { transport };
        let url = format!("{scheme}://{}/p/{PROJECT}/{endpoint}", served.address);
        (Some(served), Against::Url { url, token: None })
    };
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(play(transcript, &mut against, options))
}
