//! A network that fails: a proxy on loopback between an agent and its scheduler.
//!
//! In: the address that it stands in for, and what it is to do from now on. Out: the same bytes, late, or not at all, in
//! either direction. A cut is silent, as a cut cable is: connections stay open and nothing comes, until it heals or breaks.
//! Loss and repetition of packets reach no program: TCP makes a delay of both, or a broken connection. Whole messages come
//! twice, late and in another order in the simulator.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Between two looks at what the network does.
const LOOK_EVERY: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
struct State {
    /// Nothing passes from the agent to the scheduler, or back.
    cut: [AtomicBool; 2],
    /// Every piece is held back for so long, in milliseconds.
    delay: AtomicU64,
    connections: Mutex<Vec<TcpStream>>,
    over: AtomicBool,
}

/// The proxy; it ends with the test's process.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

impl Proxy {
    /// Stands in for `target`.
    ///
    /// # Panics
    /// When there is no port.
    pub fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State::default());
        let (target, shared) = (target.to_owned(), state.clone());
        std::thread::spawn(move || {
            for incoming in listener.incoming().flatten() {
                if shared.over.load(Ordering::SeqCst) {
                    return;
                }
                // A scheduler that is away refuses; so does the proxy then.
                if let Ok(outgoing) = TcpStream::connect(&target) {
                    shared.join(&incoming, &outgoing);
                }
            }
        });
        Self { address, state }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing passes: to the scheduler, back from it.
    pub fn cut(&self, to: bool, back: bool) {
        self.state.cut[0].store(to, Ordering::SeqCst);
        self.state.cut[1].store(back, Ordering::SeqCst);
    }

    /// From now on every piece is late.
    pub fn delay(&self, span: Duration) {
        self.state.delay.store(u64::try_from(span.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Breaks all connections; new ones are taken.
    pub fn break_all(&self) {
        for connection in self.state.connections().drain(..) {
            // One that is closed already is as good.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::SeqCst);
        self.break_all();
        drop(TcpStream::connect(self.address));
    }
}

impl State {
    fn connections(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(self: &Arc<Self>, agent: &TcpStream, scheduler: &TcpStream) {
        for (direction, from, to) in [(0, agent, scheduler), (1, scheduler, agent)] {
            let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { return };
            self.connections().extend(from.try_clone());
            let state = self.clone();
            std::thread::spawn(move || state.pump(direction, from, to));
        }
    }

    fn pump(&self, direction: usize, mut from: TcpStream, mut to: TcpStream) {
        let mut piece = [0; 16 << 10];
        while let Ok(read @ 1..) = from.read(&mut piece) {
            std::thread::sleep(Duration::from_millis(self.delay.load(Ordering::SeqCst)));
            while self.cut[direction].load(Ordering::SeqCst) && !self.over.load(Ordering::SeqCst) {
                std::thread::sleep(LOOK_EVERY);
            }
            if to.write_all(&piece[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }
}
