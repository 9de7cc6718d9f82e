//! Request ids -> the keys that make mutations idempotent, and small checks that requests have in common.

use dure_core::input::RequestKey;
use prost::Message;
use sha2::{Digest, Sha256};

use super::limits::{MAX_NAME, MAX_REASON, MAX_REQUEST_ID};
use super::status::Violation;
use crate::auth::Identity;

/// The key of a mutation; none when its caller gave no id. `content` is the request without the id.
///
/// # Errors
/// For an id that is too long or holds what cannot be printed.
pub fn key(
    identity: &Identity,
    id: String,
    method: &str,
    content: &impl Message,
) -> Result<Option<RequestKey>, Violation> {
    if id.is_empty() {
        return Ok(None);
    }
    if id.len() > MAX_REQUEST_ID || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        let problem = format!("{} bytes; use 1 to {MAX_REQUEST_ID} visible ASCII characters, such as a UUID", id.len());
        return Err(Violation::new("request_id", problem));
    }
    let digest = Sha256::new().chain_update(method).chain_update([0]).chain_update(content.encode_to_vec()).finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    Ok(Some(RequestKey { user: identity.user.clone(), id: id.into(), digest: u64::from_be_bytes(first) }))
}

/// A name or a filter that is not absurdly long.
///
/// # Errors
/// Names the field.
pub fn name(field: &'static str, text: &str) -> Result<(), Violation> {
    bounded(field, text, MAX_NAME)
}

/// A reason that is not absurdly long.
///
/// # Errors
/// Names the field.
pub fn reason(text: &str) -> Result<(), Violation> {
    bounded("reason", text, MAX_REASON)
}

fn bounded(field: &'static str, text: &str, limit: usize) -> Result<(), Violation> {
    if text.len() <= limit {
        return Ok(());
    }
    Err(Violation::new(field, format!("{} bytes; at most {limit}: shorten it", text.len())))
}
