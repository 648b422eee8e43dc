//! `tmws replay`: the client's side of a transcript, played against a server, and what the server says compared.
//!
//! `script` turns a transcript into steps, each with what the client had seen before it; `player` plays them on `live`
//! connections, waits for these causes and never for a time; `hearing` judges what the server says as it comes;
//! `compare` holds answers beside the recorded ones at the end. By what rules, and what may differ, is [`Rule`] and
//! [`MAY_DIFFER`], which `tmws replay --explain` prints. `handles` replaces what the recorded server had made up by what
//! the live one made up at the same place.

mod compare;
mod handles;
mod hearing;
mod live;
mod message;
mod own;
mod player;
mod report;
mod rules;
mod script;

use std::{collections::HashSet, ffi::OsString, io, path::PathBuf, sync::Arc, time::Duration};

pub use live::Pipes;
pub use report::{Finding, Note, Report, RequestReport, StepReport};
pub use rules::{MAY_DIFFER, Rule};
pub use script::Head;

use crate::{
    bridge::{
        TargetError,
        target::{Target, Transport as Spoken},
    },
    dial::Dialer,
    transcript::{Transcript, Transport},
};
use live::{Link, Remote, Teller};
use player::{Player, Way};
use script::{Act, Script};

/// What a transcript is played against.
pub enum Against {
    /// A program that speaks on stdin and stdout; started anew for each conversation.
    Command(Vec<OsString>),
    /// A server on the network: ws, wss, http or https. The token is that of the address, else this.
    Url {
        /// Its address.
        url: String,
        /// A bearer token.
        token: Option<OsString>,
    },
    /// Pipes, made anew for each conversation.
    Pipes(Box<dyn FnMut() -> io::Result<Pipes> + Send>),
    /// This program (its path), over the transport of the recording.
    Itself(PathBuf),
    /// A program with an environment of its own. Made by [`play`] from [`Against::Itself`].
    #[doc(hidden)]
    Within(Vec<OsString>, Vec<(OsString, OsString)>),
}

impl Against {
    /// A conversation on stdin and stdout.
    fn link(&mut self, teller: Teller) -> io::Result<Link> {
        match self {
            Self::Command(command) => Link::start(command, &[], None, teller),
            Self::Within(command, environment) => Link::start(command, environment, None, teller),
            Self::Pipes(make) => Ok(Link::on(make()?, teller)),
            Self::Url { .. } | Self::Itself(_) => {
                Err(io::Error::other("it does not speak on stdin and stdout"))
            }
        }
    }

    /// What a person calls it.
    fn name(&self) -> String {
        match self {
            Self::Command(command) | Self::Within(command, _) => {
                let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
                format!("`{}`", words.join(" "))
            }
            Self::Url { url, .. } => match url.rsplit_once('@') {
                // What stands before it is a secret.
                Some((before, rest)) => {
                    format!("{}{rest}", before.split_inclusive("://").next().unwrap_or_default())
                }
                None => url.clone(),
            },
            Self::Pipes(_) => "a server in this process".to_owned(),
            Self::Itself(_) => "this program".to_owned(),
        }
    }
}

/// How it is played.
#[derive(Clone, Debug)]
pub struct Options {
    /// A wait that is longer than this is a failure.
    pub timeout: Duration,
    /// Whether texts must be equal too.
    pub is_exact: bool,
}

/// Why nothing was played.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The address cannot be used.
    #[error(transparent)]
    Address(#[from] TargetError),
    /// The system refuses what every connection needs.
    #[error("the system: {0}")]
    System(#[from] io::Error),
    /// Our own server cannot be started.
    #[error("this program could not be started as a server: {0}")]
    Own(#[source] io::Error),
}

/// Plays a transcript.
///
/// # Errors
/// There was nothing to play against; all that a server does wrong is in the report.
pub async fn play(
    transcript: &Transcript,
    against: &mut Against,
    options: &Options,
) -> Result<Report, ReplayError> {
    let script = Script::of(transcript);
    let header = &transcript.header;
    let name = against.name();
    let mut report = match against {
        Against::Itself(program) => {
            let scratch = own::Scratch::new()?;
            if header.transport == Transport::Stdio {
                let (command, environment) = own::command(program, &scratch, &["stdio"]);
                let mut against = Against::Within(command, environment);
                run(&script, Way::Lines(&mut against), options).await
            } else {
                let served = own::Served::start(program, &scratch).await?;
                let url = match header.transport {
                    Transport::Ws => format!("ws://{}/ws", served.address),
                    _ => format!("http://{}/mcp", served.address),
                };
                let report = run(&script, remote(&url, None)?, options).await;
                served.stop().await;
                report
            }
        }
        Against::Url { url, token } => run(&script, remote(url, token.clone())?, options).await,
        Against::Command(_) | Against::Within(..) | Against::Pipes(_) => {
            run(&script, Way::Lines(against), options).await
        }
    };
    report.title = format!(
        "{} {} over {}, {}: played against {name}",
        header.client, header.version, header.transport, header.variant
    );
    Ok(report)
}

fn remote(url: &str, token: Option<OsString>) -> Result<Way<'static>, ReplayError> {
    let target = Target::at(url, token)?;
    let spoken = target.transport;
    let dialer = Arc::new(Dialer::new(target.tls)?);
    let remote = Remote { target: Arc::new(target), dialer };
    Ok(match spoken {
        Spoken::WebSocket => Way::Sockets(remote),
        Spoken::Http => Way::Requests(remote),
    })
}

async fn run(script: &Script, way: Way<'_>, options: &Options) -> Report {
    let mut player = Player::new(script, way, options);
    player.run().await;
    player.report()
}

impl Player<'_> {
    /// Compares what came with what was recorded, and puts it all together.
    fn report(mut self) -> Report {
        for index in 0..self.script.asked.len() {
            let asked = &self.script.asked[index];
            if let (Some(recorded), Some(live)) = (&asked.answer, self.got[index].answers.first()) {
                let mut recorded = recorded.clone();
                self.handles.apply(&mut recorded);
                let live = live.clone();
                let revision = self.revision_of_request(index, &live);
                for found in compare::compare(&recorded, &live, revision, self.options.is_exact) {
                    self.find(asked.step, found.rule, &found.at, found.text, Some(&live));
                }
            }
        }
        for index in 0..self.script.steps.len() {
            self.compare_heads(index);
        }
        if self.script.steps.is_empty() {
            let text = "nothing was played: the client did nothing in this recording".to_owned();
            self.notes.push(Note { line: 1, text });
        }
        let mut told = HashSet::new();
        self.notes.retain(|note| told.insert((note.line, note.text.clone())));
        self.notes.sort_by_key(|note| note.line);
        let steps =
            self.outcomes.iter().zip(&self.script.steps).enumerate().map(|(index, (outcome, step))| {
                let of_step = |(asked, _): &(&script::Asked, &player::Got)| asked.step == index;
                let requests = self.script.asked.iter().zip(&self.got).filter(of_step).map(|(asked, got)| {
                    RequestReport {
                        id: asked.id.clone(),
                        method: asked.method.clone(),
                        recorded: asked.answer.clone(),
                        is_let_go: asked.is_let_go,
                        answers: got.answers.clone(),
                        progress: got.progress.clone(),
                    }
                });
                StepReport {
                    line: step.line,
                    sent: step.act.words(),
                    was_played: outcome.was_played,
                    head: outcome.head.clone(),
                    requests: requests.collect(),
                    findings: outcome.findings.clone(),
                }
            });
        Report {
            title: String::new(),
            steps: steps.collect(),
            notes: self.notes.clone(),
            unasked: self.unasked.clone(),
        }
    }

    fn compare_heads(&mut self, index: usize) {
        let (Act::Send { http: Some(exchange), .. }
        | Act::SendBytes { http: Some(exchange), .. }
        | Act::Fetch(exchange)) = &self.script.steps[index].act
        else {
            return;
        };
        let (Some(was), Some(is)) = (exchange.head.clone(), self.outcomes[index].head.clone()) else {
            return;
        };
        if was.status / 100 != is.status / 100 {
            let text = format!("status {} was recorded, and {} came", was.status, is.status);
            self.find(index, Rule::HttpStatus, "", text, None);
            return;
        }
        let is_legacy_endpoint = self.lanes[self.script.steps[index].lane].endpoint.is_some();
        if was.status == 202 && is.status != 202 && !is_legacy_endpoint {
            let text = format!("status 202 was recorded, and {} came", is.status);
            self.find(index, Rule::HttpStatus, "", text, None);
        }
        let script = self.script;
        let messages = match &script.steps[index].act {
            Act::Send { messages, .. } => messages.as_slice(),
            _ => &[],
        };
        let answers =
            |kind: &str| !messages.is_empty() && matches!(kind, "application/json" | "text/event-stream");
        if let (Some(was), Some(is)) = (&was.content_type, &is.content_type)
            && was != is
            && !(answers(was) && answers(is))
        {
            let text = format!("content type {was} was recorded, and {is} came");
            self.find(index, Rule::HttpType, "", text, None);
        }
        let opens = messages.iter().any(|message| message["method"] == "initialize");
        if opens && was.session.is_some() != is.session.is_some() {
            let [was, is] = [was.session, is.session].map(|id| if id.is_some() { "a" } else { "no" });
            let text = format!("{was} session id was recorded, and {is} session id came");
            self.find(index, Rule::HttpSession, "", text, None);
        }
    }
}
