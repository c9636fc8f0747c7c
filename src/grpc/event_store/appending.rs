//! The appends of the event store service, and what a caller may append.
//!
//! A retry of stored events is not answered if its caller may no longer append to these aggregates.

use tonic::Status;

use super::{EventStoreCalls, encode};
use crate::{
    access::{Credential, Right},
    error::{Conflict, StoreError},
    event::EventId,
    grpc::{
        authorization::AppendCheck,
        status,
        transport::{concurrency::Admitted, write_answer::reserve_answer},
        wire,
    },
    store::{Append, Appended, Origin},
    world::{commands::handler::raw_names, error::WorldError},
};

impl EventStoreCalls {
    /// Stores the events of a call.
    pub(super) async fn append(
        &self,
        call: &Admitted,
        request: wire::AppendEventsRequest,
        origin: Origin,
    ) -> Result<wire::AppendEventsResponse, Status> {
        let append = self.decoder.append(request).map_err(status::of_violations)?;
        let check = AppendCheck { principal: &call.principal, append: &append };
        self.lookup(call).check_request(&check).await?;
        let bytes = encode::appended_bytes_max(&append);
        reserve_answer(call, bytes).await.map_err(status::of_limit)?;
        let stored = match &self.world {
            Some(world) => world.append(append, origin).await,
            None => self.append_without_world(call, append, origin).await?,
        };
        match stored {
            Ok(appended) => {
                let bounds = appended.stored.bounds;
                call.note_stored(bounds.event_count(), bounds.first.0);
                Ok(encode::appended(appended))
            }
            Err(WorldError::Store(StoreError::Conflict(Conflict::EventIdReused(id)))) => {
                Err(self.event_id_reused(call, id).await)
            }
            Err(error) => Err(status::of_world_error(error)),
        }
    }

    /// Stores events without any rules of the world. A service with a world may have stored them
    /// before, with events that reserve names of players.
    async fn append_without_world(
        &self,
        call: &Admitted,
        append: Append,
        origin: Origin,
    ) -> Result<Result<Appended, WorldError>, Status> {
        let sent = append.events.len();
        let append = if raw_names::may_have_reserved(&self.store, &append) {
            self.blocking(call, move |store| raw_names::as_stored_before(store, append)).await?
        } else {
            append
        };
        let appended = self.store.append_for(append, origin).await;
        let of_caller = |Appended { stored, stored_in }| {
            let stored = raw_names::without_reservations(stored, sent);
            Appended { stored, stored_in }
        };
        Ok(appended.map(of_caller).map_err(WorldError::from))
    }

    /// Returns the status of an append with an event id that belongs to another append. Only a
    /// caller that may load the stored event is told where it is.
    async fn event_id_reused(&self, call: &Admitted, id: EventId) -> Status {
        let principal = &call.principal;
        let found = if principal.credential != Credential::Off && principal.may(Right::Load) {
            self.blocking(call, move |store| store.find(id)).await.ok().flatten()
        } else {
            None
        };
        let scope = &principal.identity.scope;
        let found = found.filter(|found| {
            scope.has_id(found.event.aggregate_id.as_str()) && scope.has_type(&found.event.aggregate_type)
        });
        match found {
            Some(found) => status::event_id_reused_at(id, &found.event.aggregate_id, found.position),
            None => status::of_error(Conflict::EventIdReused(id).into()),
        }
    }
}
