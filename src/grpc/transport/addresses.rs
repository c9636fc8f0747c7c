//! Counts the connections of each peer address, and its calls that need no credentials. An address
//! that has many, from callers that nobody knows, must not take the places of all others.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The connections or calls by address. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct AddressLimit {
    max: usize,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A connection or call of an address, which counts until it is dropped.
#[derive(Debug)]
pub(super) struct AddressPlace {
    limit: AddressLimit,
    address: IpAddr,
}

impl AddressLimit {
    pub(super) fn new(max: usize) -> Self {
        Self { max, open: Arc::default() }
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// Counts an address that is not a loopback address. Returns no place for the others.
    ///
    /// # Errors
    /// Returns an error if the address has its maximum.
    pub(super) fn acquire(&self, address: IpAddr) -> Result<Option<AddressPlace>, TooMany> {
        if address.to_canonical().is_loopback() {
            return Ok(None);
        }
        self.acquire_any(Some(address)).map(Some)
    }

    /// Counts an address. A unix socket has none, and counts as loopback does.
    ///
    /// # Errors
    /// Returns an error if the address has its maximum.
    pub(super) fn acquire_any(&self, address: Option<IpAddr>) -> Result<AddressPlace, TooMany> {
        let address = counted(address.unwrap_or(Ipv4Addr::LOCALHOST.into()));
        let mut open = self.open();
        let count = open.entry(address).or_default();
        if *count >= self.max {
            return Err(TooMany);
        }
        *count = count.saturating_add(1);
        drop(open);
        Ok(AddressPlace { limit: self.clone(), address })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of an address that has its maximum.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooMany;

/// Returns the address that a peer counts as. One host usually has a whole /64 of IPv6.
fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        address => address,
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut open = self.limit.open();
        let left = open.get_mut(&self.address).map_or(0, |count| {
            *count = count.saturating_sub(1);
            *count
        });
        if left == 0 {
            open.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_maximum_of_connections_and_others_have_theirs() {
        let limit = AddressLimit::new(2);
        let held =
            [limit.acquire(address("192.0.2.1")).unwrap(), limit.acquire(address("192.0.2.1")).unwrap()];
        assert_eq!(limit.acquire(address("::ffff:192.0.2.1")).unwrap_err(), TooMany);
        let other = limit.acquire(address("192.0.2.2")).unwrap();
        assert!(other.is_some());
        drop(held);
        assert_eq!(limit.open().len(), 1);
        limit.acquire(address("192.0.2.1")).unwrap();
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address_and_loopback_does_not_count() {
        let limit = AddressLimit::new(1);
        let _held = limit.acquire(address("2001:db8::1")).unwrap();
        assert!(limit.acquire(address("2001:db8::2")).is_err());
        let _other = limit.acquire(address("2001:db8:0:1::1")).unwrap().unwrap();
        for loopback in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            for _ in 0..5 {
                assert!(limit.acquire(address(loopback)).unwrap().is_none(), "{loopback}");
            }
        }
        let held = limit.acquire_any(Some(address("127.0.0.1"))).unwrap();
        assert_eq!(limit.acquire_any(None).unwrap_err(), TooMany);
        drop(held);
        limit.acquire_any(None).unwrap();
    }
}
