//! `health`: queries the health service of a running event store, for container probes and scripts.
//!
//! Waits only a few seconds for an answer. What is healthy is decided by the service.

use std::time::Duration;

use tonic::transport::Endpoint;
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
};

use super::client::Address;

const PATIENCE: Duration = Duration::from_secs(3);

/// Queries the health of `service`; an empty name means the whole event store.
///
/// # Errors
/// Returns an error if the event store cannot be reached, or if `service` is unknown or not
/// serving.
pub async fn ask(address: Address, service: String) -> Result<(), String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
    let unreachable = |error: String| format!("{address}: {error}");
    let channel = endpoint
        .connect_timeout(PATIENCE)
        .timeout(PATIENCE)
        .connect()
        .await
        .map_err(|_| unreachable("cannot connect; is the event store running there?".to_owned()))?;
    let answer = HealthClient::new(channel)
        .check(HealthCheckRequest { service })
        .await
        .map_err(|status| unreachable(status.message().to_owned()))?;
    match answer.into_inner().status {
        status if status == ServingStatus::Serving as i32 => Ok(()),
        status => Err(format!("{address}: not serving (status {status})")),
    }
}
