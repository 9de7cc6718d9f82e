//! The users of a cluster in this process: one connection, one token per user.

use std::collections::BTreeMap;

use dure_proto::v1::{
    forecasts_client::ForecastsClient, jobs_client::JobsClient, nodes_client::NodesClient,
    tenants_client::TenantsClient,
};
use tonic::Status;

use crate::{
    context::{Authed, Bearer},
    failure::Failure,
    roam::Roam,
};

/// Largest answer that is taken, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// Who speaks: a mission (or any tenant of it) and a user.
pub(crate) type Speaker = (String, String);

/// Clients of a cluster for its operator and for its users.
#[derive(Clone)]
pub(crate) struct Session {
    server: String,
    channel: Roam,
    operator: Bearer,
    users: BTreeMap<Speaker, Bearer>,
}

impl Session {
    /// Users and their tokens on a connection.
    pub(crate) fn new(server: String, channel: Roam, operator: Bearer, users: BTreeMap<Speaker, Bearer>) -> Self {
        Self { server, channel, operator, users }
    }

    /// Jobs, for a user of a mission.
    pub(crate) fn jobs_as(&self, mission: &str, user: &str) -> Result<JobsClient<Authed>, Failure> {
        let bearer = self.users.get(&(mission.to_owned(), user.to_owned()));
        let bearer = bearer.ok_or_else(|| Failure::Failed(format!("user {user:?} of {mission:?} has no token")))?;
        Ok(JobsClient::with_interceptor(self.channel.clone(), bearer.clone()).max_decoding_message_size(MAX_ANSWER))
    }

    /// Jobs, for the operator.
    pub(crate) fn jobs(&self) -> JobsClient<Authed> {
        let client = JobsClient::with_interceptor(self.channel.clone(), self.operator.clone());
        client.max_decoding_message_size(MAX_ANSWER)
    }

    /// Tenants, for the operator.
    pub(crate) fn tenants(&self) -> TenantsClient<Authed> {
        TenantsClient::with_interceptor(self.channel.clone(), self.operator.clone())
            .max_decoding_message_size(MAX_ANSWER)
    }

    /// Forecasts, for the operator.
    pub(crate) fn forecasts(&self) -> ForecastsClient<Authed> {
        ForecastsClient::with_interceptor(self.channel.clone(), self.operator.clone())
    }

    /// Nodes, for the operator.
    pub(crate) fn nodes(&self) -> NodesClient<Authed> {
        NodesClient::with_interceptor(self.channel.clone(), self.operator.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// A failure from a status of this cluster.
    pub(crate) fn refused(&self, status: Status) -> Failure {
        Failure::from_status(status, &self.server)
    }
}
