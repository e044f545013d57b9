//! Who may still come in: places that are counted over all cores, and given back when their holder is dropped.
//!
//! A proxied connection takes two files, and who has run out of files cannot even say so: places are counted, so that there
//! is always a file left for an operator. Refusing is done by whoever asks; here nothing waits.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places for the files of connections, clients' and upstreams' together.
#[derive(Debug)]
pub struct Files {
    used: AtomicU32,
    max: u32,
}

/// One place.
#[derive(Debug)]
pub struct File(Arc<Files>);

impl Files {
    /// `max` places.
    pub fn new(max: u32) -> Arc<Files> {
        Arc::new(Files { used: AtomicU32::new(0), max })
    }

    /// A place, if there is one.
    pub fn take(self: &Arc<Self>) -> Option<File> {
        // Counted first: several may ask at once.
        let file = File(self.clone());
        (self.used.fetch_add(1, Ordering::Relaxed) < self.max).then_some(file)
    }

    /// How many are taken.
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// How many there are.
    pub fn max(&self) -> u32 {
        self.max
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How short memory is, for all cores to see.
#[derive(Debug, Default)]
pub struct Pressure(AtomicU8);

/// How short memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Shortage {
    /// There is enough.
    #[default]
    None,
    /// No more connections; those that are there are told to go with their next answer.
    High,
    /// No more requests either: each is answered with 503.
    Full,
}

/// Of the memory that may be used, percent: from here on it is [`Shortage::High`].
const HIGH: u64 = 90;
/// And from here on [`Shortage::Full`].
const FULL: u64 = 95;
/// It is over when this much less is used, so that it does not come and go with every request.
const BACK: u64 = 5;

impl Shortage {
    /// What follows from so much memory in use out of so much.
    #[must_use]
    pub fn next(self, used: u64, max: u64) -> Shortage {
        let percent = u128::from(used) * 100 / u128::from(max.max(1));
        let reached = |bound: u64, shortage: Shortage| {
            // Where we are already it takes less to stay.
            let bound = if self >= shortage { bound - BACK } else { bound };
            percent >= u128::from(bound)
        };
        match () {
            () if reached(FULL, Shortage::Full) => Shortage::Full,
            () if reached(HIGH, Shortage::High) => Shortage::High,
            () => Shortage::None,
        }
    }
}

impl Pressure {
    /// Says how it is from now on.
    pub fn set(&self, shortage: Shortage) {
        self.0.store(shortage as u8, Ordering::Relaxed);
    }

    /// Are connections refused and sent away?
    #[inline]
    pub fn is_high(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= Shortage::High as u8
    }

    /// Are requests refused?
    #[inline]
    pub fn is_full(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= Shortage::Full as u8
    }
}

/// Connections by where they come from: an IPv4 address, or a /64 of IPv6, which is what one customer has.
#[derive(Debug)]
pub struct Sources {
    max: AtomicU32,
    /// No larger than there are connections: who has none is not in it.
    open: Mutex<HashMap<IpAddr, u32>>,
}

/// One connection of a source.
#[derive(Debug)]
pub struct OfSource {
    of: Arc<Sources>,
    source: IpAddr,
}

impl Sources {
    /// At most `max` from each; 0: any number, and nothing is counted.
    pub fn new(max: u32) -> Arc<Sources> {
        Arc::new(Sources { max: AtomicU32::new(max), open: Mutex::default() })
    }

    /// Another number for those that come from now on.
    pub fn set_max(&self, max: u32) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Is anything counted?
    pub fn counts(&self) -> bool {
        self.max.load(Ordering::Relaxed) > 0
    }

    /// A connection from this address; `None`: it has too many.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<OfSource> {
        let source = source_of(address);
        let mut open = self.lock();
        let count = open.entry(source).or_default();
        if *count >= self.max.load(Ordering::Relaxed).max(1) {
            return None;
        }
        *count += 1;
        drop(open);
        Some(OfSource { of: self.clone(), source })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OfSource {
    fn drop(&mut self) {
        let mut open = self.of.lock();
        if let Some(count) = open.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.source);
            }
        }
    }
}

fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back() {
        let files = Files::new(2);
        let (one, two) = (files.take(), files.take());
        assert!(one.is_some() && two.is_some() && files.take().is_none());
        drop(one);
        assert!(files.take().is_some());
        drop(two);
        assert_eq!(files.used(), 0);
    }

    #[test]
    fn a_shortage_begins_in_time_and_ends_with_some_room() {
        let after = |used: &[u64]| used.iter().fold(Shortage::None, |shortage, &used| shortage.next(used, 1000));
        assert_eq!(after(&[899]), Shortage::None);
        assert_eq!(after(&[900]), Shortage::High);
        assert_eq!(after(&[950]), Shortage::Full);
        assert_eq!(after(&[950, 900]), Shortage::Full);
        assert_eq!(after(&[950, 899]), Shortage::High);
        assert_eq!(after(&[950, 850]), Shortage::High);
        assert_eq!(after(&[950, 849]), Shortage::None);
        assert_eq!(after(&[u64::MAX]), Shortage::Full);
        assert_eq!(Shortage::None.next(0, 0), Shortage::None);
    }

    #[test]
    fn a_source_has_its_own_places_and_a_subnet_of_ipv6_is_one_source() {
        let sources = Sources::new(2);
        let enter = |address: &str| sources.enter(address.parse().unwrap());
        let held = (enter("192.0.2.1"), enter("::ffff:192.0.2.1"));
        assert!(held.0.is_some() && held.1.is_some());
        assert!(enter("192.0.2.1").is_none());
        let others = (enter("192.0.2.2"), enter("2001:db8::1"), enter("2001:db8::2"));
        assert!(others.0.is_some() && others.1.is_some() && others.2.is_some());
        assert!(enter("2001:db8::3").is_none() && enter("2001:db8:0:1::3").is_some());
        drop((held, others));
        assert!(sources.lock().is_empty(), "who has gone is forgotten");
    }
}
