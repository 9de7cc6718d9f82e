//! What was tried and cannot start now: per class for want of room, per tenant and class for want of quota.
//!
//! Within a cycle GPUs are only taken, so that a class once refused stays refused until there is news that can lift what it
//! was refused for: `Blocked` says which. Room that became free wakes a class only where the counters of the index leave hope
//! for it. The reasons stay readable until the class is tried again.

use std::collections::BTreeMap;

use crate::blocked::Blocked;
use crate::classes::Classes;
use crate::ids::{ClassIndex, JobId, TenantIndex, UserIndex};
use crate::job::Job;
use crate::news::{News, Stamp};
use crate::place::PlaceIndex;
use crate::queue::ClassSet;

/// The refusals that still hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refused {
    /// The news that they have heard.
    heard: Stamp,
    unplaceable: ClassSet,
    /// By class.
    no_room: Vec<Option<Blocked>>,
    inadmissible: Vec<ClassSet>,
    no_quota: BTreeMap<(ClassIndex, TenantIndex), Blocked>,
    alone: BTreeMap<JobId, Blocked>,
    /// By tenant and user: classes that a cap refuses to the user.
    capped: BTreeMap<(TenantIndex, UserIndex), ClassSet>,
    over_cap: BTreeMap<(ClassIndex, TenantIndex, UserIndex), Blocked>,
    /// Classes for which a budget is spent: at the end of a cycle they are tried once more, as scavengers.
    over_budget: BTreeMap<(ClassIndex, TenantIndex), Blocked>,
}

impl Refused {
    /// Starts a cycle: forgets the refusals that what has happened since may have lifted. O(refusals).
    pub(crate) fn begin(&mut self, news: &News, classes: &Classes, index: &PlaceIndex, tenants: usize) {
        self.alone.clear();
        self.make_room(tenants);
        let since = std::mem::replace(&mut self.heard, news.now());
        if since != news.now() {
            self.wake_for_room(news, classes, index, since);
            self.wake_for_division(news, classes, since);
        }
    }

    /// Classes that found no room are tried again where something was freed in one of their pools, if the counters of that
    /// pool do not rule them out; if they do, the reason is told with the new numbers.
    fn wake_for_room(&mut self, news: &News, classes: &Classes, index: &PlaceIndex, since: Stamp) {
        let Self { unplaceable, no_room, .. } = self;
        unplaceable.retain(|class| {
            let request = &classes.get(class).key.request;
            if !request.pools.iter().any(|pool| news.has_freed(*pool, since)) {
                return true;
            }
            let mut ruled_out = None;
            for pool in &request.pools {
                match index.has_hope(request, *pool) {
                    Ok(()) => {
                        no_room[class.at()] = None;
                        return false;
                    }
                    Err(why) => ruled_out = ruled_out.or(Some(why)),
                }
            }
            no_room[class.at()] = ruled_out;
            true
        });
    }

    /// Classes that were not admitted are tried again where what refused them may be lifted.
    fn wake_for_division(&mut self, news: &News, classes: &Classes, since: Stamp) {
        let Self { inadmissible, no_quota, over_budget, capped, over_cap, .. } = self;
        let is_lifted = |class: ClassIndex, why: &Blocked| news.may_lift(&classes.get(class).key.request, why, since);
        no_quota.retain(|(class, tenant), why| {
            let is_lifted = is_lifted(*class, why);
            if is_lifted {
                inadmissible[tenant.at()].remove(*class);
            }
            !is_lifted
        });
        over_budget.retain(|(class, tenant), why| {
            let is_lifted = is_lifted(*class, why);
            if is_lifted {
                // What it was refused as a scavenger may be admitted once it is paid for.
                no_quota.remove(&(*class, *tenant));
                inadmissible[tenant.at()].remove(*class);
            }
            !is_lifted
        });
        over_cap.retain(|(class, tenant, user), why| {
            let is_lifted = is_lifted(*class, why);
            if is_lifted && let Some(classes) = capped.get_mut(&(*tenant, *user)) {
                classes.remove(*class);
            }
            !is_lifted
        });
    }

    /// Nothing refused yet.
    pub(crate) fn fresh(tenants: usize) -> Self {
        let mut fresh = Self::default();
        fresh.inadmissible.resize_with(tenants, ClassSet::default);
        fresh
    }

    /// Whether no class is refused to anybody.
    pub(crate) fn is_empty(&self) -> bool {
        self.unplaceable.is_empty()
            && self.no_quota.is_empty()
            && self.over_cap.is_empty()
            && self.over_budget.is_empty()
    }

    /// The class is passed over in this tenant, without a reason to tell.
    pub(crate) fn pass_over(&mut self, class: ClassIndex, tenant: TenantIndex) {
        self.inadmissible[tenant.at()].insert(class);
    }

    /// Forgets classes in which nobody waits any more.
    pub(crate) fn keep_only(&mut self, classes: &Classes) {
        let gone = |class: &ClassIndex| !classes.is_in_use(*class);
        let mut left: Vec<ClassIndex> = self.unplaceable.iter().filter(gone).collect();
        left.extend(self.no_quota.keys().map(|(class, _)| *class).filter(gone));
        left.extend(self.over_cap.keys().map(|(class, ..)| *class).filter(gone));
        left.extend(self.over_budget.keys().map(|(class, _)| *class).filter(gone));
        left.into_iter().for_each(|class| self.forget_class(class));
    }

    /// The class finds no room, whoever asks.
    pub(crate) fn note_no_room(&mut self, class: ClassIndex, why: Blocked) {
        self.unplaceable.insert(class);
        self.no_room.resize((class.at() + 1).max(self.no_room.len()), None);
        self.no_room[class.at()] = Some(why);
    }

    /// The class is refused in this tenant.
    pub(crate) fn note_no_quota(&mut self, class: ClassIndex, tenant: TenantIndex, why: Blocked) {
        self.inadmissible[tenant.at()].insert(class);
        self.no_quota.insert((class, tenant), why);
    }

    /// A cap refuses the class to this user.
    pub(crate) fn note_over_cap(&mut self, class: ClassIndex, tenant: TenantIndex, user: UserIndex, why: Blocked) {
        self.capped.entry((tenant, user)).or_default().insert(class);
        self.over_cap.insert((class, tenant, user), why);
    }

    /// A budget above the tenant is spent for the class.
    pub(crate) fn note_over_budget(&mut self, class: ClassIndex, tenant: TenantIndex, why: Blocked) {
        self.inadmissible[tenant.at()].insert(class);
        self.over_budget.insert((class, tenant), why);
    }

    /// Lets what only a budget refuses be tried again. False when there is nothing such.
    pub(crate) fn lift_budgets(&mut self) -> bool {
        for (class, tenant) in self.over_budget.keys() {
            if !self.no_quota.contains_key(&(*class, *tenant)) {
                self.inadmissible[tenant.at()].remove(*class);
            }
        }
        !self.over_budget.is_empty()
    }

    /// Classes that a cap refuses to this user.
    pub(crate) fn capped(&self, tenant: TenantIndex, user: UserIndex) -> Option<&ClassSet> {
        self.capped.get(&(tenant, user))
    }

    /// Whether a cap refuses the class to this user.
    pub(crate) fn is_capped(&self, class: ClassIndex, tenant: TenantIndex, user: UserIndex) -> bool {
        self.capped(tenant, user).is_some_and(|classes| classes.contains(class))
    }

    /// How many classes caps refuse to users.
    pub(crate) fn caps(&self) -> usize {
        self.over_cap.len()
    }

    /// The class is not refused to this user any more.
    pub(crate) fn lift_cap(&mut self, class: ClassIndex, tenant: TenantIndex, user: UserIndex) {
        if self.over_cap.remove(&(class, tenant, user)).is_some() {
            self.capped.entry((tenant, user)).or_default().remove(class);
        }
    }

    /// Keeps of what caps refuse to users only that for which `keep` says so.
    pub(crate) fn retain_caps(&mut self, mut keep: impl FnMut(ClassIndex, TenantIndex, &Blocked) -> bool) {
        let Self { over_cap, capped, .. } = self;
        over_cap.retain(|(class, tenant, user), why| {
            let is_kept = keep(*class, *tenant, why);
            if !is_kept && let Some(classes) = capped.get_mut(&(*tenant, *user)) {
                classes.remove(*class);
            }
            is_kept
        });
    }

    /// Room for so many tenants.
    pub(crate) fn make_room(&mut self, tenants: usize) {
        self.inadmissible.resize_with(tenants.max(self.inadmissible.len()), ClassSet::default);
    }

    /// This job finds no room outside the nodes that it keeps away from; its class may.
    pub(crate) fn note_alone(&mut self, job: JobId, why: Blocked) {
        self.alone.insert(job, why);
    }

    /// No job waits in the class any more: its index may come to mean another.
    pub(crate) fn forget_class(&mut self, class: ClassIndex) {
        self.unplaceable.remove(class);
        if let Some(why) = self.no_room.get_mut(class.at()) {
            *why = None;
        }
        while let Some((&(of, tenant), _)) = self.no_quota.range((class, TenantIndex(0))..).next()
            && of == class
        {
            self.no_quota.remove(&(of, tenant));
            self.inadmissible[tenant.at()].remove(class);
        }
        while let Some((&(of, tenant), _)) = self.over_budget.range((class, TenantIndex(0))..).next()
            && of == class
        {
            self.over_budget.remove(&(of, tenant));
            self.inadmissible[tenant.at()].remove(class);
        }
        while let Some((&(of, tenant, user), _)) = self.over_cap.range((class, TenantIndex(0), UserIndex(0))..).next()
            && of == class
        {
            self.over_cap.remove(&(of, tenant, user));
            self.capped.entry((tenant, user)).or_default().remove(class);
        }
    }

    /// Makes room for refusals of classes below `classes`.
    pub(crate) fn reserve(&mut self, classes: usize, tenants: usize) {
        self.no_room.resize(classes.max(self.no_room.len()), None);
        self.unplaceable.reserve(classes);
        self.make_room(tenants);
        self.inadmissible.iter_mut().for_each(|set| set.reserve(classes));
    }

    /// Classes that find no room.
    pub(crate) fn unplaceable(&self) -> &ClassSet {
        &self.unplaceable
    }

    /// Classes refused in this tenant. Only inside a cycle.
    pub(crate) fn inadmissible(&self, tenant: TenantIndex) -> &ClassSet {
        &self.inadmissible[tenant.at()]
    }

    /// Whether a job of this class and tenant is not tried.
    pub(crate) fn passes_over(&self, class: ClassIndex, tenant: TenantIndex, user: UserIndex) -> bool {
        let in_tenant = self.inadmissible.get(tenant.at());
        self.is_capped(class, tenant, user)
            || self.unplaceable.contains(class)
            || in_tenant.is_some_and(|classes| classes.contains(class))
    }

    /// Whether a job of this class and tenant is not tried at all: what only a budget refuses is tried once more at the end
    /// of the cycle.
    pub(crate) fn rules_out(&self, class: ClassIndex, tenant: TenantIndex, user: UserIndex) -> bool {
        self.passes_over(class, tenant, user) && !self.over_budget.contains_key(&(class, tenant))
    }

    /// Why the job was refused, or its class in this tenant, when it was last tried.
    pub(crate) fn why(&self, job: &Job, class: ClassIndex) -> Option<Blocked> {
        let (tenant, user) = (job.spec.tenant, job.spec.user);
        let of_user = || self.over_cap.get(&(class, tenant, user));
        let in_tenant = || self.no_quota.get(&(class, tenant)).or_else(|| self.over_budget.get(&(class, tenant)));
        let of_class = || self.no_room.get(class.at())?.as_ref();
        self.alone.get(&job.id).or_else(of_user).or_else(in_tenant).or_else(of_class).copied()
    }
}
