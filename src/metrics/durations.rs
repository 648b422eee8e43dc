//! A histogram of durations that nothing waits for: each observation is three atomic additions.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric},
};

/// Upper bounds of the buckets, in microseconds: from a tenth of a millisecond to the deadline of a call.
const BOUNDS_US: [u64; 17] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000,
];
const MICROS_PER_SECOND: f64 = 1e6;
const NANOS_PER_SECOND: f64 = 1e9;

#[derive(Default)]
struct Counts {
    /// Per bucket, the last for what is longer than all bounds.
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_ns: AtomicU64,
}

/// How long something took, each time. A clone counts into the same.
#[derive(Clone, Default)]
pub struct Durations(Arc<Counts>);

impl Durations {
    /// It took `elapsed`.
    pub fn observe(&self, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        // A bound belongs to its own bucket, as Prometheus' `le` has it; what is above it by nanoseconds does not.
        let exact = elapsed.subsec_nanos().is_multiple_of(1_000);
        let bucket =
            BOUNDS_US.partition_point(|bound| if exact { *bound < micros } else { *bound <= micros });
        self.0.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.0.sum_ns.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl fmt::Debug for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Durations")
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        let bounds =
            BOUNDS_US.into_iter().map(|bound| bound as f64 / MICROS_PER_SECOND).chain([f64::INFINITY]);
        let counts = self.0.buckets.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        // The count is that of the buckets just read, so that the two never disagree.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.0.sum_ns.load(Ordering::Relaxed) as f64 / NANOS_PER_SECOND;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_falls_into_the_first_bucket_that_holds_it() {
        let cases = [
            (Duration::ZERO, 0),
            (Duration::from_micros(100), 0),
            (Duration::from_nanos(100_001), 1),
            (Duration::from_micros(101), 1),
            (Duration::from_millis(1), 3),
            (Duration::from_secs(30), 16),
            (Duration::from_secs(31), 17),
            (Duration::MAX, 17),
        ];
        for (elapsed, bucket) in cases {
            let durations = Durations::default();
            durations.observe(elapsed);
            assert_eq!(durations.0.buckets[bucket].load(Ordering::Relaxed), 1, "{elapsed:?}");
        }
    }
}
