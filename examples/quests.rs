//! A game's own aggregate, command, event and projection: quests, which the service knows nothing
//! of.
//!
//! `cargo run --example quests` runs the service with the projection included. The other parts only
//! use the calls of the service, so they can be written in any language in the same way.
//! `docs/world/extending.md` explains them.

#![allow(missing_docs, unreachable_pub, reason = "a program has no API")]

use std::process::ExitCode;

use aethyr_event_store::{
    config::Config,
    event::Content,
    grpc::wire::{
        AppendEventsRequest, LoadEventsRequest, NewEvent, RecordedEvent,
        event_store_service_client::EventStoreServiceClient, new_event, recorded_event,
    },
    server::{self, ServerOptions},
    world::read_models::projections::{self, ProjectedEvent, Projection},
};
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tonic::{Code, Status, transport::Channel};

const AGGREGATE_TYPE: &str = "Quest";

/// An event. In the store, the variant's name is the event type, and its fields are the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum QuestEvent {
    #[serde(rename = "QuestBegun")]
    Begun { player_id: String, steps: u32 },
    #[serde(rename = "QuestStepDone")]
    StepDone { step: u32 },
    #[serde(rename = "QuestFinished")]
    Finished {},
}

/// A command.
#[derive(Debug, Clone)]
pub enum QuestCommand {
    Begin { player_id: String, steps: u32 },
    DoStep { step: u32 },
}

/// The aggregate, built from its events.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Quest {
    steps: u32,
    done: Vec<u32>,
    finished: bool,
}

impl Quest {
    /// Applies an event.
    pub fn apply(&mut self, event: &QuestEvent) {
        match event {
            QuestEvent::Begun { steps, .. } => self.steps = *steps,
            QuestEvent::StepDone { step } => self.done.push(*step),
            QuestEvent::Finished {} => self.finished = true,
        }
    }

    /// Returns the events that a command leads to, or the reason why it is refused.
    pub fn decide(&self, command: &QuestCommand) -> Result<Vec<QuestEvent>, String> {
        match command {
            QuestCommand::Begin { .. } if self.steps > 0 => Err("it has begun already".to_owned()),
            QuestCommand::Begin { steps: 0, .. } => Err("it needs a step".to_owned()),
            QuestCommand::Begin { player_id, steps } => {
                Ok(vec![QuestEvent::Begun { player_id: player_id.clone(), steps: *steps }])
            }
            QuestCommand::DoStep { step } if !(1..=self.steps).contains(step) => {
                Err("it has no such step".to_owned())
            }
            // A command that changes nothing produces no event.
            QuestCommand::DoStep { step } if self.done.contains(step) => Ok(Vec::new()),
            QuestCommand::DoStep { step } => {
                let mut events = vec![QuestEvent::StepDone { step: *step }];
                if self.done.len() + 1 == self.steps as usize {
                    events.push(QuestEvent::Finished {});
                }
                Ok(events)
            }
        }
    }
}

/// The command handler. It loads, decides and appends, and starts again if another client was
/// faster.
pub async fn execute(
    store: &mut EventStoreServiceClient<Channel>,
    id: &str,
    command: &QuestCommand,
) -> Result<Vec<QuestEvent>, Status> {
    loop {
        let request = LoadEventsRequest { aggregate_id: id.to_owned(), ..Default::default() };
        let mut pieces = store.load_events(request).await?.into_inner();
        let (mut quest, mut last) = (Quest::default(), 0);
        while let Some(piece) = pieces.message().await? {
            last = piece.last_sequence;
            piece.events.iter().filter_map(read).for_each(|event| quest.apply(&event));
        }
        let events = quest.decide(command).map_err(Status::failed_precondition)?;
        if events.is_empty() {
            return Ok(events);
        }
        let request = AppendEventsRequest {
            events: events.iter().map(|event| to_store(id, event)).collect(),
            expected_sequences: [(id.to_owned(), last)].into(),
        };
        match store.append_events(request).await {
            Ok(_) => return Ok(events),
            Err(status) if status.code() == Code::Aborted => {}
            Err(status) => return Err(status),
        }
    }
}

fn to_store(id: &str, event: &QuestEvent) -> NewEvent {
    let tagged = serde_json::to_value(event).unwrap_or_default();
    let (event_type, data) = tagged.as_object().and_then(|tagged| tagged.iter().next()).map_or_else(
        || (String::new(), String::new()),
        |(event_type, data)| (event_type.clone(), data.to_string()),
    );
    NewEvent {
        aggregate_id: id.to_owned(),
        aggregate_type: AGGREGATE_TYPE.to_owned(),
        event_type,
        data: Some(new_event::Data::Json(data)),
        ..Default::default()
    }
}

fn read(event: &RecordedEvent) -> Option<QuestEvent> {
    match &event.data {
        Some(recorded_event::Data::Json(data)) => from_store(&event.event_type, data),
        _ => None,
    }
}

fn from_store(event_type: &str, data: &str) -> Option<QuestEvent> {
    serde_json::from_str(&format!("{{\"{event_type}\":{data}}}")).ok()
}

/// The projection: open quests, and their progress.
pub struct Quests;

impl Projection for Quests {
    fn name(&self) -> &'static str {
        "quests"
    }

    fn version(&self) -> u32 {
        1
    }

    fn aggregate_types(&self) -> &'static [&'static str] {
        &[AGGREGATE_TYPE]
    }

    fn tables(&self) -> &'static [&'static str] {
        &["quests"]
    }

    fn schema(&self) -> &'static str {
        "CREATE TABLE quests (
             id TEXT NOT NULL PRIMARY KEY,
             player_id TEXT NOT NULL,
             steps INTEGER NOT NULL,
             steps_done INTEGER NOT NULL
         ) WITHOUT ROWID;"
    }

    fn apply(&self, rows: &Connection, event: &ProjectedEvent<'_>) -> rusqlite::Result<()> {
        let stored = &event.recorded.event;
        let happened = match &stored.content {
            Content::Json(data) => from_store(&stored.event_type, data),
            Content::Absent | Content::Binary(_) => None,
        };
        match happened {
            Some(QuestEvent::Begun { player_id, steps }) => rows.execute(
                "INSERT OR IGNORE INTO quests VALUES (?1, ?2, ?3, 0)",
                params![event.id(), player_id, steps],
            ),
            Some(QuestEvent::StepDone { .. }) => {
                rows.execute("UPDATE quests SET steps_done = steps_done + 1 WHERE id = ?1", [event.id()])
            }
            Some(QuestEvent::Finished {}) => rows.execute("DELETE FROM quests WHERE id = ?1", [event.id()]),
            None => Ok(0),
        }?;
        Ok(())
    }
}

/// Returns the projections of the world, and ours.
pub fn all_projections() -> Vec<Box<dyn Projection>> {
    let mut all = projections::all();
    all.push(Box::new(Quests));
    all
}

#[tokio::main]
async fn main() -> ExitCode {
    let served = async {
        let loaded = Config::load(None, std::env::vars()).map_err(|error| error.to_string())?;
        let addresses: Vec<_> = loaded.config.server.listen.tcp().collect();
        let listener = TcpListener::bind(addresses.as_slice()).await.map_err(|error| error.to_string())?;
        let options = ServerOptions {
            config_file: loaded.file.unwrap_or_default(),
            projections: all_projections,
            ..ServerOptions::default()
        };
        let interrupted = async { _ = tokio::signal::ctrl_c().await };
        server::run(loaded.config, options, listener, interrupted).await.map_err(|error| error.to_string())
    };
    match served.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}
