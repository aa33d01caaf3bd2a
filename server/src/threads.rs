//! Data threads: each an OS thread with a single-threaded runtime that owns its connections from accept to close.
//!
//! A hot get is served inline on its connection's task; nothing is locked and nothing crosses threads. The acceptor hands
//! a new connection to the thread that has the fewest. Each thread has one completion queue of the engine, whose eventfd
//! sits in the same epoll set as its sockets.

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use memkv_engine::Completion;
use memkv_proto::FrameMac;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tracing::{debug, warn};

use crate::dispatch::Thread;
use crate::front::tcp;
use crate::half_open::{HalfOpen, Queue};
use crate::listen;
use crate::server::StartError;
use crate::shared::Shared;

/// How many calls a data thread expects to have in flight at the engine; its queue grows beyond.
const COMPLETIONS: usize = 4096;

/// After how many task polls a data thread looks at its sockets again. A poll moves at most 256 KiB (tens of µs), so a
/// small request waits for a few of them, not for tokio's default of 61.
const POLLS_PER_LOOK: u32 = 4;

/// What a data thread is told.
enum Command {
    /// Serve this connection.
    Accept(std::net::TcpStream, SocketAddr, HalfOpen),
    /// Close the sessions of keys that are gone.
    CheckKeys,
    /// Close everything and end.
    Stop,
}

/// The data threads of a server.
#[derive(Debug)]
pub(crate) struct DataThreads {
    threads: Vec<DataThread>,
    acceptor: Option<tokio::task::AbortHandle>,
}

#[derive(Debug)]
struct DataThread {
    commands: mpsc::UnboundedSender<Command>,
    connections: Arc<AtomicUsize>,
    handle: JoinHandle<()>,
}

impl DataThreads {
    /// Starts `network.threads` of them.
    pub(crate) fn start<M: FrameMac>(shared: &Arc<Shared>) -> Result<Self, StartError> {
        let mut threads = Self {
            threads: Vec::new(),
            acceptor: None,
        };
        for number in 0..shared.config().network.threads {
            match DataThread::start::<M>(shared, number) {
                Ok(thread) => threads.threads.push(thread),
                Err(source) => {
                    threads.stop();
                    let what = format!("data thread {number}");
                    return Err(StartError::Thread { what, source });
                }
            }
        }
        Ok(threads)
    }

    /// Accepts connections from now on, on the main runtime.
    pub(crate) fn accept(
        &mut self,
        runtime: &tokio::runtime::Handle,
        listener: TcpListener,
        shared: &Arc<Shared>,
    ) -> Result<(), StartError> {
        let _entered = runtime.enter();
        let listener =
            tokio::net::TcpListener::from_std(listener).map_err(|source| StartError::Thread {
                what: "the acceptor".into(),
                source,
            })?;
        let targets: Vec<_> = self
            .threads
            .iter()
            .map(|thread| (thread.commands.clone(), thread.connections.clone()))
            .collect();
        let task = runtime.spawn(accept(listener, targets, shared.clone()));
        self.acceptor = Some(task.abort_handle());
        Ok(())
    }

    /// Has every thread close the sessions of keys that are gone.
    pub(crate) fn check_keys(&self) {
        for thread in &self.threads {
            let _ = thread.commands.send(Command::CheckKeys);
        }
    }

    /// Closes all connections and waits for the threads' end.
    pub(crate) fn stop(self) {
        if let Some(acceptor) = self.acceptor {
            acceptor.abort();
        }
        for thread in &self.threads {
            let _ = thread.commands.send(Command::Stop);
        }
        for thread in self.threads {
            if thread.handle.join().is_err() {
                tracing::error!("a data thread panicked");
            }
        }
    }
}

/// Accepts and hands out until aborted.
async fn accept(
    listener: tokio::net::TcpListener,
    targets: Vec<(mpsc::UnboundedSender<Command>, Arc<AtomicUsize>)>,
    shared: Arc<Shared>,
) {
    let mut half_open = Queue::default();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or a connection that died in the backlog: neither ends the listener.
                shared.refused_connection(&error);
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let has_room =
            shared.may_connect() || (half_open.make_room().await && shared.may_connect());
        if !has_room {
            shared.no_room();
            drop(stream);
            continue;
        }
        let prepared = listen::prepare(&stream).and_then(|()| stream.into_std());
        let stream = match prepared {
            Ok(stream) => stream,
            Err(error) => {
                debug!(%error, "a connection died before it was served");
                shared.connection_closed(false);
                continue;
            }
        };
        let fewest = targets
            .iter()
            .min_by_key(|(_, count)| count.load(Ordering::Relaxed));
        let Some((commands, connections)) = fewest else {
            return;
        };
        connections.fetch_add(1, Ordering::Relaxed);
        if commands
            .send(Command::Accept(stream, peer, half_open.enter()))
            .is_err()
        {
            return;
        }
    }
}

impl DataThread {
    fn start<M: FrameMac>(shared: &Arc<Shared>, number: usize) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .event_interval(POLLS_PER_LOOK)
            .build()?;
        let (commands, inbox) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let (shared, count) = (shared.clone(), connections.clone());
        let (ready, started) = std::sync::mpsc::channel();
        let dispatch = tracing::dispatcher::get_default(Clone::clone);
        let handle = std::thread::Builder::new()
            .name(format!("memkv-data-{number}"))
            .spawn(move || {
                // Where the thread that starts the server logs to, this one does.
                let _log = tracing::dispatcher::set_default(&dispatch);
                let thread = match Thread::new(shared, COMPLETIONS) {
                    Ok(thread) => Rc::new(thread),
                    Err(error) => {
                        let _ = ready.send(Err(error));
                        return;
                    }
                };
                let _ = ready.send(Ok(()));
                let local = LocalSet::new();
                runtime.block_on(local.run_until(run::<M>(thread, inbox, count)));
                // What the tasks own goes while the runtime still lives.
                runtime.block_on(async move { drop(local) });
            })?;
        match started.recv() {
            Ok(Ok(())) => Ok(Self {
                commands,
                connections,
                handle,
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(std::io::Error::other("the thread ended at once")),
        }
    }
}

/// The life of a data thread.
async fn run<M: FrameMac>(
    thread: Rc<Thread>,
    mut inbox: mpsc::UnboundedReceiver<Command>,
    count: Arc<AtomicUsize>,
) {
    let completions = tokio::task::spawn_local(complete(thread.clone()));
    let sweeper = tokio::task::spawn_local(sweep(thread.clone()));
    let tasks: Rc<RefCell<tokio::task::JoinSet<()>>> = Rc::default();
    while let Some(command) = inbox.recv().await {
        match command {
            Command::Accept(stream, peer, half_open) => {
                let counted = Counted(count.clone());
                let stream = match TcpStream::from_std(stream) {
                    Ok(stream) => stream,
                    Err(error) => {
                        warn!(%error, "a connection can't be watched; raise ulimit -n");
                        thread.shared.connection_closed(false);
                        continue;
                    }
                };
                let thread = thread.clone();
                let mut tasks = tasks.borrow_mut();
                while tasks.try_join_next().is_some() {}
                tasks.spawn_local(async move {
                    let _counted = counted;
                    tcp::serve::<_, M>(stream, peer, half_open, thread).await;
                });
            }
            Command::CheckKeys => thread.check_keys(),
            Command::Stop => break,
        }
    }
    sweeper.abort();
    let mut tasks = std::mem::take(&mut *tasks.borrow_mut());
    tasks.shutdown().await;
    completions.abort();
    thread.stop();
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Hands the engine's completions to the connections they belong to.
async fn complete(thread: Rc<Thread>) {
    #[expect(
        deprecated,
        reason = "its successor is an unsafe fn that asks for what an OwnedFd promises"
    )]
    let watch = AsyncFd::new;
    let descriptor = match thread.queue.event_fd().try_clone_to_owned().and_then(watch) {
        Ok(descriptor) => descriptor,
        Err(error) => {
            tracing::error!(%error, "completions can't be watched; raise ulimit -n");
            return;
        }
    };
    let mut batch: Vec<Completion> = Vec::new();
    loop {
        let Ok(mut ready) = descriptor.readable().await else {
            return;
        };
        // Cleared before the queue is drained: what lands in between makes it ready again.
        ready.clear_ready();
        thread.queue.drain(&mut batch);
        for completion in batch.drain(..) {
            thread.deliver(completion);
        }
    }
}

/// Looks for clients that stall, a few times within the shortest limit. One timer per thread, none per connection.
async fn sweep(thread: Rc<Thread>) {
    let limits = thread.shared.limits();
    let shortest = limits
        .handshake
        .min(limits.frame_stall)
        .min(limits.reply_stall)
        .min(limits.stall_pressed);
    let every = (shortest / 4).clamp(Duration::from_millis(5), Duration::from_secs(1));
    loop {
        tokio::time::sleep(every).await;
        // Where the thread itself was late, the clients that waited for it come first.
        tokio::task::yield_now().await;
        thread.sweep();
    }
}
