//! The resources that the service uses while it runs: memory, open files and threads.
//!
//! All but the number of tasks is read from `/proc`.

use std::{
    fmt,
    fs::{read_dir, read_link, read_to_string},
    time::{Duration, Instant},
};

/// A sample of `/proc` at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub at: Duration,
    /// Resident memory.
    pub mebibytes: u64,
    /// Open files and sockets, except for the segments of the log, which stay open.
    pub handles: u64,
    pub segments: u64,
    pub threads: u64,
    /// Tasks of tokio; `None` if the service does not log them.
    pub tasks: Option<u64>,
    /// Acknowledged events so far, if they are counted.
    pub events: Option<u64>,
}

#[derive(Debug)]
pub struct Watch {
    began: Instant,
    samples: Vec<Sample>,
}

/// A resource: its name, its value in a sample, and how much it may vary.
type Figure = (&'static str, fn(&Sample) -> u64, u64);

/// The number of lines to print.
const LINES: usize = 12;

impl Watch {
    pub const EVERY: Duration = Duration::from_secs(5);

    pub fn new() -> Self {
        Self { began: Instant::now(), samples: Vec::new() }
    }

    /// Takes a sample. A process that is just exiting has none.
    pub fn look(&mut self, process: u32, tasks: Option<u64>, events: Option<u64>) {
        let sample = || {
            let status = read_to_string(format!("/proc/{process}/status")).ok()?;
            let number = |name: &str| -> Option<u64> {
                let line = status.lines().find(|line| line.starts_with(name))?;
                line.split_whitespace().nth(1)?.parse().ok()
            };
            let (mut handles, mut segments) = (0, 0);
            for entry in read_dir(format!("/proc/{process}/fd")).ok()? {
                let is_segment =
                    read_link(entry.ok()?.path()).ok()?.extension().is_some_and(|is| is == "segment");
                *(if is_segment { &mut segments } else { &mut handles }) += 1;
            }
            let (mebibytes, threads) = (number("VmRSS:")? / 1024, number("Threads:")?);
            Some(Sample { at: self.began.elapsed(), mebibytes, handles, segments, threads, tasks, events })
        };
        if let Some(sample) = sample() {
            self.samples.push(sample);
        }
    }

    /// Returns the median of a value in one of `parts` equal parts of the time.
    pub fn median(&self, part: usize, parts: usize, figure: impl Fn(&Sample) -> u64) -> u64 {
        let length = self.samples.len();
        let range = length * part / parts..length * (part + 1) / parts;
        let mut figures: Vec<u64> = self.samples[range].iter().map(figure).collect();
        figures.sort_unstable();
        figures.get(figures.len() / 2).copied().unwrap_or(0)
    }

    /// Returns the highest value that was seen.
    pub fn memory_peak(&self) -> Option<u64> {
        self.samples.iter().map(|sample| sample.mebibytes).max()
    }

    pub fn threads_peak(&self) -> Option<u64> {
        self.samples.iter().map(|sample| sample.threads).max()
    }

    /// Returns the resources of which clearly more is used at the end than after the first quarter,
    /// in which everything fills up.
    pub fn growth(&self) -> Vec<String> {
        let figures: [Figure; 4] = [
            ("MiB of memory", |sample| sample.mebibytes, 32),
            ("handles", |sample| sample.handles, 16),
            ("threads", |sample| sample.threads, 4),
            ("tasks", |sample| sample.tasks.unwrap_or(0), 16),
        ];
        let grown = figures.into_iter().filter_map(|(name, figure, slack)| {
            let (early, late) = (self.median(1, 4, figure), self.median(3, 4, figure));
            (late > early + early / 4 + slack).then(|| format!("{name} grew from {early} to {late}"))
        });
        grown.collect()
    }
}

impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| minute | events | memory, MiB | handles | segments | threads | tasks |")?;
        writeln!(f, "|---|---|---|---|---|---|---|")?;
        for line in 0..LINES.min(self.samples.len()) {
            let sample = self.samples[(line + 1) * self.samples.len() / LINES.min(self.samples.len()) - 1];
            let text = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
            let (events, tasks) = (text(sample.events), text(sample.tasks));
            let minute = sample.at.as_secs_f64() / 60.0;
            let Sample { mebibytes, handles, segments, threads, .. } = sample;
            writeln!(
                f,
                "| {minute:.1} | {events} | {mebibytes} | {handles} | {segments} | {threads} | {tasks} |"
            )?;
        }
        Ok(())
    }
}
