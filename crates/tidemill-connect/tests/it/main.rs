//! Partitions of real clients: Kafka against the client library's own mock of a cluster, NATS against a real server.

mod kafka;
mod nats;
mod sinks;
mod speed;
mod support;
