//! `stretch demo`: a pair on this machine, in one folder, without root.
//!
//! Owns: the folder while it runs, and the two nodes, which are processes of their own and die
//! with this one. What it tells about a node is what that node's own status says.
//! Not here: the folder (`folder.rs`), the processes (`children.rs`), the words (`lines.rs`).

mod children;
mod folder;
mod lines;
mod show;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use base::io::clock;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::children::Children;
use self::folder::Folder;
use self::show::{Show, print_line};
use super::admin_client::{self, Target};
use crate::state_word::StateWord;
use crate::status::NodeStatus;

/// Between two questions before the pair is ready, and afterwards.
const STEP_STARTING: Duration = Duration::from_millis(50);
const STEP_READY: Duration = Duration::from_millis(250);

/// What the command line asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The folder.
    pub dir: PathBuf,
    /// Size of the volume of a new folder, in bytes.
    pub size: Option<u64>,
    /// Addresses of a, b and the witness of a new folder.
    pub addresses: Option<[IpAddr; 3]>,
    /// Only make the folder.
    pub prepare: bool,
}

/// Makes or takes the folder, runs both nodes and shows what they do until it is told to stop.
///
/// # Errors
/// The folder cannot be used or the nodes cannot be started; the text says what to do.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let folder = Folder::take(options)?;
    if options.prepare {
        print_line(&lines::prepared(&folder)?);
        return Ok(ExitCode::SUCCESS);
    }
    // One thread: the children die with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run_pair(&folder))
}

async fn run_pair(folder: &Folder) -> anyhow::Result<ExitCode> {
    let begun = clock::now();
    let mut stop = Stop::new()?;
    let mut children = Children::start(folder)?;
    let mut show = Show::new(folder.names());
    let mut ready = false;
    loop {
        let step = if ready { STEP_READY } else { STEP_STARTING };
        tokio::select! {
            () = stop.wait() => {
                show.end();
                return Ok(children.stop(&mut stop).await);
            }
            () = tokio::time::sleep(step) => {}
        }
        for ended in children.ended() {
            show.line(&ended);
        }
        if let Some(name) = children.failed().filter(|_| !ready) {
            show.end();
            children.stop(&mut stop).await;
            anyhow::bail!(
                "node {name} failed, so the pair cannot be ready; mend what it says above, then \
                 start the demo again"
            );
        }
        if children.none_left() {
            show.end();
            anyhow::bail!("both nodes have ended; see {}", folder.logs());
        }
        let [a, b] = statuses(folder).await;
        show.statuses([&a, &b]);
        if !ready && [&a, &b].into_iter().all(is_active) {
            ready = true;
            let after = clock::now().since(begun);
            show.line(&lines::ready(folder, after, lines::find_tool)?);
        }
    }
}

fn is_active(status: &Result<NodeStatus, String>) -> bool {
    status.as_ref().is_ok_and(|status| status.state == StateWord::ActiveActive)
}

/// What each node says of itself; why it says nothing.
async fn statuses(folder: &Folder) -> [Result<NodeStatus, String>; 2] {
    let ask = async |index: usize| {
        let target = Target::Socket(folder.nodes[index].admin.socket.clone());
        admin_client::status(&target).await.map_err(|error| error.to_string())
    };
    tokio::join!(ask(0), ask(1)).into()
}

/// SIGINT and SIGTERM, and SIGHUP: the terminal was closed.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Stop {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
