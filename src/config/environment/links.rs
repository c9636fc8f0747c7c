//! Recognizes variables that Kubernetes and `docker --link` generate from the names of other
//! services. For example, `IMMUDB_PORT=tcp://10.96.12.7:3322` is set next to a service called
//! `immudb`.
//!
//! The forms are those in the Kubernetes documentation (Service, "Environment variables") and in
//! the Docker documentation (legacy container links).

const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// Returns whether the variable was generated for a service, and not set by an operator for us.
pub(super) fn is_link(name: &str, text: &str) -> bool {
    // Variables of keys contain double underscores.
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

/// Matches text such as `tcp://10.96.12.7:3322`.
fn is_address(text: &str) -> bool {
    text.split_once("://").is_some_and(|(protocol, _)| PROTOCOLS.contains(&protocol))
}
