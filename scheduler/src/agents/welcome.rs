//! A node says hello: what it holds meets what the scheduler wants there.
//!
//! In: the leases of the Hello and the state after `Input::NodeHello`. Out: what the leases report, what is settled, what
//! is unknown. A lease that the scheduler does not know is never stopped: it is shown to an operator.

use std::collections::BTreeSet;

use dure_core::Cluster;
use dure_core::ids::{AttemptNumber, JobId, MemberIndex, NodeIndex};
use dure_core::input::{Input, MemberReport};
use dure_core::job::{Exit, ExitHow, MemberPhase};
use dure_proto::v1;

/// What the leases of a Hello come to.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// What they report, in order.
    pub reports: Vec<Input>,
    /// Leases that are over for the scheduler too, once the reports are durable.
    pub settled: Vec<v1::LeaseKey>,
    /// Leases of which the scheduler knows nothing, though something may run under them.
    pub unknown: Vec<(u64, u32, u32)>,
}

/// Compares leases with the state.
pub fn reconcile(cluster: &Cluster, node: NodeIndex, leases: &[v1::Lease]) -> Reconciled {
    let mut out = Reconciled::default();
    let mut held = BTreeSet::new();
    for lease in leases {
        let (job, attempt, member) = (JobId(lease.job_id), AttemptNumber(lease.attempt), MemberIndex(lease.member));
        let is_gone = lease.phase() == v1::LeasePhase::Gone;
        let key = v1::LeaseKey { job_id: lease.job_id, attempt: lease.attempt, member: lease.member };
        match cluster.member_phase(node, job, attempt, member) {
            Some(phase) => {
                held.insert((job, member));
                out.reports.extend(reports_of(lease).into_iter().map(|report| Input::MemberReported {
                    node,
                    job,
                    attempt,
                    member,
                    report,
                }));
                if is_gone || phase == MemberPhase::Gone {
                    out.settled.push(key);
                }
            }
            // The agent's disk may not have got that the member is gone, or never ran.
            None if is_gone || cluster.has_seen_end_of(job, attempt, member) => out.settled.push(key),
            None => out.unknown.push((lease.job_id, lease.attempt, lease.member)),
        }
    }
    for resident in &cluster.node(node).residents {
        let Some(attempt) = cluster.job(resident.job).and_then(dure_core::job::Job::live_attempt) else { continue };
        let ran = attempt.members[resident.member.at()].phase == MemberPhase::Running;
        if ran && !held.contains(&(resident.job, resident.member)) {
            let how = ExitHow::Unknown("its agent has no lease of it any more".into());
            out.reports.push(Input::MemberReported {
                node,
                job: resident.job,
                attempt: attempt.number,
                member: resident.member,
                report: MemberReport::Gone(Exit::of(how)),
            });
        }
    }
    out
}

fn reports_of(lease: &v1::Lease) -> Vec<MemberReport> {
    match lease.phase() {
        v1::LeasePhase::Unspecified => Vec::new(),
        v1::LeasePhase::Prepared => vec![MemberReport::Prepared],
        v1::LeasePhase::Running => vec![MemberReport::Prepared, MemberReport::Started],
        v1::LeasePhase::Stopping => Vec::new(),
        v1::LeasePhase::Gone => {
            let unsaid = || Exit::of(ExitHow::Unknown("the lease does not say".into()));
            vec![MemberReport::Gone(lease.exit.as_ref().map_or_else(unsaid, super::exit_of))]
        }
    }
}
