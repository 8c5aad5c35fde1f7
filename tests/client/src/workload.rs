//! Which request comes next: mixed sizes and kinds over a small area, from a seed.
//! Not here: sending it (`driver`), what it may answer (`linearizability`).

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::history::Action;
use crate::stamp::BLOCK_BYTES;

/// How often which kind of request is drawn, as weights.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mix {
    /// READ.
    pub read: u32,
    /// WRITE.
    pub write: u32,
    /// WRITE_ZEROES.
    pub write_zeroes: u32,
    /// TRIM.
    pub trim: u32,
    /// FLUSH.
    pub flush: u32,
    /// CACHE.
    pub cache: u32,
    /// Of 100 changes, so many with FUA.
    pub fua_percent: u32,
}

impl Mix {
    /// Everything, mostly reads and writes.
    pub const ALL: Self =
        Self { read: 45, write: 42, write_zeroes: 5, trim: 4, flush: 2, cache: 2, fua_percent: 5 };
    /// Reads and writes only.
    pub const PLAIN: Self =
        Self { read: 50, write: 50, write_zeroes: 0, trim: 0, flush: 0, cache: 0, fua_percent: 0 };
}

/// Where and how large requests are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Area {
    /// First byte, a multiple of 512.
    pub offset: u64,
    /// Number of bytes, a multiple of 512.
    pub length: u64,
    /// Largest request in bytes, at least 512.
    pub request_bytes_max: u32,
}

impl Area {
    /// Numbers of its blocks.
    pub fn blocks(self) -> std::ops::Range<u64> {
        let unit = BLOCK_BYTES as u64;
        self.offset / unit..(self.offset + self.length) / unit
    }
}

/// A request to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Planned {
    /// What.
    pub action: Action,
    /// First byte; 0 for a FLUSH.
    pub offset: u64,
    /// Number of bytes; 0 for a FLUSH.
    pub length: u32,
    /// Durable before the reply.
    pub fua: bool,
    /// WRITE_ZEROES that keeps the space.
    pub no_hole: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Workload {
    random: ChaCha8Rng,
    mix: Mix,
    area: Area,
}

impl Workload {
    /// The sequence of `seed` and `stream`: connections of one run draw from streams of their own.
    pub fn new(seed: u64, stream: u64, mix: Mix, area: Area) -> Self {
        let unit = BLOCK_BYTES as u64;
        assert!(area.offset.is_multiple_of(unit) && area.length.is_multiple_of(unit));
        assert!(area.length >= unit && area.request_bytes_max as usize >= BLOCK_BYTES);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(stream);
        Self { random, mix, area }
    }

    /// The next request.
    pub fn plan(&mut self) -> Planned {
        let action = self.draw_action();
        if action == Action::Flush {
            return Planned { action, offset: 0, length: 0, fua: false, no_hole: false };
        }
        // Sizes spread evenly over their orders of magnitude.
        let unit = BLOCK_BYTES as u64;
        let blocks = self.area.length / unit;
        let most = (u64::from(self.area.request_bytes_max) / unit).min(blocks);
        let scale = self.random.random_range(0..=most.ilog2());
        let count = self.random.random_range(1..=(2u64 << scale).min(most));
        let first = self.random.random_range(0..=blocks - count);
        let changes = matches!(action, Action::Write | Action::WriteZeroes | Action::Trim);
        Planned {
            action,
            offset: self.area.offset + first * unit,
            length: u32::try_from(count * unit).expect("at most request_bytes_max"),
            fua: changes && self.random.random_range(0..100) < self.mix.fua_percent,
            no_hole: action == Action::WriteZeroes && self.random.random_bool(0.5),
        }
    }

    fn draw_action(&mut self) -> Action {
        let mix = self.mix;
        let weights = [
            (mix.read, Action::Read),
            (mix.write, Action::Write),
            (mix.write_zeroes, Action::WriteZeroes),
            (mix.trim, Action::Trim),
            (mix.flush, Action::Flush),
            (mix.cache, Action::Cache),
        ];
        let total: u32 = weights.iter().map(|(weight, _)| weight).sum();
        let mut drawn = self.random.random_range(0..total);
        for (weight, action) in weights {
            if drawn < weight {
                return action;
            }
            drawn -= weight;
        }
        unreachable!("the weights sum up to the total")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_stay_inside_their_area_and_every_kind_and_size_comes_up() {
        let area = Area { offset: 4096, length: 64 << 10, request_bytes_max: 16 << 10 };
        let mut workload = Workload::new(1, 0, Mix::ALL, area);
        let mut kinds = std::collections::BTreeSet::new();
        let mut sizes = std::collections::BTreeSet::new();
        for _ in 0..5000 {
            let planned = workload.plan();
            kinds.insert(planned.action);
            if planned.action == Action::Flush {
                continue;
            }
            sizes.insert(planned.length);
            assert!(planned.offset >= area.offset && planned.offset.is_multiple_of(512));
            assert!(planned.offset + u64::from(planned.length) <= area.offset + area.length);
        }
        assert_eq!(kinds.len(), 6);
        assert_eq!((sizes.first(), sizes.last()), (Some(&512), Some(&(16 << 10))));
        assert!(sizes.iter().all(|size| size % 512 == 0));
    }

    #[test]
    fn a_seed_and_a_stream_are_one_sequence() {
        let area = Area { offset: 0, length: 1 << 20, request_bytes_max: 4096 };
        let draw = |seed, stream| {
            let mut workload = Workload::new(seed, stream, Mix::ALL, area);
            (0..50).map(|_| workload.plan()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }
}
