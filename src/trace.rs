//! Which trace a call belongs to, as W3C Trace Context has it: `traceparent` and `tracestate`, in a request's `_meta` or in
//! the headers that brought it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::hex::hex;

/// Longest `tracestate` that is handed on, in bytes: what the specification wants kept.
const STATE_BYTES_MAX: usize = 512;
/// The flag of a trace that somebody records.
const SAMPLED: u8 = 1;

/// A place in a trace: the span that is the parent of whatever is done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; never zero.
    pub trace_id: [u8; 16],
    /// The span; never zero.
    pub span_id: [u8; 8],
    flags: u8,
    state: Option<Arc<str>>,
}

impl TraceContext {
    /// The beginning of a trace that is recorded.
    #[must_use]
    pub fn root() -> Self {
        let (high, low) = (random(), random());
        let mut trace_id = [0; 16];
        trace_id[..8].copy_from_slice(&high.to_be_bytes());
        trace_id[8..].copy_from_slice(&low.to_be_bytes());
        Self { trace_id, span_id: random().to_be_bytes(), flags: SAMPLED, state: None }
    }

    /// Another span of the same trace.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span_id: random().to_be_bytes(), ..self.clone() }
    }

    /// What `traceparent` and `tracestate` say; nothing where the former is none. A state that is too long or holds
    /// anything but visible characters is left out.
    #[must_use]
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let mut parts = traceparent.trim().split('-');
        let (version, trace_id, span_id, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        // Later versions may add parts, this one has none.
        let [version] = bytes(version)?;
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let (trace_id, span_id, [flags]) = (bytes(trace_id)?, bytes(span_id)?, bytes(flags)?);
        if trace_id == [0; 16] || span_id == [0; 8] {
            return None;
        }
        let state = tracestate
            .map(str::trim)
            .filter(|state| (1..=STATE_BYTES_MAX).contains(&state.len()))
            .filter(|state| state.bytes().all(|byte| (0x20..0x7f).contains(&byte)) && state.contains('='));
        Some(Self { trace_id, span_id, flags, state: state.map(Arc::from) })
    }

    /// Whether somebody records the trace.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The `tracestate` that came with it.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The trace in digits, as people look for it.
    #[must_use]
    pub fn trace(&self) -> String {
        hex(&self.trace_id)
    }
}

/// As `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", hex(&self.trace_id), hex(&self.span_id), self.flags & SAMPLED)
    }
}

/// So many bytes from lower-case digits, and no others.
fn bytes<const COUNT: usize>(text: &str) -> Option<[u8; COUNT]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * COUNT || !digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut found = [0; COUNT];
    for (at, byte) in found.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(found)
}

/// Never zero. Ids need to differ, not to be secret: where the system has no randomness they are counted.
fn random() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut bytes = [0; 8];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes).max(1),
        Err(_) => NEXT.fetch_add(1, Ordering::Relaxed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_parent_is_read_and_written_alike() {
        let parent = TraceContext::parse(PARENT, Some("vendor=a,other=b")).expect("a parent");
        assert_eq!(parent.to_string(), PARENT);
        assert_eq!(parent.trace(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((parent.is_sampled(), parent.state()), (true, Some("vendor=a,other=b")));
        let child = parent.child();
        assert_eq!((child.trace_id, child.state()), (parent.trace_id, parent.state()));
        assert_ne!(child.span_id, parent.span_id);
        assert!(!TraceContext::parse(&PARENT.replace("-01", "-00"), None).expect("a parent").is_sampled());
        assert_ne!(TraceContext::root().trace_id, TraceContext::root().trace_id);
        // A later version may know more.
        let later = PARENT.replacen("00-", "01-", 1) + "-more";
        assert_eq!(TraceContext::parse(&later, None).expect("a parent").to_string(), PARENT);
    }

    #[test]
    fn what_is_none_is_ignored() {
        let cases = [
            String::new(),
            "x".to_owned(),
            PARENT.to_uppercase(),
            PARENT.replace("00-4b", "ff-4b"),
            PARENT.replace("-01", ""),
            PARENT.to_owned() + "-more",
            PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            PARENT.replace("4bf9", "4bf"),
            PARENT.replace("4bf9", "4bé"),
            PARENT.replace("4bf9", "+bf9"),
        ];
        for case in cases {
            assert_eq!(TraceContext::parse(&case, None), None, "{case}");
        }
        for state in
            [String::new(), "no pair".to_owned(), "a=\u{e9}".to_owned(), format!("a={}", "x".repeat(600))]
        {
            let parent = TraceContext::parse(PARENT, Some(&state)).expect("a parent");
            assert_eq!(parent.state(), None, "{state}");
        }
    }
}
