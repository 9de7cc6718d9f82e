//! An identity: user, role, missions, and for an agent the node that it speaks for.

use std::fmt;

use dure_core::units::Time;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Request, Status};

use super::table::{Scope, Verb, grant};
use super::token::TokenDigest;

/// What somebody is to the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// Directs missions: all jobs of them, and the division below them.
    Pd,
    /// Works in missions: submits, and controls the own jobs.
    Member,
    /// Keeps the cluster.
    Operator,
    /// Sees everything and changes nothing.
    Auditor,
    /// The agent of a node.
    Agent,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 5] = [Role::Pd, Role::Member, Role::Operator, Role::Auditor, Role::Agent];

    /// As written in `tokens.toml`.
    pub fn name(self) -> &'static str {
        match self {
            Role::Pd => "pd",
            Role::Member => "member",
            Role::Operator => "operator",
            Role::Auditor => "auditor",
            Role::Agent => "agent",
        }
    }

    /// The role with this name.
    pub fn of(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Whether the role is held in missions.
    pub fn has_missions(self) -> bool {
        matches!(self, Role::Pd | Role::Member)
    }
}

/// The node that a credential speaks for; for a token also all nodes whose names begin alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeName {
    name: Box<str>,
    is_prefix: bool,
}

impl NodeName {
    /// `n7`, or `gpu-*` for every node whose name begins with `gpu-`.
    pub fn parse(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self { name: prefix.into(), is_prefix: true },
            None => Self { name: text.into(), is_prefix: false },
        }
    }

    /// The node with this very name.
    pub fn exactly(name: &str) -> Self {
        Self { name: name.into(), is_prefix: false }
    }

    /// Whether it speaks for `node`.
    pub fn allows(&self, node: &str) -> bool {
        if self.is_prefix { node.starts_with(&*self.name) } else { node == &*self.name }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, if self.is_prefix { "*" } else { "" })
    }
}

/// What an identity was proven by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Credential {
    /// A bearer token.
    Token {
        /// Its digest.
        digest: TokenDigest,
        /// It joins one node and is spent then.
        one_time: bool,
    },
    /// A client certificate that the cluster's authority signed.
    Certificate {
        /// When it was signed.
        issued: Time,
    },
    /// Nothing but that the call comes from this very node, where that was configured to be enough.
    Local,
}

/// Who calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Name of the user; for an agent that of its node.
    pub user: Box<str>,
    /// What the user is to the cluster.
    pub role: Role,
    /// For a PD or a member: their missions.
    pub missions: Vec<Box<str>>,
    /// For an agent: its node.
    pub node: Option<NodeName>,
    /// What proves it.
    pub credential: Credential,
}

/// What a call is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target<'a> {
    /// The cluster as a whole.
    Cluster,
    /// A tenant, by its path.
    Tenant(&'a str),
    /// A job.
    Job {
        /// Path of its tenant.
        tenant: &'a str,
        /// Who submitted it.
        user: &'a str,
    },
    /// A node, by its name.
    Node(&'a str),
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Cluster | Target::Tenant("") => write!(f, "the whole cluster"),
            Target::Tenant(tenant) => write!(f, "tenant {tenant:?}"),
            Target::Job { tenant, user } => write!(f, "a job of {user:?} in tenant {tenant:?}"),
            Target::Node(node) => write!(f, "node {node:?}"),
        }
    }
}

/// A refusal: who, what, and how far the role reaches.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{role} {user:?} may not {verb} {target}: {reach}", role = role.name(), verb = verb.name())]
pub struct Denied {
    /// Who.
    pub user: Box<str>,
    /// Their role.
    pub role: Role,
    /// What was tried.
    pub verb: Verb,
    /// On what.
    pub target: String,
    /// How far the role reaches with this verb.
    pub reach: String,
}

/// What of a listing an identity sees.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Visible {
    /// Everything.
    All,
    /// These missions and what is below them.
    Missions(Vec<Box<str>>),
}

impl Visible {
    /// Whether a tenant is seen.
    pub fn shows(&self, tenant: &str) -> bool {
        match self {
            Visible::All => true,
            Visible::Missions(missions) => missions.iter().any(|mission| &**mission == mission_of(tenant)),
        }
    }
}

/// The mission of a tenant's path: its first part.
pub fn mission_of(tenant: &str) -> &str {
    tenant.split('/').next().unwrap_or(tenant)
}

impl Identity {
    /// Whether this identity may do `verb` to `target`.
    ///
    /// # Errors
    /// `Denied` says how far the role reaches.
    pub fn may(&self, verb: Verb, target: Target<'_>) -> Result<(), Denied> {
        let scope = grant(self.role, verb);
        let owns = |tenant: &str| self.missions.iter().any(|mission| &**mission == mission_of(tenant));
        let allowed = match (scope, target) {
            (Scope::Nothing, _) => false,
            (Scope::Any, _) => true,
            (Scope::OwnMission, Target::Tenant(tenant) | Target::Job { tenant, .. }) => owns(tenant),
            (Scope::BelowOwnMission, Target::Tenant(tenant)) => owns(tenant) && tenant.contains('/'),
            (Scope::OwnJobs, Target::Job { tenant, user }) => owns(tenant) && *user == *self.user,
            (Scope::OwnNode, Target::Node(name)) => self.node.as_ref().is_some_and(|node| node.allows(name)),
            (Scope::OwnMission | Scope::BelowOwnMission | Scope::OwnJobs | Scope::OwnNode, _) => false,
        };
        if allowed { Ok(()) } else { Err(self.denied(verb, target)) }
    }

    /// What of a listing this identity sees.
    ///
    /// # Errors
    /// `Denied` when it sees nothing.
    pub fn visible(&self, verb: Verb) -> Result<Visible, Denied> {
        match grant(self.role, verb) {
            Scope::Any => Ok(Visible::All),
            Scope::OwnMission => Ok(Visible::Missions(self.missions.clone())),
            Scope::Nothing | Scope::BelowOwnMission | Scope::OwnJobs | Scope::OwnNode => {
                Err(self.denied(verb, Target::Cluster))
            }
        }
    }

    pub(super) fn denied(&self, verb: Verb, target: Target<'_>) -> Denied {
        let missions = || self.missions.iter().map(|name| &**name).collect::<Vec<_>>().join(", ");
        let reach = match grant(self.role, verb) {
            Scope::Nothing => format!("ask {}", who_may(verb)),
            Scope::Any => "the role reaches everywhere".to_owned(),
            Scope::OwnMission => format!("the role reaches the own missions ({})", missions()),
            Scope::BelowOwnMission => format!("the role reaches what is below the own missions ({})", missions()),
            Scope::OwnJobs => format!("the role reaches the own jobs in the own missions ({})", missions()),
            Scope::OwnNode => {
                let node = self.node.as_ref().map_or("none".to_owned(), NodeName::to_string);
                format!("the credential speaks for node {node} alone")
            }
        };
        Denied { user: self.user.clone(), role: self.role, verb, target: target.to_string(), reach }
    }
}

/// The roles that may, as a sentence's end.
fn who_may(verb: Verb) -> String {
    let able: Vec<&str> =
        Role::ALL.into_iter().filter(|role| grant(*role, verb) != Scope::Nothing).map(Role::name).collect();
    able.join(" or ")
}

/// The identity of a call, which the layer has put beside it.
///
/// # Errors
/// `UNAUTHENTICATED` when the call did not come through the layer.
pub fn of<T>(request: &Request<T>) -> Result<Identity, Status> {
    let missing = || Status::unauthenticated("this call carries no identity");
    request.extensions().get::<Identity>().cloned().ok_or_else(missing)
}

/// The node that a session may speak for.
///
/// # Errors
/// `PERMISSION_DENIED` for anybody but an agent; `UNAUTHENTICATED` for a token over TLS, where the node's certificate is
/// wanted.
pub fn node_of<T>(request: &Request<T>) -> Result<NodeName, Status> {
    let identity = of(request)?;
    let over_tls = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>().is_some();
    if over_tls && matches!(identity.credential, Credential::Token { .. }) {
        let why = "over TLS a session needs the node's own certificate: join the node with its join token first";
        return Err(Status::unauthenticated(why));
    }
    match identity.node {
        Some(node) if identity.role == Role::Agent => Ok(node),
        Some(_) | None => Err(Status::permission_denied("only the agent of a node holds a session")),
    }
}
