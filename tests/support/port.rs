//! Ports for servers that must be told their port.
//!
//! A port is free when it is handed out, and stays reserved until the value is dropped, even while
//! the server is down.

use std::{
    env,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    process,
    sync::atomic::{AtomicU16, Ordering},
};

/// Below the range from which the kernel assigns ports to outgoing connections. In that range, a
/// client that keeps retrying while its server is down may end up connected to itself.
const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// A port reserved among all test programs on this machine.
pub struct Port {
    number: u16,
    /// Holds the lock as long as it is open.
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
