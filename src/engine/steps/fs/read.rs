//! `fs.read` and `fs.stat`: one file.

use std::{
    io::{BufRead, BufReader, Read, Seek, SeekFrom},
    path::PathBuf,
};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    root::{Bounds, Found, Root, is_binary, relative, shown},
    secret,
};
use crate::engine::{
    ErrorKind,
    steps::{StepContext, StepError, StepOutput, arguments::Arguments},
};

/// Most text returned by one read, in bytes.
const TEXT_BYTES_MAX: usize = 512 << 10;
/// Most text returned by a read of a file's end, in bytes.
const TAIL_BYTES_MAX: usize = 16 << 20;
/// How far into a file a read may look for its lines, in bytes.
const LOOK_BYTES_MAX: u64 = 64 << 20;

/// `fs.read`, arguments checked.
pub(super) struct Reading {
    root: PathBuf,
    path: PathBuf,
    offset: usize,
    limit: usize,
    tail: bool,
}

impl Reading {
    /// Reads the arguments. `offset` is the number of the first line, from 1.
    pub(super) fn read(arguments: &Arguments<'_>, context: &StepContext) -> Result<Self, StepError> {
        let path = relative(arguments.text("path")?)?;
        if path.as_os_str().is_empty() {
            return Err(arguments.refuse("path", "names the root itself; give a file"));
        }
        Ok(Self {
            root: arguments.granted("root", context)?,
            path,
            offset: arguments.count("offset", 1, 1, usize::MAX >> 1)?,
            limit: arguments.count("limit", 400, 1, 20_000)?,
            tail: arguments.flag("tail")?,
        })
    }

    /// Lines `offset..offset + limit`. A binary file is no error: `binary` says so and `text` is empty.
    pub(super) fn run(&self, bounds: &Bounds, bytes_max: usize) -> Result<StepOutput, StepError> {
        let root = Root::open(&self.root)?;
        let Found::File { file, metadata } = root.find(&self.path)? else {
            return Err(StepError::new(
                ErrorKind::InvalidInput,
                format!("{} is a folder; list it with fs.tree or fs.glob", shown(&self.path)),
            ));
        };
        let failed = |error: std::io::Error| root.failed(&self.path, &error);
        let mut reader = BufReader::with_capacity(64 << 10, file.take(LOOK_BYTES_MAX));
        let head = reader.fill_buf().map_err(failed)?;
        if secret::is_private_key(head) {
            return Err(StepError::new(
                ErrorKind::Denied,
                format!("{} is not shown: it holds a private key", shown(&self.path)),
            ));
        }
        if is_binary(head) {
            let value = json!({
                "path": shown(&self.path), "binary": true, "bytes": metadata.len(), "text": "", "from": 0, "to": 0,
                "truncated": false,
            });
            return Ok(StepOutput { value, bytes: 0 });
        }
        if self.tail {
            return tail(reader.into_inner().into_inner(), metadata.len(), bytes_max)
                .map(|(text, truncated)| self.tail_output(&text, metadata.len(), truncated))
                .map_err(failed);
        }
        let text_max = TEXT_BYTES_MAX.min(bytes_max);
        let mut text: Vec<u8> = Vec::new();
        let (mut number, mut to, mut looked) = (1_usize, self.offset - 1, 0_u64);
        let mut line = Vec::new();
        let mut truncated = false;
        loop {
            line.clear();
            // One line may be as long as the file: what does not fit is passed over, not kept.
            let wanted = number >= self.offset && number - self.offset < self.limit;
            let length = if wanted {
                (&mut reader).take(text_max as u64 + 1).read_until(b'\n', &mut line).map_err(failed)?
            } else if number < self.offset {
                reader.skip_until(b'\n').map_err(failed)?
            } else {
                usize::from(!reader.fill_buf().map_err(failed)?.is_empty())
            };
            looked += length as u64;
            if length == 0 {
                truncated |= looked >= LOOK_BYTES_MAX;
                break;
            }
            if number >= self.offset {
                if !wanted || text.len() + line.len() > text_max {
                    if wanted && text.is_empty() {
                        line.truncate(text_max);
                        text.append(&mut line);
                        to = number;
                    }
                    truncated = true;
                    break;
                }
                text.append(&mut line);
                to = number;
            }
            number += 1;
            if number.is_multiple_of(1024) && bounds.used_up()? {
                truncated = true;
                break;
            }
        }
        if text.last() == Some(&b'\n') {
            text.pop();
            if text.last() == Some(&b'\r') {
                text.pop();
            }
        }
        let lossy = std::str::from_utf8(&text).is_err();
        let bytes = text.len() as u64;
        let mut value = json!({
            "path": shown(&self.path),
            "from": self.offset,
            "to": to,
            "bytes": metadata.len(),
            "text": String::from_utf8_lossy(&text),
            "truncated": truncated,
        });
        if truncated && to >= self.offset {
            value["next"] = (to + 1).into();
        }
        if lossy {
            value["lossy"] = true.into();
        }
        Ok(StepOutput { value, bytes })
    }
}

impl Reading {
    fn tail_output(&self, text: &[u8], size: u64, truncated: bool) -> StepOutput {
        let lossy = std::str::from_utf8(text).is_err();
        let mut value = json!({
            "path": shown(&self.path),
            "bytes": size,
            "text": String::from_utf8_lossy(text),
            "truncated": truncated,
        });
        if lossy {
            value["lossy"] = true.into();
        }
        StepOutput { value, bytes: text.len() as u64 }
    }
}

/// The last lines of a file of `size` bytes, as many as are allowed, and whether something before them was left out.
fn tail(mut file: impl Read + Seek, size: u64, bytes_max: usize) -> std::io::Result<(Vec<u8>, bool)> {
    let wanted = TAIL_BYTES_MAX.min(bytes_max) as u64;
    let start = size.saturating_sub(wanted);
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    file.take(wanted).read_to_end(&mut text)?;
    if start > 0 {
        let line = text.iter().position(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        text.drain(..line);
    }
    Ok((text, start > 0))
}

/// `fs.stat`, arguments checked.
pub(super) struct Looking {
    root: PathBuf,
    path: PathBuf,
}

impl Looking {
    /// Reads the arguments.
    pub(super) fn read(arguments: &Arguments<'_>, context: &StepContext) -> Result<Self, StepError> {
        Ok(Self { root: arguments.granted("root", context)?, path: relative(arguments.text("path")?)? })
    }

    /// Kind, size and time of what stands at the path; `exists` is false where nothing does, which is no error.
    pub(super) fn run(&self) -> Result<StepOutput, StepError> {
        let root = Root::open(&self.root)?;
        let path = shown(&self.path);
        let (_, metadata) = match root.locate(&self.path) {
            Ok(located) => located,
            Err(error) if error.kind == ErrorKind::NotFound => {
                return Ok(StepOutput { value: json!({"path": path, "exists": false}), bytes: 0 });
            }
            Err(error) => return Err(error),
        };
        let kind = if metadata.is_dir() {
            "folder"
        } else if metadata.is_file() {
            "file"
        } else {
            "other"
        };
        let modified = metadata
            .modified()
            .ok()
            .and_then(|time| Timestamp::try_from(time.into_std()).ok())
            .and_then(|time| time.round(jiff::Unit::Second).ok())
            .map_or(Value::Null, |time| time.to_string().into());
        let value = json!({
            "path": path, "exists": true, "kind": kind, "bytes": metadata.len(), "modified": modified,
        });
        Ok(StepOutput { value, bytes: 0 })
    }
}
