//! What is measured beside reads, in every tier: resident pages, the store's disks, and the round trips of requests.

use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Map, MapData, PerCpuArray};
use ebpf_common::{InFlight, LATENCY_BUCKETS, Latencies, Residents, Series, TRIPS, Trip};

use super::PAGE_BYTES;
use super::attach::{Shared, chain};
use super::mapped::Mapped;
use crate::stats::LatencySummary;
use crate::stats::probe::ProbeFigures;

// SAFETY: `repr(C)`, integers only, no implicit padding.
unsafe impl aya::Pod for Shared<Residents> {}
// SAFETY: as above.
unsafe impl aya::Pod for Shared<Latencies> {}

/// The maps of these programs.
pub(super) struct Gauges {
    residents: PerCpuArray<MapData, Shared<Residents>>,
    latencies: PerCpuArray<MapData, Shared<Latencies>>,
    in_flight: Mapped<InFlight>,
}

impl Gauges {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, String> {
        let mut take =
            |name: &str| ebpf.take_map(name).ok_or_else(|| format!("the object has no map {name}"));
        let residents = take("RESIDENTS")?.try_into().map_err(|error| chain(&error))?;
        let latencies = take("LATENCIES")?.try_into().map_err(|error| chain(&error))?;
        let Map::Array(in_flight) = take("IN_FLIGHT")? else {
            return Err("a map of the object is of another kind".to_owned());
        };
        let in_flight = Mapped::new(in_flight.fd(), 1).map_err(|error| chain(&error))?;
        Ok(Self { residents, latencies, in_flight })
    }

    /// Their memory in the kernel.
    pub(super) fn map_bytes(&self) -> u64 {
        let cpus = aya::util::nr_cpus().unwrap_or(1) as u64;
        let of_cpu = size_of::<Residents>() + Series::COUNT as usize * size_of::<Latencies>();
        cpus * of_cpu as u64 + 2 * u64::from(TRIPS) * size_of::<Trip>() as u64
    }

    pub(super) fn observe(&self, figures: &ProbeFigures) {
        figures.resident_bytes.set(self.resident_pages() * PAGE_BYTES);
        let in_flight = self.in_flight.read(0).unwrap_or_default();
        // A request that ended before the daemon looked is taken off by another CPU: never below 0 for long.
        figures.disk_in_flight.set(if in_flight.now > u64::from(u32::MAX) { 0 } else { in_flight.now });
        figures.disk_in_flight_max.set(in_flight.max);
        for (series, figure) in [
            (Series::DISK_READ, &figures.disk_read_latency),
            (Series::DISK_WRITE, &figures.disk_write_latency),
            (Series::FUSE_READ, &figures.fuse_read_latency),
            (Series::FUSE_OTHER, &figures.fuse_other_latency),
        ] {
            figure.set(self.latency(series));
        }
    }

    fn resident_pages(&self) -> u64 {
        let Ok(of_cpus) = self.residents.get(&0, 0) else { return 0 };
        let sum = |of: fn(&Residents) -> u64| of_cpus.iter().map(|of_cpu| of(&of_cpu.0)).sum::<u64>();
        sum(|residents| residents.added).saturating_sub(sum(|residents| residents.removed))
    }

    fn latency(&self, series: u32) -> LatencySummary {
        let Ok(of_cpus) = self.latencies.get(&series, 0) else { return LatencySummary::default() };
        let mut buckets = vec![0; LATENCY_BUCKETS];
        for of_cpu in of_cpus.iter() {
            buckets.iter_mut().zip(&of_cpu.0.buckets).for_each(|(sum, count)| *sum += count);
        }
        let max_us = of_cpus.iter().map(|of_cpu| of_cpu.0.max_us).max().unwrap_or(0);
        LatencySummary::of_buckets(buckets, Duration::from_micros(max_us))
    }
}
