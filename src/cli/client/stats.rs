//! `stats` and `watch`: print the statistics of a running service, once or repeatedly.
//!
//! Rates are computed here from the difference between two answers of the service.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use super::{ClientSettings, Error, connect, list, number, print, print_indented, text};

const STATS: &str = "aethyr.eventstore.v1.EventStoreService/Stats";

/// The number of lines between two headings of `watch`.
const HEADING_EVERY: u64 = 20;

/// Prints the statistics, as text or as JSON.
///
/// # Errors
/// Returns an error if the service cannot be reached or rejects the call.
pub(super) async fn show(service: ClientSettings, as_json: bool) -> Result<(), Error> {
    let client = connect(service).await?.with_zeros();
    let stats = client.call(STATS, &json!({})).await?;
    if as_json {
        return print_indented(&stats);
    }
    let Value::Object(members) = stats else { return Ok(()) };
    for (name, value) in members {
        match value {
            Value::Object(members) => {
                print(&format!("{name}:"))?;
                for (name, value) in members {
                    print(&format!("  {name}: {}", plain(&value)))?;
                }
            }
            Value::Array(values) => {
                print(&format!("{name}:"))?;
                for value in values {
                    print(&format!("  {}", plain(&value)))?;
                }
            }
            value => print(&format!("{name}: {}", shown(&name, &value)))?,
        }
    }
    Ok(())
}

/// Returns a field as text. The hash of a transaction is in hexadecimal, as ImmuDB's own tools show
/// it.
fn shown(name: &str, value: &Value) -> String {
    let hash = value.as_str().filter(|_| name == "trusted_hash");
    let bytes = hash.and_then(|base64| STANDARD.decode(base64).ok());
    bytes.map_or_else(|| plain(value), hex::encode)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| format!("{name} {}", plain(value)));
            members.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// Prints a line every `interval`, until interrupted or until `count` lines have been printed.
///
/// # Errors
/// Returns an error if the service cannot be reached or rejects the call.
pub(super) async fn watch(
    service: ClientSettings,
    interval: Duration,
    count: Option<u64>,
) -> Result<(), Error> {
    let client = connect(service).await?;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut before: Option<(Instant, u64, u64)> = None;
    for line in 0.. {
        if count.is_some_and(|count| line >= count) {
            break;
        }
        ticks.tick().await;
        let stats = client.call(STATS, &json!({})).await?;
        let now = (Instant::now(), number(&stats, "events_stored"), number(&stats, "events_loaded"));
        let (stored, loaded) = match before {
            None => (0.0, 0.0),
            Some((at, stored, loaded)) => {
                let seconds = now.0.duration_since(at).as_secs_f64().max(f64::MIN_POSITIVE);
                let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
                (rate(now.1, stored), rate(now.2, loaded))
            }
        };
        before = Some(now);
        if line % HEADING_EVERY == 0 {
            print("state        events       stored/s    loaded/s    pending      projection lag")?;
        }
        let lag = list(&stats, "projections").iter().map(|projection| number(projection, "lag")).max();
        print(&format!(
            "{:<12} {:<12} {stored:<11.0} {loaded:<11.0} {:<12} {}",
            text(&stats, "state").trim_start_matches("STATE_").to_lowercase(),
            number(&stats, "event_count"),
            number(&stats, "pending_events"),
            lag.unwrap_or_default(),
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_of_immudb_is_shown_as_its_own_tools_show_it() {
        assert_eq!(shown("trusted_hash", &json!("AP8QqQ==")), "00ff10a9");
        assert_eq!(shown("trusted_hash", &json!("")), "");
        assert_eq!(shown("state", &json!("AP8QqQ==")), "AP8QqQ==");
        assert_eq!(shown("trusted_transaction", &json!(7)), "7");
    }
}
