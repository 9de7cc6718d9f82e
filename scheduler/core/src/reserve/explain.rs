//! What the plan in time says to a job that waits.

use crate::blocked::Blocked;
use crate::cluster::Cluster;
use crate::job::Job;
use crate::reserve::{Reservation, idle_aside};
use crate::units::Gpus;

impl Cluster {
    /// What is set aside for a job; else what is idle and set aside for others, where the job could run.
    pub(crate) fn set_aside_for(&self, job: &Job) -> impl Iterator<Item = Blocked> {
        let own = self.reservation(job.id).map(|own| {
            let (pool, want, from) = (own.pool, own.gpus(), own.from);
            Blocked::Reserved { pool, want, idle: self.idle_of(own), from }
        });
        let pools = &job.spec.request.pools;
        let in_way = |other: &&Reservation| pools.contains(&other.pool) && self.idle_of(other) > Gpus::ZERO;
        // Who names a booking waits for that alone.
        let is_alike = own.is_none() && job.spec.booking.is_none();
        let first = self.reservations().iter().filter(|_| is_alike).find(in_way);
        let behind = first.map(|other| {
            let (job, pool, until) = (other.job, other.pool, other.from);
            Blocked::BehindReservation { job, pool, idle: self.idle_of(other), until }
        });
        own.into_iter().chain(behind)
    }

    /// The GPUs of a reservation that nothing holds.
    pub fn idle_of(&self, reservation: &Reservation) -> Gpus {
        reservation.members.iter().map(|placed| idle_aside(self, placed.node).and(placed.gpus).count()).sum()
    }
}
