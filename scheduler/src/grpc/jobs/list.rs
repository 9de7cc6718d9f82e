//! List: pages of jobs by rising id, a bounded piece of the table in each turn.

use dure_core::Cluster;
use dure_core::ids::{JobId, NodeIndex, UserIndex};
use dure_core::job::Job;
use dure_core::rejected::Refusal;
use dure_core::units::Time;
use dure_proto::v1;
use tonic::Status;

use crate::auth::Visible;
use crate::grpc::convert;
use crate::grpc::limits::{MAX_PHASES, MAX_SCAN, MAX_SCANS};
use crate::grpc::page::Page;
use crate::grpc::request;
use crate::grpc::server::Services;
use crate::grpc::status::{self, Violation};

/// What is listed.
#[derive(Clone)]
struct Filter {
    visible: Visible,
    tenant: String,
    user: String,
    phases: Vec<v1::JobPhase>,
    name: String,
    node: String,
    now: Time,
}

/// One page.
pub(super) async fn list(
    services: &Services,
    visible: Visible,
    mut request: v1::ListJobsRequest,
) -> Result<v1::ListJobsResponse, Status> {
    let asked = request.page.take();
    let page = Page::read(asked, &request)?;
    let filter = filter(visible, request, services.clock.now())?;
    let (mut jobs, mut from) = (Vec::new(), JobId(page.from));
    let mut scans = 0;
    loop {
        scans += 1;
        let (filter, want) = (filter.clone(), page.size - jobs.len());
        let (found, position) = services.handle.read(move |cluster, _| look(cluster, &filter, from, want)).await?;
        let Scanned { found, next } = found?;
        jobs.extend(found);
        match next {
            Some(next) if jobs.len() < page.size && scans < MAX_SCANS => from = next,
            next => {
                services.forecasts.estimates(jobs.iter_mut());
                let next_page_token = page.token(next.map(|next| next.0));
                return Ok(v1::ListJobsResponse { jobs, next_page_token, position: Some(convert::position(position)) });
            }
        }
    }
}

fn filter(visible: Visible, request: v1::ListJobsRequest, now: Time) -> Result<Filter, Violation> {
    let v1::ListJobsRequest { tenant, user, phases, name, node, page: _ } = request;
    for (field, text) in [("tenant", &tenant), ("user", &user), ("name", &name), ("node", &node)] {
        request::name(field, text)?;
    }
    if phases.len() > MAX_PHASES {
        return Err(Violation::new("phases", format!("{} phases; name each once", phases.len())));
    }
    let phases = phases.into_iter().map(|number| {
        let known = v1::JobPhase::try_from(number);
        known.map_err(|_| Violation::new("phases", format!("{number} is no phase of this version")))
    });
    let phases = phases.collect::<Result<Vec<_>, _>>()?;
    Ok(Filter { visible, tenant, user, phases, name, node, now })
}

struct Scanned {
    found: Vec<v1::Job>,
    /// Where to go on; none at the end.
    next: Option<JobId>,
}

/// The filter with its names looked up.
struct Wanted<'a> {
    filter: &'a Filter,
    /// By tenant.
    tenants: Vec<bool>,
    user: Option<UserIndex>,
    node: Option<NodeIndex>,
}

/// Looks at most at `MAX_SCAN` jobs from `from` on.
fn look(cluster: &Cluster, filter: &Filter, from: JobId, want: usize) -> Result<Scanned, Status> {
    if cluster.find_tenant(&filter.tenant).is_none() {
        let name = filter.tenant.as_str().into();
        return Err(status::refused(&Refusal::UnknownTenant { name }.into()));
    }
    let (user, node) = (cluster.find_user(&filter.user), cluster.find_node(&filter.node));
    let is_unseen = (user.is_none() && !filter.user.is_empty()) || (node.is_none() && !filter.node.is_empty());
    if is_unseen {
        return Ok(Scanned { found: Vec::new(), next: None });
    }
    let shows = |name: &str| filter.visible.shows(name) && convert::is_within(name, &filter.tenant);
    let tenants = cluster.tenants().iter().map(|tenant| shows(&tenant.name)).collect();
    let wanted = Wanted { filter, tenants, user, node };
    let (mut found, mut scanned) = (Vec::new(), 0);
    for job in cluster.jobs().from(from) {
        if found.len() == want || scanned == MAX_SCAN {
            return Ok(Scanned { found, next: Some(job.id) });
        }
        scanned += 1;
        if wanted.matches(job) {
            found.push(convert::job::job(cluster, job, filter.now));
        }
    }
    Ok(Scanned { found, next: None })
}

impl Wanted<'_> {
    fn matches(&self, job: &Job) -> bool {
        let is_on = |node: NodeIndex| {
            job.attempt.as_deref().is_some_and(|attempt| attempt.members.iter().any(|m| m.placed.node == node))
        };
        self.tenants[job.spec.tenant.at()]
            && self.user.is_none_or(|user| job.spec.user == user)
            && (self.filter.name.is_empty() || *job.spec.name == *self.filter.name)
            && (self.filter.phases.is_empty() || self.filter.phases.contains(&convert::phase(job)))
            && self.node.is_none_or(is_on)
    }
}
