//! What may be said on the command line.

use std::path::PathBuf;

use crate::{plan::Work, rows::Row};

pub const USAGE: &str = "cargo bench --bench compare -- [options]
  --quick            a short run: below 10 minutes
  --report           writes the report again from the last run's results
  --only ROW,…       these rows alone; what was measured is printed, and nothing is written
  --work WORK,…      this work alone, such as conditional-64 or conditional-64x100; likewise
  --server PATH      this server program instead of the one that cargo built
  --seconds N        the length of a round
  --rounds N         rounds of each work";

#[derive(Clone, Debug, Default)]
pub struct Options {
    pub quick: bool,
    pub report: bool,
    pub only: Vec<Row>,
    pub work: Vec<Work>,
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
                "--work" => options.work = list(&value()?, Work::parse)?,
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
}

fn list<T>(words: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    words.split(',').map(|word| parse(word).ok_or(format!("{word} is not known\n{USAGE}"))).collect()
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("{word} is no number\n{USAGE}"))
}
