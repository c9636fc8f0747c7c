//! `health`: queries the health service of a running event store, for container probes and scripts.
//!
//! Waits only a few seconds for an answer. What is healthy is decided by the service.

use std::time::Duration;

use tonic::{
    Status,
    transport::{self, Endpoint},
};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
};

use super::{Error, client::Address};

const PATIENCE: Duration = Duration::from_secs(3);

/// Why the service does not count as healthy.
#[derive(Debug, thiserror::Error)]
pub(super) enum HealthError {
    /// The address cannot be part of a URI.
    #[error(transparent)]
    Address(transport::Error),
    #[error("{address}: cannot connect; is the event store running there?")]
    Unreachable { address: Address, source: transport::Error },
    #[error("{address}: {}", source.message())]
    Refused { address: Address, source: Status },
    #[error("{address}: not serving (status {status})")]
    NotServing {
        address: Address,
        /// As in the health protocol of gRPC.
        status: i32,
    },
}

/// Queries the health of `service`; an empty name means the whole event store.
///
/// # Errors
/// Returns an error if the event store cannot be reached, or if `service` is unknown or not
/// serving.
pub(super) async fn ask(address: Address, service: String) -> Result<(), Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(HealthError::Address)?;
    let channel = endpoint
        .connect_timeout(PATIENCE)
        .timeout(PATIENCE)
        .connect()
        .await
        .map_err(|source| HealthError::Unreachable { address: address.clone(), source })?;
    let answer = HealthClient::new(channel)
        .check(HealthCheckRequest { service })
        .await
        .map_err(|source| HealthError::Refused { address: address.clone(), source })?;
    match answer.into_inner().status {
        status if status == ServingStatus::Serving as i32 => Ok(()),
        status => Err(HealthError::NotServing { address, status }.into()),
    }
}
