//! Latencies in constant memory.

use std::time::Duration;

/// Buckets for each power of two: what is read back is wrong by less than 1/64.
const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// A histogram of durations, from a microsecond to hours.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

impl Latencies {
    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bucket = bucket(micros);
        if bucket >= self.buckets.len() {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.count += 1;
        self.max = self.max.max(micros);
    }

    pub fn merge(&mut self, other: &Self) {
        if other.buckets.len() > self.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (ours, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *ours += theirs;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// The latency that a part of them (`0.0..=1.0`) did not exceed; zero when there are none.
    pub fn quantile(&self, part: f64) -> Duration {
        let rank = (self.count as f64 * part).ceil().max(1.0) as u64;
        let mut below = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            below += count;
            if below >= rank {
                return Duration::from_micros(upper_bound(bucket as u64).min(self.max));
            }
        }
        Duration::ZERO
    }

    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max)
    }
}

/// The first `STEPS` buckets are a microsecond wide; then each power of two has `STEPS` of them.
fn bucket(micros: u64) -> usize {
    if micros < STEPS {
        return micros as usize;
    }
    let power = micros.ilog2() - STEP_BITS;
    (u64::from(power) * STEPS + (micros >> power)) as usize
}

/// The largest value of a bucket.
fn upper_bound(bucket: u64) -> u64 {
    if bucket < STEPS {
        return bucket;
    }
    let power = bucket / STEPS - 1;
    ((bucket % STEPS + STEPS + 1) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_dense_and_narrow() {
        for value in (0..5000).chain([1 << 20, (1 << 20) + 1, 3_600_000_000]) {
            let bound = upper_bound(bucket(value) as u64);
            assert!(value <= bound && bound - value <= value / STEPS, "{value} in a bucket up to {bound}");
            assert_eq!(bucket(bound), bucket(value));
            assert_eq!(bucket(bound + 1), bucket(value) + 1);
        }
    }

    #[test]
    fn quantiles() {
        let mut all = Latencies::default();
        assert_eq!(all.quantile(0.5), Duration::ZERO);
        let mut odd = Latencies::default();
        for micros in 1..=1000 {
            let one = if micros % 2 == 0 { &mut all } else { &mut odd };
            one.record(Duration::from_micros(micros));
        }
        all.merge(&odd);
        for (part, micros) in [(0.5, 500), (0.9, 900), (0.99, 990), (1.0, 1000)] {
            let found = all.quantile(part).as_micros();
            assert!(found >= micros && found <= micros + micros / 64, "{part}: {found}");
        }
        assert_eq!(all.max(), Duration::from_millis(1));
    }
}
