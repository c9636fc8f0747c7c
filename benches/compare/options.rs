//! What may be said on the command line.

use std::{path::PathBuf, time::Duration};

use crate::{
    plan::{Part, Plan, Work},
    rows::Row,
};

pub const USAGE: &str = "cargo bench --bench compare -- [options]
  --quick            a short run: below 10 minutes
  --report           writes the report again from the last run's results
  --only ROW,…       these rows alone; what was measured is printed, and nothing is written
  --work WORK,…      this alone: appends, latency, loads, followers, growth, outage, or one kind of appends, such as
                     conditional-64 (callers), unconditional-8, one-aggregate-64x100 (events a call); likewise
  --server PATH      this server program instead of the one that cargo built
  --seconds N        the length of a round
  --rounds N         rounds of each work";

#[derive(Clone, Debug, Default)]
pub struct Options {
    pub quick: bool,
    pub report: bool,
    pub only: Vec<Row>,
    pub parts: Vec<Part>,
    pub works: Vec<Work>,
    pub server: Option<PathBuf>,
    pub seconds: Option<f64>,
    pub rounds: Option<usize>,
}

impl Options {
    pub fn read(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} wants a value"));
            match word.as_str() {
                "--quick" => options.quick = true,
                "--report" => options.report = true,
                "--only" => {
                    options.only = list(&value()?, |key| Row::ALL.into_iter().find(|row| row.key() == key))?
                }
                "--work" => {
                    let found = list(&value()?, choice)?;
                    options.parts.extend(found.iter().filter_map(|found| found.0));
                    options.works.extend(found.iter().filter_map(|found| found.1));
                }
                "--server" => options.server = Some(value()?.into()),
                "--seconds" => options.seconds = Some(number(&value()?)?),
                "--rounds" => options.rounds = Some(number(&value()?)?),
                // What cargo hands to every benchmark.
                "--bench" | "--nocapture" | "--quiet" => {}
                other => return Err(format!("{other} is not known\n{USAGE}")),
            }
        }
        Ok(options)
    }

    /// Whether it is not the whole comparison.
    pub fn partial(&self) -> bool {
        !(self.only.is_empty() && self.parts.is_empty() && self.works.is_empty())
    }

    pub fn rows(&self) -> Vec<Row> {
        if self.only.is_empty() { Row::ALL.to_vec() } else { self.only.clone() }
    }

    pub fn plan(&self) -> Plan {
        let mut plan = if self.quick { Plan::quick() } else { Plan::full() };
        if let Some(seconds) = self.seconds {
            plan.round = Duration::from_secs_f64(seconds);
            plan.paced = plan.round;
        }
        plan.rounds = self.rounds.unwrap_or(plan.rounds);
        if !self.works.is_empty() {
            plan.works.clone_from(&self.works);
        }
        if !self.parts.is_empty() || !self.works.is_empty() {
            plan.parts.clone_from(&self.parts);
            if !self.works.is_empty() {
                plan.parts.push(Part::Appends);
            }
        }
        plan
    }
}

/// A whole part, or one work of the appends.
fn choice(key: &str) -> Option<(Option<Part>, Option<Work>)> {
    let part = Part::ALL.into_iter().find(|part| part.key() == key);
    let work = Work::parse(key);
    (part.is_some() || work.is_some()).then_some((part, work))
}

fn list<T>(words: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    words.split(',').map(|word| parse(word).ok_or(format!("{word} is not known\n{USAGE}"))).collect()
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("{word} is no number\n{USAGE}"))
}
