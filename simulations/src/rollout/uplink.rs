//! The seed's uplink: what each site has of it, max-min fair among those that still fetch, as the seed's turns of sites come to.
//!
//! Sites are played one by one, so the shares are set beforehand, as if every site used its own to the full until it had what
//! it needs. A site that takes longer has its last share until its end.

use super::lan::on_link;
use super::plan::Plan;
use super::queue::{Nanos, Rates, SECOND, bytes_per_second};
use super::site::Site;

/// What a site needs of its link for the patch: headers, messages and connections included.
const NEED: f64 = 1.06;

/// The rates of every site's link when the patch is approved to all of them at once, in the order of the sites.
pub fn shares(plan: &Plan) -> Vec<Rates> {
    let downs: Vec<f64> = (0..plan.sites).map(|number| Site::draw_rate(plan, number)).collect();
    let approved = (plan.approved_hour * 3_600.0 * SECOND as f64) as Nanos;
    let need = on_link(plan.patch_bytes) as f64 * NEED;
    divide(&downs, bytes_per_second(plan.seed_megabits_per_second), need, approved)
}

/// Divides `uplink` among links of these rates, each of which needs `need` bytes from `begin` on.
fn divide(downs: &[f64], uplink: f64, need: f64, begin: Nanos) -> Vec<Rates> {
    let mut rates: Vec<Rates> = downs.iter().map(|down| Rates::new(*down)).collect();
    let mut left: Vec<f64> = vec![need; downs.len()];
    let mut now = begin;
    loop {
        let fetching: Vec<usize> = (0..downs.len()).filter(|site| left[*site] > 0.0).collect();
        let level = level(fetching.iter().map(|site| downs[*site]).collect(), uplink);
        let shares: Vec<f64> = downs.iter().map(|down| down.min(level)).collect();
        for site in &fetching {
            rates[*site].change(now, shares[*site]);
        }
        let next = fetching.iter().map(|site| left[*site] / shares[*site]).min_by(f64::total_cmp);
        let Some(seconds) = next else { return rates };
        for site in fetching {
            left[site] -= shares[site] * seconds;
            // What is left after rounding is less than a byte of a packet.
            left[site] = if left[site] < 1.0 { 0.0 } else { left[site] };
        }
        now += (seconds * SECOND as f64) as Nanos;
    }
}

/// The rate that nobody exceeds where links of these rates share `uplink` max-min fairly.
fn level(mut downs: Vec<f64>, uplink: f64) -> f64 {
    downs.sort_by(f64::total_cmp);
    let (mut left, mut count) = (uplink, downs.len() as f64);
    for down in downs {
        if down * count >= left {
            return left / count;
        }
        (left, count) = (left - down, count - 1.0);
    }
    f64::INFINITY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_site_cannot_use_the_others_have() {
        assert!((level(vec![1.0, 4.0, 9.0], 9.0) - 4.0).abs() < 1e-9);
        assert!(level(vec![1.0, 4.0, 9.0], 14.5).is_infinite());
        let rates = divide(&[1.0, 4.0, 9.0], 9.0, 40.0, 0);
        // Two at 4 until both are done after ten seconds; nobody is slowed down afterwards.
        let at = |site: usize, second: u64| rates[site].at(second * SECOND).0;
        assert!(
            (at(2, 1) - 4.0).abs() < 1e-9 && (at(1, 1) - 4.0).abs() < 1e-9 && (at(0, 11) - 1.0).abs() < 1e-9
        );
    }
}
