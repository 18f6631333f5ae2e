//! Limits of a pod, from their wire form.

use weir_api::v1;
use weir_tables::{Bandwidth, Rate};

use super::{Result, unsupported};

/// Below, a packet would wait for seconds: the CNI plugin `bandwidth` draws the same line
/// (`plugins/meta/bandwidth`).
const BITS_PER_S_MIN: u64 = 1000;
/// More is no limit of anything, and sums stay far from overflow.
const BITS_PER_S_MAX: u64 = 1 << 50;
/// The default burst: this long at the rate,
const BURST_DEFAULT_MS: u64 = 20;
/// but at least a super-packet, which comes in one piece and would never pass.
const BURST_DEFAULT_MIN: u64 = 64 * 1024;
/// The least burst: one packet of the largest size that a trunk carries.
const BURST_MIN: u64 = 2048;

/// The limits; none where there are none.
pub(super) fn bandwidth(wire: Option<&v1::Bandwidth>) -> Result<Bandwidth> {
    let Some(wire) = wire else { return Ok(Bandwidth::default()) };
    Ok(Bandwidth {
        ingress: rate(
            ["bandwidth.ingress_bits_per_s", "bandwidth.ingress_burst_bits"],
            wire.ingress_bits_per_s,
            wire.ingress_burst_bits,
        )?,
        egress: rate(
            ["bandwidth.egress_bits_per_s", "bandwidth.egress_burst_bits"],
            wire.egress_bits_per_s,
            wire.egress_burst_bits,
        )?,
    })
}

fn rate(fields: [&'static str; 2], bits_per_s: u64, burst_bits: u64) -> Result<Option<Rate>> {
    if bits_per_s == 0 {
        return match burst_bits {
            0 => Ok(None),
            _ => Err(unsupported(fields[1], format_args!("{burst_bits} without a rate"))),
        };
    }
    if !(BITS_PER_S_MIN..=BITS_PER_S_MAX).contains(&bits_per_s) {
        return Err(unsupported(fields[0], bits_per_s));
    }
    let bytes_per_s = bits_per_s / 8;
    let burst_bytes = match burst_bits {
        0 => (bytes_per_s * BURST_DEFAULT_MS / 1000).max(BURST_DEFAULT_MIN),
        bits if bits > BITS_PER_S_MAX => return Err(unsupported(fields[1], bits)),
        bits => (bits / 8).max(BURST_MIN),
    };
    Ok(Some(Rate { bytes_per_s, burst_bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress(bits_per_s: u64, burst_bits: u64) -> std::result::Result<Option<Rate>, String> {
        let wire = v1::Bandwidth {
            egress_bits_per_s: bits_per_s,
            egress_burst_bits: burst_bits,
            ..v1::Bandwidth::default()
        };
        let limits = bandwidth(Some(&wire)).map_err(|error| error.to_string())?;
        assert_eq!(limits.ingress, None);
        Ok(limits.egress)
    }

    #[test]
    fn rates_have_a_default_burst_and_a_floor() {
        assert_eq!(bandwidth(None).unwrap(), Bandwidth::default());
        assert_eq!(egress(0, 0), Ok(None));
        let rate = |bytes_per_s, burst_bytes| Ok(Some(Rate { bytes_per_s, burst_bytes }));
        assert_eq!(egress(8_000_000, 0), rate(1_000_000, 64 * 1024));
        assert_eq!(egress(8_000_000_000, 0), rate(1_000_000_000, 20_000_000));
        assert_eq!(egress(1000, 8), rate(125, 2048));
        assert_eq!(egress(1000, 80_000), rate(125, 10_000));
        for (bits_per_s, burst_bits, field) in [
            (999, 0, "bandwidth.egress_bits_per_s: 999"),
            (u64::MAX, 0, "bandwidth.egress_bits_per_s"),
            (0, 8000, "bandwidth.egress_burst_bits: 8000 without a rate"),
            (1000, u64::MAX, "bandwidth.egress_burst_bits"),
        ] {
            let error = egress(bits_per_s, burst_bits).unwrap_err();
            assert!(error.starts_with(field), "{error}");
        }
    }
}
