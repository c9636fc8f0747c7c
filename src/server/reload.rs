//! Reads the files of access control and TLS again while the service runs: when one of them has
//! changed, and when it is requested.
//!
//! New contents are checked as a whole. If anything is wrong, the previous ones stay in effect, and
//! one ERROR says why.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tracing::{error, info, warn};

use super::{
    settings::ReloadSignal,
    tls::{Tls, TlsError, TlsFiles, Validity},
};
use crate::{
    access::{AccessSettings, LoadError, Policy},
    access_log::{AccessLog, Entry},
    event::{Timestamp, time},
};

/// How often to check whether the files have changed.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often to report that the certificate expires soon or has expired.
const REPORT_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

const POLICY_STAYS: &str = "access.file not reloaded; the previous identities stay in effect";
const TLS_STAYS: &str = "server.tls not reloaded; the previous certificates stay in effect";

/// The file with the identities, and where its policy goes.
#[derive(Debug)]
pub(super) struct PolicyReload {
    pub file: PathBuf,
    pub settings: AccessSettings,
    pub policy: watch::Sender<Arc<Policy>>,
}

/// The files with the TLS settings, and where these go.
#[derive(Debug)]
pub(super) struct TlsReload {
    pub files: TlsFiles,
    pub present: Tls,
    pub config: watch::Sender<Arc<ServerConfig>>,
    pub valid_until: watch::Sender<Timestamp>,
}

/// Everything that is read again.
#[derive(Debug)]
pub(super) struct Reload {
    policy: Option<PolicyReload>,
    tls: Option<TlsReload>,
    versions: Versions,
    problems: Problems,
    access_log: AccessLog,
}

/// Whether files are read that have not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Changed,
    All,
}

impl Reload {
    /// `versions` are those of the files before they were read for the first time.
    pub(super) fn new(
        policy: Option<PolicyReload>,
        tls: Option<TlsReload>,
        versions: Versions,
        access_log: AccessLog,
    ) -> Self {
        Self { policy, tls, versions, problems: Problems::default(), access_log }
    }

    /// Keeps the settings up to date until it is dropped.
    pub(super) async fn run(mut self, signal: ReloadSignal) {
        let has_files = self.policy.is_some() || self.tls.is_some();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reported = Reported::default();
        loop {
            let reading = tokio::select! {
                _ = look.tick(), if has_files => Reading::Changed,
                () = signal.received() => {
                    // It may have been moved, as the other log files.
                    self.access_log.reopen();
                    Reading::All
                }
            };
            self = match tokio::task::spawn_blocking(move || self.read(reading)).await {
                Ok(reload) => reload,
                Err(error) => {
                    return error!(%error, "access.file and server.tls are no longer reloaded");
                }
            };
            if let Some(TlsReload { present, .. }) = &self.tls {
                let validity = present.validity(Timestamp::now());
                if reported.is_due(validity, Instant::now()) {
                    present.report(validity);
                }
            }
        }
    }

    fn read(mut self, reading: Reading) -> Self {
        let is_all = reading == Reading::All;
        // Before the files are read, so that a change while they are read is noticed the next time.
        let mut versions = self.present_versions();
        if !is_all && versions != self.versions {
            versions = self.settled(versions);
        }
        if is_all || versions.policy != self.versions.policy {
            if let Some(policy) = &self.policy {
                let outcome = policy.read();
                if self.problems.policy.report(&outcome, is_all, POLICY_STAYS) {
                    self.access_log.write(Entry::reload("access.file", outcome.is_ok()));
                }
                if !is_retried(&outcome) {
                    self.versions.policy = versions.policy;
                }
            }
        } else {
            self.problems.policy = Problem::default();
        }
        if is_all || versions.tls != self.versions.tls {
            if let Some(tls) = &mut self.tls {
                let outcome = tls.read();
                if self.problems.tls.report(&outcome, is_all, TLS_STAYS) {
                    self.access_log.write(Entry::reload("server.tls", outcome.is_ok()));
                }
                if !is_retried(&outcome) {
                    self.versions.tls = versions.tls;
                }
            }
        } else {
            self.problems.tls = Problem::default();
        }
        self
    }

    fn present_versions(&self) -> Versions {
        Versions::of(
            self.policy.as_ref().map(|policy| &*policy.file),
            self.tls.as_ref().map(|tls| &tls.files),
        )
    }

    /// Waits until the files no longer change, as far as can be seen. A part of a file that is
    /// being written may be valid and allow more than the whole.
    fn settled(&self, mut versions: Versions) -> Versions {
        const PAUSE: Duration = Duration::from_millis(200);
        const TRIES: u32 = 10;
        for _ in 0..TRIES {
            thread::sleep(PAUSE);
            let now = self.present_versions();
            if now == versions {
                break;
            }
            versions = now;
        }
        versions
    }
}

/// Why files were not accepted.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Policy(#[from] LoadError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Returns whether files are read again although they do not change: they could not be read, or
/// will be valid later.
fn is_retried(outcome: &Result<(), ReloadError>) -> bool {
    matches!(
        outcome,
        Err(ReloadError::Policy(LoadError::Unreadable { .. })
            | ReloadError::Tls(TlsError::Unreadable { .. } | TlsError::NotYetValid { .. }))
    )
}

/// The last problems with the files.
#[derive(Debug, Default)]
struct Problems {
    policy: Problem,
    tls: Problem,
}

/// The text of the last problem, if the last attempt failed.
#[derive(Debug, Default)]
struct Problem(Option<String>);

impl Problem {
    /// Logs the problem, unless it is the same as before in another attempt with the same files.
    /// Returns whether there was anything new.
    fn report(&mut self, outcome: &Result<(), ReloadError>, is_requested: bool, what: &str) -> bool {
        let Err(error) = outcome else {
            self.0 = None;
            return true;
        };
        let text = error.to_string();
        if !is_requested && is_retried(outcome) && self.0.as_ref() == Some(&text) {
            return false;
        }
        error!(%error, "{what}");
        self.0 = Some(text);
        true
    }
}

impl PolicyReload {
    fn read(&self) -> Result<(), ReloadError> {
        let policy = Policy::load(Some(&self.file), &self.settings)?;
        let identities = policy.identities().count();
        info!(file = %self.file.display(), identities, "access.file reloaded");
        for warning in policy.warnings(&self.settings) {
            warn!("{warning}");
        }
        // Nobody asks for the policy if the service is stopping.
        _ = self.policy.send(Arc::new(policy));
        Ok(())
    }
}

impl TlsReload {
    fn read(&mut self) -> Result<(), ReloadError> {
        let loaded = Tls::reload(&self.files, Timestamp::now())?;
        let valid_until = time::format(loaded.valid_until);
        info!(file = %self.files.certificate.display(), valid_until, "server.tls reloaded");
        _ = self.config.send(loaded.config.clone());
        _ = self.valid_until.send(loaded.valid_until);
        self.present = loaded;
        Ok(())
    }
}

/// What was last reported of the certificate.
#[derive(Debug, Default)]
struct Reported(Option<(Validity, Instant)>);

impl Reported {
    /// Returns whether the validity has to be reported now, and remembers it.
    fn is_due(&mut self, validity: Validity, now: Instant) -> bool {
        let is_recent = self.0.is_some_and(|(before, at)| {
            before == validity && now.saturating_duration_since(at) < REPORT_EVERY
        });
        if !is_recent {
            self.0 = Some((validity, now));
        }
        !is_recent
    }
}

/// The versions of the files.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Versions {
    policy: Vec<Version>,
    tls: Vec<Version>,
}

/// What changes with a file. `None` if the file does not exist or cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version(Option<Stamp>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    /// Changes even if the time of modification is set to an earlier one.
    changed: (i64, i64),
}

impl Versions {
    /// Returns the present versions.
    pub(super) fn of(policy: Option<&Path>, tls: Option<&TlsFiles>) -> Self {
        let of_tls = |TlsFiles { certificate, key, client_authorities, .. }: &TlsFiles| {
            let paths = [certificate, key].into_iter().chain(client_authorities);
            paths.map(|path| Version::of(path)).collect::<Vec<_>>()
        };
        Self {
            policy: policy.map(Version::of).into_iter().collect(),
            tls: tls.map(of_tls).unwrap_or_default(),
        }
    }
}

impl Version {
    fn of(path: &Path) -> Self {
        let stamp = |found: fs::Metadata| Stamp {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        };
        Self(fs::metadata(path).ok().map(stamp))
    }
}

#[cfg(test)]
mod tests {
    use aethyr_test_support::tls::{Authority, Days, replace};

    use super::*;
    use crate::{access::AccessControl, server::tls::ClientCertificates};

    fn names(control: &AccessControl) -> Vec<String> {
        control.policy().identities().map(|identity| identity.name.to_string()).collect()
    }

    /// Returns the reload of a policy file.
    fn of_policy(file: &Path) -> (Reload, AccessControl) {
        let (versions, settings) = (Versions::of(Some(file), None), AccessSettings::default());
        let (policy, control) = AccessControl::channel(Policy::load(Some(file), &settings).unwrap());
        let policy = PolicyReload { file: file.to_owned(), settings, policy };
        (Reload::new(Some(policy), None, versions, AccessLog::default()), control)
    }

    #[test]
    fn a_changed_policy_is_used_if_all_of_it_is_valid() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("access.yml");
        replace(&file, "identities: { one: { role: reader } }");
        let (reload, control) = of_policy(&file);
        replace(&file, "identities: { one: { role: reader }, two: { role: reader } }");
        let reload = reload.read(Reading::Changed);
        assert_eq!(names(&control), ["one", "two"]);
        replace(&file, "identities: { three: { role: reader }, four: { role: none_such } }");
        let reload = reload.read(Reading::Changed);
        assert_eq!(names(&control), ["one", "two"]);
        std::fs::remove_file(&file).unwrap();
        let reload = reload.read(Reading::All);
        assert_eq!(names(&control), ["one", "two"]);
        replace(&file, "identities: { five: { role: reader } }");
        reload.read(Reading::Changed);
        assert_eq!(names(&control), ["five"]);
    }

    #[test]
    fn an_unchanged_file_is_read_on_request_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("access.yml");
        replace(&file, "identities: { one: { role: reader } }");
        let (reload, control) = of_policy(&file);
        let before = control.policy();
        let reload = reload.read(Reading::Changed);
        assert!(Arc::ptr_eq(&before, &control.policy()));
        reload.read(Reading::All);
        assert!(!Arc::ptr_eq(&before, &control.policy()));
    }

    #[test]
    fn certificate_and_key_are_exchanged_together() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("test");
        let (certificate, key) = authority.server().write(folder.path(), "server");
        let client_certificates = ClientCertificates::Optional;
        let files = TlsFiles { certificate, key, client_authorities: None, client_certificates };
        let versions = Versions::of(None, Some(&files));
        let present = Tls::load(&files).unwrap();
        let (config, configs) = watch::channel(present.config.clone());
        let (valid_until, ends) = watch::channel(present.valid_until);
        let tls = TlsReload { files: files.clone(), present: present.clone(), config, valid_until };
        let reload = Reload::new(None, Some(tls), versions, AccessLog::default());
        let is_present = || Arc::ptr_eq(&present.config, &configs.borrow());
        // Only half of the new pair is there.
        let new = authority.issue(&["DNS:localhost"], Days(-1, 700));
        replace(&files.certificate, &new.certificate);
        let reload = reload.read(Reading::Changed);
        assert!(is_present());
        assert_eq!(*ends.borrow(), present.valid_until);
        replace(&files.key, &new.key);
        let reload = reload.read(Reading::Changed);
        assert!(!is_present());
        assert!(*ends.borrow() > present.valid_until);
        let exchanged = configs.borrow().clone();
        authority.issue(&["DNS:localhost"], Days(-9, -1)).write(folder.path(), "server");
        reload.read(Reading::Changed);
        assert!(Arc::ptr_eq(&exchanged, &configs.borrow()), "an expired certificate was used");
    }

    #[test]
    fn what_may_become_valid_is_read_again_and_logged_once() {
        let unreadable = || -> Result<(), ReloadError> {
            let (path, source) = (PathBuf::from("access.yml"), std::io::ErrorKind::NotFound.into());
            Err(LoadError::Unreadable { path, source }.into())
        };
        let not_yet = || -> Result<(), ReloadError> {
            let (path, valid_from) = (PathBuf::from("server.pem"), Timestamp::new(9, 0).unwrap());
            Err(TlsError::NotYetValid { path, valid_from }.into())
        };
        let expired = || -> Result<(), ReloadError> {
            let (path, valid_until) = (PathBuf::from("server.pem"), Timestamp::new(9, 0).unwrap());
            Err(TlsError::Expired { path, valid_until }.into())
        };
        let mut problem = Problem::default();
        for (outcome, is_requested, retried, is_new) in [
            (unreadable(), false, true, true),
            (unreadable(), false, true, false),
            (unreadable(), true, true, true),
            (not_yet(), false, true, true),
            (not_yet(), false, true, false),
            (Ok(()), false, false, true),
            (not_yet(), false, true, true),
            // The files have changed, and are wrong again.
            (expired(), false, false, true),
            (expired(), false, false, true),
        ] {
            let text = format!("{outcome:?}");
            assert_eq!(is_retried(&outcome), retried, "{text}");
            assert_eq!(problem.report(&outcome, is_requested, "not reloaded"), is_new, "{text}");
        }
    }

    #[test]
    fn the_end_of_a_certificate_is_reported_once_a_day_and_when_it_comes() {
        let start = Instant::now();
        let mut reported = Reported::default();
        let hour = Duration::from_secs(60 * 60);
        for (validity, hours, is_due) in [
            (Validity::Long, 0, true),
            (Validity::Long, 1, false),
            (Validity::EndsSoon, 2, true),
            (Validity::EndsSoon, 25, false),
            (Validity::EndsSoon, 26, true),
            (Validity::Ended, 27, true),
            (Validity::Ended, 28, false),
            (Validity::Long, 29, true),
        ] {
            assert_eq!(reported.is_due(validity, start + hour * hours), is_due, "{validity:?} {hours}");
        }
    }
}
