//! A connection to a server that can be cut. It does not change the data.

use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Listens on a port of its own, and passes everything on.
pub(super) struct Link {
    port: u16,
    open: Arc<watch::Sender<bool>>,
}

impl Link {
    /// Opens a link to a server on loopback. It exists as long as its runtime.
    pub(super) async fn to(port: u16) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own_port = listener.local_addr().unwrap().port();
        let open = Arc::new(watch::Sender::new(true));
        let state = open.clone();
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else {
                    continue;
                };
                let mut state = state.subscribe();
                tokio::spawn(async move {
                    // While the link is cut, new connections get no answer, and open connections break.
                    if state.wait_for(|open| *open).await.is_err() {
                        return;
                    }
                    tokio::select! {
                        () = pass(client, port) => {}
                        _ = state.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Link {
            port: own_port,
            open,
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn cut(&self) {
        self.open.send_replace(false);
    }

    pub(super) fn heal(&self) {
        self.open.send_replace(true);
    }

    pub(super) fn is_open(&self) -> bool {
        *self.open.borrow()
    }
}

async fn pass(mut client: TcpStream, port: u16) {
    let server = SocketAddr::from(([127, 0, 0, 1], port));
    if let Ok(mut server) = TcpStream::connect(server).await {
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}
