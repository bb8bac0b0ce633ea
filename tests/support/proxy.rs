//! A TCP proxy that fails on command: what a network does to a connection, without touching the server.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes connections on to an upstream server until it is told otherwise. Ends when it is dropped.
pub struct Proxy {
    addr: SocketAddr,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// Raised by each [`Proxy::cut`]: connections of an earlier one end.
    cuts: u64,
    /// Raised by each [`Proxy::close_in_mid_frame`]: connections of an earlier one end at their next piece of data.
    halves: u64,
    frozen: bool,
    /// Every piece of data waits for so long before it is passed on.
    delay: Duration,
    refusing: bool,
    /// Whether the listening socket is there, as told by the accepting task.
    listening: bool,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1. `upstream` is `host:port`.
    pub async fn start(upstream: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (state, _) = watch::channel(State { listening: true, ..State::default() });
        tokio::spawn(accept(listener, upstream.to_owned(), state.clone(), state.subscribe()));
        Proxy { addr, state }
    }

    /// Where clients are to connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends all connections. New ones are taken.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Ends each connection at the next piece of data that comes, of which only the first half is passed on. New
    /// connections are taken.
    pub fn close_in_mid_frame(&self) {
        self.state.send_modify(|state| state.halves += 1);
    }

    /// Lets every piece of data, of up to 64 KiB, wait for `delay` before it is passed on. Zero makes it fast again.
    pub fn slow(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    /// Keeps all connections, takes new ones, and passes nothing on: a black hole.
    pub fn freeze(&self) {
        self.state.send_modify(|state| state.frozen = true);
    }

    /// Passes on what was held back, and all that follows.
    pub fn resume(&self) {
        self.state.send_modify(|state| state.frozen = false);
    }

    /// Ends all connections and refuses new ones.
    pub async fn refuse(&self) {
        self.state.send_modify(|state| {
            state.refusing = true;
            state.cuts += 1;
        });
        self.until(|state| !state.listening).await;
    }

    /// Takes connections again.
    pub async fn accept(&self) {
        self.state.send_modify(|state| state.refusing = false);
        self.until(|state| state.listening).await;
    }

    async fn until(&self, condition: impl FnMut(&State) -> bool) {
        let mut state = self.state.subscribe();
        let reached = tokio::time::timeout(Duration::from_secs(10), state.wait_for(condition));
        reached.await.expect("the proxy obeys").unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.send_modify(|state| {
            state.refusing = true;
            state.cuts += 1;
        });
    }
}

async fn accept(
    listener: TcpListener,
    upstream: String,
    told: watch::Sender<State>,
    mut state: watch::Receiver<State>,
) {
    let addr = listener.local_addr().unwrap();
    let mut listener = Some(listener);
    loop {
        let refusing = state.borrow_and_update().refusing;
        if refusing && listener.take().is_some() {
            told.send_modify(|state| state.listening = false);
        }
        if !refusing && listener.is_none() {
            // The port stays free for as long as the connections of before linger.
            match TcpListener::bind(addr).await {
                Ok(bound) => listener = Some(bound),
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            }
            told.send_modify(|state| state.listening = true);
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Ends with the proxy, of which this holds one sender itself.
            _ = state.changed() => {}
            Ok((client, _)) = accepted => {
                tokio::spawn(pass(client, upstream.clone(), told.subscribe()));
            }
        }
    }
}

async fn pass(client: TcpStream, upstream: String, mut state: watch::Receiver<State>) {
    let cuts = state.borrow_and_update().cuts;
    let cut = |mut state: watch::Receiver<State>| async move {
        let _ = state.wait_for(|state| state.cuts != cuts).await;
    };
    let served = async {
        let server = TcpStream::connect(upstream).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::select! {
            ended = pump(from_client, to_server, state.clone()) => ended,
            ended = pump(from_server, to_client, state.clone()) => ended,
        }
    };
    tokio::select! {
        () = cut(state.clone()) => {}
        _ = served => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let halves = state.borrow().halves;
    loop {
        let count = from.read(&mut buffer).await?;
        let Ok(State { delay, halves: now, .. }) = state.wait_for(|state| !state.frozen).await.map(|state| *state)
        else {
            return Ok(());
        };
        if count == 0 {
            return Ok(());
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if now != halves {
            return to.write_all(&buffer[..count / 2]).await;
        }
        to.write_all(&buffer[..count]).await?;
    }
}
