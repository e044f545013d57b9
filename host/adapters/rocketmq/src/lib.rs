//! RocketMQ behind the doors of the bus, by its gRPC v2 protocol.
