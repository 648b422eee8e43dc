//! Frames on their way through.

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{Link, Phase, Relay};
use crate::{
    bridge::{
        http,
        ledger::{Replayed, Verdict},
        websocket::NotTaken,
    },
    exit::Exit,
    wire::{ErrorCode, FrameError, Line, RpcError},
};

impl Relay {
    pub(super) fn answer(&mut self, answers: Vec<Vec<u8>>) {
        for answer in answers {
            self.output.push(&answer);
        }
    }

    pub(super) fn host_sent(&mut self, line: Line) {
        let frame = match line {
            Line::Frame(frame) => frame,
            Line::TooLong { size_bytes } => {
                self.refuse_line(size_bytes);
                return;
            }
        };
        let mut answers = Vec::new();
        let frame = match self.ledger.host_sent(&frame, &mut answers) {
            Verdict::Pass => Some(frame),
            Verdict::Replace(other) => Some(other),
            Verdict::Drop => None,
        };
        self.answer(answers);
        if let Some(frame) = frame {
            self.pass_on(frame);
        }
    }

    /// Answers a line that is too long as a server on stdio does; it was skipped.
    fn refuse_line(&mut self, size_bytes: usize) {
        let error = FrameError::TooLarge { size_bytes, limit_bytes: self.frame_bytes_max };
        if self.ledger.takes_error_without_id() {
            let error = RpcError::new(ErrorCode::ParseError, error.to_string());
            self.output.push(error.to_message(None).to_string().as_bytes());
        } else {
            warn!(%error, "a line was ignored, this revision has no error without an id");
        }
    }

    /// Sends `frame`, or keeps it for the next connection.
    pub(super) fn pass_on(&mut self, frame: Vec<u8>) {
        if matches!(self.phase, Phase::Up) {
            self.send(frame);
        } else {
            let mut answers = Vec::new();
            self.ledger.wait(frame, Instant::now(), &mut answers, &self.why);
            self.answer(answers);
        }
    }

    pub(super) fn send(&mut self, frame: Vec<u8>) {
        match &mut self.link {
            Link::WebSocket(Some(socket)) => {
                if let Err(NotTaken { why, unsent }) = socket.send(frame) {
                    self.lost_with(&why, unsent);
                }
            }
            Link::WebSocket(None) => {}
            Link::Http(http) => http.send(frame),
        }
    }

    /// A frame of the server's; how the bridge ends, if it must.
    pub(super) fn server_sent(&mut self, frame: &[u8]) -> Option<Exit> {
        self.attempt = 0;
        let seen = self.ledger.server_sent(frame);
        match seen.verdict {
            Verdict::Pass => {
                self.gone = 0;
                self.output.push(frame);
            }
            Verdict::Replace(other) => self.output.push(&other),
            Verdict::Drop => {}
        }
        if let (Some(revision), Link::Http(http)) = (&seen.negotiated, &self.link) {
            http.negotiated(revision);
        }
        match seen.replayed {
            None => None,
            Some(Replayed::Session { revision }) => {
                if let Link::Http(http) = &self.link {
                    http.negotiated(&revision);
                }
                info!(server = %self.target, "the session was opened anew");
                self.up();
                None
            }
            Some(Replayed::Refused) => {
                self.lost("it refused to open the session anew");
                None
            }
            Some(Replayed::OtherRevision { was, is }) => {
                error!(server = %self.target, was, is, "the server speaks another revision now");
                let mut answers = Vec::new();
                let why = format!(
                    "{} speaks {is} now, and this session was opened in {was}: the bridge ends; start it again",
                    self.target
                );
                self.ledger.fail_all(&why, &mut answers);
                self.answer(answers);
                Some(Exit::Failed)
            }
        }
    }

    pub(super) fn http_told(&mut self, event: http::Event) -> Option<Exit> {
        match event {
            http::Event::Frame { frame, ends } => {
                let exit = self.server_sent(&frame);
                let mut answers = Vec::new();
                let why = "the server's answer was for another request";
                self.ledger.unanswered(&ends, why, &mut answers);
                self.answer(answers);
                return exit;
            }
            http::Event::Down { unsent, why } => {
                self.why = format!("{} cannot be reached: {why}", self.target);
                if !matches!(self.phase, Phase::Down(_)) {
                    warn!(server = %self.target, why, "the server cannot be reached; trying on");
                    self.down();
                }
                self.wait_again(unsent);
            }
            http::Event::SessionGone { refused } => self.session_gone(refused),
            http::Event::Late { refused } => self.send_again(refused),
        }
        None
    }
}
