//! Variables that Kubernetes and `docker --link` make of the names of other services. Next to a service called `immudb`
//! there is `IMMUDB_PORT=tcp://10.96.12.7:3322`.
//!
//! The forms are those of the Kubernetes documentation (Service, "Environment variables") and of Docker's
//! (legacy container links).

const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// Whether the variable is made for a service of another name, not by a person for us.
pub(super) fn is_link(name: &str, text: &str) -> bool {
    // Keys are written with two.
    if name.contains("__") {
        return false;
    }
    if let Some((_, rest)) = name.split_once("_SERVICE_") {
        return rest == "HOST" || rest == "PORT" || rest.starts_with("PORT_");
    }
    if name.ends_with("_PORT") && is_address(text) {
        return true;
    }
    name.split("_PORT_").skip(1).any(|rest| {
        let mut words = rest.split('_');
        let number = words.next().and_then(|number| number.parse::<u16>().ok());
        let protocol = words.next().unwrap_or_default().to_lowercase();
        number.is_some() && PROTOCOLS.contains(&protocol.as_str())
    })
}

/// As `tcp://10.96.12.7:3322`.
fn is_address(text: &str) -> bool {
    text.split_once("://").is_some_and(|(protocol, _)| PROTOCOLS.contains(&protocol))
}
