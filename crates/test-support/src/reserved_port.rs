//! Ports for servers that must be told theirs before they start.

use std::net::Ipv4Addr;
use tokio::net::TcpSocket;

/// A port of loopback that the kernel assigned, and gives to nobody else while this is there.
///
/// It is bound and does not listen. Beside such a socket a server that allows the address to be used again, as all in Go do,
/// can listen on it; whoever connects before is refused.
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
        // The standard library allows the address to be used again, too.
        for _ in 0..2 {
            let server = TcpListener::bind(address).unwrap();
            assert!(TcpStream::connect(address).is_ok());
            drop(server);
        }
        // Whoever asks for any port gets another one.
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
