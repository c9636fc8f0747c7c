//! Faults of ImmuDB, and what an operator does about them.

use super::Series;
use crate::{support::immudb::ImmuDb, world::PASSWORD};

impl Series<'_> {
    pub(super) async fn immudb(&mut self) {
        while self.pause(300, 3000).await {
            let from = self.world.now();
            let mut immudb = self.world.immudb.lock().await;
            if immudb.has_ended() {
                self.repair(&mut immudb).await;
            }
            match self.random.u8(..10) {
                0..4 => {
                    immudb.kill();
                    self.count("ImmuDB killed");
                    self.for_a_while(0, 1500).await;
                    self.restart(&mut immudb).await;
                }
                4 | 5 => {
                    immudb.pause();
                    self.count("ImmuDB stopped for a while");
                    self.for_a_while(100, 3000).await;
                    immudb.resume();
                }
                6 => {
                    if let Some(disk) = immudb.disk() {
                        self.count("ImmuDB's disk full");
                        disk.fill();
                        self.for_a_while(100, 3000).await;
                        disk.free();
                    }
                    // An operator who makes room restarts ImmuDB, and may have to kill it for that.
                    immudb.kill();
                    self.restart(&mut immudb).await;
                }
                7 => {
                    self.count("ImmuDB's password changed and back");
                    immudb.change_password("Plugh-2-xyzzy");
                    // Without the restart, its sessions continue.
                    if self.random.bool() {
                        self.restart(&mut immudb).await;
                    }
                    self.for_a_while(100, 2000).await;
                    immudb.change_password(PASSWORD);
                }
                _ => {
                    immudb.stop().await;
                    self.count("ImmuDB restarted, sessions gone");
                    self.restart(&mut immudb).await;
                }
            }
            drop(immudb);
            self.faults.immudb_gone.push((from, self.world.now()));
        }
    }

    async fn restart(&mut self, immudb: &mut ImmuDb) {
        if !immudb.try_restart().await {
            self.repair(immudb).await;
        }
    }

    /// Does what the documentation tells an operator to do.
    async fn repair(&mut self, immudb: &mut ImmuDb) {
        self.count("ImmuDB's index rebuilt");
        immudb.restart_without_indexes().await;
    }
}
