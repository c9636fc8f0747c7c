//! `events`: prints the history of one aggregate, as text or as JSON lines, and optionally
//! continues with new events.
//!
//! Text shows the changes that the world reports. For aggregates that are not part of the world or
//! are damaged, and for all if the world is disabled, it shows the stored data, unless that
//! contains a password.

use serde_json::{Value, json};

use super::{Error, connect, list, number, print, text};
use crate::grpc::{ClientSettings, JsonClient};

const LOAD: &str = "aethyr.eventstore.v1.EventStoreService/LoadEvents";
const SUBSCRIBE: &str = "aethyr.eventstore.v1.EventStoreService/Subscribe";
const HISTORY: &str = "aethyr.world.v1.WorldService/GetHistory";

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    People,
    /// `RecordedEvent` as JSON, one per line.
    Json,
}

/// The options of the command.
#[derive(Debug)]
pub(super) struct EventsArgs {
    pub id: String,
    pub from: u64,
    pub form: Form,
    /// Continues with new events until interrupted.
    pub follow: bool,
}

/// Prints the events of an aggregate.
///
/// # Errors
/// Returns an error if the service cannot be reached, if it rejects a call, or if the aggregate
/// does not exist and `follow` is not set.
pub(super) async fn show(service: ClientSettings, args: EventsArgs) -> Result<(), Error> {
    let client = connect(service).await?;
    let mut next = args.from.max(1);
    let last = print_from(&client, &args, next).await?;
    if last == 0 && !args.follow {
        return Err(Error::NoSuchAggregate { id: args.id });
    }
    if !args.follow {
        return Ok(());
    }
    next = next.max(last.saturating_add(1));
    let after = json!({"position": last_position(&client).await?});
    let filter = json!({"aggregate_id_prefix": args.id});
    // Print the events that were stored between the first print and this position.
    next = next.max(print_from(&client, &args, next).await?.saturating_add(1));
    let request = json!({"after": after, "filter": filter});
    let mut coming = client.stream(SUBSCRIBE, &request).await?;
    while let Some(answer) = coming.next().await? {
        let batch = answer.get("events").unwrap_or(&Value::Null);
        let newest = list(batch, "events")
            .iter()
            .filter(|event| text(event, "aggregate_id") == args.id)
            .map(|event| number(event, "sequence_number"))
            .max();
        if newest.is_some_and(|newest| newest >= next) {
            let last = print_from(&client, &args, next).await?;
            next = next.max(last.saturating_add(1));
        }
    }
    Ok(())
}

async fn last_position(client: &JsonClient) -> Result<u64, Error> {
    let stats = client.call("aethyr.eventstore.v1.EventStoreService/Stats", &json!({})).await;
    Ok(number(&stats?, "last_position"))
}

/// Prints the events from a sequence number on. Returns the last sequence number, or 0 if the
/// aggregate does not exist.
async fn print_from(client: &JsonClient, args: &EventsArgs, from: u64) -> Result<u64, Error> {
    let mut printed = from.saturating_sub(1);
    if args.form == Form::People {
        match print_history(client, &args.id, from, &mut printed).await {
            Ok(()) => return Ok(printed),
            // The world is disabled: print all events as stored.
            Err(Error::Client(error)) if error.is_unimplemented() => {}
            Err(Error::Client(error)) => match error.reason() {
                // Not part of the world, damaged, or not for this caller: print the remaining
                // events as stored, if it may load them.
                "NOT_OF_THE_WORLD" | "OBJECT_DAMAGED" | "NOT_ALLOWED" => {}
                "NO_SUCH_OBJECT" => return Ok(0),
                // The aggregate exists, but has fewer events.
                "NO_SUCH_EVENT" => return Ok(printed),
                _ => return Err(error.into()),
            },
            Err(error) => return Err(error),
        }
    }
    let request = json!({"aggregate_id": args.id, "from_sequence": printed.saturating_add(1)});
    let mut loading = client.stream(LOAD, &request).await?;
    let mut last = 0;
    while let Some(answer) = loading.next().await? {
        last = number(&answer, "last_sequence");
        for event in list(&answer, "events") {
            let line = match args.form {
                Form::Json => event.to_string(),
                Form::People => format!("{}{}  {}", heading(event), identity(event), stored(event)),
            };
            print(&line)?;
        }
    }
    Ok(last)
}

/// Prints the history of an object of the world. Sets `printed` to the sequence number of the last
/// event that was printed.
async fn print_history(client: &JsonClient, id: &str, from: u64, printed: &mut u64) -> Result<(), Error> {
    let mut reading = client.stream(HISTORY, &json!({"id": id, "from_sequence": from})).await?;
    while let Some(answer) = reading.next().await? {
        for entry in list(&answer, "entries") {
            *printed = number(entry, "sequence_number");
            print(&entry_line(entry))?;
            for change in list(entry, "changes") {
                print(&changed(change))?;
            }
        }
    }
    Ok(())
}

/// Formats an entry of a history without its changes. The identity precedes the actor, which is any
/// text that the client chose.
fn entry_line(entry: &Value) -> String {
    let by = match text(entry, "actor") {
        "" => String::new(),
        actor => format!("  by {actor}"),
    };
    format!("{}{}{by}  command {}", heading(entry), identity(entry), text(entry, "causation_id"))
}

/// Formats the name of the identity that appended an event, if it has one.
fn identity(event: &Value) -> String {
    match text(event, "recorded_by") {
        "" => String::new(),
        name => format!("  recorded by {name}"),
    }
}

/// Formats the sequence number, time and type of an event.
fn heading(event: &Value) -> String {
    let (number, time, event_type) =
        (number(event, "sequence_number"), text(event, "recorded_at"), text(event, "event_type"));
    format!("{number:>5}  {time}  {event_type}")
}

fn stored(event: &Value) -> String {
    match event.get("json").and_then(Value::as_str) {
        // Password hashes are shown only as JSON.
        Some(data) if data.contains("password") => "(contains a password, not shown)".to_owned(),
        Some(data) => data.to_owned(),
        None if event.get("binary").is_some() => "(binary)".to_owned(),
        None => String::new(),
    }
}

fn changed(change: &Value) -> String {
    let field = text(change, "field");
    match (change.get("before"), change.get("after")) {
        (None, Some(after)) => format!("         {field}: {after}"),
        (Some(before), Some(after)) => format!("         {field}: {before} -> {after}"),
        (Some(before), None) => format!("         {field}: {before} -> (removed)"),
        (None, None) => format!("         {field}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::printable::escaped;

    #[test]
    fn the_identity_is_shown_beside_the_actor_and_nothing_if_nobody_was_asked() {
        let entry = |recorded_by: &str, actor: &str| {
            json!({
                "sequence_number": 7, "recorded_at": "2026-11-25T10:00:00Z", "event_type": "Moved",
                "recorded_by": recorded_by, "actor": actor, "causation_id": "c-1",
            })
        };
        let line = |recorded_by, actor| entry_line(&entry(recorded_by, actor));
        const HEAD: &str = "    7  2026-11-25T10:00:00Z  Moved";
        assert_eq!(line("", ""), format!("{HEAD}  command c-1"));
        assert_eq!(line("", "alice"), format!("{HEAD}  by alice  command c-1"));
        assert_eq!(line("arena-1", "alice"), format!("{HEAD}  recorded by arena-1  by alice  command c-1"));
    }

    #[test]
    fn no_text_of_an_event_colours_the_terminal_or_begins_a_line() {
        const TEXTS: [&str; 6] =
            ["\x1b[31mgod\nfake line", "\u{9b}31m", "\u{85}", "\u{202e}", "\u{2028}", "\u{feff}"];
        for hostile in TEXTS {
            let entry = json!({
                "sequence_number": 1, "recorded_at": "t", "event_type": hostile, "recorded_by": hostile,
                "actor": hostile, "causation_id": hostile, "field": hostile, "before": hostile,
            });
            for line in
                [entry_line(&entry), changed(&entry), format!("{}{}", identity(&entry), stored(&entry))]
            {
                let shown = escaped(&line);
                let hides =
                    |character: char| character.is_control() || TEXTS[3..].concat().contains(character);
                assert!(!shown.contains(hides), "{shown:?}");
                assert!(shown.contains("\\u"), "{shown:?}");
            }
        }
    }
}
