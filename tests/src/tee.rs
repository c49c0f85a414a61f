//! A relay that keeps what one side said: the bytes on the wire, as they were.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// A relay on the loopback interface. It lives as long as the test.
#[derive(Debug)]
pub struct Tee {
    address: SocketAddr,
    kept: Arc<Mutex<Vec<u8>>>,
}

impl Tee {
    /// Relays every connection to `port` of the loopback interface.
    ///
    /// # Panics
    ///
    /// If it cannot listen.
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .unwrap_or_else(|error| panic!("the relay cannot listen: {error}"));
        let address = listener
            .local_addr()
            .unwrap_or_else(|error| panic!("the relay has no address: {error}"));
        let kept = Arc::new(Mutex::new(Vec::new()));
        let tee = Self { address, kept: Arc::clone(&kept) };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
                let (Ok(back), Ok(answers)) = (client.try_clone(), server.try_clone()) else {
                    return;
                };
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || pass(client, server, Some(&kept)));
                std::thread::spawn(move || pass(answers, back, None));
            }
        });
        tee
    }

    /// The endpoint to give to an exporter.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All that clients have sent so far.
    pub fn kept(&self) -> Vec<u8> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, keep: Option<&Mutex<Vec<u8>>>) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if let Some(keep) = keep {
            keep.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..read]);
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    // The other side may be gone already.
    drop(to.shutdown(Shutdown::Write));
}
