//! A JSON-RPC node behind a bad network.

mod fault;
mod head;
mod server;

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::{Arc, Mutex, MutexGuard},
    thread::{self, JoinHandle},
};

use agirails::{Code, Error, Result};
use tokio::sync::oneshot;

use fault::State;
pub use fault::{Fault, Faults, Head, Rule, Stats};

use crate::rpc::http_client;

/// A proxy in front of a node that loses, spoils, delays and repeats what passes, as its [`Rule`]s
/// say; without rules it changes nothing. It listens on 127.0.0.1, runs on a thread of its own, and
/// ends when dropped.
///
/// ```no_run
/// use agirails_devnet::{Fault, FaultProxy, Rule};
///
/// let network = FaultProxy::start("http://127.0.0.1:8545")?;
/// // Every tenth answer is a 429, and the next transaction's answer is lost.
/// network.add(Rule::new(Fault::Status(429)).with_probability(0.1));
/// network.add(Rule::new(Fault::DropAnswer).on("eth_sendRawTransaction").times(1));
/// println!("{} {:?}", network.url(), network.stats());
/// # Ok::<(), agirails::Error>(())
/// ```
#[derive(Debug)]
pub struct FaultProxy {
    url: String,
    state: Arc<Mutex<State>>,
    // Taken on drop: the sender first, which ends the thread.
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl FaultProxy {
    /// A proxy in front of this node.
    ///
    /// # Errors
    /// [`Code::DevnetUnavailable`] where there is no free port or no thread.
    pub fn start(upstream: &str) -> Result<Self> {
        let failed = |error: std::io::Error| {
            Error::new(Code::DevnetUnavailable, format!("the proxy cannot be started: {error}"))
                .with_hint("a free port on 127.0.0.1 and a thread are needed")
                .with_source(error)
        };
        // Open before this returns, so that nobody comes too early.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let url = format!("http://{}", listener.local_addr().map_err(failed)?);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let state = Arc::new(Mutex::new(State::new(Faults::default())));
        let (stop, stopped) = oneshot::channel();
        let node = server::Node {
            client: http_client(usize::MAX)?,
            url: upstream.to_owned(),
            state: state.clone(),
        };
        let thread = thread::Builder::new()
            .name("agirails-fault-proxy".to_owned())
            .spawn(move || runtime.block_on(server::run(listener, Arc::new(node), stopped)))
            .map_err(failed)?;
        Ok(Self { url, state, running: Some((stop, thread)) })
    }

    /// Where it answers, such as `http://127.0.0.1:40124`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Replaces all rules, the latency and the seed.
    pub fn set(&self, faults: Faults) {
        self.state().replace(faults);
    }

    /// Adds a rule behind those that there are.
    pub fn add(&self, rule: Rule) {
        self.state().faults.rules.push(rule);
    }

    /// Lets everything pass at once. The counts go on.
    pub fn clear(&self) {
        self.set(Faults::default());
    }

    /// What passed since the start.
    pub fn stats(&self) -> Stats {
        self.state().stats.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        server::locked(&self.state)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            // A panic over there was printed over there.
            let _ = thread.join();
        }
    }
}
