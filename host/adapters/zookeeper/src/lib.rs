//! ZooKeeper behind the door of leases.
