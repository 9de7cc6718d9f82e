//! Bookings: made, cleared, begun, over.

use crate::booking::{Booking, Stage};
use crate::cluster::Cluster;
use crate::event::Event;
use crate::ids::{BookingId, JobId};
use crate::reserve::Reservation;

impl Cluster {
    pub(super) fn apply_to_booking(&mut self, event: &Event) {
        match event {
            Event::BookingMade { booking } => self.add_booking((**booking).clone()),
            Event::BookingCleared { booking } => self.move_booking(*booking, Stage::Cleared),
            Event::BookingBegan { booking } => {
                self.move_booking(*booking, Stage::Begun);
                self.booking_changed(*booking);
            }
            Event::BookingEnded { booking } | Event::BookingCancelled { booking } => self.end_booking(*booking),
            _ => unreachable!("only events of bookings come here"),
        }
    }

    fn add_booking(&mut self, booking: Booking) {
        let (id, nodes) = (booking.id, booking.nodes.clone());
        if let Some((time, timer)) = booking.timer() {
            self.timers.insert(time, timer);
        }
        // What is set aside there may be for jobs that would run into it: the plan is made anew.
        let overlaps = |reservation: &Reservation| reservation.members.iter().any(|placed| booking.keeps(placed.node));
        if self.reservations().iter().any(overlaps) {
            let left = self.reservations().iter().filter(|reservation| !overlaps(reservation)).cloned().collect();
            self.set_reservations(left);
        }
        self.bookings.insert(booking);
        self.rebook(&nodes);
        self.booking_changed(id);
    }

    fn move_booking(&mut self, id: BookingId, stage: Stage) {
        let timer = self.bookings.get(id).and_then(Booking::timer);
        if let Some((time, timer)) = timer {
            self.timers.remove(time, timer);
        }
        self.bookings.set_stage(id, stage);
        let booking = self.bookings.get(id).expect("an event names a booking that exists");
        let nodes = booking.nodes.clone();
        if let Some((time, timer)) = booking.timer() {
            self.timers.insert(time, timer);
        }
        self.rebook(&nodes);
    }

    /// What waits may start on other nodes than before.
    fn booking_changed(&mut self, id: BookingId) {
        let booking = self.bookings.get(id).expect("an event names a booking that exists");
        let mut pools: Vec<_> = booking.nodes.iter().map(|node| self.nodes[node.at()].pool).collect();
        pools.sort_unstable();
        pools.dedup();
        pools.into_iter().for_each(|pool| self.freed(pool));
        self.divided_anew();
    }

    /// The nodes are everybody's again; who named it waits, or runs on, like any other.
    fn end_booking(&mut self, id: BookingId) {
        self.booking_changed(id);
        let booking = self.bookings.remove(id).expect("an event names a booking that exists");
        if let Some((time, timer)) = booking.timer() {
            self.timers.remove(time, timer);
        }
        self.rebook(&booking.nodes);
        let named = self.jobs.iter().filter(|job| job.spec.booking == Some(id)).map(|job| job.id);
        for job in named.collect::<Vec<JobId>>() {
            let is_queued = self.job_mut(job).queued.is_some();
            self.dequeue(job);
            self.job_mut(job).spec.booking = None;
            if is_queued {
                self.enqueue_if_eligible(job);
            }
        }
    }
}
