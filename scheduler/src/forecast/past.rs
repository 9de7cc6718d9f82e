//! The same question to the history: what the last so long would have been under other quotas, or on other nodes.

use std::collections::BTreeMap;

use dure_core::units::{Gpus, Time};
use dure_proto::v1;
use dure_replay::division;
use dure_replay::drive::{Drive, DriveOptions};
use dure_replay::forecast::{Outlook, WhatIf};
use dure_replay::report::report;
use dure_replay::trace::{self, Mission, TraceJob, TraceNode};
use tonic::Status;

use super::Question;
use super::question::on_the_wire;
use crate::grpc::convert;
use crate::grpc::status::Violation;
use crate::recorded::{Recorded, recorded};
use crate::source::Source;

impl Question {
    /// Replays the history that `source` holds, as it was divided last and as it would be.
    pub(super) fn replay<S: Source + ?Sized>(
        self,
        source: &S,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<v1::WhatIfResponse, Status> {
        let found =
            recorded(source).map_err(|err| Status::unavailable(format!("the history cannot be read: {err}")))?;
        let (last, until) = (self.last.unwrap_or_default(), found.until);
        let jobs = trace::window(found.jobs.clone(), Time(until.0.saturating_sub(last.0)), Time::NEVER);
        if jobs.is_empty() {
            return Err(
                Violation::new("last_ms", "no job that was submitted in that time has ended; ask for longer").into()
            );
        }
        let missions = self.missions(&found)?;
        let nodes = self.nodes(&found)?;
        let (before, after) = std::thread::scope(|scope| {
            let before = scope.spawn(|| outlooks(&found.nodes, &jobs, found.missions.clone(), go_on));
            let after = outlooks(&nodes, &jobs, missions, go_on);
            (before.join().expect("a replay does not panic"), after)
        });
        let ((before, cut), (after, also_cut)) = (before?, after?);
        let seen = WhatIf::new(before, after, cut || also_cut);
        Ok(v1::WhatIfResponse { as_of_ms: until.0, horizon_ms: last.0, ..on_the_wire(seen) })
    }

    fn missions(&self, found: &Recorded) -> Result<Vec<Mission>, Violation> {
        let mut missions = found.missions.clone();
        for (at, change) in self.quotas.iter().enumerate() {
            let bad = |field: &str, why: String| Err(Violation::new(format!("quotas[{at}].{field}"), why));
            if !change.pool.is_empty() {
                return bad("pool", "a history is divided over all pools together; leave the pool out".to_owned());
            }
            let Some(mission) = missions.iter_mut().find(|mission| mission.tenant == change.tenant) else {
                return bad("tenant", format!("there was no mission {:?}; name a mission", change.tenant));
            };
            mission.quota = change.quota.map_or(mission.quota, Gpus::whole);
            mission.limit = change.limit.map(Gpus::whole).or(mission.limit);
            if let Some(domains) = change.domains {
                let domains = convert::tenant::domains(domains)?;
                mission.domains = (domains.count > 0).then_some(domains);
            }
            mission.lend_limit = change.lend_limit.map(Gpus::whole).or(mission.lend_limit);
        }
        Ok(missions)
    }

    fn nodes(&self, found: &Recorded) -> Result<Vec<TraceNode>, Violation> {
        let mut nodes = found.nodes.clone();
        for (at, name) in self.nodes_out.iter().enumerate() {
            let known = nodes.len();
            nodes.retain(|node| node.name != *name);
            if nodes.len() == known {
                let why = format!("there is no node {name:?}; see the nodes: dure nodes");
                return Err(Violation::new(format!("remove_nodes[{at}]"), why));
            }
        }
        let mut count = 0;
        for (at, more) in self.nodes_in.iter().enumerate() {
            let mut known = found.nodes.iter();
            let like = if more.like.is_empty() { known.next() } else { known.find(|node| node.name == more.like) };
            let like = like.ok_or_else(|| {
                let why = format!("there is no node {:?}; name one that is there: dure nodes", more.like);
                Violation::new(format!("add_nodes[{at}].like"), why)
            })?;
            for _ in 0..more.count {
                count += 1;
                nodes.push(TraceNode { name: format!("{}~{count}", like.name), ..like.clone() });
            }
        }
        Ok(nodes)
    }
}

type Outlooks = (BTreeMap<String, Outlook>, bool);

fn outlooks(
    nodes: &[TraceNode],
    jobs: &[TraceJob],
    missions: Vec<Mission>,
    go_on: &(dyn Fn() -> bool + Sync),
) -> Result<Outlooks, Status> {
    let failed = |err: dure_replay::drive::DriveError| Status::failed_precondition(format!("the history: {err}"));
    let quotas = division::quotas(&missions);
    let mut drive = Drive::with(nodes, jobs, missions, DriveOptions::default()).map_err(failed)?;
    let mut is_cut = false;
    while !is_cut && drive.turn().map_err(failed)? {
        is_cut = !go_on();
    }
    let (report, _) = report(&drive.finish(), jobs, nodes, &quotas, BTreeMap::new(), None);
    let outlook = |(name, of): (String, dure_replay::report::Figures)| {
        let outlook = Outlook {
            quota: u32::try_from(of.quota).unwrap_or(u32::MAX),
            waiting: of.jobs,
            started: of.started,
            wait_s: of.wait_s,
            evictions: of.evictions,
            lost_gpu_hours: of.evicted_gpu_hours,
        };
        (name, outlook)
    };
    Ok((report.tenants.into_iter().map(outlook).collect(), is_cut))
}
