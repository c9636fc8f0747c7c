//! Runs the comparison: one part after the other, each on new stores.
//!
//! A system that is not available is left out, and the run continues without it. Any other error
//! ends the run.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    machine::Machine,
    measure::{
        appends::{self, Appends, Turn},
        floor::BareServer,
        followers,
        growth::Growth,
        latency, loads, mixed,
        outage::{self, Backlog},
    },
    options::Options,
    outcome::Outcome,
    peers::{self, Peers},
    plan::{Part, Plan},
    process,
    results::{About, Appended, Disk, Results},
    row::Row,
    systems::System,
    work::{Spread, Work},
};

pub struct Comparison {
    plan: Plan,
    rows: Vec<Row>,
    peers: Peers,
    /// The directory of the stores.
    data: PathBuf,
    results: Results,
    progress: ProgressBar,
}

impl Comparison {
    pub fn new(options: &Options, folder: &Path) -> Outcome<Self> {
        let built = || PathBuf::from(env!("CARGO_BIN_EXE_aethyr-event-store"));
        let peers = Peers::new(options.server.clone().unwrap_or_else(built), folder.to_owned());
        let now = prost_types::Timestamp::from(SystemTime::now()).to_string();
        let results = Results {
            date: now.split('T').next().unwrap_or_default().to_owned(),
            commit: peers::commit(),
            quick: options.quick,
            machine: Machine::look(folder)?,
            ..Results::default()
        };
        let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}");
        let progress = ProgressBar::new_spinner().with_style(style.map_err(|error| error.to_string())?);
        let (plan, rows, data) = (options.plan(), options.rows(), folder.join("stores"));
        Ok(Self { plan, rows, peers, data, results, progress })
    }

    pub async fn run(mut self) -> Outcome<Results> {
        for part in self.plan.parts.clone() {
            match part {
                // The paced appends use the same stores.
                Part::Appends | Part::Latency if self.results.latencies.is_empty() => self.appends().await?,
                Part::Appends | Part::Latency => {}
                Part::Loads => self.loads().await?,
                Part::Followers => self.followers().await?,
                Part::Growth => self.growth().await?,
                Part::Outage => self.outage().await?,
            }
            process::clear_folder(&self.data)?;
        }
        Ok(self.results)
    }

    fn say(&self, line: &str) {
        self.progress.suspend(|| println!("{line}"));
    }

    fn doing(&self, what: &str) {
        self.progress.set_message(what.to_owned());
        self.progress.tick();
    }

    /// Starts a system. Returns `None` if it is not available here; the results record why.
    async fn start(&mut self, row: Row) -> Outcome<Option<System>> {
        self.doing(&format!("starting {}", row.key()));
        match System::start(row, &self.peers, &self.data.join(row.key())).await {
            Ok(system) => {
                if self.results.about(row).is_none() {
                    let version = self.peers.version(row);
                    self.results.rows.push(About { row, version, problem: None });
                }
                Ok(Some(system))
            }
            Err(problem) if matches!(row, Row::AethyrLocal | Row::AethyrEventFiles) => Err(problem),
            Err(problem) => {
                self.say(&format!("{}: left out: {problem}", row.key()));
                self.results.problem(row, problem);
                self.rows.retain(|other| *other != row);
                Ok(None)
            }
        }
    }

    async fn appends(&mut self) -> Outcome<()> {
        let mut systems = Vec::new();
        for row in self.rows.clone() {
            if let Some(system) = self.start(row).await? {
                system.sleep()?;
                systems.push((row, system, 0));
            }
        }
        if self.plan.parts.contains(&Part::Appends) {
            // ImmuDB slows down as it grows, so these rounds come first, on new stores.
            self.beside_set(&mut systems).await?;
            for work in self.plan.works.clone() {
                self.work(work, &mut systems).await?;
            }
            for (row, system, events) in &systems {
                let disk = Disk { row: *row, bytes: system.disk_bytes(), events: *events };
                self.say(&format!(
                    "{:<24} {:>6} bytes on disk per event",
                    row.key(),
                    disk.bytes / events.max(&1)
                ));
                self.results.disk.push(disk);
            }
        }
        if self.plan.parts.contains(&Part::Latency) {
            for (row, system, _) in &systems {
                self.doing(&format!("paced appends, {}", row.key()));
                let latency = latency::measure(*row, system, self.plan.warm_up, self.plan.paced).await?;
                self.say(&format!(
                    "{:<24} {:>5.0} appends/s, paced: {:?}",
                    row.key(),
                    latency.calls_per_second,
                    latency.latency
                ));
                self.results.latencies.push(latency);
            }
        }
        Ok(())
    }

    /// Measures all systems in turn. Each round starts with a different one.
    async fn work(&mut self, work: Work, systems: &mut [(Row, System, u64)]) -> Outcome<()> {
        let mut prepared = Vec::new();
        for (row, system, events) in systems.iter_mut().filter(|(row, ..)| row.offers(work)) {
            self.doing(&format!("{work}, warming up {}", row.key()));
            system.wake()?;
            let mut appends = Appends::prepare(system, work).await?;
            *events += appends.turn(system, self.plan.warm_up).await?.events;
            prepared.push((*row, system, events, appends, Vec::new()));
        }
        let is_one = work == Work { spread: Spread::Conditional, callers: 1, events: 1 };
        let mut bare_server = if is_one { Some(BareServer::start(&self.data).await?) } else { None };
        for round in 0..self.plan.rounds {
            if let Some(bare_server) = &mut bare_server {
                let floor = bare_server.measure(&self.data, self.plan.round).await?;
                self.say(&format!(
                    "synced write {:.3} ms, empty call {:.3} ms (p50)",
                    floor.synced_write.p50, floor.empty_call.p50
                ));
                self.results.floors.push(floor);
            }
            let count = prepared.len().max(1);
            for at in 0..prepared.len() {
                let (row, system, events, appends, turns) = &mut prepared[(at + round) % count];
                self.doing(&format!("{work}, round {} of {}, {}", round + 1, self.plan.rounds, row.key()));
                let turn = appends.turn(system, self.plan.round).await?;
                **events += turn.events;
                self.say(&appends::describe(*row, work, &turn));
                turns.push(turn);
            }
        }
        for (row, _, _, _, turns) in prepared {
            self.results.appends.push(Appended { row, work, turns });
        }
        Ok(())
    }

    /// Measures the service with ImmuDB and ImmuDB's unconditional `Set` alternately, if both are
    /// selected. Both are warmed up first, as for any other workload.
    async fn beside_set(&mut self, systems: &mut [(Row, System, u64)]) -> Outcome<()> {
        const ROUNDS: usize = 9;
        let mut prepared = Vec::new();
        for (wanted, spread) in
            [(Row::AethyrImmudb, Spread::Conditional), (Row::ImmudbSetOurs, Spread::Unconditional)]
        {
            let work = Work { spread, callers: 64, events: 1 };
            let Some(at) = systems.iter().position(|(row, ..)| *row == wanted) else { return Ok(()) };
            if !self.plan.works.contains(&work) {
                return Ok(());
            }
            let (_, system, events) = &mut systems[at];
            let mut appends = Appends::prepare(system, work).await?;
            *events += appends.turn(system, self.plan.warm_up).await?.events;
            prepared.push((at, work, appends));
        }
        for round in 0..ROUNDS {
            self.doing(&format!("with ImmuDB and ImmuDB alone, round {} of {ROUNDS}", round + 1));
            let mut turns = Vec::new();
            for (at, work, appends) in &mut prepared {
                let (row, system, events) = &mut systems[*at];
                let turn = appends.turn(system, self.plan.round).await?;
                *events += turn.events;
                self.say(&appends::describe(*row, *work, &turn));
                turns.push(turn);
            }
            self.results.beside_set.extend(<[Turn; 2]>::try_from(turns));
        }
        Ok(())
    }

    async fn loads(&mut self) -> Outcome<()> {
        for row in loads::ROWS {
            if !self.rows.contains(&row) {
                continue;
            }
            let Some(system) = self.start(row).await? else { continue };
            self.doing(&format!("filling {}", row.key()));
            let events = loads::fill_up(&system, loads::filler_for(self.plan.loaded_events)).await?;
            self.doing(&format!("loading from {}", row.key()));
            let say = |load: &loads::Load| {
                let from = if load.from_snapshot { " from a snapshot" } else { "" };
                self.say(&format!(
                    "{:<24} loads of {}{from}, {} callers: {:>8.1}/s, {:>9.0} events/s",
                    row.key(),
                    load.events,
                    load.callers,
                    load.loads_per_second,
                    load.events_per_second
                ));
            };
            let found = loads::measure(row, &system, self.plan.round, say).await?;
            self.results.loads.extend(found);
            let whole = loads::whole_order(row, &system, events, self.plan.rounds).await?;
            self.say(&format!(
                "{:<24} total order of {}: {:>9.0} events/s",
                row.key(),
                whole.events,
                whole.events_per_second
            ));
            self.results.whole_orders.push(whole);
            self.doing(&format!("mixed load, {}", row.key()));
            if let Some(mixed) = mixed::measure(row, &system, self.plan.round * 2).await? {
                self.say(&format!(
                    "{:<24} mixed: {:>8.0} loads/s, {:>8.0} appends/s, p99 {:.3} and {:.3} ms",
                    row.key(),
                    mixed.loads_per_second,
                    mixed.appends_per_second,
                    mixed.load.p99,
                    mixed.append.p99
                ));
                self.results.mixed.push(mixed);
            }
        }
        Ok(())
    }

    async fn followers(&mut self) -> Outcome<()> {
        for row in followers::ROWS {
            for count in followers::FOLLOWERS {
                if !self.rows.contains(&row) {
                    continue;
                }
                let Some(system) = self.start(row).await? else { continue };
                self.doing(&format!("{count} followers of {}", row.key()));
                let found = followers::measure(row, &system, count, self.plan.paced).await?;
                self.say(&format!("{:<24} {count} followers: {:?}", row.key(), found.delay));
                self.results.followers.push(found);
            }
        }
        Ok(())
    }

    async fn growth(&mut self) -> Outcome<()> {
        if !self.rows.contains(&Row::AethyrLocal) {
            return Ok(());
        }
        let mut growth = Growth::start(&self.peers, &self.data.join("growth")).await?;
        for events in self.plan.stages.clone() {
            self.doing(&format!("growing to {events} events"));
            let (back, stage) = growth.stage(events, self.plan.round, self.plan.rounds).await?;
            growth = back;
            self.say(&format!("disk {:.2} times the encoded events, {stage:?}", stage.disk_ratio()));
            self.results.growth.push(stage);
        }
        Ok(())
    }

    async fn outage(&mut self) -> Outcome<()> {
        if !self.rows.contains(&Row::AethyrImmudb) {
            return Ok(());
        }
        if let Err(problem) = self.peers.immudb().await {
            self.results.problem(Row::AethyrImmudb, problem);
            return Ok(());
        }
        for backlog in Backlog::ALL {
            self.doing(&format!("ImmuDB outage, {backlog:?}"));
            let folder = self.data.join("outage");
            let outage = outage::measure(&self.peers, &folder, backlog, self.plan.outage).await?;
            self.say(&format!("{outage:?}"));
            self.results.outages.push(outage);
        }
        Ok(())
    }
}
