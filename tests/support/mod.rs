//! Helpers shared by the test programs and benchmarks: the service and ImmuDB as real processes, a
//! proxy between them, load, and checks of the stored events.

pub mod events;
pub mod go;
pub mod h2;
pub mod immudb;
pub mod load;
pub mod port;
pub mod preloaded;
pub mod proxy;
pub mod service;
pub mod stored;
