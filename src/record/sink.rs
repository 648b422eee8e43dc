//! The file: a header decided late, then lines as things happen. Whatever is wrong with it, the conversation goes on.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Instant,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use rustix::process::Signal;
use serde_json::{Map, Value};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use super::redact::{Redactor, Rules};
use crate::transcript::{Direction, Entry, FORMAT, Header, Transport, line};

/// Of one frame or body so many bytes are written down; what is longer is passed on and cut in the file.
pub(super) const FRAME_BYTES_MAX: usize = 64 << 20;
/// Entries that wait for the header: it is written with the first frame, and nothing but the start comes before it.
const HELD_MAX: usize = 8;
/// Files of one name.
const COPIES_MAX: u32 = 10_000;

/// Where a recording goes and what its header says.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The file; where it is there already, a number goes before its ending. Else a name is made of client and time.
    pub out: Option<PathBuf>,
    /// Where a made name goes; else the working folder.
    pub folder: Option<PathBuf>,
    /// The client's name; else as it names itself.
    pub client: Option<String>,
    /// The client's version; else as it names itself.
    pub client_version: Option<String>,
    /// Which scenario; else `recorded`.
    pub variant: Option<String>,
    /// What is written otherwise.
    pub rules: Rules,
}

/// A recording being written.
pub(super) struct Sink {
    options: Options,
    redactor: Redactor,
    transport: Transport,
    server: String,
    begun: Instant,
    count: u64,
    /// Lines that wait for the header.
    held: Vec<String>,
    file: State,
}

enum State {
    /// Nothing is known of the client yet.
    Undecided,
    Open {
        file: File,
        /// Bytes of whole lines in it.
        whole: u64,
    },
    Broken,
}

impl Sink {
    /// A recording of `server` that begins now. Nothing is created before the first frame.
    pub(super) fn new(options: Options, transport: Transport, server: &str) -> Self {
        let mut redactor = Redactor::new(options.rules.clone());
        let server = redactor.address(server);
        Self {
            options,
            redactor,
            transport,
            server,
            begun: Instant::now(),
            count: 0,
            held: Vec::new(),
            file: State::Undecided,
        }
    }

    /// What takes the secrets out of what is about to be noted.
    pub(super) const fn redactor(&mut self) -> &mut Redactor {
        &mut self.redactor
    }

    /// Notes an entry, whose `n` and `t` are set here, and returns its `n`. Its `raw` is redacted here, all else by
    /// the caller.
    pub(super) fn note(&mut self, mut entry: Entry) -> u64 {
        self.count += 1;
        entry.n = self.count;
        // Ten thousandths of a second, as the format's other recorders write it.
        entry.t = (self.begun.elapsed().as_secs_f64() * 1e4).round() / 1e4;
        if matches!(self.file, State::Broken) {
            return self.count;
        }
        // HTTP+SSE: the server tells its endpoint before the client has said who it is.
        let is_endpoint = entry.sse.as_deref() == Some("endpoint");
        let is_frame = entry.dir != Direction::Event && entry.raw.is_some() && !is_endpoint;
        if matches!(self.file, State::Undecided) && (is_frame || self.held.len() >= HELD_MAX) {
            let said = if entry.dir == Direction::C2s { entry.raw.as_deref() } else { None };
            self.open(said.and_then(client_info));
        }
        if let Some(raw) = &entry.raw
            && let std::borrow::Cow::Owned(redacted) = self.redactor.body(raw)
        {
            entry.raw = Some(redacted);
        }
        match line(&entry) {
            Ok(text) if matches!(self.file, State::Undecided) => self.held.push(text),
            Ok(text) => self.write(&text),
            Err(error) => error!(%error, "an entry of the recording could not be written"),
        }
        self.count
    }

    /// Notes an entry with these bytes in it: as text where they are text, or where something must be taken out of them.
    pub(super) fn note_bytes(&mut self, entry: Entry, bytes: &[u8]) -> u64 {
        let text = String::from_utf8_lossy(bytes);
        match text {
            std::borrow::Cow::Owned(lossy) if self.redactor.body(&lossy) == lossy => {
                let encoding = Some("base64".to_owned());
                self.note(Entry { raw: Some(STANDARD.encode(bytes)), encoding, ..entry })
            }
            text => self.note(Entry { raw: Some(text.into_owned()), ..entry }),
        }
    }

    /// Notes that something happened.
    pub(super) fn event(&mut self, what: &str) {
        self.note(Entry { event: Some(what.to_owned()), ..new(Direction::Event) });
    }

    /// Writes what still waits for a header, where anything does.
    pub(super) fn finish(&mut self) {
        if matches!(self.file, State::Undecided) && !self.held.is_empty() {
            self.open(None);
        }
    }

    fn open(&mut self, said: Option<(String, String)>) {
        let (name, version) = said.unwrap_or_else(|| ("unknown".to_owned(), "0".to_owned()));
        let client = self.options.client.clone().unwrap_or(name);
        let version = self.options.client_version.clone().unwrap_or(version);
        let now = Timestamp::now();
        let header = Header {
            format: FORMAT.to_owned(),
            client: self.redactor.body(&client).into_owned(),
            version: self.redactor.body(&version).into_owned(),
            transport: self.transport,
            variant: self.options.variant.clone().unwrap_or_else(|| "recorded".to_owned()),
            driver: None,
            driver_env: None,
            server: Some(self.server.clone()),
            server_env: None,
            recorded: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        };
        let path = self.options.out.clone().unwrap_or_else(|| {
            let transport = match self.transport {
                Transport::Stdio => "stdio",
                Transport::Http => "http",
                Transport::Ws => "ws",
            };
            let (client, version) = (file_name(&header.client), file_name(&header.version));
            let time = now.strftime("%Y%m%dT%H%M%SZ");
            let name = format!("{client}-{version}-{transport}-{time}.jsonl");
            self.options.folder.as_deref().unwrap_or(Path::new("")).join(name)
        });
        self.file = match create(&path) {
            Ok((file, path)) => {
                info!(file = %path.display(), "recording");
                State::Open { file, whole: 0 }
            }
            Err(error) => {
                error!(file = %path.display(), %error, "nothing is recorded; the conversation goes on without");
                State::Broken
            }
        };
        match line(&header) {
            Ok(text) => self.write(&text),
            Err(error) => error!(%error, "the header of the recording could not be written"),
        }
        for text in std::mem::take(&mut self.held) {
            self.write(&text);
        }
    }

    fn write(&mut self, text: &str) {
        let State::Open { file, whole } = &mut self.file else { return };
        match file.write_all(text.as_bytes()) {
            Ok(()) => *whole += text.len() as u64,
            Err(error) => {
                error!(%error, "the recording ends here; the conversation goes on without");
                // What is there remains a transcript: no half line.
                let _ = file.set_len(*whole);
                self.file = State::Broken;
            }
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.finish();
    }
}

/// From now on a file that may not grow any more (`ulimit -f`) is an error like a full disk, and ends nobody. Within a
/// runtime.
pub(super) fn outlive_a_full_file() -> io::Result<()> {
    // A program that is launched has the default again: what is caught is not inherited.
    signal(SignalKind::from_raw(Signal::XFSZ.as_raw())).map(drop)
}

/// An entry of which only it is known who spoke.
pub(super) const fn new(dir: Direction) -> Entry {
    Entry::new(0, 0.0, dir)
}

/// A file that was not there before, and its name: nothing that is there is ever written over.
fn create(path: &Path) -> io::Result<(File, PathBuf)> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    for copy in 1..COPIES_MAX {
        let path = if copy == 1 { path.to_owned() } else { numbered(path, copy) };
        // For its owner alone: what people say to their tools stands in it.
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// `a.jsonl` → `a-2.jsonl`.
fn numbered(path: &Path, copy: u32) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{copy}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// Part of a file's name.
fn file_name(text: &str) -> String {
    let safe = |character: char| {
        if character.is_ascii_alphanumeric() || matches!(character, '.' | '_') { character } else { '-' }
    };
    let name: String = text.chars().take(60).map(safe).collect();
    match name.trim_matches(['.', '-']) {
        "" => "unknown".to_owned(),
        name => name.to_owned(),
    }
}

/// How a client names itself in its first frame: in `initialize`, or in the envelope of 2026-07-28.
fn client_info(raw: &str) -> Option<(String, String)> {
    let frame: Map<String, Value> = serde_json::from_str(raw).ok()?;
    let params = frame.get("params")?;
    let info = params
        .get("clientInfo")
        .or_else(|| params.get("_meta")?.get("io.modelcontextprotocol/clientInfo"))?;
    let text = |member: &str| info.get(member).and_then(Value::as_str).map(str::to_owned);
    Some((text("name")?, text("version").unwrap_or_else(|| "0".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::Transcript;

    const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"clientInfo":{"name":"a/../b c","version":"1"}}}"#;

    fn frame(dir: Direction, raw: &str) -> Entry {
        Entry { raw: Some(raw.to_owned()), ..new(dir) }
    }

    fn read(path: &Path) -> Transcript {
        Transcript::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn the_first_frame_decides_the_header_and_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { folder: Some(folder.path().join("new")), ..Options::default() };
        let mut sink = Sink::new(options, Transport::Stdio, "server");
        sink.event("start");
        assert!(!folder.path().join("new").exists(), "nothing is known yet");
        sink.note(frame(Direction::C2s, INITIALIZE));
        let files: Vec<_> =
            std::fs::read_dir(folder.path().join("new")).unwrap().map(Result::unwrap).collect();
        let name = files[0].file_name().into_string().unwrap();
        assert!(name.starts_with("a-..-b-c-1-stdio-2"), "{name}");
        let transcript = read(&files[0].path());
        assert_eq!(
            (transcript.header.client.as_str(), transcript.header.version.as_str()),
            ("a/../b c", "1")
        );
        assert_eq!(transcript.entries[0].event.as_deref(), Some("start"));
        assert_eq!(transcript.entries[1].raw.as_deref(), Some(INITIALIZE));
        assert_eq!(transcript.entries[1].n, 2);
    }

    #[test]
    fn a_client_of_http_and_sse_is_named_after_it_has_been_told_its_endpoint() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a.jsonl");
        let mut sink =
            Sink::new(Options { out: Some(out.clone()), ..Options::default() }, Transport::Http, "s");
        let endpoint = frame(Direction::S2c, "/messages");
        sink.note(Entry { sse: Some("endpoint".to_owned()), ..endpoint });
        sink.note(frame(Direction::C2s, INITIALIZE));
        let transcript = read(&out);
        assert_eq!(transcript.header.client, "a/../b c");
        assert_eq!(transcript.entries[0].sse.as_deref(), Some("endpoint"));
    }

    #[test]
    fn what_is_there_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a.b.jsonl");
        std::fs::write(&out, "mine").unwrap();
        for expected in ["a.b-2.jsonl", "a.b-3.jsonl"] {
            let options = Options { out: Some(out.clone()), ..Options::default() };
            let mut sink = Sink::new(options, Transport::Ws, "s");
            sink.note(frame(Direction::C2s, "x"));
            let transcript = read(&folder.path().join(expected));
            assert_eq!(transcript.header.client, "unknown");
        }
        assert_eq!(std::fs::read_to_string(out).unwrap(), "mine");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_given_up() {
        let options = Options { out: Some("/dev/null/x.jsonl".into()), ..Options::default() };
        let mut sink = Sink::new(options, Transport::Ws, "s");
        assert_eq!(sink.note(frame(Direction::C2s, "x")), 1);
        assert_eq!(sink.note(frame(Direction::S2c, "y")), 2);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_ends_the_recording_alone() {
        let mut sink = Sink::new(Options::default(), Transport::Ws, "s");
        sink.file = State::Open { file: File::options().write(true).open("/dev/full").unwrap(), whole: 0 };
        assert_eq!(sink.note(frame(Direction::C2s, "x")), 1);
        assert!(matches!(sink.file, State::Broken));
        assert_eq!(sink.note(frame(Direction::C2s, "x")), 2);
    }

    #[test]
    fn a_modern_client_names_itself_in_its_envelope() {
        let raw = r#"{"params":{"_meta":{"io.modelcontextprotocol/clientInfo":{"name":"n","version":"2"}}}}"#;
        assert_eq!(client_info(raw), Some(("n".to_owned(), "2".to_owned())));
        for nothing in ["", "[]", "{}", r#"{"params":[]}"#, r#"{"params":{"clientInfo":3}}"#] {
            assert_eq!(client_info(nothing), None, "{nothing}");
        }
    }
}
