//! `health`: queries the health service of a running event store, for container probes and scripts.
//!
//! Waits only a few seconds for an answer. What is healthy is decided by the service.

use std::time::Duration;

use tonic::{Request, Status};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
};

use super::Error;
use crate::grpc::ServiceEndpoint;

const PATIENCE: Duration = Duration::from_secs(3);

/// Why the service does not count as healthy.
#[derive(Debug, thiserror::Error)]
pub(super) enum HealthError {
    #[error("{address}: {}", source.message())]
    Refused { address: String, source: Status },
    #[error("{address}: not serving (status {status})")]
    NotServing {
        address: String,
        /// As in the health protocol of gRPC.
        status: i32,
    },
}

/// Queries the health of `service`; an empty name means the whole event store. Needs no token.
///
/// # Errors
/// Returns an error if the event store cannot be reached, or if `service` is unknown or not
/// serving.
pub(super) async fn ask(endpoint: ServiceEndpoint, service: String) -> Result<(), Error> {
    let address = endpoint.to_string();
    let channel = endpoint.connect().await?;
    let mut request = Request::new(HealthCheckRequest { service });
    request.set_timeout(PATIENCE);
    let answer = HealthClient::new(channel).check(request).await.map_err(|source| HealthError::Refused {
        address: address.clone(),
        source: endpoint.explained(source),
    })?;
    match answer.into_inner().status {
        status if status == ServingStatus::Serving as i32 => Ok(()),
        status => Err(HealthError::NotServing { address, status }.into()),
    }
}
