//! Writes the report `docs/benchmarks.md` and its plots from the results of one run.
//!
//! Only the text between markers is replaced. The rest of the page is written by hand.

mod best;
mod markers;
mod plots;
mod rows;
mod tables;
mod targets;
mod text;

use std::{fs, path::Path};

use crate::{outcome::Outcome, results::Results};

const PAGE: &str = "docs/benchmarks.md";
const PLOTS: &str = "docs/benchmarks";

pub fn write(results: &Results) -> Outcome<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = root.join(PAGE);
    let mut text = fs::read_to_string(&page).map_err(|error| format!("{PAGE}: {error}"))?;
    let sections = [
        ("best", best::section(results)),
        ("targets", targets::section(results)),
        ("machine", rows::machine(results)),
        ("rows", rows::section(results)),
        ("appends", tables::appends(results)),
        ("latency", tables::latency(results)),
        ("disk", tables::disk(results)),
        ("loads", tables::loads(results)),
        ("whole-order", tables::whole_order(results)),
        ("mixed", tables::mixed(results)),
        ("followers", tables::followers(results)),
        ("growth", tables::growth(results)),
        ("outage", tables::outage(results)),
    ];
    for (name, body) in sections {
        text =
            markers::replace(&text, name, &body).ok_or_else(|| format!("{PAGE} has no marker for {name}"))?;
    }
    plots::draw(results, &root.join(PLOTS))?;
    fs::write(&page, text).map_err(|error| format!("{PAGE}: {error}"))?;
    println!("compare: wrote {PAGE}");
    Ok(())
}
