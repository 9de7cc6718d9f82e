//! Why a scheduler does not start, each with what to change.

use std::net::SocketAddr;

use crate::auth::ca::CaError;
use crate::auth::token::TokenError;
use crate::config::ConfigError;
use crate::follower::FollowerError;
use crate::journal::JournalError;
use crate::recover::RecoverError;

/// Why a scheduler did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Fix the configuration.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// Fix the token file.
    #[error("{0}")]
    Tokens(#[from] TokenError),
    /// Fix the data directory or the certificates.
    #[error("{0}")]
    Authority(#[from] CaError),
    /// The journal says what to do.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// The journal cannot be folded into a state; the message says what to do.
    #[error("{0}")]
    Recover(#[from] RecoverError),
    /// No thread, no memory.
    #[error("{0}")]
    Follower(#[from] FollowerError),
    /// An address cannot be listened on.
    #[error("{address} cannot be listened on: {error}; choose another `{field}`, or end what uses it")]
    Listen {
        /// Which setting.
        field: &'static str,
        /// Its value.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// The system gives no thread.
    #[error("no thread for the scheduler: {0}")]
    Thread(std::io::Error),
    /// A pool or tenant of the configuration was refused.
    #[error("configuration: {what}: {why}")]
    Refused {
        /// Which.
        what: String,
        /// Why.
        why: String,
    },
    /// The scheduler stopped while it started.
    #[error("the scheduler stopped while it started: {0}")]
    Stopped(String),
    /// The scheduler led, and must not go on.
    #[error("{0}")]
    Ended(String),
}
