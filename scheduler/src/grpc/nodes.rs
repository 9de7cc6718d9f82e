//! The Nodes service: what operators keep.

use dure_core::Cluster;
use dure_core::ids::NodeIndex;
use dure_core::input::{Input, RequestKey};
use dure_core::rejected::Refusal;
use dure_core::reply::Reply;
use dure_core::units::Time;
use dure_proto::v1;
use dure_proto::v1::nodes_server::Nodes;
use tonic::{Request, Response, Status};

use super::convert::node::node;
use super::page::Page;
use super::server::Services;
use super::{bookings, convert, request, status};
use crate::auth::{self, Caller, Identity, Target, Verb};
use crate::live::Live;

#[tonic::async_trait]
impl Nodes for Services {
    async fn list(&self, request: Request<v1::ListNodesRequest>) -> Result<Response<v1::ListNodesResponse>, Status> {
        auth::of(&request)?.may(Verb::ReadNodes, Target::Cluster)?;
        let mut request = request.into_inner();
        request::name("pool", &request.pool)?;
        request::name("leaf", &request.leaf)?;
        let asked = request.page.take();
        let page = Page::read(asked, &request)?;
        let look = move |cluster: &Cluster, live: &Live| look(cluster, live, &request, &page);
        let ((nodes, next), position) = self.handle.read(look).await?;
        let (next_page_token, position) = (page.token(next), Some(convert::position(position)));
        Ok(Response::new(v1::ListNodesResponse { nodes, next_page_token, position }))
    }

    async fn get(&self, request: Request<v1::GetNodeRequest>) -> Result<Response<v1::Node>, Status> {
        auth::of(&request)?.may(Verb::ReadNodes, Target::Cluster)?;
        let name = request.into_inner().name;
        let look = move |cluster: &Cluster, live: &Live| {
            let unknown = || status::refused(&Refusal::UnknownNode { name: name.as_str().into() }.into());
            let at = cluster.find_node(&name).ok_or_else(unknown)?;
            Ok::<_, Status>(node(cluster, cluster.node(at), live.nodes.get(&at), true))
        };
        let (found, position) = self.handle.read(look).await?;
        let mut node = found?;
        node.position = Some(convert::position(position));
        Ok(Response::new(node))
    }

    async fn cordon(&self, request: Request<v1::NodeActionRequest>) -> Result<Response<v1::Node>, Status> {
        self.act_on(request, "Nodes/Cordon", |node| Input::Cordon { node }).await
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::Node>, Status> {
        let (identity, by) = (auth::of(&request)?, auth::caller(&request));
        let mut request = request.into_inner();
        let id = std::mem::take(&mut request.request_id);
        let key = request::key(&identity, id, "Nodes/Drain", &request)?;
        let input = match request.at_ms {
            0 => Input::Drain { node: request.name.as_str().into(), evict: request.evict },
            at => bookings::drain(&request.name, Time(at), request.evict),
        };
        self.keep(&identity, by.because(&request.reason), &request.name, input, key).await
    }

    async fn resume(&self, request: Request<v1::NodeActionRequest>) -> Result<Response<v1::Node>, Status> {
        self.act_on(request, "Nodes/Resume", |node| Input::Resume { node }).await
    }

    async fn confirm_dead(&self, request: Request<v1::NodeActionRequest>) -> Result<Response<v1::Node>, Status> {
        self.act_on(request, "Nodes/ConfirmDead", |node| Input::ConfirmDead { node }).await
    }

    async fn plan_defrag(&self, request: Request<v1::PlanDefragRequest>) -> Result<Response<v1::DefragPlan>, Status> {
        auth::of(&request)?.may(Verb::KeepNodes, Target::Cluster)?;
        let (_, plan) = self.defrag_plan(request.into_inner()).await?;
        Ok(Response::new(plan))
    }

    async fn defrag(&self, request: Request<v1::DefragRequest>) -> Result<Response<v1::DefragPlan>, Status> {
        let (identity, by) = (auth::of(&request)?, auth::caller(&request));
        identity.may(Verb::KeepNodes, Target::Cluster)?;
        let request = request.into_inner();
        request::reason(&request.reason)?;
        tracing::info!(user = %identity.user, digest = request.digest, "jobs are moved closer together");
        self.carry_out_defrag(by.because(&request.reason), request).await
    }
}

impl Services {
    async fn act_on(
        &self,
        request: Request<v1::NodeActionRequest>,
        method: &str,
        input: impl FnOnce(Box<str>) -> Input,
    ) -> Result<Response<v1::Node>, Status> {
        let (identity, by) = (auth::of(&request)?, auth::caller(&request));
        let mut request = request.into_inner();
        let id = std::mem::take(&mut request.request_id);
        let key = request::key(&identity, id, method, &request)?;
        let input = input(request.name.as_str().into());
        self.keep(&identity, by.because(&request.reason), &request.name, input, key).await
    }

    async fn keep(
        &self,
        identity: &Identity,
        by: Caller,
        name: &str,
        input: Input,
        key: Option<RequestKey>,
    ) -> Result<Response<v1::Node>, Status> {
        identity.may(Verb::KeepNodes, Target::Node(name))?;
        request::name("name", name)?;
        request::reason(&by.reason)?;
        tracing::info!(user = %identity.user, node = name, reason = &*by.reason, ?input, "an operator acts on a node");
        let name = name.to_owned();
        let after = move |cluster: &Cluster, reply: Reply| {
            let at = match reply {
                Reply::Node(at) => at,
                // A dated drain.
                Reply::Booking(_) => cluster.find_node(&name)?,
                Reply::Submitted { .. } | Reply::Job(_) | Reply::Tenant(_) | Reply::Done => return None,
            };
            Some((at, node(cluster, cluster.node(at), None, false)))
        };
        let (found, position) = self.handle.mutate(by, input, key, Vec::new(), after).await?;
        let (at, mut node) = found.ok_or_else(|| Status::internal("the scheduler answered with something else"))?;
        self.fill_live(at, &mut node).await?;
        node.position = Some(convert::position(position));
        Ok(Response::new(node))
    }

    /// What a mutation cannot see of a node.
    async fn fill_live(&self, at: NodeIndex, node: &mut v1::Node) -> Result<(), Status> {
        let (live, _) = self.handle.read(move |_, live| live.nodes.get(&at).cloned()).await?;
        if let Some(live) = live {
            node.last_heard_ms = live.last_heard.0;
            node.connected = live.connected;
            node.agent_version = live.agent_version;
        }
        Ok(())
    }
}

/// A page of nodes in order of appearance, and the place where the next one begins.
fn look(cluster: &Cluster, live: &Live, request: &v1::ListNodesRequest, page: &Page) -> (Vec<v1::Node>, Option<u64>) {
    let from = usize::try_from(page.from).unwrap_or(usize::MAX);
    let wanted = |found: &&dure_core::node::Node| {
        (request.pool.is_empty() || *cluster.pool(found.pool).name == *request.pool)
            && (request.leaf.is_empty() || *found.location.leaf == *request.leaf)
    };
    let mut rest = cluster.nodes().iter().skip(from).filter(wanted);
    let shown = |found| node(cluster, found, live.nodes.get(&found.index), request.with_telemetry);
    let nodes = rest.by_ref().take(page.size).map(shown).collect();
    (nodes, rest.next().map(|next| u64::from(next.index.0)))
}
