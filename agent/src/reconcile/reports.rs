//! Reports: spooled until the scheduler acknowledges them.
//!
//! Comes in: news about members, acknowledgements, time. Goes out: `Action::Send`, in the order of the news.
//! Bounded by the leases: at most four kinds of news per lease. This part must never drop the news of an end that was
//! not acknowledged, unless the scheduler says by itself that it knows.

use std::collections::BTreeMap;

use super::Action;
use crate::model::{MemberId, Millis, News, Report};

pub(super) struct Reports {
    next: u64,
    pending: BTreeMap<u64, (Report, Millis)>,
}

impl Reports {
    pub(super) fn from(first: u64) -> Self {
        Self { next: first, pending: BTreeMap::new() }
    }

    /// Spools and sends; the same news about the same member is spooled once.
    pub(super) fn push(&mut self, id: MemberId, news: News, now: Millis, out: &mut Vec<Action>) {
        if self.pending.values().any(|(report, _)| report.id == id && report.news == news) {
            return;
        }
        if matches!(news, News::Checkpoint(..)) {
            // A newer one says all that an older one says.
            self.pending.retain(|_, (old, _)| old.id != id || !matches!(old.news, News::Checkpoint(..)));
        }
        let report = Report { report_id: self.next, id, news };
        self.next += 1;
        self.pending.insert(report.report_id, (report.clone(), now));
        out.push(Action::Send(report));
    }

    /// The member, and whether the report was about its end.
    pub(super) fn ack(&mut self, report_id: u64) -> Option<(MemberId, bool)> {
        let (report, _) = self.pending.remove(&report_id)?;
        Some((report.id, matches!(report.news, News::Gone(_))))
    }

    pub(super) fn forget(&mut self, id: MemberId) {
        self.pending.retain(|_, (report, _)| report.id != id);
    }

    /// Sends everything again: a new stream knows nothing of the old one.
    pub(super) fn resend(&mut self, now: Millis, out: &mut Vec<Action>) {
        for (report, sent) in self.pending.values_mut() {
            *sent = now;
            out.push(Action::Send(report.clone()));
        }
    }

    pub(super) fn retry(&mut self, now: Millis, after_ms: u64, out: &mut Vec<Action>) {
        for (report, sent) in self.pending.values_mut() {
            if now.0.saturating_sub(sent.0) >= after_ms {
                *sent = now;
                out.push(Action::Send(report.clone()));
            }
        }
    }
}
