//! Ports for servers that need a fixed port before they start.

use std::net::Ipv4Addr;
use tokio::net::TcpSocket;

/// A port of loopback that the kernel assigned. No other process gets it while this value exists.
///
/// A socket is bound to the port but does not listen. A server that sets SO_REUSEADDR, as all Go servers do, can listen on the port.
/// Before that, connections are refused.
pub(crate) struct ReservedPort {
    number: u16,
    _socket: TcpSocket,
}

impl ReservedPort {
    pub(crate) fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an address for two");
        socket
            .bind((Ipv4Addr::LOCALHOST, 0).into())
            .expect("a free port");
        let number = socket.local_addr().expect("an address").port();
        ReservedPort {
            number,
            _socket: socket,
        }
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_reserved_port_is_for_the_server_it_is_for() {
        let reserved = ReservedPort::new();
        let address = (Ipv4Addr::LOCALHOST, reserved.number());
        assert!(TcpStream::connect(address).is_err(), "nobody is there yet");
        // The standard library sets SO_REUSEADDR, too.
        for _ in 0..2 {
            let server = TcpListener::bind(address).unwrap();
            assert!(TcpStream::connect(address).is_ok());
            drop(server);
        }
        // A server that asks for any free port gets another one.
        let others: Vec<_> = (0..200)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
            .map(|other| other.local_addr().unwrap().port())
            .collect();
        assert!(!others.contains(&reserved.number()));
        let many: HashSet<_> = (0..200)
            .map(|_| ReservedPort::new())
            .collect::<Vec<_>>()
            .iter()
            .map(ReservedPort::number)
            .collect();
        assert_eq!(many.len(), 200);
    }
}
