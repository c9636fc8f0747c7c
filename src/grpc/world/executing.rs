//! Executes the commands of a call, and decides what its caller may command.

use futures_util::FutureExt;
use tonic::Status;

use super::{WorldCalls, commands, encode};
use crate::{
    access::Right,
    grpc::{
        authorization::CommandsCheck,
        status,
        transport::{concurrency::Admitted, write_answer::reserve_answer},
        wire::world as wire,
    },
    world::model::aggregate::Kind,
};

impl WorldCalls {
    /// Executes the commands of a call.
    pub(super) async fn execute(
        &self,
        call: &Admitted,
        request: wire::ExecuteCommandsRequest,
    ) -> Result<wire::ExecuteCommandsResponse, Status> {
        let commands = commands::decode(request, &self.limits).map_err(status::of_violations)?;
        let check = CommandsCheck { principal: &call.principal, commands: &commands };
        self.lookup(call).check_request(&check).await?;
        if check.has_commands_of_players() {
            call.note_right(Right::ExecutePlayers);
        }
        let reserving = call.clone();
        let reserve = move |bytes| {
            let reserving = reserving.clone();
            async move { reserve_answer(&reserving, bytes).await.map_err(status::limit_reached) }.boxed()
        };
        let executed = self.world.execute(commands, call.origin(), reserve).await;
        let executed = executed.map_err(status::of_world_error)?;
        let mut events = executed.results.iter().flat_map(|result| &result.events);
        if events.clone().any(|event| *event.aggregate_type == *Kind::Player.name()) {
            call.note_right(Right::ExecutePlayers);
        }
        if let Some(first) = events.next() {
            call.note_stored((events.count() as u64).saturating_add(1), first.position.0);
        }
        Ok(encode::executed(executed))
    }
}
