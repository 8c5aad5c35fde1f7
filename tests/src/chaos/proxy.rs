//! A TCP proxy between two programs that can hold back, delay and reset what goes through it.
//! Owns: its listener, four threads a connection, and what they hold back.
//! Faults assumed: either side may close at any time; the other side is then closed too.
//! Not here: losing packets (`link`): bytes of a TCP stream can be late, but not lost.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Pieces of a stream that wait in the proxy; then its reader stops reading.
const PIECES_MAX: usize = 256;
const PIECE_BYTES: usize = 16 << 10;

/// A direction through the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From who dialled to who listens.
    Forth,
    /// Back.
    Back,
}

#[derive(Clone, Copy, Default)]
struct Mode {
    held: bool,
    delay: Duration,
}

#[derive(Default)]
struct State {
    forth: Mode,
    back: Mode,
    stopped: bool,
    /// How often everything was reset; what was accepted before the last time must not live on.
    resets: u64,
    next_connection: u64,
    /// Both sockets of every connection that is open.
    open: BTreeMap<u64, [TcpStream; 2]>,
}

impl State {
    fn mode(&mut self, direction: Direction) -> &mut Mode {
        match direction {
            Direction::Forth => &mut self.forth,
            Direction::Back => &mut self.back,
        }
    }

    fn reset_all(&mut self) {
        self.resets += 1;
        std::mem::take(&mut self.open).values().for_each(reset);
    }
}

/// Dissolving the association of a TCP socket sends a reset, whoever else has it open. It fails
/// only for one that is already closed.
fn reset(ends: &[TcpStream; 2]) {
    for end in ends {
        let _closed = rustix::net::connect_unspec(end);
    }
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// A proxy; it stops, with a reset of everything, when dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Forwards what connects to `listen` to `upstream`.
    ///
    /// # Errors
    /// `listen` cannot be listened on.
    pub fn start(listen: SocketAddr, upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        let address = listener.local_addr()?;
        let shared =
            Arc::new(Shared { state: Mutex::new(State::default()), changed: Condvar::new() });
        let accepting = shared.clone();
        thread::spawn(move || {
            for accepted in listener.incoming() {
                let resets = {
                    let state = accepting.lock();
                    if state.stopped {
                        return;
                    }
                    state.resets
                };
                let Ok(near) = accepted else { continue };
                // One that cannot be forwarded is closed, as a proxy does.
                let _failed = TcpStream::connect(upstream)
                    .and_then(|far| forward(&accepting, near, far, resets));
            }
        });
        Ok(Self { address, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Holds back everything that goes in this direction, until [`Self::pass`].
    pub fn hold(&self, direction: Direction) {
        self.shared.change(|state| state.mode(direction).held = true);
    }

    /// Delays everything that goes in this direction from now on.
    pub fn delay(&self, direction: Direction, delay: Duration) {
        self.shared.change(|state| state.mode(direction).delay = delay);
    }

    /// Everything passes at once, what was held back first.
    pub fn pass(&self) {
        self.shared.change(|state| (state.forth, state.back) = Default::default());
    }

    /// Resets all connections, on both sides. New ones are taken.
    pub fn reset(&self) {
        self.shared.change(State::reset_all);
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.shared.lock().open.len()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.change(|state| {
            state.stopped = true;
            state.reset_all();
        });
        // Wakes the accepting thread; if that fails, there is nobody left to wake.
        let _woken = TcpStream::connect(self.address);
    }
}

type Piece = (Instant, Vec<u8>);

fn forward(shared: &Arc<Shared>, near: TcpStream, far: TcpStream, resets: u64) -> io::Result<()> {
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ends = [near.try_clone()?, far.try_clone()?];
    let pipes =
        [(Direction::Forth, near.try_clone()?, far.try_clone()?), (Direction::Back, far, near)];
    let mut id = 0;
    shared.change(|state| {
        id = state.next_connection;
        state.next_connection += 1;
        if state.resets == resets {
            state.open.insert(id, ends);
        } else {
            reset(&ends);
        }
    });
    for (direction, from, to) in pipes {
        let (sender, receiver) = sync_channel::<Piece>(PIECES_MAX);
        let (reading, writing) = (shared.clone(), shared.clone());
        thread::spawn(move || pull(&reading, direction, from, &sender));
        thread::spawn(move || {
            push(&writing, direction, &to, &receiver);
            // The end of one direction is passed on; the entry goes with the first of the two.
            let _closed = to.shutdown(Shutdown::Write);
            writing.change(|state| drop(state.open.remove(&id)));
        });
    }
    Ok(())
}

/// Reads until the stream ends.
fn pull(shared: &Shared, direction: Direction, mut from: TcpStream, sender: &SyncSender<Piece>) {
    let mut bytes = vec![0; PIECE_BYTES];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let due = Instant::now() + shared.lock().mode(direction).delay;
        if sender.send((due, bytes[..count].to_vec())).is_err() {
            return;
        }
    }
}

/// Writes what was read when it is due and not held back.
fn push(shared: &Shared, direction: Direction, mut to: &TcpStream, pieces: &Receiver<Piece>) {
    for (due, bytes) in pieces {
        let mut state = shared.lock();
        loop {
            let wait = due.saturating_duration_since(Instant::now());
            if state.stopped || (!state.mode(direction).held && wait.is_zero()) {
                break;
            }
            let held = state.mode(direction).held;
            let wait = if held { Duration::from_secs(1) } else { wait };
            let waited = shared.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        if to.write_all(&bytes).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    fn any_port() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    fn pair() -> (Proxy, TcpListener, TcpStream, TcpStream) {
        let listener = TcpListener::bind(any_port()).expect("loopback");
        let upstream = listener.local_addr().expect("bound");
        let proxy = Proxy::start(any_port(), upstream).expect("loopback");
        let near = TcpStream::connect(proxy.address()).expect("connected");
        let (far, _) = listener.accept().expect("forwarded");
        (proxy, listener, near, far)
    }

    fn arrives(mut to: &TcpStream, limit: Duration) -> io::Result<u8> {
        to.set_read_timeout(Some(limit))?;
        let mut byte = [0];
        to.read_exact(&mut byte).map(|()| byte[0])
    }

    const LIMIT: Duration = Duration::from_secs(10);
    const SILENT: Duration = Duration::from_millis(100);

    #[test]
    fn what_is_held_comes_later_and_the_other_direction_passes() {
        let (proxy, _listener, mut near, mut far) = pair();
        proxy.hold(Direction::Forth);
        near.write_all(b"a").expect("sent");
        far.write_all(b"b").expect("sent");
        assert_eq!(arrives(&near, LIMIT).expect("passes"), b'b');
        assert_eq!(arrives(&far, SILENT).expect_err("held").kind(), ErrorKind::WouldBlock);
        proxy.pass();
        assert_eq!(arrives(&far, LIMIT).expect("passes"), b'a');
    }

    #[test]
    fn a_delay_delays() {
        let (proxy, _listener, mut near, far) = pair();
        proxy.delay(Direction::Forth, SILENT * 2);
        let sent = Instant::now();
        near.write_all(b"a").expect("sent");
        assert_eq!(arrives(&far, LIMIT).expect("passes"), b'a');
        assert!(sent.elapsed() >= SILENT * 2);
    }

    #[test]
    fn a_reset_reaches_both_sides_and_new_connections_are_taken() {
        let (proxy, listener, near, far) = pair();
        proxy.reset();
        for end in [&near, &far] {
            assert_eq!(arrives(end, LIMIT).expect_err("reset").kind(), ErrorKind::ConnectionReset);
        }
        let mut near = TcpStream::connect(proxy.address()).expect("connected");
        let (far, _) = listener.accept().expect("forwarded");
        near.write_all(b"c").expect("sent");
        assert_eq!(arrives(&far, LIMIT).expect("passes"), b'c');
        assert_eq!(proxy.connections(), 1);
    }

    #[test]
    fn a_close_is_passed_on() {
        let (_proxy, _listener, mut near, mut far) = pair();
        near.write_all(b"a").expect("sent");
        near.shutdown(Shutdown::Write).expect("closed");
        assert_eq!(arrives(&far, LIMIT).expect("passes"), b'a');
        assert_eq!(arrives(&far, LIMIT).expect_err("end").kind(), ErrorKind::UnexpectedEof);
        far.write_all(b"b").expect("sent");
        assert_eq!(arrives(&near, LIMIT).expect("passes"), b'b');
    }
}
