//! The second layer: Redis, alone, behind Sentinel, or a cluster.

mod url;

pub use url::RedisUrl;
