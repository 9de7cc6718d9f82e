//! Bookings <-> the wire.

use dure_core::booking::{Booking, Purpose, Stage};
use dure_core::event::Event;
use dure_core::ids::{BookingId, NodeIndex};
use dure_core::units::Time;
use dure_proto::journal::v1;
use dure_proto::journal::v1::record::Event as Wire;

use super::fault::{Fault, within};
use super::parts::tenant;
use super::words::Word;

pub(super) fn to_wire(event: &Event) -> Wire {
    match event {
        Event::BookingMade { booking } => Wire::BookingMade(made_to_wire(booking)),
        Event::BookingCleared { booking } => Wire::BookingCleared(v1::BookingCleared { booking: booking.0 }),
        Event::BookingBegan { booking } => Wire::BookingBegan(v1::BookingBegan { booking: booking.0 }),
        Event::BookingEnded { booking } => {
            Wire::BookingEnded(v1::BookingEnded { booking: booking.0, cancelled: false })
        }
        Event::BookingCancelled { booking } => {
            Wire::BookingEnded(v1::BookingEnded { booking: booking.0, cancelled: true })
        }
        _ => unreachable!("only events of bookings come here"),
    }
}

pub(super) fn from_wire(wire: Wire) -> Result<Event, Fault> {
    Ok(match wire {
        Wire::BookingMade(it) => Event::BookingMade { booking: Box::new(made_from_wire(it)?) },
        Wire::BookingCleared(it) => Event::BookingCleared { booking: BookingId(it.booking) },
        Wire::BookingBegan(it) => Event::BookingBegan { booking: BookingId(it.booking) },
        Wire::BookingEnded(it) if it.cancelled => Event::BookingCancelled { booking: BookingId(it.booking) },
        Wire::BookingEnded(it) => Event::BookingEnded { booking: BookingId(it.booking) },
        _ => unreachable!("only events of bookings come here"),
    })
}

fn made_to_wire(booking: &Booking) -> v1::BookingMade {
    let jobs = match booking.purpose {
        Purpose::Maintenance => None,
        Purpose::Jobs { tenant, all } => Some(v1::BookedJobs { tenant: u32::from(tenant.0), all }),
    };
    v1::BookingMade {
        booking: booking.id.0,
        name: (*booking.name).to_owned(),
        nodes: booking.nodes.iter().map(|node| node.0).collect(),
        from_ms: booking.from.0,
        until_ms: booking.until.map(|until| until.0),
        jobs,
        evicts: booking.evicts,
        clears_at_ms: booking.clears_at.0,
        made_at_ms: booking.made_at.0,
        stage: booking.stage.to_wire(),
    }
}

fn made_from_wire(wire: v1::BookingMade) -> Result<Booking, Fault> {
    within("BookingMade.nodes", wire.nodes.len() as u64, 1, u64::MAX)?;
    let rising = wire.nodes.windows(2).filter(|pair| pair[0] >= pair[1]).count() as u64;
    within("BookingMade.nodes (not rising)", rising, 0, 0)?;
    let purpose = match wire.jobs {
        None => Purpose::Maintenance,
        Some(jobs) => Purpose::Jobs { tenant: tenant("BookedJobs.tenant", jobs.tenant)?, all: jobs.all },
    };
    Ok(Booking {
        id: BookingId(wire.booking),
        name: wire.name.into(),
        nodes: wire.nodes.into_iter().map(NodeIndex).collect(),
        from: Time(wire.from_ms),
        until: wire.until_ms.map(Time),
        purpose,
        evicts: wire.evicts,
        clears_at: Time(wire.clears_at_ms),
        made_at: Time(wire.made_at_ms),
        stage: Stage::from_wire("BookingMade.stage", wire.stage)?,
    })
}
