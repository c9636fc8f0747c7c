//! What the stories share.

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
