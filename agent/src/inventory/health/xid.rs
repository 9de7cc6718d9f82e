//! What an XID asks for: NVIDIA's catalogue by its immediate action, with a site's own word above it.
//!
//! Comes in: a code. Goes out: an action. Source: the XID catalogue (172 codes, of 2025-10-29) by immediate action; codes
//! that it does not rate yet are rated by what they detail (167 and 169 as a reset, 171 and 172 as 48).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Verdict;

/// What is to be done about a GPU that has shown an XID.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum XidAction {
    /// It only informs.
    Ignore,
    /// The application brought it on itself, or it took the application alone: the GPU stays.
    RestartApp,
    /// Odd: what runs may run on, and too much of it makes the GPU bad.
    Watch,
    /// No use before the GPU is reset.
    ResetGpu,
    /// No use before a person has followed NVIDIA's workflow for it.
    Workflow,
    /// No use before the node is restarted.
    RestartNode,
    /// The driver has a new opinion on what is to be done: it is asked (field 230).
    AskDriver,
}

const RESTART_APP: &[u64] = &[
    8, 11, 13, 25, 31, 32, 39, 40, 41, 60, 68, 69, 70, 71, 72, 75, 76, 77, 80, 82, 83, 84, 85, 86, 88, 89, 94, 96, 97,
    98, 99, 100, 101, 102, 103, 104, 105, 126, 127, 128, 129, 130, 131, 132, 133, 134, 135, 139,
];
const IGNORE: &[u64] = &[14, 37, 38, 43, 44, 63, 66, 67, 92, 93, 106, 107, 108, 121, 137, 141, 152, 153, 157, 160, 161];
const RESET_GPU: &[u64] = &[46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158, 167, 169];
const WORKFLOW: &[u64] = &[48, 74, 171, 172];
const RESTART_NODE: &[u64] = &[79, 151];

/// The catalogue's word; codes that it leaves to support are watched.
fn catalogue(xid: u64) -> XidAction {
    let listed = [
        (RESTART_APP, XidAction::RestartApp),
        (IGNORE, XidAction::Ignore),
        (RESET_GPU, XidAction::ResetGpu),
        (WORKFLOW, XidAction::Workflow),
        (RESTART_NODE, XidAction::RestartNode),
        (&[154], XidAction::AskDriver),
    ];
    listed.into_iter().find(|(codes, _)| codes.contains(&xid)).map_or(XidAction::Watch, |(_, action)| action)
}

/// A site's own words, by code, as they stand in the configuration.
pub type Overrides = BTreeMap<String, XidAction>;

/// What an XID asks for.
pub fn action(overrides: &Overrides, xid: u64) -> XidAction {
    overrides.get(&xid.to_string()).copied().unwrap_or_else(|| catalogue(xid))
}

impl XidAction {
    /// The verdict on the GPU.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Ignore | Self::RestartApp | Self::AskDriver => Verdict::Ok,
            Self::Watch => Verdict::Suspect,
            Self::ResetGpu | Self::Workflow | Self::RestartNode => Verdict::Bad,
        }
    }

    /// What a person does about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Ignore | Self::RestartApp | Self::AskDriver => "nothing to do",
            Self::Watch => "watched",
            Self::ResetGpu => "reset the GPU",
            Self::Workflow => "follow NVIDIA's workflow for it",
            Self::RestartNode => "restart the node",
        }
    }
}
