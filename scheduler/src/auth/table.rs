//! The permission table: method -> verb, and verb x role -> scope. Everything that is not in it is denied.

use super::identity::Role;

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Verb {
    /// Submit jobs.
    Submit,
    /// See jobs, why they wait and what happens to them.
    ReadJobs,
    /// See scripts and environments.
    ReadPayload,
    /// See the output of jobs.
    ReadLogs,
    /// Cancel, hold and release jobs.
    ControlJobs,
    /// Run programs beside the members of jobs, as their users.
    Enter,
    /// See tenants, their quotas and usage.
    ReadTenants,
    /// Define tenants, set quotas, limits and weights.
    SetTenants,
    /// Stop new starts and let them go on.
    Pause,
    /// See nodes.
    ReadNodes,
    /// Cordon, drain, resume nodes, move what runs there closer together, and vouch for dead ones.
    KeepNodes,
    /// Keep nodes for a period to come.
    Book,
    /// Get a node its certificate.
    Join,
    /// Speak for a node.
    Session,
    /// See which scheduler leads.
    SeeLeader,
    /// Have another scheduler lead.
    HandOver,
    /// See what a change would do, and how start estimates fare.
    Forecast,
    /// See who changed what, and what was refused to whom.
    ReadAudit,
    /// Take the whole history.
    CopyHistory,
}

impl Verb {
    /// All of them.
    pub const ALL: [Verb; 19] = [
        Verb::Submit,
        Verb::ReadJobs,
        Verb::ReadPayload,
        Verb::ReadLogs,
        Verb::ControlJobs,
        Verb::Enter,
        Verb::ReadTenants,
        Verb::SetTenants,
        Verb::Pause,
        Verb::ReadNodes,
        Verb::KeepNodes,
        Verb::Book,
        Verb::Join,
        Verb::Session,
        Verb::SeeLeader,
        Verb::HandOver,
        Verb::Forecast,
        Verb::ReadAudit,
        Verb::CopyHistory,
    ];

    /// In a sentence: "may not ... tenant".
    pub fn name(self) -> &'static str {
        match self {
            Verb::Submit => "submit jobs to",
            Verb::ReadJobs => "see jobs of",
            Verb::ReadPayload => "see the script and environment of",
            Verb::ReadLogs => "read the output of",
            Verb::ControlJobs => "cancel, hold or release",
            Verb::Enter => "run programs beside",
            Verb::ReadTenants => "see quota and usage of",
            Verb::SetTenants => "define or change",
            Verb::Pause => "pause or resume",
            Verb::ReadNodes => "see nodes of",
            Verb::KeepNodes => "cordon, drain or resume",
            Verb::Book => "book nodes for",
            Verb::Join => "join",
            Verb::Session => "speak for",
            Verb::SeeLeader => "see the leader of",
            Verb::HandOver => "hand over the leadership of",
            Verb::Forecast => "see forecasts of",
            Verb::ReadAudit => "see the audit of",
            Verb::CopyHistory => "copy the history of",
        }
    }
}

/// How far a role reaches with a verb.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// Not at all.
    Nothing,
    /// The own jobs, in the own missions.
    OwnJobs,
    /// The own missions and all below them.
    OwnMission,
    /// What is below the own missions, not the missions themselves.
    BelowOwnMission,
    /// The own node.
    OwnNode,
    /// Everything.
    Any,
}

/// How far `role` reaches with `verb`.
pub fn grant(role: Role, verb: Verb) -> Scope {
    use Scope::{Any, BelowOwnMission, Nothing, OwnJobs, OwnMission, OwnNode};
    #[rustfmt::skip]
    let row: [Scope; 5] = match verb {
        //                    pd               member      operator auditor  agent
        Verb::Submit      => [OwnMission,      OwnMission, Any,     Nothing, Nothing],
        Verb::ReadJobs    => [OwnMission,      OwnMission, Any,     Any,     Nothing],
        Verb::ReadPayload => [OwnMission,      OwnJobs,    Any,     Any,     Nothing],
        Verb::ReadLogs    => [OwnMission,      OwnMission, Any,     Any,     Nothing],
        Verb::ControlJobs => [OwnMission,      OwnJobs,    Any,     Nothing, Nothing],
        Verb::Enter       => [OwnJobs,         OwnJobs,    Any,     Nothing, OwnNode],
        Verb::ReadTenants => [OwnMission,      OwnMission, Any,     Any,     Nothing],
        Verb::SetTenants  => [BelowOwnMission, Nothing,    Any,     Nothing, Nothing],
        Verb::Pause       => [OwnMission,      Nothing,    Any,     Nothing, Nothing],
        Verb::ReadNodes   => [Any,             Any,        Any,     Any,     Nothing],
        Verb::KeepNodes   => [Nothing,         Nothing,    Any,     Nothing, Nothing],
        Verb::Book        => [OwnMission,      Nothing,    Any,     Nothing, Nothing],
        Verb::Join        => [Nothing,         Nothing,    Nothing, Nothing, OwnNode],
        Verb::Session     => [Nothing,         Nothing,    Nothing, Nothing, OwnNode],
        Verb::SeeLeader   => [Any,             Any,        Any,     Any,     Any],
        Verb::HandOver    => [Nothing,         Nothing,    Any,     Nothing, Nothing],
        Verb::Forecast    => [OwnMission,      OwnMission, Any,     Any,     Nothing],
        Verb::ReadAudit   => [OwnMission,      Nothing,    Any,     Any,     Nothing],
        Verb::CopyHistory => [Nothing,         Nothing,    Any,     Any,     Nothing],
    };
    match role {
        Role::Pd => row[0],
        Role::Member => row[1],
        Role::Operator => row[2],
        Role::Auditor => row[3],
        Role::Agent => row[4],
    }
}

/// What a method asks of its caller.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// Nothing: whether the server lives is no secret.
    Public,
    /// Any identity.
    Known,
    /// An identity whose role has this verb; the service checks on what.
    Needs(Verb),
}

/// The rule of a method, by its path; a path without a rule reaches no service.
pub fn access(path: &str) -> Option<Access> {
    use Access::{Known, Needs, Public};
    Some(match path {
        "/dure.v1.Jobs/Submit" => Needs(Verb::Submit),
        "/dure.v1.Jobs/Get"
        | "/dure.v1.Jobs/List"
        | "/dure.v1.Jobs/Explain"
        | "/dure.v1.Jobs/Watch"
        | "/dure.v1.Jobs/Steps" => Needs(Verb::ReadJobs),
        "/dure.v1.Jobs/Logs" => Needs(Verb::ReadLogs),
        "/dure.v1.Jobs/Exec" => Needs(Verb::Enter),
        "/dure.v1.Jobs/Cancel" | "/dure.v1.Jobs/Hold" | "/dure.v1.Jobs/Release" => Needs(Verb::ControlJobs),
        "/dure.v1.Tenants/List" | "/dure.v1.Tenants/Usage" => Needs(Verb::ReadTenants),
        "/dure.v1.Tenants/Set" | "/dure.v1.Tenants/CarryBudget" | "/dure.v1.Tenants/CancelDatedQuota" => {
            Needs(Verb::SetTenants)
        }
        "/dure.v1.Tenants/Pause" | "/dure.v1.Tenants/Resume" => Needs(Verb::Pause),
        "/dure.v1.Nodes/List" | "/dure.v1.Nodes/Get" => Needs(Verb::ReadNodes),
        "/dure.v1.Nodes/Cordon"
        | "/dure.v1.Nodes/Drain"
        | "/dure.v1.Nodes/Resume"
        | "/dure.v1.Nodes/ConfirmDead"
        | "/dure.v1.Nodes/PlanDefrag"
        | "/dure.v1.Nodes/Defrag" => Needs(Verb::KeepNodes),
        "/dure.v1.Bookings/List" => Needs(Verb::ReadNodes),
        "/dure.v1.Bookings/Create" | "/dure.v1.Bookings/Cancel" => Needs(Verb::Book),
        "/dure.v1.Agents/Join" => Needs(Verb::Join),
        "/dure.v1.Agents/Session" => Needs(Verb::Session),
        "/dure.v1.Schedulers/Leader" => Needs(Verb::SeeLeader),
        "/dure.v1.Schedulers/HandOver" => Needs(Verb::HandOver),
        "/dure.v1.History/Usage" | "/dure.v1.History/Quotas" => Needs(Verb::ReadTenants),
        "/dure.v1.History/Jobs" | "/dure.v1.History/Attempts" | "/dure.v1.History/Evictions" => Needs(Verb::ReadJobs),
        "/dure.v1.History/Audit" => Needs(Verb::ReadAudit),
        "/dure.v1.History/Copy" => Needs(Verb::CopyHistory),
        "/dure.v1.Forecasts/WhatIf" | "/dure.v1.Forecasts/Calibration" => Needs(Verb::Forecast),
        "/dure.v1.Forecasts/TestSubmit" => Needs(Verb::Submit),
        "/grpc.health.v1.Health/Check" | "/grpc.health.v1.Health/Watch" | "/grpc.health.v1.Health/List" => Public,
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => Known,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
