//! Medians and what surrounds them.

use std::time::Duration;

/// The samples of one command, in the order in which they were taken.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Adds one.
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// The middle one, in milliseconds.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The value below which a share of the samples lies, in milliseconds,
    /// interpolated between neighbours.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted: Vec<f64> = self.0.iter().map(|sample| milliseconds(*sample)).collect();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else {
            return f64::NAN;
        };
        let position = share * last as f64;
        let (below, above) = (position.floor() as usize, position.ceil() as usize);
        let weight = position - position.floor();
        sorted[below] * (1.0 - weight) + sorted[above] * weight
    }

    /// How far the medians of four consecutive parts of the run lie apart, as
    /// a share of the whole median. Single samples scatter in any case and are
    /// answered by the interleaving; a drift of the machine shows here.
    pub fn drift(&self) -> f64 {
        let part = self.0.len().div_ceil(4).max(1);
        let medians: Vec<f64> = self
            .0
            .chunks(part)
            .map(|chunk| Self(chunk.to_vec()).median())
            .collect();
        let lowest = medians.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = medians.iter().copied().fold(0.0, f64::max);
        (highest - lowest) / self.median()
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(milliseconds: &[u64]) -> Samples {
        Samples(
            milliseconds
                .iter()
                .map(|value| Duration::from_millis(*value))
                .collect(),
        )
    }

    #[test]
    fn quantiles_do_not_depend_on_the_order() {
        let taken = samples(&[5, 1, 4, 2, 3]);
        assert_eq!(taken.median(), 3.0);
        assert_eq!(taken.quantile(0.25), 2.0);
        assert_eq!(taken.quantile(0.75), 4.0);
        assert_eq!(samples(&[1, 2]).median(), 1.5);
        assert!(samples(&[]).median().is_nan());
    }

    #[test]
    fn drift_is_seen_and_scatter_is_not() {
        assert!(samples(&[10, 12].repeat(20)).drift() < 0.15);
        assert!(samples(&[10, 10, 10, 10, 10, 10, 14, 14, 14]).drift() > 0.15);
    }
}
