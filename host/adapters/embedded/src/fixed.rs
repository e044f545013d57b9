//! Endpoints that the configuration names by address. The source is the file, so an empty list is meant: it is not kept
//! back like a name server's.

use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::watch;
use wharf_core::BoxFuture;
use wharf_core::directory::{Directory, Listed, Listing};

/// See the head of the file.
#[derive(Debug)]
pub struct FixedDirectory {
    listing: watch::Sender<Arc<Listing>>,
}

impl FixedDirectory {
    /// A directory of these.
    pub fn new(endpoints: Vec<Listed>) -> Arc<FixedDirectory> {
        let listing = Listing { version: 1, endpoints, confirmed: SystemTime::now(), trouble: None };
        Arc::new(FixedDirectory { listing: watch::Sender::new(Arc::new(listing)) })
    }

    /// The configuration was read again, and says this now.
    pub fn set(&self, endpoints: Vec<Listed>) {
        self.listing.send_modify(|listing| {
            let version = listing.version + u64::from(listing.endpoints != endpoints);
            *listing = Arc::new(Listing { version, endpoints, confirmed: SystemTime::now(), trouble: None });
        });
    }
}

impl Directory for FixedDirectory {
    /// Always confirmed just now: what the active configuration says does not grow old.
    fn listing(&self) -> Arc<Listing> {
        let listing = self.listing.borrow().clone();
        Arc::new(Listing { confirmed: SystemTime::now(), ..(*listing).clone() })
    }

    fn changed(&self, seen: u64) -> BoxFuture<'_, Arc<Listing>> {
        Box::pin(changed(self.listing.subscribe(), seen))
    }
}

/// Waits for another version. The subscription starts before the first look, so nothing is missed.
pub(crate) async fn changed(mut listing: watch::Receiver<Arc<Listing>>, seen: u64) -> Arc<Listing> {
    let told = listing.wait_for(|listing| listing.version != seen).await.ok().map(|listing| listing.clone());
    match told {
        Some(listing) => listing,
        // The sender lives in the directory that is being borrowed.
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(port: u16, weight: u32) -> Listed {
        Listed { address: ([127, 0, 0, 1], port).into(), weight, zone: None, tags: [].into() }
    }

    #[tokio::test]
    async fn a_change_is_told_and_the_same_again_is_not() {
        let directory = FixedDirectory::new(vec![listed(1, 1)]);
        assert_eq!(directory.listing().version, 1);
        directory.set(vec![listed(1, 1)]);
        assert_eq!(directory.listing().version, 1);
        let waits = tokio::spawn({
            let directory = directory.clone();
            async move { directory.changed(1).await }
        });
        directory.set(vec![listed(1, 2), listed(2, 1)]);
        let told = waits.await.unwrap();
        assert_eq!((told.version, told.endpoints.len()), (2, 2));
        // Whoever is late hears of it at once.
        assert_eq!(directory.changed(1).await.version, 2);
        directory.set(vec![]);
        assert!(directory.changed(2).await.endpoints.is_empty(), "an empty list in the file is meant");
    }
}
