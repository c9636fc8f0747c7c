//! The results of one run. They are stored as JSON below cargo's target directory, so that the
//! report can be regenerated.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    machine::Machine,
    measure::{
        appends::Turn,
        floor::Floor,
        followers::Followers,
        growth::Stage,
        latency::Latency,
        loads::{Load, WholeOrder},
        mixed::Mixed,
        outage::Outage,
    },
    outcome::Outcome,
    row::Row,
    statistics::median,
    work::Work,
};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Results {
    pub date: String,
    /// The commit of the repository, or empty if it is unknown.
    pub commit: String,
    pub quick: bool,
    pub machine: Machine,
    pub rows: Vec<About>,
    pub appends: Vec<Appended>,
    /// Measured in the rounds with one caller.
    pub floors: Vec<Floor>,
    /// Alternating turns with 64 callers: appends to the service with ImmuDB, and ImmuDB's `Set`
    /// with the service's settings.
    pub beside_set: Vec<[Turn; 2]>,
    pub disk: Vec<Disk>,
    pub latencies: Vec<Latency>,
    pub loads: Vec<Load>,
    pub whole_orders: Vec<WholeOrder>,
    pub mixed: Vec<Mixed>,
    pub followers: Vec<Followers>,
    pub growth: Vec<Stage>,
    pub outages: Vec<Outage>,
}

/// The version of a system, and the reason if it was not measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct About {
    pub row: Row,
    pub version: String,
    pub problem: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Appended {
    pub row: Row,
    pub work: Work,
    pub turns: Vec<Turn>,
}

impl Appended {
    pub fn rate(&self) -> f64 {
        self.median(Turn::rate)
    }

    pub fn median(&self, of: impl Fn(&Turn) -> f64) -> f64 {
        median(&mut self.turns.iter().map(of).collect::<Vec<_>>())
    }
}

/// The disk space of a system after all appends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Disk {
    pub row: Row,
    pub bytes: u64,
    pub events: u64,
}

impl Results {
    pub fn read(path: &Path) -> Outcome<Self> {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    pub fn write(&self, path: &Path) -> Outcome<()> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    pub fn appended(&self, row: Row, work: Work) -> Option<&Appended> {
        self.appends.iter().find(|appended| appended.row == row && appended.work == work)
    }

    /// Returns the ratio of the service's rate with ImmuDB to that of ImmuDB's `Set`, and both
    /// rates.
    pub fn beside_set(&self) -> Option<(f64, [f64; 2])> {
        if self.beside_set.is_empty() {
            return None;
        }
        let of =
            |of: &dyn Fn(&[Turn; 2]) -> f64| median(&mut self.beside_set.iter().map(of).collect::<Vec<_>>());
        let ratio = of(&|[ours, theirs]| ours.rate() / theirs.rate());
        Some((ratio, [of(&|[ours, _]| ours.rate()), of(&|[_, theirs]| theirs.rate())]))
    }

    /// Returns the median latencies of a synced write and of an empty call, in milliseconds.
    pub fn floor(&self) -> Option<(f64, f64)> {
        if self.floors.is_empty() {
            return None;
        }
        let of = |of: &dyn Fn(&Floor) -> f64| median(&mut self.floors.iter().map(of).collect::<Vec<_>>());
        Some((of(&|floor| floor.synced_write.p50), of(&|floor| floor.empty_call.p50)))
    }

    pub fn about(&self, row: Row) -> Option<&About> {
        self.rows.iter().find(|about| about.row == row)
    }

    pub fn problem(&mut self, row: Row, problem: String) {
        match self.rows.iter_mut().find(|about| about.row == row) {
            Some(about) => about.problem = Some(problem),
            None => self.rows.push(About { row, version: String::new(), problem: Some(problem) }),
        }
    }
}
