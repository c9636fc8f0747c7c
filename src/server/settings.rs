//! Converts the configuration into the settings of the modules.
//!
//! Each module has a plain struct for its settings, which knows nothing of the configuration. All
//! conversions are here, in the order of the modules. The meaning of the keys is documented in
//! `conf/server.yml`.

use std::{collections::HashSet, path::PathBuf, sync::Arc};

use tokio::sync::Notify;

use super::tls::{ClientCertificates, TlsFiles};
use crate::{
    access::AccessSettings,
    access_log::AccessLogSettings,
    clock::EventClock,
    config::{
        self, AccessConfig, AnchorConfig, Config, EventSourcingConfig, ImmudbConfig, LimitsConfig,
        LoggingConfig, RawAppends, ServerConfig, UniqueNames, WitnessConfig,
    },
    durable_file,
    event::EventId,
    event_files,
    grpc::{EventStoreSettings, GameWorld, RequestLimits, TransportSettings},
    immudb,
    log::LogId,
    replication::{BatchLimits, PendingLimits, audit::AuditSettings, forwarder::ForwarderSettings},
    sequencer::{self, SnapshotThresholds},
    storage,
    store::EventSourcing,
    telemetry,
    transparency::{AnchorSettings, KeySettings, TransparencySettings, follower::FollowerSettings},
    usage::follower::UsageSettings,
    world::{
        self,
        read_models::projections::{self, Projection},
        settings::{EventLimits, RawAppendPolicy},
    },
};

/// Settings from the command line, or from a game's own program, in addition to the configuration.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The configuration file, for error messages.
    pub config_file: PathBuf,
    /// The ImmuDB database is claimed although its last writer did not release it.
    pub take_over: bool,
    /// The operator has confirmed that the clock is right.
    pub accept_clock: bool,
    /// A copy onto an empty disk may end where the history in ImmuDB is damaged.
    pub copy_until_damage: bool,
    /// Creates the projections that maintain the read models.
    pub projections: fn() -> Vec<Box<dyn Projection>>,
    /// Requests that the service reads its identities and certificates again.
    pub reload: ReloadSignal,
}

/// Requests that the service reads its identities and certificates again, even if the files seem
/// unchanged. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ReloadSignal(Arc<Notify>);

impl ReloadSignal {
    /// Sends the request. A request that has not been received yet stands for all later ones.
    pub fn send(&self) {
        self.0.notify_one();
    }

    pub(super) async fn received(&self) {
        self.0.notified().await;
    }
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            config_file: PathBuf::new(),
            take_over: false,
            accept_clock: false,
            copy_until_damage: false,
            projections: projections::all,
            reload: ReloadSignal::default(),
        }
    }
}

/// Returns the settings of access control, apart from the file with the identities.
pub(crate) fn access(config: &Config) -> AccessSettings {
    AccessSettings {
        anonymous: config.access.anonymous.clone(),
        allow_cleartext: config.access.allow_cleartext,
        client_certificates: config.server.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some()),
        unix_socket: config.server.listen.unix().is_some(),
    }
}

/// Returns the files of TLS, or `None` if connections are not encrypted.
pub(super) fn tls(server: &ServerConfig) -> Option<TlsFiles> {
    let tls = server.tls.as_ref()?;
    Some(TlsFiles {
        certificate: tls.certificate_file.clone(),
        key: tls.key_file.clone(),
        client_authorities: tls.client_ca_file.clone(),
        client_certificates: match tls.client_certificates {
            config::ClientCertificates::Optional => ClientCertificates::Optional,
            config::ClientCertificates::Required => ClientCertificates::Required,
        },
    })
}

/// Returns the settings of the access log.
pub(super) fn access_log(config: &Config) -> AccessLogSettings {
    let Config { logging, access, .. } = config;
    AccessLogSettings {
        folder: logging.path.clone(),
        file_bytes_max: logging.file_bytes_max,
        files_max: logging.files_max,
        log_writes: access.log_writes,
        log_reads: access.log_reads,
    }
}

/// Returns the settings of the thread that counts what identities have stored, or `None` if access
/// control is off.
pub(super) fn usage(config: &Config) -> Option<UsageSettings> {
    let AccessConfig { file, anonymous, .. } = &config.access;
    (file.is_some() || anonymous.is_some()).then(|| UsageSettings {
        path: durable_file::beside_log(&config.event_sourcing.log_path, "usage"),
        types_max: config.limits.types_max,
    })
}

/// Returns the settings of the log output.
pub fn telemetry(logging: &LoggingConfig) -> telemetry::Settings {
    telemetry::Settings {
        folder: logging.path.clone(),
        level: logging.level.clone(),
        file_bytes_max: logging.file_bytes_max,
        files_max: logging.files_max,
    }
}

pub(super) fn transport(config: &Config) -> TransportSettings {
    let Config { server, limits, .. } = config;
    TransportSettings {
        connections_max: limits.connections_max,
        connections_per_address_max: limits.connections_per_address_max,
        concurrent_calls_max: limits.concurrent_calls_max,
        streams_open_max: limits.streams_open_max,
        call_bytes_max: limits.call_bytes_max,
        request_bytes_max: limits.largest_request(),
        record_bytes_max: limits.largest_record(),
        request_max: server.request_max,
        first_call_max: server.first_call_max,
        unread_max: server.unread_max,
        shutdown_grace: server.shutdown_grace,
    }
}

pub(super) fn game_world(config: &Config) -> GameWorld {
    if config.world.enabled { GameWorld::Enabled } else { GameWorld::Disabled }
}

/// Returns the limits on the contents of a request.
pub fn request_limits(limits: &LimitsConfig) -> RequestLimits {
    RequestLimits {
        append_events_max: limits.append_events_max,
        append_bytes_max: limits.append_bytes_max,
        event_bytes_max: limits.event_bytes_max,
        snapshot_bytes_max: limits.snapshot_bytes_max,
        id_bytes_max: limits.id_bytes_max,
        type_bytes_max: limits.type_bytes_max,
        metadata_entries_max: limits.metadata_entries_max,
        metadata_value_bytes_max: limits.metadata_value_bytes_max,
        expected_sequences_max: limits.expected_sequences_max,
    }
}

pub(super) fn event_store(config: &Config) -> EventStoreSettings {
    let named =
        |immudb: &ImmudbConfig| (format!("{}:{}", immudb.address, immudb.port), immudb.database.clone());
    EventStoreSettings { limits: request_limits(&config.limits), immudb: config.immudb.as_ref().map(named) }
}

/// Returns the settings of the world, or `None` if it is disabled.
pub(super) fn world(config: &Config, log_id: Option<LogId>) -> Option<world::Settings> {
    let Config { world, limits, .. } = config;
    world.enabled.then(|| world::Settings {
        read_models_path: world.read_models_path.clone(),
        read_models_mode: world.read_models_mode,
        states_path: world.states_path.clone(),
        read_models_wal_max: world.read_models_wal_max as u64,
        log_id: log_id.map(|id| id.to_string()),
        events: EventLimits {
            event_bytes_max: limits.event_bytes_max,
            append_bytes_max: limits.append_bytes_max,
            append_events_max: limits.append_events_max,
        },
        raw_appends: match world.raw_appends {
            RawAppends::Checked => RawAppendPolicy::Checked,
            RawAppends::Refused => RawAppendPolicy::Refused,
            RawAppends::Unchecked => RawAppendPolicy::Unchecked,
        },
        unique_names: match world.player_names.unique {
            UniqueNames::Off => world::settings::UniqueNames::Off,
            UniqueNames::Exact => world::settings::UniqueNames::Exact,
            UniqueNames::Folded => world::settings::UniqueNames::Folded,
        },
    })
}

/// Returns the settings of the event files, or `None` if they are disabled.
pub(super) fn event_files(events: &EventSourcingConfig) -> Option<event_files::Settings> {
    events.event_files.then(|| event_files::Settings {
        folder: events.storage_path.clone(),
        files_max: events.event_files_max,
    })
}

pub(super) fn event_sourcing(events: &EventSourcingConfig, options: &ServerOptions) -> EventSourcing {
    if events.enabled {
        EventSourcing::Enabled
    } else {
        EventSourcing::Disabled { file: options.config_file.clone() }
    }
}

pub(super) fn pending_limits(config: &Config) -> PendingLimits {
    PendingLimits {
        events_max: config.limits.pending_events_max,
        bytes_max: config.limits.pending_bytes_max,
        segment_bytes_max: config.event_sourcing.segment_bytes_max,
    }
}

/// Returns the settings of the forwarder, or `None` if no ImmuDB is configured.
pub(super) fn forwarder(
    config: &Config,
    options: &ServerOptions,
    log_id: Option<LogId>,
) -> Option<ForwarderSettings> {
    let section = config.immudb.as_ref()?;
    Some(ForwarderSettings {
        immudb: immudb(section),
        folder: config.event_sourcing.log_path.clone(),
        log_id,
        public_key_file: section.public_key_file.clone(),
        take_over: options.take_over,
        copy_until_damage: options.copy_until_damage,
        retry_count: section.retry_count,
        retry_delay: section.retry_delay,
        retry_delay_max: section.retry_delay_max,
        fallback_after: section.fallback_after,
        keep_alive: section.keep_alive,
        batch: BatchLimits { keys_max: section.batch_keys_max, bytes_max: section.batch_bytes_max },
    })
}

/// Returns the settings of the thread that keeps the tree over the events.
pub(super) fn follower(config: &Config, log_id: LogId) -> FollowerSettings {
    let path = durable_file::beside_log(&config.event_sourcing.log_path, "tree");
    FollowerSettings { path, log: log_id.uuid() }
}

/// Returns the settings of the auditor, or `None` if it is off or no ImmuDB is configured.
pub(super) fn audit(config: &Config, log_id: LogId) -> Option<AuditSettings> {
    let section = config.immudb.as_ref()?;
    let events_per_second = config.audit.events_per_second;
    (events_per_second > 0).then(|| AuditSettings {
        immudb: immudb(section),
        log_path: config.event_sourcing.log_path.clone(),
        log: log_id.to_string(),
        events_per_second,
        checkpoints: None,
    })
}

/// Returns the settings of checkpoints and anchors.
pub(super) fn transparency(config: &Config, log_id: LogId) -> TransparencySettings {
    let section = &config.proof;
    TransparencySettings {
        log_path: config.event_sourcing.log_path.clone(),
        key: KeySettings {
            path: section.key_file.clone(),
            origin: Some(section.origin.clone()).filter(|origin| !origin.is_empty()),
            default_origin: format!("aethyr-event-store/{log_id}"),
            new_key: section.new_key,
        },
        checkpoint_every: section.checkpoint_every,
        anchors: section.anchors.iter().cloned().map(anchor).collect(),
        immudb: config.immudb.as_ref().map(immudb),
    }
}

fn anchor(anchor: AnchorConfig) -> AnchorSettings {
    match anchor {
        AnchorConfig::File(path) => AnchorSettings::File(path),
        AnchorConfig::Command(command) => AnchorSettings::Command(command),
        AnchorConfig::Witness(WitnessConfig { url, key, ca_file }) => {
            AnchorSettings::Witness { url, key, ca_file }
        }
    }
}

/// `in_doubt` is not empty if the log was opened read-only: see [`sequencer::Settings`].
pub(super) fn sequencer(
    config: &Config,
    clock: EventClock,
    in_doubt: HashSet<EventId>,
) -> sequencer::Settings {
    let Config { event_sourcing, limits, .. } = config;
    sequencer::Settings {
        folder: event_sourcing.log_path.clone(),
        thresholds: SnapshotThresholds {
            default: event_sourcing.snapshot_threshold,
            by_type: event_sourcing.snapshot_thresholds.clone(),
            by_id: event_sourcing.snapshot_thresholds_by_id.clone(),
        },
        calls_waiting_max: limits.calls_waiting_max,
        calls_waiting_bytes_max: limits.calls_waiting_bytes_max as u64,
        disk_free_min: limits.disk_free_min,
        clock: Arc::new(clock),
        in_doubt,
    }
}

/// Returns the settings for opening the storage.
pub fn storage(events: &EventSourcingConfig, limits: &LimitsConfig) -> storage::Settings {
    storage::Settings {
        log_path: events.log_path.clone(),
        index_path: events.index_path.clone(),
        segment_bytes_max: events.segment_bytes_max,
        types_max: limits.types_max,
        disk_free_min: limits.disk_free_min,
    }
}

/// Returns the settings for connecting to ImmuDB.
pub fn immudb(immudb: &ImmudbConfig) -> immudb::SessionSettings {
    immudb::SessionSettings {
        address: immudb.address.clone(),
        port: immudb.port,
        username: immudb.username.clone(),
        password: immudb.password.clone(),
        password_file: immudb.password_file.clone(),
        tls: immudb.tls.clone().map(|tls| immudb::TlsSettings {
            ca_file: tls.ca_file,
            server_name: tls.server_name,
            certificate_file: tls.certificate_file,
            key_file: tls.key_file,
        }),
        database: immudb.database.clone(),
        connect_timeout: immudb.connect_timeout,
        request_timeout: immudb.request_timeout,
        response_bytes_max: immudb.response_bytes_max,
    }
}
