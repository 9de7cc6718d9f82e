//! Spent one-time tokens: an append-only file of lines `digest node key`, synced before a token counts as spent.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::{TokenDigest, TokenError};

/// On what a token was spent.
type On = (Box<str>, [u8; 32]);

/// The spent tokens.
pub(super) struct Spent {
    by_digest: BTreeMap<TokenDigest, On>,
    file: Option<(PathBuf, File)>,
    elsewhere: Option<Spend>,
}

/// Spends a token elsewhere: true when it was not spent before, or on the same node and key.
pub type Spend = Box<dyn Fn(TokenDigest, &str, [u8; 32]) -> Result<bool, TokenError> + Send>;

impl Spent {
    /// Nothing is spent, and what will be is forgotten with the process.
    pub(super) fn in_memory() -> Self {
        Self { by_digest: BTreeMap::new(), file: None, elsewhere: None }
    }

    /// Spent tokens are written down elsewhere.
    pub(super) fn shared(spend: Spend) -> Self {
        Self { by_digest: BTreeMap::new(), file: None, elsewhere: Some(spend) }
    }

    /// Reads the file, which is made where there is none. A last line cut short was never answered for: it is not
    /// counted, and ended so that the next one stands alone.
    pub(super) fn load(path: &Path) -> Result<Self, TokenError> {
        let io = |source| TokenError::Io { path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(io)?;
        }
        let mut file = OpenOptions::new().append(true).create(true).open(path).map_err(io)?;
        let text = std::fs::read_to_string(path).map_err(io)?;
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n").map_err(io)?;
        }
        let by_digest = text.lines().filter_map(parse).collect();
        Ok(Self { by_digest, file: Some((path.to_owned(), file)), elsewhere: None })
    }

    /// See `Tokens::spend`.
    pub(super) fn spend(&mut self, digest: TokenDigest, node: &str, key: [u8; 32]) -> Result<bool, TokenError> {
        if let Some(spend) = &self.elsewhere {
            return spend(digest, node, key);
        }
        if let Some((on, with)) = self.by_digest.get(&digest) {
            return Ok(&**on == node && *with == key);
        }
        if let Some((path, file)) = &mut self.file {
            let line = format!("{digest} {node} {}\n", hex::encode(key));
            file.write_all(line.as_bytes())
                .and_then(|()| file.sync_data())
                .map_err(|source| TokenError::Io { path: path.clone(), source })?;
        }
        self.by_digest.insert(digest, (node.into(), key));
        Ok(true)
    }
}

fn parse(line: &str) -> Option<(TokenDigest, On)> {
    let mut parts = line.split(' ');
    let (digest, node, key) = (parts.next()?, parts.next()?, parts.next()?);
    Some((TokenDigest::parse(digest)?, (node.into(), TokenDigest::parse(key)?.0)))
}
