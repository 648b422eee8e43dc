//! Ids of memories and handles of sessions and results.

use std::sync::Mutex;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::{Store, StoreError};
use crate::scope::Scope;

/// Crockford's base 32: no I, L, O, U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Characters of an id after its prefix: 128 bits, five a character.
const ID_CHARS: usize = 26;
/// Random bits of an id below its 48 bits of milliseconds.
const RANDOM_BITS: u32 = 80;

/// Makes memory ids: time-ordered, and growing for as long as it lives even where the clock goes backwards.
#[derive(Debug, Default)]
pub(super) struct IdMint {
    last: Mutex<u128>,
}

impl IdMint {
    /// `m_` and 26 characters: 48 bits of milliseconds of `now`, 80 random ones. Within one millisecond, or where
    /// `now` lies before an earlier one, the id before plus one.
    pub(super) fn mint(&self, now: Timestamp) -> Result<String, StoreError> {
        let milliseconds = u128::try_from(now.as_millisecond()).unwrap_or(0) & ((1 << 48) - 1);
        let mut random = [0; 16];
        fill(&mut random[6..])?;
        let fresh = milliseconds << RANDOM_BITS | u128::from_be_bytes(random);
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let same_or_earlier = milliseconds <= *last >> RANDOM_BITS && *last != 0;
        *last = if same_or_earlier { last.wrapping_add(1) } else { fresh };
        Ok(format!("m_{}", encode(*last)))
    }
}

fn encode(value: u128) -> String {
    (0..ID_CHARS).rev().map(|place| char::from(ALPHABET[(value >> (5 * place) & 31) as usize])).collect()
}

/// The memory id that follows from `parts`: for what is brought from elsewhere and would otherwise come twice. Its time is
/// 1970, so that it differs from every minted one.
#[must_use]
pub fn derived_id(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let mut bytes = [0; 16];
    bytes[6..].copy_from_slice(&hash.finalize()[..10]);
    format!("m_{}", encode(u128::from_be_bytes(bytes)))
}

/// Whether `text` has the form of a memory id.
pub(super) fn is_memory_id(text: &str) -> bool {
    text.strip_prefix("m_").is_some_and(|rest| {
        rest.len() == ID_CHARS
            && rest.bytes().all(|byte| ALPHABET.contains(&byte))
            && rest.as_bytes()[0] <= b'7'
    })
}

/// Characters of the end of an id that stand for it in answers: thirty random bits, which one project's memories seldom
/// share.
const SHORT_CHARS: usize = 6;

/// Whether `text` has the form of the end of an id, as answers show it in place of the whole.
#[must_use]
pub fn is_short_id(text: &str) -> bool {
    text.len() == SHORT_CHARS && text.bytes().all(|byte| ALPHABET.contains(&byte))
}

/// The id that `given` stands for where it is the end of one; else `given` itself, also where there is no such memory: who
/// asks for it then says so.
///
/// # Errors
/// [`StoreError::Invalid`] where more than one id ends so; else what the store says.
pub async fn whole_id(
    store: &dyn Store,
    scope: &Scope,
    given: &str,
    now: Timestamp,
) -> Result<String, StoreError> {
    if !is_short_id(given) {
        return Ok(given.to_owned());
    }
    let mut ids = store.ids_ending(scope, given, now).await?;
    if ids.len() > 1 {
        let message =
            format!("{given} is the end of more than one: give it whole, as {} or {}", ids[0], ids[1]);
        return Err(StoreError::Invalid { field: "id", message });
    }
    Ok(ids.pop().unwrap_or_else(|| given.to_owned()))
}

/// The end of `id` that stands for it in answers.
#[must_use]
pub fn short_id(id: &str) -> &str {
    &id[id.len().saturating_sub(SHORT_CHARS)..]
}

/// A new handle: `prefix`, `_`, and 128 random bits in base64url.
pub(super) fn mint_handle(prefix: char) -> Result<String, StoreError> {
    let mut random = [0; 16];
    fill(&mut random)?;
    Ok(format!("{prefix}_{}", URL_SAFE_NO_PAD.encode(random)))
}

/// What is stored of a handle. A handle is 128 random bits, so a plain hash cannot be turned round.
pub(super) fn handle_hash(handle: &str) -> Vec<u8> {
    Sha256::digest(handle.as_bytes()).to_vec()
}

/// Fills `bytes` from the operating system's generator.
pub(super) fn fill(bytes: &mut [u8]) -> Result<(), StoreError> {
    getrandom::fill(bytes).map_err(|error| StoreError::Internal(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn ids_grow_with_time_and_within_a_millisecond_and_when_the_clock_goes_back() {
        let mint = IdMint::default();
        let ids: Vec<_> =
            [5, 5, 5, 9, 3, 3, 9, 10].map(|second| mint.mint(at(second)).unwrap()).into_iter().collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
        assert!(ids.iter().all(|id| is_memory_id(id)));
    }

    #[test]
    fn an_id_starts_with_its_time() {
        let id =
            |millisecond| IdMint::default().mint(Timestamp::from_millisecond(millisecond).unwrap()).unwrap();
        assert!(id(0).starts_with("m_0000000000"));
        assert!(id(32).starts_with("m_0000000010"));
        assert!(id(-1).starts_with("m_0000000000"), "a time before 1970 counts as 1970");
    }

    #[test]
    fn only_the_exact_form_is_an_id() {
        for (text, valid) in [
            ("m_01ARZ3NDEKTSV4RRFFQ69G5FAV", true),
            ("m_81ARZ3NDEKTSV4RRFFQ69G5FAV", false),
            ("m_01ARZ3NDEKTSV4RRFFQ69G5FAU", false),
            ("m_01arz3ndektsv4rrffq69g5fav", false),
            ("m_01ARZ3NDEKTSV4RRFFQ69G5FA", false),
            ("01ARZ3NDEKTSV4RRFFQ69G5FAVXX", false),
            ("m_", false),
            ("", false),
        ] {
            assert_eq!(is_memory_id(text), valid, "{text}");
        }
    }

    #[test]
    fn handles_are_random_and_stored_as_hashes() {
        let (one, two) = (mint_handle('s').unwrap(), mint_handle('s').unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), 24);
        assert!(one.starts_with("s_"));
        assert_eq!(handle_hash(&one).len(), 32);
    }
}
