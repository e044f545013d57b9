//! Both sides over a bus in memory, on a clock that tests set forward: what the ferry promises, and ten thousand fates.

mod bus;
mod promises;
mod simulation;
mod world;
