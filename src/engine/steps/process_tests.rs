//! Programs that misbehave, run for real; after each nothing of them is left.

use std::fs;

use super::*;

/// A folder to run in, and what is run there by `/bin/sh`.
struct Place {
    folder: tempfile::TempDir,
    merged: bool,
    kept_max: usize,
    written_max: u64,
    time: Duration,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            merged: false,
            kept_max: 64 << 10,
            written_max: 64 << 20,
            time: Duration::from_mins(1),
        }
    }

    async fn run(&self, script: &str) -> Result<Ended, Fault> {
        self.run_until(script, &CancellationToken::new()).await
    }

    async fn run_until(&self, script: &str, cancel: &CancellationToken) -> Result<Ended, Fault> {
        let script = format!("echo $$ > group; {script}");
        let program = Program {
            path: Path::new("/bin/sh"),
            arguments: &["-c".into(), script.into()],
            environment: &[("PATH".into(), "/usr/bin:/bin".into())],
            folder: self.folder.path(),
            merged: self.merged,
            guest: true,
            out: Keep::Ends(self.kept_max),
            err: Keep::Ends(self.kept_max),
            written_max: self.written_max,
            deadline: Instant::now() + self.time,
        };
        run(&program, cancel).await
    }

    fn file(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.folder.path().join(name)).ok()?;
        (!text.trim().is_empty()).then(|| text.trim().to_owned())
    }

    /// Waits until the script has written the file `name`.
    async fn written(&self, name: &str) -> String {
        let begun = Instant::now();
        loop {
            if let Some(text) = self.file(name) {
                return text;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "no {name}");
            tokio::task::yield_now().await;
        }
    }

    /// Waits until no process of the script's group runs. What is killed and not collected yet does not run.
    async fn is_clean(&self) {
        let group = self.file("group").expect("it ran");
        let begun = Instant::now();
        loop {
            let left = members(&group);
            if left.is_empty() {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "left behind: {left:?}");
            tokio::task::yield_now().await;
        }
    }
}

/// Status lines of the living processes of `group`.
fn members(group: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok())
        .filter(|stat| {
            let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            let fields: Vec<&str> = rest.split_whitespace().collect();
            fields.get(2) == Some(&group) && fields.first() != Some(&"Z")
        })
        .collect()
}

#[tokio::test]
async fn a_program_is_told_apart_by_its_code_and_its_streams() {
    let place = Place::new();
    let ended = place.run("echo out; echo err >&2; exit 3").await.unwrap();
    assert_eq!((ended.code(), ended.signal()), (Some(3), None));
    assert_eq!((ended.out.text().content.as_str(), ended.err.text().content.as_str()), ("out\n", "err\n"));
    let ended = place.run("kill -SEGV $$").await.unwrap();
    assert_eq!((ended.code(), ended.signal()), (None, Some(11)));
    place.is_clean().await;
}

#[tokio::test]
async fn merged_streams_keep_the_order_of_writing() {
    let place = Place { merged: true, ..Place::new() };
    let ended = place.run("for i in 1 2 3 4 5; do echo o$i; echo e$i >&2; done").await.unwrap();
    assert_eq!(ended.out.text().content, "o1\ne1\no2\ne2\no3\ne3\no4\ne4\no5\ne5\n");
    assert_eq!(ended.err.total, 0);
}

#[tokio::test]
async fn nothing_can_be_read_from_standard_input_or_a_terminal() {
    let place = Place::new();
    let script = "cat; read -r line; echo read:$?; (echo loud > /dev/tty) 2>/dev/null; echo tty:$?";
    let ended = place.run(script).await.unwrap();
    assert_eq!(ended.out.text().content, "read:1\ntty:1\n".replace("tty:1", &terminal_answer()));
    place.is_clean().await;
}

/// What a shell says of the terminal that it has not: 1 in dash, 2 in some others.
fn terminal_answer() -> String {
    let script = "(echo loud > /dev/tty) 2>/dev/null; echo tty:$?";
    let mut command = std::process::Command::new("/usr/bin/setsid");
    let output = command.args(["/bin/sh", "-c", script]).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    assert_ne!(text, "tty:0");
    text
}

#[tokio::test]
async fn what_a_program_leaves_running_ends_with_it() {
    // With the pipes, which would stay open; and without them.
    for script in [
        "sleep 600 & (sleep 600 & sleep 600) & echo started",
        "sleep 600 >/dev/null 2>&1 & echo started",
        "(trap '' TERM HUP INT; while :; do sleep 600; done) & echo started",
    ] {
        let place = Place::new();
        let begun = Instant::now();
        let ended = place.run(script).await.unwrap();
        assert_eq!((ended.code(), ended.out.text().content.as_str()), (Some(0), "started\n"), "{script}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{script}");
        place.is_clean().await;
    }
}

#[tokio::test]
async fn a_deadline_ends_all_of_the_group() {
    for script in [
        "sleep 600",
        "trap '' TERM INT HUP QUIT; while :; do :; done",
        "exec >/dev/null 2>&1; sleep 600",
        "exec >&- 2>&-; sleep 600 & wait",
        "sh -c 'sleep 600 & sleep 600' & wait",
    ] {
        let place = Place { time: Duration::from_millis(300), ..Place::new() };
        let fault = place.run(script).await.err().expect("it is late");
        assert!(matches!(fault, Fault::Deadline), "{script}: {fault}");
        place.is_clean().await;
    }
}

#[tokio::test]
async fn a_flood_is_ended() {
    for merged in [false, true] {
        let place = Place { merged, written_max: 8 << 20, ..Place::new() };
        let fault = place.run("yes x | head -c 1000000000; echo done > done").await.err().expect("a flood");
        assert!(matches!(fault, Fault::Flood(max) if max == 8 << 20), "{fault}");
        assert_eq!(place.file("done"), None);
        place.is_clean().await;
    }
}

#[tokio::test]
async fn cancelling_and_dropping_end_all_of_the_group() {
    let script = "sleep 600 & echo started > started; wait";
    let place = Place::new();
    let cancel = CancellationToken::new();
    let (ended, ()) = tokio::join!(place.run_until(script, &cancel), async {
        place.written("started").await;
        cancel.cancel();
    });
    assert!(matches!(ended, Err(Fault::Cancelled)));
    place.is_clean().await;
    let place = Place::new();
    tokio::select! {
        _ = place.run(script) => unreachable!("it waits"),
        _ = place.written("started") => {}
    }
    place.is_clean().await;
}

/// Starts a process in a session of its own, which tells who it is, and waits for that.
const STRAY: &str = "echo $$ > stray; exec sleep 60' & while [ ! -s stray ]; do :; done;";

/// Whether a process runs; one that nobody waited for yet does not.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().next().is_some_and(|state| !["Z", "X"].contains(&state))
}

#[tokio::test]
async fn a_process_that_leaves_the_group_holds_up_nobody() {
    let place = Place::new();
    let begun = Instant::now();
    // It has a session of its own, keeps the pipe, and cannot be found.
    let script = format!("/usr/bin/setsid env -i sh -c '{STRAY} echo out");
    let ended = place.run(&script).await.unwrap();
    assert_eq!(ended.out.text().content, "out\n");
    assert!(begun.elapsed() < Duration::from_secs(20));
    let stray: String = place.written("stray").await;
    assert!(runs(&stray));
    rustix::process::kill_process(Pid::from_raw(stray.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_leaves_the_group_ends_too_however_the_program_ends() {
    for (way, script) in [
        ("itself", format!("/usr/bin/setsid sh -c '{STRAY} echo out")),
        ("in its own time", format!("/usr/bin/setsid sh -c '{STRAY} exec >&- 2>&-")),
        ("unwilling", format!("/usr/bin/setsid sh -c 'trap \"\" TERM HUP; {STRAY} echo out")),
        ("twice", format!("/usr/bin/setsid sh -c '/usr/bin/setsid sleep 60 & {STRAY} echo out")),
        ("deadline", format!("/usr/bin/setsid sh -c '{STRAY} wait")),
        ("flood", format!("/usr/bin/setsid sh -c '{STRAY} exec yes")),
    ] {
        let time = if way == "deadline" { Duration::from_secs(2) } else { Duration::from_mins(1) };
        let place = Place { time, written_max: 8 << 20, ..Place::new() };
        let ended = place.run(&script).await;
        assert_eq!(ended.is_err(), ["deadline", "flood"].contains(&way), "{way}");
        // Before the answer, so that nothing need be waited for.
        assert!(!runs(&place.file("stray").expect("it said who it is")), "{way}");
    }
    let cancel = CancellationToken::new();
    let place = Place::new();
    let script = format!("/usr/bin/setsid sh -c '{STRAY} echo ready > ready; wait");
    let (ended, ()) = tokio::join!(place.run_until(&script, &cancel), async {
        place.written("ready").await;
        cancel.cancel();
    });
    assert!(matches!(ended, Err(Fault::Cancelled)));
    assert!(!runs(&place.file("stray").unwrap()));
    let place = Place::new();
    tokio::select! {
        _ = place.run(&script) => unreachable!("it waits"),
        _ = place.written("ready") => {}
    }
    assert!(!runs(&place.file("stray").unwrap()), "nobody waits any longer");
}

#[tokio::test]
async fn the_environment_is_what_was_given() {
    let place = Place::new();
    let ended = place.run("/usr/bin/env").await.unwrap().out.text().content;
    let names: Vec<&str> = ended.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    assert!(names.iter().all(|name| ["PATH", "PWD", "OLDPWD", "SHLVL", "_", MARK].contains(name)), "{ended}");
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_a_fault() {
    let place = Place { folder: tempfile::tempdir().unwrap(), ..Place::new() };
    let folder = place.folder.path().join("gone");
    let program = Program {
        path: Path::new("/bin/sh"),
        arguments: &[],
        environment: &[],
        folder: &folder,
        merged: false,
        guest: true,
        out: Keep::Ends(1),
        err: Keep::Ends(1),
        written_max: 1,
        deadline: Instant::now() + Duration::from_secs(9),
    };
    assert!(matches!(
        run(&program, &CancellationToken::new()).await.err().expect("no folder"),
        Fault::Start(io::ErrorKind::NotFound)
    ));
}

#[test]
fn the_head_and_the_tail_of_a_stream_are_kept_by_whole_lines() {
    let text = |bytes_max: usize, pieces: &[&[u8]]| {
        let mut capture = Capture::new(Keep::Ends(bytes_max));
        for piece in pieces {
            capture.push(piece);
        }
        capture.text()
    };
    assert_eq!(
        text(40, &[b"ab", b"", b"c\n"]),
        Text { content: "abc\n".to_owned(), left_out: 0, lossy: false }
    );
    let lines: Vec<String> = (0..100).map(|line| format!("line {line:02}\n")).collect();
    let pieces: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
    let cut = text(80, &pieces);
    assert_eq!(
        cut.content,
        format!("line 00\nline 01\n[… {} bytes left out …]\n{}", cut.left_out, lines[93..].concat())
    );
    assert_eq!(cut.left_out, 91 * 8);
    // The same in one piece.
    assert_eq!(text(80, &[lines.concat().as_bytes()]), cut);
    let long = text(40, &[&b"x".repeat(1000)]);
    assert_eq!(long.content, format!("{}\n[… 960 bytes left out …]\n{}", "x".repeat(10), "x".repeat(30)));
    assert!(text(40, &[b"caf\xe9"]).lossy);
    assert!(!text(40, &["café".as_bytes()]).lossy);
    assert_eq!(text(0, &[b"abc"]).left_out, 3);
}

#[test]
fn programs_are_looked_for_in_folders_outside_the_workspace() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    fs::create_dir(root.join("inside")).unwrap();
    assert!(lies_below(&root.join("inside"), &root));
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("link");
    std::os::unix::fs::symlink(root.join("inside"), &link).unwrap();
    assert!(lies_below(&link, &root), "a link into the workspace");
    assert!(!lies_below(elsewhere.path(), &root));
    let folders = search_path(Path::new("/"));
    assert!(folders.is_empty(), "{folders:?}");
    assert!(search_path(&root).iter().all(|folder| folder.is_absolute()));
    assert_eq!(find(OsStr::new("sh"), &["/nowhere".into(), "/bin".into()]), Some("/bin/sh".into()));
}
