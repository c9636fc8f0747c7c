//! Serves `grpc.health.v1.Health` as its protocol specifies.
//!
//! `Check` of an unknown service returns NOT_FOUND. `Watch` of an unknown service returns
//! SERVICE_UNKNOWN and stays open. What is being served is decided elsewhere and reported here.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use tokio::{sync::watch, time::Instant};
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

use super::{methods, settings::GameWorld, status, transport::concurrency::Admitted};

const READS: &str = "reads";
const IMMUDB: &str = "immudb";

/// What is being served at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HealthReport {
    /// Whether reads are served, and writes are not rejected for longer than a short time.
    pub service: bool,
    /// Whether reads are served.
    pub reads: bool,
    /// Whether events reach ImmuDB.
    pub immudb: bool,
}

/// Accepts reports of what is being served. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HealthReporter {
    told: Arc<watch::Sender<PublishedHealth>>,
    services: &'static [&'static str],
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct PublishedHealth {
    serving: HealthReport,
    /// The service is stopping: nothing is served any more, and every `Watch` ends.
    closed: bool,
}

impl HealthReporter {
    /// Returns a reporter that initially reports nothing as served. A service of the game world is
    /// unknown to it while `world` is disabled.
    pub fn new(world: GameWorld) -> Self {
        let told = Arc::new(watch::Sender::new(PublishedHealth::default()));
        Self { told, services: methods::services(world) }
    }

    /// Reports what is being served. Has no effect once the reporter is closed.
    pub fn report(&self, serving: HealthReport) {
        self.told.send_if_modified(|told| {
            !told.closed && std::mem::replace(&mut told.serving, serving) != serving
        });
    }

    /// Reports that nothing is served from now on.
    pub fn close(&self) {
        self.told.send_replace(PublishedHealth { serving: HealthReport::default(), closed: true });
    }

    /// Returns the gRPC service that answers from these reports.
    pub fn server(&self) -> HealthServer<HealthService> {
        HealthServer::new(self.service())
    }

    fn service(&self) -> HealthService {
        HealthService { told: self.told.subscribe(), services: self.services }
    }
}

/// The health service. See the module.
#[derive(Debug)]
pub struct HealthService {
    told: watch::Receiver<PublishedHealth>,
    /// The full names of the services that are served.
    services: &'static [&'static str],
}

impl HealthReport {
    /// Returns the status of `service`, or `None` if it is none of the known `services`.
    fn of(self, service: &str, services: &[&str]) -> Option<ServingStatus> {
        let serves = match service {
            READS => self.reads,
            IMMUDB => self.immudb,
            _ if service.is_empty() || services.contains(&service) => self.service,
            _ => return None,
        };
        Some(if serves { ServingStatus::Serving } else { ServingStatus::NotServing })
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        let serving = self.told.borrow().serving;
        let status = serving.of(service, self.services).ok_or_else(|| status::unknown_service(service))?;
        Ok(Response::new(answer(status)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let deadline = Admitted::of(&request).deadline;
        let watching = Watching {
            service: request.into_inner().service,
            told: self.told.clone(),
            services: self.services,
            last: None,
            deadline,
            over: false,
        };
        Ok(Response::new(Box::pin(stream::unfold(watching, Watching::next))))
    }
}

/// The state of one `Watch`.
struct Watching {
    service: String,
    told: watch::Receiver<PublishedHealth>,
    services: &'static [&'static str],
    /// The status last sent to the client.
    last: Option<ServingStatus>,
    deadline: Option<Instant>,
    over: bool,
}

impl Watching {
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Self)> {
        if self.over {
            return None;
        }
        loop {
            let told = *self.told.borrow_and_update();
            let status = told.serving.of(&self.service, self.services);
            let status = status.unwrap_or(ServingStatus::ServiceUnknown);
            if self.last != Some(status) {
                self.last = Some(status);
                return Some((Ok(answer(status)), self));
            }
            if told.closed {
                return self.end(status::shutting_down());
            }
            let deadline = self.deadline;
            let deadline = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.told.changed() => match changed {
                    Ok(()) => {}
                    Err(_) => return self.end(status::shutting_down()),
                },
                () = deadline => return self.end(status::deadline_exceeded()),
            }
        }
    }

    fn end(mut self, status: Status) -> Option<(Result<HealthCheckResponse, Status>, Self)> {
        self.over = true;
        Some((Err(status), self))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use tonic::Code;

    use super::*;

    fn ask(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest { service: service.to_owned() })
    }

    #[tokio::test]
    async fn each_service_has_its_own_answer() {
        let reporter = HealthReporter::new(GameWorld::Enabled);
        let health = reporter.service();
        reporter.report(HealthReport { service: false, reads: true, immudb: false });
        let check = async |name: &str| health.check(ask(name)).await.unwrap().into_inner().status();
        assert_eq!(check("reads").await, ServingStatus::Serving);
        assert_eq!(check("immudb").await, ServingStatus::NotServing);
        let services = methods::services(GameWorld::Enabled);
        for name in [""].iter().chain(services) {
            assert_eq!(check(name).await, ServingStatus::NotServing);
        }
        reporter.report(HealthReport { service: true, reads: true, immudb: true });
        for name in ["", READS, IMMUDB].iter().chain(services) {
            assert_eq!(check(name).await, ServingStatus::Serving);
        }
        assert_eq!(health.check(ask("nobody")).await.unwrap_err().code(), Code::NotFound);
    }

    #[tokio::test]
    async fn services_of_a_disabled_world_are_unknown() {
        let reporter = HealthReporter::new(GameWorld::Disabled);
        let health = reporter.service();
        reporter.report(HealthReport { service: true, reads: true, immudb: true });
        let known = methods::services(GameWorld::Disabled);
        for name in [""].iter().chain(known) {
            let answer = health.check(ask(name)).await.unwrap().into_inner();
            assert_eq!(answer.status(), ServingStatus::Serving, "{name}");
        }
        let all = methods::services(GameWorld::Enabled).iter().copied();
        let unknown: Vec<&str> = all.filter(|name| !known.contains(name)).collect();
        assert_eq!(unknown.len(), 2);
        for name in unknown {
            assert_eq!(health.check(ask(name)).await.unwrap_err().code(), Code::NotFound, "{name}");
            let mut watch = health.watch(ask(name)).await.unwrap().into_inner();
            let answer = watch.next().await.unwrap().unwrap();
            assert_eq!(answer.status(), ServingStatus::ServiceUnknown, "{name}");
        }
    }

    #[tokio::test]
    async fn a_watch_receives_each_change_once_and_ends_with_the_service() {
        let reporter = HealthReporter::new(GameWorld::Enabled);
        let mut watch = reporter.service().watch(ask("")).await.unwrap().into_inner();
        let mut unknown = reporter.service().watch(ask("nobody")).await.unwrap().into_inner();
        let status = |answer: Option<Result<HealthCheckResponse, Status>>| answer.unwrap().unwrap().status();
        assert_eq!(status(watch.next().await), ServingStatus::NotServing);
        assert_eq!(status(unknown.next().await), ServingStatus::ServiceUnknown);
        // Nothing that this client watches has changed.
        reporter.report(HealthReport { reads: true, ..HealthReport::default() });
        let silent = std::time::Duration::from_millis(1);
        assert!(tokio::time::timeout(silent, watch.next()).await.is_err());
        reporter.report(HealthReport { service: true, reads: true, immudb: false });
        assert_eq!(status(watch.next().await), ServingStatus::Serving);
        reporter.close();
        reporter.report(HealthReport { service: true, reads: true, immudb: true });
        assert_eq!(status(watch.next().await), ServingStatus::NotServing);
        for watch in [&mut watch, &mut unknown] {
            assert_eq!(watch.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
            assert!(watch.next().await.is_none());
        }
    }
}
