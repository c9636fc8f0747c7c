//! `rebuild`: makes a running service replay and check all events and rebuild its read models.
//!
//! Shows the progress and prints the report of the service.

use serde_json::{Value, json};

use super::{ClientSettings, Error, connect, list, number, print, text};
use crate::progress::Progress;

const REBUILD: &str = "aethyr.world.v1.WorldService/RebuildWorldState";

/// Rebuilds the read models, after repairing the damaged objects in `repair`.
///
/// # Errors
/// Returns an error if the service cannot be reached, if it rejects the call, or if aggregates are
/// damaged.
pub(super) async fn run(service: ClientSettings, repair: Vec<String>, actor: String) -> Result<(), Error> {
    let client = connect(service).await?;
    let mut answers = client.stream(REBUILD, &json!({"repair": repair, "actor": actor})).await?;
    let mut bar: Option<Progress> = None;
    let mut report = Value::Null;
    while let Some(answer) = answers.next().await? {
        if let Some(progress) = answer.get("progress") {
            let bar = bar
                .get_or_insert_with(|| Progress::new("rebuilding", "events", 0, number(progress, "total")));
            bar.reached(number(progress, "done"));
        }
        if let Some(found) = answer.get("report") {
            report = found.clone();
        }
    }
    drop(bar);
    show(&report)
}

fn show(report: &Value) -> Result<(), Error> {
    let seconds = report.get("seconds").and_then(Value::as_f64).unwrap_or_default();
    print(&format!(
        "replayed {} aggregates with {} events in {seconds:.1} s",
        number(report, "aggregates"),
        number(report, "events"),
    ))?;
    for (what, findings) in [("passed over", "repaired"), ("damaged", "damaged"), ("warning", "warnings")] {
        for finding in list(report, findings) {
            let at = match number(finding, "sequence_number") {
                0 => String::new(),
                sequence => format!(" event {sequence}:"),
            };
            print(&format!("{what}: {}:{at} {}", text(finding, "aggregate_id"), text(finding, "problem")))?;
        }
    }
    let differences = report.get("differences").and_then(Value::as_object);
    let differing = differences.into_iter().flatten().filter(|(_, count)| count.as_u64() > Some(0));
    for (table, count) in differing {
        print(&format!("read model {table}: corrected {count} rows that did not match the events"))?;
    }
    print(&format!("read models are current up to position {}", number(report, "read_model_position")))?;
    match number(report, "damaged_total") {
        0 => Ok(()),
        count => Err(Error::DamagedAggregates { count }),
    }
}
