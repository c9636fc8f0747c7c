//! Who may do what: tokens, certificates, roles and their scope, and the record of who appended.

use std::path::PathBuf;

use tonic::Code;

use crate::support::{
    access::Identities,
    events::reason,
    h2::{begin, connect, framed},
    service::{Service, Setup},
};

mod recorded_by;
mod redaction;
mod rotation;
mod sharing;
mod table;
mod tls;
mod tokens;

/// Returns a service with access control, whose file has these identities. It does not run yet.
fn service_of(setup: Setup, identities: &Identities) -> Service {
    let service = Service::new(setup.set("access", "file: access.yml"));
    identities.write(&file_of(&service));
    service
}

/// Relative paths in the configuration start at the directory above `conf`.
fn file_of(service: &Service) -> PathBuf {
    service.dir().join("access.yml")
}

/// Makes a call with these headers. Returns its status if it was refused before anything of the
/// response, and its reason; `None` if it was accepted.
async fn refusal(
    service: &Service,
    path: &str,
    headers: &[(&str, &str)],
    message: &[u8],
) -> Option<(Code, String)> {
    let sender = connect(service.port(), 1 << 20).await;
    let answer = begin(&sender, path, headers, framed(0, message)).await.unwrap();
    let status = tonic::Status::from_header_map(answer.headers())?;
    (status.code() != Code::Ok).then(|| (status.code(), reason(&status)))
}
