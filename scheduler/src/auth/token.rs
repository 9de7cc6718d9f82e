//! Bearer tokens: `tokens.toml` and what was added in memory in, identities out.
//!
//! Only digests are kept: the file is no secret, and finding a token is finding a digest. The file is read again when it
//! changes; one that cannot be read leaves the old tokens in force and says so. A one-time token is spent on disk before
//! anything is given for it, and only the same node with the same key gets its answer a second time.

mod file;
mod spent;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use dure_core::units::{Span, Time};
use sha2::{Digest, Sha256};

use super::identity::{Credential, Identity};
use crate::clock::Clock;

pub use file::{MAX_TOKENS, RevokedEntry, TokenEntry};
pub use spent::Spend;
use spent::Spent;

/// How every token begins, so that one that lies about is known for what it is.
pub const TOKEN_PREFIX: &str = "dure_";
/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;
/// Longest token that is looked at.
const MAX_TOKEN_LENGTH: usize = 256;
/// The file is looked at again at most this often.
const LOOK_AGAIN: Span = Span(1000);

/// The SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenDigest(pub [u8; 32]);

impl TokenDigest {
    /// The digest of `token`.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// From 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).ok()?;
        Some(Self(digest))
    }
}

impl fmt::Display for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", hex::encode(self.0))
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", &hex::encode(self.0)[..12])
    }
}

/// Why tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A file cannot be read or written.
    #[error("{}: {source}: check the path and its permissions", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no TOML of the right form.
    #[error("{}: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and what.
        why: String,
    },
    /// An entry that cannot be.
    #[error("{list}[{index}].{field} = {value}: {remedy}")]
    Value {
        /// token or revoked.
        list: &'static str,
        /// Which entry, from 0.
        index: usize,
        /// Which of its fields.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it should be.
        remedy: &'static str,
    },
    /// Where several schedulers share the spent tokens they cannot be written down now: try again.
    #[error("a spent token cannot be written down: {0}")]
    Shared(String),
    /// The system has no random bytes.
    #[error("no random bytes for a token: {0}")]
    NoRandom(String),
}

/// What was listed when a session's certificate was last found good: whoever holds one asks of every message, and takes no
/// lock as long as nothing is listed anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checked(Option<u64>);

/// Why a token is not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadToken {
    /// No such token.
    #[error(
        "the bearer token is not known here: check that it is the token of this cluster, or ask an operator for one"
    )]
    Unknown,
    /// It was good once.
    #[error("the bearer token has expired: ask an operator for a new one")]
    Expired,
}

/// What a digest stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Known {
    identity: Identity,
    expires: Option<Time>,
}

type Table = BTreeMap<TokenDigest, Known>;

/// What a token file says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Listed {
    tokens: Table,
    /// By node: certificates that were signed before are refused.
    revoked: BTreeMap<Box<str>, Time>,
}

/// The certificate of a node is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the certificate of node {node:?} was revoked: to let the node in again, remove its folder state_dir/identity and give it \
     a new join token"
)]
pub struct Revoked {
    node: String,
}

/// How a file looked when it was read.
type Stamp = (SystemTime, u64);

struct OnDisk {
    path: PathBuf,
    stamp: Option<Stamp>,
}

struct Inner {
    clock: Clock,
    /// When the file was last looked at, in milliseconds; 0: never.
    looked_at: AtomicU64,
    /// Grows with every reading of the file that changed what is listed.
    reading: AtomicU64,
    from_file: RwLock<Arc<Listed>>,
    in_memory: RwLock<Table>,
    on_disk: Mutex<Option<OnDisk>>,
    spent: Mutex<Spent>,
}

/// All tokens. Cheap to clone.
#[derive(Clone)]
pub struct Tokens {
    inner: Arc<Inner>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// A token just made: the secret, which is shown once, and its digest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Created {
    /// For its holder alone.
    pub token: String,
    /// For the token file.
    pub digest: TokenDigest,
}

/// Makes a token.
///
/// # Errors
/// `NoRandom` when the system has no random bytes.
pub fn create() -> Result<Created, TokenError> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(|err| TokenError::NoRandom(err.to_string()))?;
    let token = format!("{TOKEN_PREFIX}{}", hex::encode(bytes));
    let digest = TokenDigest::of(&token);
    Ok(Created { token, digest })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tokens {
    /// No token yet, and none on disk.
    pub fn in_memory() -> Self {
        Self::with(Listed::default(), None, Spent::in_memory())
    }

    /// The tokens of a file. `spent` is where spent one-time tokens are written down.
    ///
    /// # Errors
    /// What is wrong with the file, by entry and field.
    pub fn load(path: &Path, spent: &Path) -> Result<Self, TokenError> {
        let stamp = stamp(path);
        let table = file::read(path)?;
        let on_disk = OnDisk { path: path.to_owned(), stamp };
        Ok(Self::with(table, Some(on_disk), Spent::load(spent)?))
    }

    /// The tokens of a file; those that are spent are written down where all schedulers see them.
    ///
    /// # Errors
    /// What is wrong with the file, by entry and field.
    pub fn load_shared(path: &Path, spend: Spend) -> Result<Self, TokenError> {
        let stamp = stamp(path);
        let table = file::read(path)?;
        let on_disk = OnDisk { path: path.to_owned(), stamp };
        Ok(Self::with(table, Some(on_disk), Spent::shared(spend)))
    }

    fn with(listed: Listed, on_disk: Option<OnDisk>, spent: Spent) -> Self {
        let inner = Inner {
            clock: Clock::start(Time(0)),
            looked_at: AtomicU64::new(0),
            reading: AtomicU64::new(0),
            from_file: RwLock::new(Arc::new(listed)),
            in_memory: RwLock::default(),
            on_disk: Mutex::new(on_disk),
            spent: Mutex::new(spent),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Makes a token for `identity` that lives as long as the process. Its credential is filled in.
    ///
    /// # Errors
    /// `NoRandom` when the system has no random bytes.
    pub fn add(&self, identity: Identity) -> Result<String, TokenError> {
        let Created { token, digest } = create()?;
        let one_time = matches!(identity.credential, Credential::Token { one_time: true, .. });
        let identity = Identity { credential: Credential::Token { digest, one_time }, ..identity };
        let mut table = self.inner.in_memory.write().unwrap_or_else(PoisonError::into_inner);
        table.insert(digest, Known { identity, expires: None });
        Ok(token)
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// `Unknown` or `Expired`.
    pub fn find(&self, token: &str) -> Result<Identity, BadToken> {
        let now = self.inner.clock.now();
        self.look_again(now);
        self.find_at(token, now)
    }

    fn find_at(&self, token: &str, now: Time) -> Result<Identity, BadToken> {
        if token.len() > MAX_TOKEN_LENGTH {
            return Err(BadToken::Unknown);
        }
        let digest = TokenDigest::of(token);
        let from_file = self.inner.from_file.read().unwrap_or_else(PoisonError::into_inner).clone();
        let in_memory = self.inner.in_memory.read().unwrap_or_else(PoisonError::into_inner);
        let known = in_memory.get(&digest).or_else(|| from_file.tokens.get(&digest)).ok_or(BadToken::Unknown)?;
        match known.expires {
            Some(expires) if expires <= now => Err(BadToken::Expired),
            Some(_) | None => Ok(known.identity.clone()),
        }
    }

    /// Whether a node's certificate, signed at `issued`, still counts.
    ///
    /// # Errors
    /// [`Revoked`].
    pub fn check_node(&self, node: &str, issued: Time) -> Result<(), Revoked> {
        self.look_again(self.inner.clock.now());
        let listed = self.inner.from_file.read().unwrap_or_else(PoisonError::into_inner).clone();
        match listed.revoked.get(node) {
            Some(before) if issued < *before => Err(Revoked { node: node.to_owned() }),
            Some(_) | None => Ok(()),
        }
    }

    /// As `check_node`, for every message of a session: while the file says what it said at the last check, nothing is looked
    /// up and no lock is taken.
    ///
    /// # Errors
    /// [`Revoked`].
    pub fn check_again(&self, node: &str, issued: Time, checked: &mut Checked) -> Result<(), Revoked> {
        self.look_again(self.inner.clock.now());
        // Before the look into the table: what is listed after it is a newer reading.
        let reading = self.inner.reading.load(Ordering::Acquire);
        if checked.0 != Some(reading) {
            self.check_node(node, issued)?;
            checked.0 = Some(reading);
        }
        Ok(())
    }

    /// Spends a one-time token on a node with a key. True when it was not spent before, or on the same node and key:
    /// an answer that was lost may be asked for again. Durable when it returns.
    ///
    /// # Errors
    /// When it cannot be written down; then it is not spent.
    pub fn spend(&self, digest: TokenDigest, node: &str, key: [u8; 32]) -> Result<bool, TokenError> {
        lock(&self.inner.spent).spend(digest, node, key)
    }

    /// Reads the file again if it looks different from the last time.
    fn look_again(&self, now: Time) {
        let is_recent = |looked_at: u64| looked_at != 0 && now.since(Time(looked_at)) < LOOK_AGAIN;
        if is_recent(self.inner.looked_at.load(Ordering::Relaxed)) {
            return;
        }
        let mut on_disk = lock(&self.inner.on_disk);
        if is_recent(self.inner.looked_at.swap(now.0, Ordering::Relaxed)) {
            return;
        }
        let Some(file) = on_disk.as_mut() else { return };
        let stamp = stamp(&file.path);
        if stamp == file.stamp {
            return;
        }
        file.stamp = stamp;
        match file::read(&file.path) {
            Ok(listed) => {
                tracing::info!(tokens = listed.tokens.len(), revoked = listed.revoked.len(), "token file read again");
                *self.inner.from_file.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(listed);
                self.inner.reading.fetch_add(1, Ordering::Release);
            }
            Err(err) => {
                tracing::error!(error = %err, "the changed token file cannot be used; the old tokens stay in force")
            }
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

#[cfg(test)]
mod tests;
