//! Nodes are booked, and bookings taken back.

use dure_core::input::{BookingDraft, Input};
use dure_core::units::Span;

use crate::steps::Step;
use crate::world::World;

impl World {
    /// Books nodes by name, or counted; for nobody, for those who name it, or for all of a tenant.
    pub(crate) fn book(&mut self, step: &Step) {
        let Step::Book { node, count, from, length, tenant, how } = *step else { return };
        let all = self.cluster.nodes();
        if all.is_empty() {
            return;
        }
        let from = self.now + Span::seconds(from.into());
        let names = (0..=count).map(|at| all[(usize::from(node) + usize::from(at)) % all.len()].name.clone());
        let is_counted = how & 8 != 0;
        let maintenance = how % 3 == 0;
        let draft = BookingDraft {
            name: format!("b{}", self.steps).into(),
            from,
            until: (how & 16 == 0 || !maintenance).then(|| from + Span::seconds(length.into())),
            nodes: if is_counted { Vec::new() } else { names.collect() },
            count: if is_counted { u32::from(count) + 1 } else { 0 },
            pool: "".into(),
            maintenance,
            tenant: if maintenance { "".into() } else { self.tenant(tenant).into() },
            all_jobs: how % 3 == 1,
            spares_running: how & 32 != 0,
            force: how & 64 != 0,
            inside_quota: how & 128 != 0,
        };
        drop(self.input(Input::Book(draft)));
    }

    /// Cancels one of the bookings.
    pub(crate) fn cancel_booking(&mut self, which: u8) {
        if let Some(name) = self.booking(which) {
            drop(self.input(Input::CancelBooking { name }));
        }
    }

    /// The name of one of the bookings.
    pub(crate) fn booking(&self, which: u8) -> Option<Box<str>> {
        let all: Vec<_> = self.cluster.bookings().map(|booking| booking.name.clone()).collect();
        all.get(which as usize % all.len().max(1)).cloned()
    }
}
