//! Caps: what one user, or one job, may have in a tenant and below it, all pools together.

use crate::ids::UserIndex;
use crate::tenant::Tenant;
use crate::units::{Gpus, Span};

/// Ceilings for single users and jobs; absent: none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Caps {
    /// GPUs that one user holds at once.
    pub user_gpus: Option<Gpus>,
    /// Jobs of one user that hold GPUs at once.
    pub user_running: Option<u32>,
    /// Jobs of one user that have not ended; an array counts once, and each started index of it.
    pub user_submitted: Option<u32>,
    /// GPUs of one job (of one index of an array).
    pub job_gpus: Option<Gpus>,
    /// Time limit of one job.
    pub job_time: Option<Span>,
}

impl Caps {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What one user has in a tenant and below it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Has {
    pub(crate) gpus: Gpus,
    pub(crate) running: u32,
    pub(crate) submitted: u32,
}

impl Has {
    /// What the ledger of `user` in one tenant says, nothing below it.
    pub(crate) fn in_one(tenant: &Tenant, user: UserIndex) -> Self {
        let ledger = tenant.users.get(&user);
        ledger.map_or_else(Self::default, |ledger| Self {
            gpus: ledger.used,
            running: ledger.running,
            submitted: ledger.submitted,
        })
    }

    pub(crate) fn add(&mut self, more: Self) {
        self.gpus += more.gpus;
        self.running += more.running;
        self.submitted += more.submitted;
    }
}
