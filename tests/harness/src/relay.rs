//! Stands between clients and a server at an address that stays: the server may move or be gone, and single bytes may
//! change on the way.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From a client to the server.
    Up,
    /// From the server to a client.
    Down,
}

#[derive(Default)]
struct State {
    upstream: Option<SocketAddr>,
    /// Which way, and how many bytes still go through before one has a bit flipped.
    flip: Option<(Way, usize)>,
    open: Vec<TcpStream>,
}

/// A relay. It ends with the process.
pub struct Relay {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Relay {
    /// A relay to `upstream`, on a port that the kernel chooses.
    ///
    /// # Panics
    /// If there is none.
    pub fn to(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(Mutex::new(State {
            upstream: Some(upstream),
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // A client of a server that is gone is closed: dropping it does that.
                _ = join(client, &shared);
            }
        });
        Self { address, state }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes every connection, and each new one, until there is a server again.
    pub fn cut(&self) {
        let mut state = self.state.lock().expect("no thread of the relay panics");
        state.upstream = None;
        for stream in state.open.drain(..) {
            // It may be closed already.
            _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Sends new connections to `upstream`.
    pub fn join(&self, upstream: SocketAddr) {
        let mut state = self.state.lock().expect("no thread of the relay panics");
        state.upstream = Some(upstream);
    }

    /// Flips a bit of the byte behind the next `after` bytes that go `way`.
    pub fn flip(&self, way: Way, after: usize) {
        let mut state = self.state.lock().expect("no thread of the relay panics");
        state.flip = Some((way, after));
    }

    /// Whether the bit that was to be flipped is.
    pub fn has_flipped(&self) -> bool {
        let state = self.state.lock().expect("no thread of the relay panics");
        state.flip.is_none()
    }
}

fn join(client: TcpStream, shared: &Arc<Mutex<State>>) -> std::io::Result<()> {
    let mut state = shared.lock().expect("no thread of the relay panics");
    let Some(upstream) = state.upstream else {
        return Ok(());
    };
    let server = TcpStream::connect(upstream)?;
    for (from, to, way) in [(&client, &server, Way::Up), (&server, &client, Way::Down)] {
        state.open.push(from.try_clone()?);
        let (from, to, shared) = (from.try_clone()?, to.try_clone()?, Arc::clone(shared));
        std::thread::spawn(move || forward(from, to, way, &shared));
    }
    Ok(())
}

fn forward(mut from: TcpStream, mut to: TcpStream, way: Way, shared: &Mutex<State>) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let bytes = &mut bytes[..count];
        let mut state = shared.lock().expect("no thread of the relay panics");
        if let Some((_, after)) = state.flip.as_mut().filter(|flip| flip.0 == way) {
            match bytes.get_mut(*after) {
                Some(byte) => {
                    *byte ^= 0x10;
                    state.flip = None;
                }
                None => *after -= count,
            }
        }
        drop(state);
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    // Either may be closed already.
    _ = from.shutdown(Shutdown::Both);
    _ = to.shutdown(Shutdown::Both);
}
