//! The calls of the game world.
//!
//! Decodes requests and encodes the results of the world. The rules, the history and the read
//! models are left to the world itself; the limits on calls, bytes and reads to `transport`.

use std::{sync::Arc, time::Duration};

use futures_util::stream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    authorization::{self, Forbidden, TypeLookup},
    event_store::{
        decode::{aggregate_id, name, unless_zero},
        streams::{Boxed, bounded},
    },
    redaction::{self, Secrets},
    settings::RequestLimits,
    status,
    transport::{
        Bounds,
        concurrency::Admitted,
        reads::{Reads, size_answer},
    },
    violations::Violations,
    wire::{
        world as wire,
        world::{command_service_server::CommandService, world_service_server::WorldService},
    },
};
use crate::{
    access::Right,
    event::{AggregateId, NAME_BYTES_MAX, SequenceNumber},
    shared_limit::SharedLimit,
    world::{
        Rebuild, Repairs, World, error::WorldError, history::replay::AggregateState,
        read_models::lists::STEPS_MAX, rules::refusal::Refusal,
    },
};

pub(super) mod commands;
mod difference;
mod encode;
mod executing;
mod json;
mod moments;
mod pages;
mod selecting;

use moments::moment;
use pages::{PageRequest, next_token};
use selecting::{comparison_wanted, players_wanted};

/// The bytes of history read at a time. With the changes that it caused, it makes a message of
/// about the same size.
const READ_BYTES: usize = 64 * 1024;

const PROGRESS_EVERY: Duration = Duration::from_millis(500);
const PLAYERS_MAX: u32 = 100;

/// Both services of the world as called by tonic.
#[derive(Debug, Clone)]
pub struct WorldCalls {
    world: Arc<World>,
    limits: Arc<RequestLimits>,
    streams: Arc<SharedLimit>,
    reads: Reads,
    /// For queries of the read models, so that a query that waits for their file does not hold up
    /// other reads.
    lists: Reads,
    collecting: Arc<Semaphore>,
    closing: CancellationToken,
}

impl WorldCalls {
    /// Creates the services. `closing` ends their streams.
    pub fn new(
        world: Arc<World>,
        limits: RequestLimits,
        Bounds { streams, reads }: Bounds,
        closing: CancellationToken,
    ) -> Self {
        let collecting = Arc::new(Semaphore::new(difference::COLLECTING_MAX));
        let lists = reads.lists();
        Self { world, limits: Arc::new(limits), streams, reads, lists, collecting, closing }
    }

    /// Counts the call against the limit on open streams.
    fn open<T>(&self, request: &Request<T>) -> Result<Admitted, Status> {
        Admitted::of(request).streaming(&self.streams)
    }

    /// Returns what looks up the types of the aggregates that a request names.
    fn lookup<'l>(&'l self, call: &'l Admitted) -> TypeLookup<'l> {
        TypeLookup { store: &self.world.source().store, reads: &self.reads, call }
    }

    /// Runs work that may block on the disk. Its token is cancelled when the client no longer waits
    /// for it.
    async fn blocking<T: Send + 'static>(
        &self,
        call: &Admitted,
        work: impl FnOnce(&World, &CancellationToken) -> Result<T, WorldError> + Send + 'static,
    ) -> Result<T, Status> {
        self.blocking_in(&self.reads, call, work).await
    }

    /// Like `blocking`, with the permits of `reads`.
    async fn blocking_in<T: Send + 'static>(
        &self,
        reads: &Reads,
        call: &Admitted,
        work: impl FnOnce(&World, &CancellationToken) -> Result<T, WorldError> + Send + 'static,
    ) -> Result<T, Status> {
        let world = self.world.clone();
        let given_up = CancellationToken::new();
        let _gives_up = given_up.clone().drop_guard();
        reads.run(call, move || work(&world, &given_up)).await?.map_err(status::of_world_error)
    }

    /// Opens the reader of a stream within the client's deadline.
    async fn reader<T: Send + 'static>(
        &self,
        call: &Admitted,
        open: impl FnOnce(&World, &CancellationToken) -> Result<T, WorldError> + Send + 'static,
    ) -> Result<T, Status> {
        let world = self.world.clone();
        let given_up = CancellationToken::new();
        let _gives_up = given_up.clone().drop_guard();
        self.reads.open(call, move || open(&world, &given_up)).await?.map_err(status::of_world_error)
    }

    /// Loads an object, and returns what `answer` makes of it.
    async fn get<T: Send + 'static>(
        &self,
        call: &Admitted,
        id: &str,
        as_of: Option<wire::Moment>,
        answer: impl FnOnce(&AggregateState) -> Result<T, WorldError> + Send + 'static,
    ) -> Result<T, Status> {
        let mut wrong = Violations::default();
        let id = aggregate_id("id", id, NAME_BYTES_MAX, &mut wrong);
        let moment = moment("as_of", as_of, &mut wrong);
        let (id, moment) = wrong.none_or(id.zip(moment)).map_err(status::of_violations)?;
        self.lookup(call).check(Right::Ask, &id).await?;
        self.blocking(call, move |world, given_up| answer(&world.get(&id, moment, given_up)?)).await
    }
}

#[tonic::async_trait]
impl CommandService for WorldCalls {
    async fn execute_commands(
        &self,
        request: Request<wire::ExecuteCommandsRequest>,
    ) -> Result<Response<wire::ExecuteCommandsResponse>, Status> {
        let call = Admitted::of(&request);
        let answering = call.clone();
        call.within(self.execute(&answering, request.into_inner())).await
    }
}

#[tonic::async_trait]
impl WorldService for WorldCalls {
    async fn get_game_object(
        &self,
        request: Request<wire::GetGameObjectRequest>,
    ) -> Result<Response<wire::GetGameObjectResponse>, Status> {
        let call = Admitted::of(&request);
        call.clone()
            .within(async {
                let request = request.into_inner();
                let answer = |state: &AggregateState| Ok(encode::game_object(state));
                let object = self.get(&call, &request.id, request.as_of, answer).await?;
                Ok(wire::GetGameObjectResponse { game_object: Some(object) })
            })
            .await
    }

    async fn get_player(
        &self,
        request: Request<wire::GetPlayerRequest>,
    ) -> Result<Response<wire::GetPlayerResponse>, Status> {
        let call = Admitted::of(&request);
        call.clone()
            .within(async {
                let request = request.into_inner();
                let answer = |state: &AggregateState| {
                    encode::player(state).ok_or_else(|| Refusal::NotAPlayer(id_of(state)).into())
                };
                let mut player = self.get(&call, &request.id, request.as_of, answer).await?;
                if Secrets::for_caller(&call.principal) == Secrets::Masked {
                    redaction::player(&mut player);
                }
                Ok(wire::GetPlayerResponse { player: Some(player) })
            })
            .await
    }

    async fn get_room(
        &self,
        request: Request<wire::GetRoomRequest>,
    ) -> Result<Response<wire::GetRoomResponse>, Status> {
        let call = Admitted::of(&request);
        call.clone()
            .within(async {
                let request = request.into_inner();
                let answer = |state: &AggregateState| {
                    encode::room(state).ok_or_else(|| Refusal::NotARoom(id_of(state)).into())
                };
                let room = self.get(&call, &request.id, request.as_of, answer).await?;
                Ok(wire::GetRoomResponse { room: Some(room) })
            })
            .await
    }

    async fn list_game_objects(
        &self,
        request: Request<wire::ListGameObjectsRequest>,
    ) -> Result<Response<wire::ListGameObjectsResponse>, Status> {
        let call = Admitted::of(&request);
        call.clone()
            .within(async {
                let (filter, page) = self.objects_wanted(&call, request.into_inner()).await?;
                let list = move |world: &World, given_up: &CancellationToken| {
                    world.list(&filter, page.after_id(), page.count, given_up)
                };
                let (found, position) = self.blocking_in(&self.lists, &call, list).await?;
                let next_page_token = next_token(&found);
                Ok(wire::ListGameObjectsResponse {
                    game_objects: found.objects.into_iter().map(encode::listed).collect(),
                    next_page_token,
                    read_model_position: position.0,
                })
            })
            .await
    }

    async fn list_contents(
        &self,
        request: Request<wire::ListContentsRequest>,
    ) -> Result<Response<wire::ListContentsResponse>, Status> {
        let call = Admitted::of(&request);
        call.clone()
            .within(async {
                let request = request.into_inner();
                let mut wrong = Violations::default();
                let steps_max = if request.recursive { STEPS_MAX } else { 1 };
                let page = PageRequest::new(request.page_size, &request.page_token, steps_max, &mut wrong);
                let id = aggregate_id("container_id", &request.container_id, NAME_BYTES_MAX, &mut wrong);
                let (id, page) = wrong.none_or(id.zip(page)).map_err(status::of_violations)?;
                self.lookup(&call).check(Right::Ask, &id).await?;
                let recursive = request.recursive;
                let list = move |world: &World, given_up: &CancellationToken| {
                    if recursive {
                        world.below(id.as_str(), &page.after, page.count, given_up)
                    } else {
                        world.contents(id.as_str(), page.after_id(), page.count, given_up)
                    }
                };
                let (found, position) = self.blocking_in(&self.lists, &call, list).await?;
                let next_page_token = next_token(&found);
                Ok(wire::ListContentsResponse {
                    game_objects: found.objects.into_iter().map(encode::listed).collect(),
                    next_page_token,
                    read_model_position: position.0,
                })
            })
            .await
    }

    async fn find_player(
        &self,
        request: Request<wire::FindPlayerRequest>,
    ) -> Result<Response<wire::FindPlayerResponse>, Status> {
        let call = Admitted::of(&request);
        call.clone()
            .within(async {
                let wanted = players_wanted(&call, request.into_inner())?;
                let find = move |world: &World, given_up: &CancellationToken| {
                    world.find_player(&wanted, PLAYERS_MAX, given_up)
                };
                let (found, position) = self.blocking_in(&self.lists, &call, find).await?;
                Ok(wire::FindPlayerResponse {
                    players: found.into_iter().map(encode::found_player).collect(),
                    read_model_position: position.0,
                })
            })
            .await
    }

    type GetHistoryStream = Boxed<wire::GetHistoryResponse>;

    async fn get_history(
        &self,
        request: Request<wire::GetHistoryRequest>,
    ) -> Result<Response<Self::GetHistoryStream>, Status> {
        let call = self.open(&request)?;
        let request = request.into_inner();
        let mut wrong = Violations::default();
        let id = aggregate_id("id", &request.id, NAME_BYTES_MAX, &mut wrong);
        let id = wrong.none_or(id).map_err(status::of_violations)?;
        self.lookup(&call).check(Right::Ask, &id).await?;
        let from = SequenceNumber(request.from_sequence);
        let to = unless_zero(request.to_sequence).map(SequenceNumber);
        let reader = self.reader(&call, move |world, given_up| world.history(id, from, to, given_up)).await?;
        let (reads, kept, caller) = (self.reads.clone(), self.reads.kept_bytes(&call), call.clone());
        kept.resize(reader.kept_bytes())?;
        let messages = stream::try_unfold(reader, move |reader| {
            let (reads, kept, call) = (reads.clone(), kept.clone(), caller.clone());
            async move {
                let (reader, entries) =
                    piece(&reads, &call, reader, |reader| reader.next(READ_BYTES)).await?;
                if entries.is_empty() {
                    return Ok(None);
                }
                kept.resize(reader.kept_bytes())?;
                let entries = entries.into_iter().map(encode::entry).collect();
                let message = wire::GetHistoryResponse { entries };
                size_answer(&call, &message)?;
                Ok(Some((message, reader)))
            }
        });
        Ok(Response::new(bounded(messages, call, self.closing.clone())))
    }

    type DiffWorldStream = Boxed<wire::DiffWorldResponse>;

    async fn diff_world(
        &self,
        request: Request<wire::DiffWorldRequest>,
    ) -> Result<Response<Self::DiffWorldStream>, Status> {
        let call = self.open(&request)?;
        let comparison = comparison_wanted(&call, request.into_inner())?;
        let caller = call.client.caller().clone();
        let reader = self.reader(&call, move |world, _| world.difference(comparison, &caller)).await?;
        let (source, reads) = (self.world.source().clone(), self.reads.clone());
        let (collecting, caller) = (self.collecting.clone(), call.clone());
        let messages = stream::try_unfold(reader, move |mut reader| {
            let (source, reads) = (source.clone(), reads.clone());
            let (collecting, call) = (collecting.clone(), caller.clone());
            async move {
                if !reader.is_ready() {
                    reader = difference::collected(reads.clone(), call.clone(), collecting, reader).await?;
                }
                while !reader.is_at_end() {
                    let source = source.clone();
                    let given_up = CancellationToken::new();
                    let _gives_up = given_up.clone().drop_guard();
                    let look = move |reader: &mut _| difference::differing(reader, &source, &given_up);
                    let (back, objects) = piece(&reads, &call, reader, look).await?;
                    reader = back;
                    if !objects.is_empty() {
                        let message = wire::DiffWorldResponse { objects };
                        size_answer(&call, &message)?;
                        return Ok(Some((message, reader)));
                    }
                }
                Ok(None)
            }
        });
        Ok(Response::new(bounded(messages, call, self.closing.clone())))
    }

    type RebuildWorldStateStream = Boxed<wire::RebuildWorldStateResponse>;

    async fn rebuild_world_state(
        &self,
        request: Request<wire::RebuildWorldStateRequest>,
    ) -> Result<Response<Self::RebuildWorldStateStream>, Status> {
        let call = self.open(&request)?;
        let repairs = Repairs { recorded_by: call.principal.recorded_by(), ..repairs(request.into_inner())? };
        // A rebuild without objects to repair is of the whole world.
        if repairs.objects.is_empty() && !call.principal.identity.scope.is_unrestricted() {
            return Err(Forbidden::Scope(Right::Operate).refuse(&call));
        }
        self.lookup(&call).check_all(Right::Operate, &repairs.objects).await?;
        authorization::check_actor(&call.principal, Right::Operate, &repairs.actor, "actor")
            .map_err(|forbidden| forbidden.refuse(&call))?;
        let begin = async { self.world.rebuild(repairs).map_err(status::of_world_error) };
        let rebuild = call.in_time(begin).await?;
        let messages = stream::try_unfold(Some(rebuild), |rebuild: Option<Rebuild>| async move {
            let Some(mut rebuild) = rebuild else { return Ok(None) };
            match tokio::time::timeout(PROGRESS_EVERY, rebuild.report()).await {
                Ok(report) => Ok(Some((encode::report(report.map_err(status::of_world_error)?), None))),
                Err(_) => Ok(Some((encode::progress(&rebuild.watched), Some(rebuild)))),
            }
        });
        Ok(Response::new(bounded(messages, call, self.closing.clone())))
    }
}

/// Decodes which objects a rebuild has to repair.
fn repairs(request: wire::RebuildWorldStateRequest) -> Result<Repairs, Status> {
    const OBJECTS_MAX: usize = 100;
    let (mut wrong, mut objects) = (Violations::default(), Vec::new());
    if request.repair.len() > OBJECTS_MAX {
        wrong.add(
            "repair",
            format!("has {} entries; at most {OBJECTS_MAX} are allowed", request.repair.len()),
        );
    }
    for (index, id) in request.repair.iter().take(OBJECTS_MAX).enumerate() {
        objects.extend(aggregate_id(format_args!("repair[{index}]"), id, NAME_BYTES_MAX, &mut wrong));
    }
    if !request.actor.is_empty() {
        name("actor", &request.actor, NAME_BYTES_MAX, &mut wrong);
    }
    let repairs = Repairs { objects, actor: request.actor, ..Repairs::default() };
    wrong.none_or(Some(repairs)).map_err(status::of_violations)
}

/// Reads one piece of a stream.
async fn piece<R: Send + 'static, T: Send + 'static>(
    reads: &Reads,
    call: &Admitted,
    reader: R,
    read: impl FnOnce(&mut R) -> Result<T, WorldError> + Send + 'static,
) -> Result<(R, T), Status> {
    let (reader, read) = reads.next(call, reader, read).await?;
    Ok((reader, read.map_err(status::of_world_error)?))
}

fn id_of(state: &AggregateState) -> AggregateId {
    state.aggregate.object().id.clone()
}
