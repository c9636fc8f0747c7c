//! The key that signs checkpoints: made at the first start, and read at all others.
//!
//! The file has one line, the key in the text form of [`SigningKey::encoded`]. The name of the key
//! is the origin of the first generation of the history. It was chosen when the key was made, and
//! is never derived again. While a key is replaced, the former one is in the file `….old`.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::info;

use super::{
    error::NoKey,
    generations::{generation_of, origin_of},
    settings::KeySettings,
};
use crate::proof::{Checkpoint, KeyError, KeyId, NoteError, SignedNote, SigningKey, VerifierKey};

/// The keys that sign and have signed for this history. Their names are those of the first
/// generation.
#[derive(Debug)]
pub(super) struct Keys {
    current: SigningKey,
    /// The one that the present one replaces. `None` unless `proof.new_key` is set.
    old: Option<SigningKey>,
    /// Checkpoints by any other key are no reason to sign nothing.
    new_key: bool,
}

/// The keys for checkpoints of one generation.
#[derive(Debug)]
pub(super) struct Signer {
    key: SigningKey,
    /// Signs the first checkpoint as well.
    old: Option<SigningKey>,
    pub generation: u64,
}

/// What a note turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// A checkpoint of this history, signed with one of its keys.
    Own { generation: u64, checkpoint: Checkpoint },
    /// Signed by others, at least as far as this history is concerned.
    OtherKey { name: String, id: KeyId },
}

impl Keys {
    /// Reads the key, or makes it. `signed_before`: there are checkpoints of this history.
    pub(super) fn open(settings: &KeySettings, signed_before: bool) -> Result<Self, NoKey> {
        let KeySettings { path, origin, default_origin, new_key } = settings;
        let old = if *new_key { read(&old_path(path))? } else { None };
        let current = match read(path)? {
            Some(key) => key,
            None if signed_before && !new_key => return Err(NoKey::Missing { path: path.clone() }),
            None => {
                let kept = old.as_ref().map(|old| old.verifier().name().to_owned());
                let name = kept.or_else(|| origin.clone()).unwrap_or_else(|| default_origin.clone());
                create(path, &name)?
            }
        };
        let name = current.verifier().name();
        if let Some(configured) = origin.as_ref().filter(|origin| *origin != name) {
            let (path, found) = (path.clone(), name.to_owned());
            return Err(NoKey::OtherOrigin { path, found, configured: configured.clone() });
        }
        Ok(Self { current, old, new_key: *new_key })
    }

    /// Returns whether checkpoints by any other key are no reason to sign nothing.
    pub(super) fn may_be_new(&self) -> bool {
        self.new_key
    }

    /// Returns the name of the history.
    pub(super) fn name(&self) -> &str {
        self.current.verifier().name()
    }

    /// Returns the keys for checkpoints of a generation.
    pub(super) fn signer(&self, generation: u64) -> Result<Signer, KeyError> {
        let origin = origin_of(self.name(), generation);
        let key = self.current.renamed(&origin)?;
        let old = self.old.as_ref().map(|old| old.renamed(&origin)).transpose()?;
        Ok(Signer { key, old, generation })
    }

    /// Finds out by which key a note is signed, and for which generation.
    pub(super) fn origin(&self, note: &SignedNote) -> Origin {
        let checkpoint = Checkpoint::parse(note.unverified_text());
        if let Ok(checkpoint) = checkpoint
            && let Some(generation) = generation_of(self.name(), checkpoint.origin())
        {
            let has_signed = |key: &SigningKey| {
                key.renamed(checkpoint.origin()).is_ok_and(|key| note.verify(key.verifier()).is_ok())
            };
            if has_signed(&self.current) || self.old.as_ref().is_some_and(has_signed) {
                return Origin::Own { generation, checkpoint };
            }
        }
        let (name, id) = note.unverified_signers().next().unwrap_or(("nobody", KeyId([0; 4])));
        Origin::OtherKey { name: name.to_owned(), id }
    }
}

impl Signer {
    /// Returns the public key.
    pub(super) fn verifier(&self) -> &VerifierKey {
        self.key.verifier()
    }

    /// Signs a checkpoint. If the present key has not signed `before`, the key that it replaces
    /// signs the checkpoint as well.
    pub(super) fn sign(&self, text: String, before: Option<&SignedNote>) -> Result<SignedNote, NoteError> {
        let mut note = SignedNote::sign(text, &self.key)?;
        let id = self.key.verifier().id();
        let has_signed = |note: &SignedNote| note.unverified_signers().any(|(_, signer)| signer == id);
        if let Some(old) = self.old.as_ref().filter(|_| !before.is_some_and(has_signed)) {
            note.sign_also(old)?;
        }
        Ok(note)
    }
}

/// Locks the file with the key. Two logs that sign with one key would publish two histories under
/// one origin.
pub(super) fn lock(path: &Path) -> Result<fs::File, NoKey> {
    let unreadable = |error| NoKey::Unreadable { path: path.to_owned(), source: Arc::new(error) };
    let file = fs::File::open(path).map_err(unreadable)?;
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => Err(NoKey::InUse { path: path.to_owned() }),
        // Some file systems have no locks.
        Ok(()) | Err(fs::TryLockError::Error(_)) => Ok(file),
    }
}

fn old_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".old");
    path.with_file_name(name)
}

/// Returns the key in a file, or `None` if there is no file.
fn read(path: &Path) -> Result<Option<SigningKey>, NoKey> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(NoKey::Unreadable { path: path.to_owned(), source: Arc::new(error) }),
    };
    let key = SigningKey::from_encoded(text.trim_end());
    key.map(Some).map_err(|source| NoKey::NotAKey { path: path.to_owned(), source })
}

fn create(path: &Path, name: &str) -> Result<SigningKey, NoKey> {
    let key =
        SigningKey::generate(name).map_err(|source| NoKey::NotAKey { path: path.to_owned(), source })?;
    write(path, &key)
        .map_err(|source| NoKey::NotCreated { path: path.to_owned(), source: Arc::new(source) })?;
    let verifier_key = key.verifier();
    info!(file = %path.display(), %verifier_key, "created the key that signs checkpoints; back up this file");
    Ok(key)
}

/// Writes the file durably. Nobody but its owner can read it. A file that appeared meanwhile is not
/// replaced.
fn write(path: &Path, key: &SigningKey) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        if let Some(above) = folder.parent().filter(|above| !above.as_os_str().is_empty()) {
            fs::create_dir_all(above)?;
        }
        fs::DirBuilder::new().mode(0o700).create(folder)?;
    }
    // Only its owner can read it, whatever the umask is.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(format!("{}\n", key.encoded().expose()).as_bytes())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|failed| failed.error)?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const TEXT: &str = "log.example/a\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n";

    fn settings(folder: &Path) -> KeySettings {
        KeySettings {
            path: folder.join("storage/keys/checkpoint.key"),
            origin: None,
            default_origin: "log.example/a".into(),
            new_key: false,
        }
    }

    fn key_of(keys: &Keys) -> VerifierKey {
        keys.current.verifier().clone()
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let key = key_of(&Keys::open(&settings, false).unwrap());
        assert_eq!(key.name(), "log.example/a");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let folder = settings.path.parent().unwrap();
        assert_eq!((mode(&settings.path), mode(folder)), (0o600, 0o700));
        assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
        let renamed = KeySettings { default_origin: "another".into(), ..settings.clone() };
        assert_eq!(key_of(&Keys::open(&renamed, true).unwrap()), key);
        let configured = KeySettings { origin: Some("another".into()), ..settings };
        let refused = Keys::open(&configured, true).unwrap_err();
        assert!(matches!(refused, NoKey::OtherOrigin { .. }), "{refused}");
    }

    #[test]
    fn a_key_signs_for_one_log_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        assert!(matches!(lock(&settings.path), Err(NoKey::Unreadable { .. })));
        Keys::open(&settings, false).unwrap();
        let locked = lock(&settings.path).unwrap();
        assert!(matches!(lock(&settings.path), Err(NoKey::InUse { .. })));
        // Who only prints the public key does not need it.
        assert!(Keys::open(&settings, false).is_ok());
        drop(locked);
        assert!(lock(&settings.path).is_ok());
    }

    #[test]
    fn a_configured_name_is_that_of_a_new_key() {
        let dir = tempfile::tempdir().unwrap();
        let settings = KeySettings { origin: Some("b".into()), ..settings(dir.path()) };
        assert_eq!(key_of(&Keys::open(&settings, false).unwrap()).name(), "b");
    }

    #[test]
    fn a_key_that_is_missing_or_unusable_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(dir.path());
        let refused = Keys::open(&settings, true).unwrap_err();
        assert!(matches!(refused, NoKey::Missing { .. }) && !settings.path.exists(), "{refused}");
        settings.new_key = true;
        assert!(Keys::open(&settings, true).is_ok());
        fs::write(&settings.path, "PRIVATE+KEY+xyzzy").unwrap();
        let refused = Keys::open(&settings, false).unwrap_err();
        assert!(matches!(refused, NoKey::NotAKey { .. }), "{refused}");
        assert!(!refused.to_string().contains("xyzzy"));
        settings.path = dir.path().join("storage/keys/checkpoint.key/key");
        let refused = Keys::open(&settings, false).unwrap_err();
        assert!(matches!(refused, NoKey::Unreadable { .. }), "{refused}");
    }

    #[test]
    fn a_note_is_ours_by_its_key_and_its_origin() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(&settings(dir.path()), false).unwrap();
        let other = SigningKey::generate("log.example/a").unwrap();
        let sign = |text: &str, key: &SigningKey| SignedNote::sign(text.to_owned(), key).unwrap();
        for generation in [1, 2] {
            let signer = keys.signer(generation).unwrap();
            let text = TEXT.replace("log.example/a", &origin_of("log.example/a", generation));
            let note = signer.sign(text.clone(), None).unwrap();
            let checkpoint = Checkpoint::parse(&text).unwrap();
            assert_eq!(keys.origin(&note), Origin::Own { generation, checkpoint });
            assert_eq!(note.verify(signer.verifier()), Ok(text.as_str()));
        }
        let id = other.verifier().id();
        let foreign = Origin::OtherKey { name: "log.example/a".into(), id };
        assert_eq!(keys.origin(&sign(TEXT, &other)), foreign);
        let of_another_log = sign(&TEXT.replace("log.example/a", "log.example/b"), &keys.current);
        assert!(matches!(keys.origin(&of_another_log), Origin::OtherKey { .. }));
        assert!(matches!(keys.origin(&sign("no checkpoint\n", &keys.current)), Origin::OtherKey { .. }));
    }

    #[test]
    fn the_first_checkpoint_of_a_new_key_is_signed_by_the_old_one_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(dir.path());
        let former = Keys::open(&settings, false).unwrap();
        let before = former.signer(1).unwrap().sign(TEXT.to_owned(), None).unwrap();
        fs::rename(&settings.path, old_path(&settings.path)).unwrap();
        settings.new_key = true;
        settings.default_origin = "another".into();
        let keys = Keys::open(&settings, true).unwrap();
        assert_eq!(keys.name(), "log.example/a");
        assert!(matches!(keys.origin(&before), Origin::Own { generation: 1, .. }));
        let signer = keys.signer(1).unwrap();
        let first = signer.sign(TEXT.to_owned(), Some(&before)).unwrap();
        for key in [signer.verifier(), &key_of(&former)] {
            assert_eq!(first.verify(key), Ok(TEXT));
        }
        let second = signer.sign(TEXT.to_owned(), Some(&first)).unwrap();
        assert!(second.verify(signer.verifier()).is_ok() && second.verify(&key_of(&former)).is_err());
    }
}
