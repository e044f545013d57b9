//! RocketMQ behind the doors of the bus.

mod books;
mod bus;
mod cluster;
mod config;
mod frame;
mod gate;
mod layout;
mod ledger;
mod lines;
mod marks;
mod member;
mod parcel;
mod proto;
mod proxy;
mod reader;
mod sign;
mod sink;
mod source;
mod spread;
mod stamp;
mod text;

pub use bus::RocketMqBus;
pub use config::{Credentials, PARCEL_BYTES_MAX, RocketMqConfig, SendBy};
