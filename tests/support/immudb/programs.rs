//! The programs of `tests/immudb`: the real server, and a reader that uses ImmuDB's own client.
//! Built by Go at the first use, once for all test processes, and kept beside the other artefacts.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::SystemTime,
};

const VERSION: &str = "1.11.1";

/// The one in the PATH if it is of this very version, else our own.
pub fn server() -> &'static Path {
    static SERVER: OnceLock<PathBuf> = OnceLock::new();
    SERVER.get_or_init(|| {
        if version("immudb").is_some_and(|version| version == VERSION) {
            return "immudb".into();
        }
        build("immudb", "github.com/codenotary/immudb/cmd/immudb", &["go.mod"])
    })
}

pub fn reader() -> &'static Path {
    static READER: OnceLock<PathBuf> = OnceLock::new();
    READER.get_or_init(|| build("reader", "./reader", &["go.mod", "reader/main.go"]))
}

#[allow(dead_code, reason = "for the benchmark")]
pub fn load() -> &'static Path {
    static LOAD: OnceLock<PathBuf> = OnceLock::new();
    LOAD.get_or_init(|| build("load", "./load", &["go.mod", "load/main.go"]))
}

/// Builds `package` as `name`, unless that is newer than all of its `sources`.
fn build(name: &str, package: &str, sources: &[&str]) -> PathBuf {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/immudb");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target/tmp");
    let dir = target.join(format!("immudb-{VERSION}"));
    fs::create_dir_all(&dir).unwrap();
    let lock = File::create(dir.join("lock")).unwrap();
    lock.lock().unwrap();

    let program = dir.join(name);
    let built = modified(&program);
    if built.is_some() && sources.iter().all(|source| modified(&module.join(source)) <= built) {
        return program;
    }
    // Under another name first: a build that is cut off leaves nothing that looks whole.
    let unfinished = dir.join(format!("{name}.unfinished"));
    let output = Command::new("go")
        .current_dir(&module)
        .args(["build", "-buildvcs=false", "-o"])
        .arg(&unfinished)
        .arg(package)
        .output()
        .unwrap_or_else(|error| {
            panic!(
                "these tests need ImmuDB {VERSION}: put `immudb` into the PATH and Go beside it for \
                 the reader, or only Go 1.25 or newer, which builds both (go: {error})"
            )
        });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "go build {package} in {}:\n{errors}", module.display());
    fs::rename(&unfinished, &program).unwrap();
    program
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// The first line is `immudb 1.11.1`.
fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next()?.split_whitespace().last().map(str::to_owned)
}
