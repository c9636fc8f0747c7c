//! `immudb-setup`: creates the database of the service in ImmuDB, and a user who may do nothing but
//! read and write in it.
//!
//! It logs in as ImmuDB's administrator, whose name and password are the configured ones. The
//! password of the user is in a file, which is written before the user gets it. So the command may
//! be repeated, also after it was interrupted.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::{Instant, sleep};

use super::{Error, say};
use crate::{
    config::Config,
    immudb::{self, Administrator, DatabaseUser, ErrorKind, SessionSettings, UserChange},
    retry::RetryDelays,
    secret::{Secret, SecretFileError},
    server::settings,
};

/// Only the user of this process may read the password, and nobody may change it.
const PASSWORD_FILE_MODE: u32 = 0o400;
/// As text they have 32 characters, the longest password that ImmuDB's own tools accept.
const PASSWORD_BYTES: usize = 24;
const FIRST_DELAY: Duration = Duration::from_millis(250);
const DELAY_MAX: Duration = Duration::from_secs(2);

/// The arguments of the command.
#[derive(Debug, clap::Args)]
pub(super) struct ImmudbSetupArgs {
    /// File with the password of the user. Created with a random password if it does not exist
    #[arg(long, value_name = "FILE")]
    password_file: PathBuf,
    /// Name of the user: letters, digits and underscores
    #[arg(
        long,
        value_name = "NAME",
        default_value = "aethyr",
        value_parser = parse_user
    )]
    user: String,
    /// Seconds to wait for ImmuDB if it cannot be reached
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
}

/// Why ImmuDB is not set up.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImmudbSetupError {
    #[error(
        "the user {name} is the one that this command logs in as (immudb.username); set IMMUDB_USERNAME and \
         IMMUDB_PASSWORD to those of the administrator"
    )]
    OwnUser { name: String },
    #[error("--password-file: {0}")]
    PasswordFile(#[from] SecretFileError),
    #[error("--password-file: {path}: {source}")]
    NotWritten { path: PathBuf, source: io::Error },
    #[error("ImmuDB: {0}")]
    Immudb(#[from] immudb::Error),
}

/// Parses a name that ImmuDB accepts, before anything is written.
fn parse_user(text: &str) -> Result<String, &'static str> {
    let is_allowed = |character: char| character.is_ascii_alphanumeric() || character == '_';
    if !text.is_empty() && text.chars().all(is_allowed) {
        return Ok(text.to_owned());
    }
    Err("expected letters, digits and underscores")
}

/// Sets up ImmuDB, and prints what was done.
///
/// # Errors
/// Returns an error if ImmuDB cannot be reached or rejects a call, or if the file cannot be used.
pub(super) async fn run(config: &Config, args: ImmudbSetupArgs) -> Result<(), Error> {
    let section = config.immudb.as_ref().ok_or(Error::NoImmudb)?;
    Ok(set_up(&settings::immudb(section), args).await?)
}

async fn set_up(settings: &SessionSettings, args: ImmudbSetupArgs) -> Result<(), ImmudbSetupError> {
    let ImmudbSetupArgs { password_file, user: name, wait } = args;
    if name == settings.username {
        return Err(ImmudbSetupError::OwnUser { name });
    }
    let administrator = log_in(settings, Duration::from_secs(wait)).await?;
    let database = settings.database.clone();
    administrator.ensure_database(&database).await?;
    let (password, is_new) = password_in(&password_file)?;
    let user = DatabaseUser { name, password, database };
    let change = administrator.ensure_user(&user).await?;
    administrator.close().await;
    let verb = if is_new { "wrote" } else { "used" };
    say(&format!("{verb} {}", password_file.display()));
    say(&format!("user {}, who may only read and write in {}: {}", user.name, user.database, done(change)));
    Ok(())
}

fn done(change: UserChange) -> &'static str {
    match change {
        UserChange::None => "unchanged",
        UserChange::Changed => "changed",
        UserChange::Created => "created",
    }
}

/// Logs in. Until the time is over, waits for a server that starts.
async fn log_in(settings: &SessionSettings, wait: Duration) -> Result<Administrator, immudb::Error> {
    let end = Instant::now().checked_add(wait);
    let mut delays = RetryDelays::new(FIRST_DELAY, DELAY_MAX);
    loop {
        match Administrator::log_in(settings).await {
            Err(error) if may_start(&error) && end.is_none_or(|end| Instant::now() < end) => {
                sleep(delays.next_delay()).await;
            }
            outcome => return outcome,
        }
    }
}

/// Returns whether a server that is starting can have caused the error.
fn may_start(error: &immudb::Error) -> bool {
    matches!(error.kind, ErrorKind::Refused | ErrorKind::Unreachable | ErrorKind::Busy)
}

/// Returns the password in the file, and whether it was created for that.
fn password_in(path: &Path) -> Result<(Secret, bool), ImmudbSetupError> {
    match Secret::read(path) {
        Ok(password) => Ok((password, false)),
        Err(SecretFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let not_written = |source| ImmudbSetupError::NotWritten { path: path.to_owned(), source };
            let password = random().map_err(not_written)?;
            write_new(path, &password).map_err(not_written)?;
            Ok((password, true))
        }
        Err(error) => Err(error.into()),
    }
}

fn random() -> io::Result<Secret> {
    let mut bytes = [0; PASSWORD_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("no random numbers"))?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
}

/// Writes the file atomically and durably, and never overwrites an existing one.
fn write_new(path: &Path, password: &Secret) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(password.expose().as_bytes())?;
    file.as_file().set_permissions(Permissions::from_mode(PASSWORD_FILE_MODE))?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_written_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets/immudb-password");
        let (password, is_new) = password_in(&path).unwrap();
        assert!(is_new);
        assert_eq!(password.expose().len(), 32);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, PASSWORD_FILE_MODE);
        assert_eq!(fs::read_to_string(&path).unwrap(), password.expose());
        let (again, is_new) = password_in(&path).unwrap();
        assert!(!is_new);
        assert_eq!(again, password);
        assert_eq!(fs::read_dir(dir.path().join("secrets")).unwrap().count(), 1);
        let other = password_in(&dir.path().join("other")).unwrap().0;
        assert_ne!(other.expose(), password.expose());
    }

    #[test]
    fn names_that_immudb_does_not_accept_are_refused_before_anything_is_written() {
        assert_eq!(parse_user("aethyr_2"), Ok("aethyr_2".to_owned()));
        for name in ["", "a b", "a-b", "ä"] {
            parse_user(name).unwrap_err();
        }
    }

    #[test]
    fn a_file_without_a_password_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        fs::write(&path, "\n").unwrap();
        let refused = password_in(&path).unwrap_err();
        assert!(
            matches!(refused, ImmudbSetupError::PasswordFile(SecretFileError::Empty { .. })),
            "{refused}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "\n");
    }

    #[tokio::test]
    async fn the_administrator_is_not_the_user() {
        let dir = tempfile::tempdir().unwrap();
        let password_file = dir.path().join("password");
        let section = crate::config::ImmudbConfig::default();
        let user = section.username.clone();
        let args = ImmudbSetupArgs { password_file: password_file.clone(), user, wait: 0 };
        let refused = set_up(&settings::immudb(&section), args).await.unwrap_err();
        assert!(matches!(refused, ImmudbSetupError::OwnUser { .. }), "{refused}");
        assert!(!password_file.exists());
    }
}
