//! Every request is answered or its connection closed, in time (L5): after T_hold while its node
//! does not serve, and after T_io besides while it does, however its disk or its peer behaves.
//!
//! Not here: that the answers are right (`history.rs`).

use base::time::Duration;

use super::finding::Finding;
use super::world::World;

/// Letters and turns take their time.
const SLACK: Duration = Duration::from_millis(500);
/// What a slow disk has to do makes patient (`datapath/src/order/late.rs`).
const PATIENCE: Duration = Duration::from_secs(3);

impl World {
    /// Looked at now and then.
    pub(super) fn check_answered(&mut self) {
        let timers = self.configs[0].timers;
        let held_max = timers.hold + SLACK;
        let served_max = timers.io_timeout + PATIENCE + held_max;
        for host in &self.hosts {
            let node = &self.nodes[host.side];
            let runs = node.process.is_some() && !node.frozen;
            let Some(index) = host.outstanding.values().next().filter(|_| runs) else { continue };
            let serves = self.open[host.side].is_some();
            let asked = host.asked_at.max(node.unserved_since);
            let max = if serves { served_max } else { held_max };
            if self.now.since(asked) > max {
                let operation = &self.history.operations[*index];
                let text = format!("{operation:?} is not answered since {asked:?} (L5)");
                self.report(Finding::liveness(text));
                return;
            }
        }
    }
}
