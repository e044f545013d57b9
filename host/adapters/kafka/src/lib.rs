//! Kafka behind the doors of the bus.
