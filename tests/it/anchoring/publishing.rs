//! Each checkpoint gets to each anchor, and none of them can do harm.

use std::{fs, path::Path, process::Command};

use aethyr_event_store::grpc::wire::{GetCheckpointRequest, StatsResponse};
use tempfile::tempdir;

use super::{assert_continues_anchor, file_anchor, notes, sizes, wait_for_size, with_anchors};
use crate::{
    proving::with_checkpoints,
    support::{
        events::{append, event, whole_order},
        service::{Service, Setup},
    },
};

/// The sizes of the checkpoints: one after each append.
const SIZES: [u64; 3] = [5, 10, 15];
/// An environment variable of the service, and its value.
const SECRET: (&str, &str) = ("SECRET_OF_A_TEST", "4f2a6bd1");

/// A command that runs a script of a shell, in the flow style of YAML.
fn command_anchor(script: &str) -> String {
    format!("{{command: [sh, -c, \"{script}\"]}}")
}

/// Holds a lock while it hangs, and reports another one that runs at the same time.
fn hanging_command(folder: &Path) -> String {
    let folder = folder.display();
    command_anchor(&format!(
        "exec 9>{folder}/lock; flock -n 9 || echo another >{folder}/twice; echo >>{folder}/runs; exec sleep \
         100000"
    ))
}

/// Returns whether nobody holds the lock.
fn is_free(lock: &Path) -> bool {
    Command::new("flock").arg("-n").arg(lock).arg("true").status().unwrap().success()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_checkpoint_gets_to_each_anchor() {
    let dir = tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (file, posted, environment) = (path("file"), path("posted"), path("environment"));
    fs::write(path("no-folder"), "").unwrap();
    let post = format!(
        "env >>{0}; cat >{1}.new; echo >>{1}.new; cat {1}.new >>{1}",
        environment.display(),
        posted.display()
    );
    let anchors = [
        hanging_command(dir.path()),
        file_anchor(&path("no-folder/file")),
        command_anchor("cat >/dev/null; exit 3"),
        file_anchor(&file),
        command_anchor(&post),
    ];
    let setup = with_anchors(with_checkpoints(Setup::local()), &anchors);
    let mut service = Service::start(setup.environment(SECRET.0, SECRET.1)).await;
    for size in SIZES {
        append(&mut service.client(), (0..5).map(|_| event("room-1")).collect()).await;
        wait_for_size(&service, &file, size).await;
        wait_for_size(&service, &posted, size).await;
    }
    assert_eq!(sizes(&file), SIZES);
    assert_eq!(notes(&file), notes(&posted));
    for (size, note) in SIZES.into_iter().zip(notes(&file)) {
        let kept = service.client().get_checkpoint(GetCheckpointRequest { size }).await.unwrap();
        assert_eq!(kept.into_inner().checkpoint.as_bytes(), note.to_bytes());
    }
    let order = whole_order(&mut service.client()).await;
    assert_continues_anchor(&service, &file, &order).await;

    let environment = fs::read_to_string(environment).unwrap();
    assert!(environment.contains("PATH=") && !environment.contains(SECRET.1), "{environment}");
    service.wait_until("the command that hangs was started", async || path("runs").exists()).await;
    assert!(!path("twice").exists(), "it ran twice at once");
    let expected =
        [("command", false), ("file", false), ("command", false), ("file", true), ("command", true)];
    let is_reached = |stats: &StatsResponse| {
        stats.anchors.iter().map(|anchor| (&*anchor.kind, anchor.size == SIZES[2])).eq(expected)
    };
    service.wait_for("the sizes of the anchors", is_reached).await;

    // Neither the service nor the command that hangs outlives the stop.
    assert!(service.stop().success());
    service.wait_until("the command that hangs has ended", async || is_free(&path("lock"))).await;
}
