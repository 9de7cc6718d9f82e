//! The Bookings service: nodes that are kept for a period to come.

use dure_core::Cluster;
use dure_core::booking::{Booking, Purpose};
use dure_core::input::{BookingDraft, Input};
use dure_core::reply::Reply;
use dure_core::units::Time;
use dure_proto::v1;
use dure_proto::v1::bookings_server::Bookings;
use tonic::{Request, Response, Status};

use super::convert::booking::booking;
use super::limits::MAX_NAMED_NODES;
use super::server::Services;
use super::status::Violation;
use super::{convert, request};
use crate::auth::{self, Identity, Role, Target, Verb};

#[tonic::async_trait]
impl Bookings for Services {
    async fn list(
        &self,
        request: Request<v1::ListBookingsRequest>,
    ) -> Result<Response<v1::ListBookingsResponse>, Status> {
        auth::of(&request)?.may(Verb::ReadNodes, Target::Cluster)?;
        let look = |cluster: &Cluster| {
            let mut found: Vec<&Booking> = cluster.bookings().collect();
            found.sort_by_key(|booking| (booking.from, booking.id));
            found.into_iter().map(|found| booking(cluster, found)).collect::<Vec<_>>()
        };
        let (bookings, position) = self.handle.read(move |cluster, _| look(cluster)).await?;
        Ok(Response::new(v1::ListBookingsResponse { bookings, position: Some(convert::position(position)) }))
    }

    async fn create(&self, request: Request<v1::CreateBookingRequest>) -> Result<Response<v1::Booking>, Status> {
        let (identity, by) = (auth::of(&request)?, auth::caller(&request));
        let mut request = request.into_inner();
        may_book(&identity, &request.tenant)?;
        request::reason(&request.reason)?;
        let id = std::mem::take(&mut request.request_id);
        let key = request::key(&identity, id, "Bookings/Create", &request)?;
        tracing::info!(user = %identity.user, booking = request.name, tenant = request.tenant, "nodes are booked");
        let by = by.because(&request.reason);
        let name = request.name.clone();
        let input = Input::Book(draft(request, identity.role != Role::Operator)?);
        let after = move |cluster: &Cluster, _: Reply| cluster.find_booking(&name).map(|of| booking(cluster, of));
        let (found, position) = self.handle.mutate(by, input, key, Vec::new(), after).await?;
        // The repetition of a request whose booking is over.
        let mut booking = found.ok_or_else(|| Status::not_found("name: it was made and is over"))?;
        booking.position = Some(convert::position(position));
        Ok(Response::new(booking))
    }

    async fn cancel(&self, request: Request<v1::CancelBookingRequest>) -> Result<Response<v1::Booking>, Status> {
        let (identity, by) = (auth::of(&request)?, auth::caller(&request));
        let mut request = request.into_inner();
        let name = request.name.clone();
        let look = move |cluster: &Cluster| {
            cluster.find_booking(&name).map(|found| (booking(cluster, found), tenant_of(cluster, found)))
        };
        let (found, _) = self.handle.read(move |cluster, _| look(cluster)).await?;
        let id = std::mem::take(&mut request.request_id);
        let key = request::key(&identity, id, "Bookings/Cancel", &request)?;
        let tenant = found.as_ref().map(|(_, tenant)| tenant.clone()).unwrap_or_default();
        may_book(&identity, &tenant)?;
        request::reason(&request.reason)?;
        tracing::info!(user = %identity.user, booking = request.name, "a booking is cancelled");
        let by = by.because(&request.reason);
        let name = request.name.clone();
        let input = Input::CancelBooking { name: request.name.into() };
        let ((), position) = self.handle.mutate(by, input, key, Vec::new(), |_, _| ()).await?;
        let (mut booking, _) = found.unwrap_or_else(|| (v1::Booking { name, ..Default::default() }, tenant));
        booking.state = v1::BookingState::Cancelled.into();
        booking.position = Some(convert::position(position));
        Ok(Response::new(booking))
    }
}

/// Whose mission a booking is for; empty: nobody's.
fn tenant_of(cluster: &Cluster, booking: &Booking) -> String {
    match booking.purpose {
        Purpose::Maintenance => String::new(),
        Purpose::Jobs { tenant, .. } => cluster.tenant(tenant).name.to_string(),
    }
}

/// What is for no mission is an operator's to book.
fn may_book(identity: &Identity, tenant: &str) -> Result<(), Status> {
    Ok(identity.may(Verb::Book, Target::Tenant(tenant))?)
}

fn draft(request: v1::CreateBookingRequest, inside_quota: bool) -> Result<BookingDraft, Violation> {
    request::name("name", &request.name)?;
    request::name("pool", &request.pool)?;
    if request.nodes.len() > MAX_NAMED_NODES {
        let why = format!("{} nodes; name at most {MAX_NAMED_NODES}, or say how many: count", request.nodes.len());
        return Err(Violation::new("nodes", why));
    }
    request.nodes.iter().try_for_each(|name| request::name("nodes", name))?;
    if request.force && inside_quota {
        return Err(Violation::new("force", "only operators stop what must not be evicted; leave it out"));
    }
    Ok(BookingDraft {
        name: request.name.into(),
        from: Time(request.from_ms),
        until: request.until_ms.map(Time),
        nodes: request.nodes.into_iter().map(Into::into).collect(),
        count: request.count,
        pool: request.pool.into(),
        maintenance: request.maintenance,
        tenant: request.tenant.into(),
        all_jobs: request.all_jobs,
        spares_running: request.spare_running,
        force: request.force,
        inside_quota,
    })
}

/// The booking that a dated drain is: from then on the node is drained.
pub(super) fn drain(node: &str, at: Time, evict: bool) -> Input {
    Input::Book(BookingDraft {
        name: format!("drain-{node}").into(),
        from: at,
        nodes: vec![node.into()],
        maintenance: true,
        spares_running: !evict,
        ..BookingDraft::default()
    })
}
