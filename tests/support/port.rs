//! A port for a server that is told which: free now, and nobody else's until the value goes, also while the server
//! is down.

use std::{
    env,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    process,
    sync::atomic::{AtomicU16, Ordering},
};

/// Below the range from which the kernel takes the ports of outgoing connections: there a client that keeps
/// knocking while its server is down may end up connected to itself.
const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// Reserved among all test programs of this machine.
pub struct Port {
    number: u16,
    /// Locked for as long as it is open.
    _reserved: File,
}

impl Port {
    pub fn free() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let folder = env::temp_dir().join("aethyr-event-store-test-ports");
        fs::create_dir_all(&folder).unwrap();
        let start = (process::id().wrapping_mul(97) % u32::from(COUNT)) as u16;
        for _ in 0..COUNT {
            let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
            let number = FIRST + offset;
            let reserved = File::create(folder.join(number.to_string())).unwrap();
            let is_ours = reserved.try_lock().is_ok();
            if is_ours && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Self { number, _reserved: reserved };
            }
        }
        panic!("no free port");
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}
