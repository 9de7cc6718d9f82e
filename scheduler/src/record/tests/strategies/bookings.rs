//! Random bookings.

use dure_core::booking::{Booking, Purpose, Stage};
use dure_core::event::Event;
use dure_core::ids::BookingId;
use proptest::collection::btree_set;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

use super::{node, tenant, text, time};

fn id() -> impl Strategy<Value = BookingId> {
    any::<u32>().prop_map(BookingId)
}

fn booking() -> impl Strategy<Value = Booking> {
    let purpose = of((tenant(), any::<bool>())).prop_map(|jobs| match jobs {
        None => Purpose::Maintenance,
        Some((tenant, all)) => Purpose::Jobs { tenant, all },
    });
    let stage = select(vec![Stage::Ahead, Stage::Cleared, Stage::Begun]);
    let times = (time(), of(time()), time(), time());
    (id(), text(), btree_set(node(), 1..5), times, purpose, any::<bool>(), stage).prop_map(
        |(id, name, nodes, (from, until, clears_at, made_at), purpose, evicts, stage)| Booking {
            id,
            name,
            nodes: nodes.into_iter().collect(),
            from,
            until,
            purpose,
            evicts,
            clears_at,
            made_at,
            stage,
        },
    )
}

pub(super) fn booking_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        booking().prop_map(|booking| Event::BookingMade { booking: Box::new(booking) }),
        id().prop_map(|booking| Event::BookingCleared { booking }),
        id().prop_map(|booking| Event::BookingBegan { booking }),
        id().prop_map(|booking| Event::BookingEnded { booking }),
        id().prop_map(|booking| Event::BookingCancelled { booking }),
    ]
}
