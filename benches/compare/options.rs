//! The command line options.

use std::{path::PathBuf, time::Duration};

use crate::{
    plan::{Part, Plan},
    row::Row,
    work::Work,
};

pub const USAGE: &str = "cargo bench --bench compare -- [options]
  --quick            do a short run of less than 10 minutes
  --report           regenerate the report from the results of the last run
  --only ROW,…       measure only these systems, and write no report
  --work WORK,…      measure only these parts, and write no report: appends, latency, loads,
                     followers, growth, outage, or one workload of appends, such as
                     conditional-64 (64 callers) or one-aggregate-64x100 (100 events per call)
  --server PATH      use this server program instead of the one that cargo built
  --seconds N        length of a round
  --rounds N         rounds per workload";

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
            let mut value = || words.next().ok_or(format!("{word} requires a value"));
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
                // Options that cargo passes to every benchmark.
                "--bench" | "--nocapture" | "--quiet" => {}
                other => return Err(format!("unknown option {other}\n{USAGE}")),
            }
        }
        Ok(options)
    }

    /// Returns whether only a part of the comparison is selected.
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

/// Parses a part of the comparison, or one workload of appends.
fn choice(key: &str) -> Option<(Option<Part>, Option<Work>)> {
    let part = Part::ALL.into_iter().find(|part| part.key() == key);
    let work = Work::parse(key);
    (part.is_some() || work.is_some()).then_some((part, work))
}

fn list<T>(words: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    words.split(',').map(|word| parse(word).ok_or(format!("unknown value {word}\n{USAGE}"))).collect()
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("{word} is not a number\n{USAGE}"))
}
