//! Every queue is bounded: after each turn the production cores say how long their queues are and
//! how long they may be, and what the front end would hand in is counted.
//!
//! Not here: the memory of real processes (`tests/real_hostile.rs`).

use base::limits::CLIENT_REQUESTS_MAX;
use datapath::queues::Queue;

use super::event::Side;
use super::finding::Finding;
use super::process::VolumeThread;
use super::world::World;

impl World {
    /// A volume's thread has ended its turn.
    pub(super) fn check_volume_queues(&mut self, side: Side, volume: usize, thread: &VolumeThread) {
        let hosts = self.hosts.iter().filter(|h| (h.side, h.volume) == (side, volume)).count();
        let handed_in = thread.requests.len();
        let of_hosts = Queue::of("requests of hosts", handed_in, hosts * CLIENT_REQUESTS_MAX);
        let mut queues = thread.core.queues();
        queues.push(of_hosts);
        if let Some(text) = overfull(&queues) {
            self.report(Finding::queue(format!("node {side}, volume {volume}: {text}")));
        }
    }

    /// The group of a node has ended its turn.
    pub(super) fn check_group_queues(&mut self, side: Side) {
        let Some(process) = &self.nodes[side].process else { return };
        if let Some(text) = overfull(&process.group.queues()) {
            self.report(Finding::queue(format!("group of node {side}: {text}")));
        }
    }
}

/// The first queue that is longer than it may be.
fn overfull(queues: &[Queue]) -> Option<String> {
    let Queue { name, length, max } = queues.iter().find(|queue| queue.length > queue.max)?;
    Some(format!("{length} {name}, at most {max} may be"))
}

#[cfg(test)]
mod tests {
    use base::ids::{ClientId, VolumeIndex};
    use base::request::{Operation, RequestId};
    use base::rules::Rules;
    use base::time::Duration;
    use datapath::volume::{Volume, VolumeConfig};

    use super::*;

    #[test]
    fn a_volume_that_takes_more_than_it_may_is_found() {
        let mut volume = Volume::new(VolumeConfig {
            index: VolumeIndex(0),
            size: 1 << 20,
            granule_bytes: 512,
            io_timeout: Duration::from_secs(2),
            rules: Rules::ALL_HOLD,
        });
        let mut tag = 0;
        let mut ask = |volume: &mut Volume| {
            tag += 1;
            volume.handle_request(RequestId { client: ClientId(1), tag }, Operation::Flush);
        };
        while volume.takes_requests() {
            ask(&mut volume);
            assert_eq!(overfull(&volume.queues()), None);
        }
        for _ in 0..10_000 {
            ask(&mut volume);
        }
        let text = overfull(&volume.queues()).expect("nobody stopped asking");
        assert!(text.contains("requests under way or held"), "{text}");
    }
}
