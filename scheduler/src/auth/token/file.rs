//! `tokens.toml`: text in, digests with their identities out, every entry checked.

use std::path::Path;

use dure_core::units::Time;
use serde::{Deserialize, Serialize};

use super::{Known, Listed, TokenDigest, TokenError};
use crate::auth::identity::{Credential, Identity, NodeName, Role};

/// Tokens of one file.
pub const MAX_TOKENS: usize = 100_000;
/// Longest name of a user, in bytes.
pub(super) const MAX_USER: usize = 128;

/// One `[[token]]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenEntry {
    /// SHA-256 of the token, 64 hexadecimal digits.
    pub sha256: String,
    /// Who holds it.
    pub user: String,
    /// pd, member, operator, auditor or agent.
    pub role: String,
    /// For pd and member: their missions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missions: Vec<String>,
    /// For agent: the node, or a prefix with `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Not after this moment, with its zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<toml::value::Datetime>,
    /// For agent: joins one node and is spent then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_time: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenFile {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    token: Vec<TokenEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    revoked: Vec<RevokedEntry>,
}

/// One `[[revoked]]`: a node's certificates from before a moment are refused.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokedEntry {
    /// The node.
    pub node: String,
    /// With its zone.
    pub before: toml::value::Datetime,
}

impl RevokedEntry {
    /// The entry as text to be appended to a token file, once it is proven to be a good one.
    ///
    /// # Errors
    /// `Value` names the field.
    pub fn to_toml(&self) -> Result<String, TokenError> {
        revoked(0, self)?;
        let file = TokenFile { token: Vec::new(), revoked: vec![self.clone()] };
        toml::to_string(&file).map_err(|err| TokenError::Malformed { path: "tokens.toml".into(), why: err.to_string() })
    }
}

impl TokenEntry {
    /// The entry as text to be appended to a token file, once it is proven to be a good one.
    ///
    /// # Errors
    /// `Value` names the field.
    pub fn to_toml(&self) -> Result<String, TokenError> {
        known(0, self)?;
        let file = TokenFile { token: vec![self.clone()], revoked: Vec::new() };
        toml::to_string(&file).map_err(|err| TokenError::Malformed { path: "tokens.toml".into(), why: err.to_string() })
    }
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Listed, TokenError> {
    let text = std::fs::read_to_string(path).map_err(|source| TokenError::Io { path: path.to_owned(), source })?;
    parse(path, &text)
}

pub(super) fn parse(path: &Path, text: &str) -> Result<Listed, TokenError> {
    let malformed = |why: String| TokenError::Malformed { path: path.to_owned(), why };
    let file: TokenFile = toml::from_str(text).map_err(|err| malformed(err.to_string()))?;
    if file.token.len() > MAX_TOKENS {
        return Err(malformed(format!("{} tokens; at most {MAX_TOKENS}: remove expired ones", file.token.len())));
    }
    let mut listed = Listed::default();
    for (index, entry) in file.token.iter().enumerate() {
        let (digest, known) = known(index, entry)?;
        if listed.tokens.insert(digest, known).is_some() {
            let value = format!("{:?}", entry.sha256);
            return Err(TokenError::Value {
                list: "token",
                index,
                field: "sha256",
                value,
                remedy: "the token is listed twice: remove one entry",
            });
        }
    }
    for (index, entry) in file.revoked.iter().enumerate() {
        let before = revoked(index, entry)?;
        let latest = listed.revoked.entry(entry.node.as_str().into()).or_insert(before);
        *latest = before.max(*latest);
    }
    Ok(listed)
}

fn revoked(index: usize, entry: &RevokedEntry) -> Result<Time, TokenError> {
    let bad = |field, value: String, remedy| TokenError::Value { list: "revoked", index, field, value, remedy };
    if entry.node.is_empty() || entry.node.contains('*') {
        return Err(bad("node", format!("{:?}", entry.node), "name one node"));
    }
    moment(&entry.before)
        .ok_or_else(|| bad("before", entry.before.to_string(), "write the zone as well: 2027-01-31T00:00:00Z"))
}

fn known(index: usize, entry: &TokenEntry) -> Result<(TokenDigest, Known), TokenError> {
    let bad = |field: &'static str, value: &dyn std::fmt::Debug, remedy: &'static str| TokenError::Value {
        list: "token",
        index,
        field,
        value: format!("{value:?}"),
        remedy,
    };
    let digest = TokenDigest::parse(&entry.sha256)
        .ok_or_else(|| bad("sha256", &entry.sha256, "expected the token's SHA-256 as 64 hexadecimal digits"))?;
    let role =
        Role::of(&entry.role).ok_or_else(|| bad("role", &entry.role, "use pd, member, operator, auditor or agent"))?;
    if entry.user.is_empty()
        || entry.user.len() > MAX_USER
        || entry.user.chars().any(|c| c.is_control() || c.is_whitespace())
    {
        return Err(bad("user", &entry.user, "use 1 to 128 bytes without white space"));
    }
    if role.has_missions() == entry.missions.is_empty() {
        let remedy = if role.has_missions() {
            "name at least one mission, as in missions = [\"fusion\"]"
        } else {
            "only pd and member have missions: remove them"
        };
        return Err(bad("missions", &entry.missions, remedy));
    }
    if let Some(mission) = entry.missions.iter().find(|name| name.is_empty() || name.contains('/')) {
        return Err(bad("missions", mission, "name missions, the first part of a tenant's path"));
    }
    match (&entry.node, role) {
        (None, Role::Agent) => {
            return Err(bad("node", &"", "an agent's token names its node, or a prefix as in \"gpu-*\""));
        }
        (Some(node), Role::Agent) if node.is_empty() || node == "*" => {
            return Err(bad("node", node, "name the node, or a prefix as in \"gpu-*\""));
        }
        (Some(node), Role::Pd | Role::Member | Role::Operator | Role::Auditor) => {
            return Err(bad("node", node, "only an agent has a node: remove it"));
        }
        (Some(_), Role::Agent) | (None, _) => {}
    }
    if entry.one_time && role != Role::Agent {
        return Err(bad("one_time", &true, "only an agent's join token is spent: remove it"));
    }
    let expires = entry.expires.as_ref().map(|when| {
        moment(when).ok_or_else(|| bad("expires", &when.to_string(), "write the zone as well: 2027-01-31T00:00:00Z"))
    });
    let identity = Identity {
        user: entry.user.as_str().into(),
        role,
        missions: entry.missions.iter().map(|name| name.as_str().into()).collect(),
        node: entry.node.as_deref().map(NodeName::parse),
        credential: Credential::Token { digest, one_time: entry.one_time },
    };
    Ok((digest, Known { identity, expires: expires.transpose()? }))
}

/// None when it has no zone.
fn moment(when: &toml::value::Datetime) -> Option<Time> {
    let moment: jiff::Timestamp = when.to_string().parse().ok()?;
    Some(Time(u64::try_from(moment.as_millisecond()).unwrap_or(0)))
}
