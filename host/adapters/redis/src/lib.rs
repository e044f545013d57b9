//! Redis behind the door of leases.
