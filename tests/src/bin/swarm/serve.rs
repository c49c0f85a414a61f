//! The answering end: an HTTP/1.1 server that checks each head to the byte.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::rc::Rc;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tracewire_tests::http1::find;
use tracewire_tests::swarm::{Served, answer, head};
use tracewire_tests::trace_parent::{HEADER_LEN, TraceParent};

type Shared = Rc<RefCell<Served>>;

pub(crate) async fn run() -> Result<Served, String> {
    let listener = listen().map_err(|error| format!("listen: {error}"))?;
    println!("listening {}", listener.local_addr().map_err(|error| error.to_string())?);
    let served = Shared::default();
    let connections = tokio::task::LocalSet::new();
    let accepting = async {
        loop {
            let (stream, _) =
                listener.accept().await.map_err(|error| format!("accept: {error}"))?;
            let served = Rc::clone(&served);
            tokio::task::spawn_local(async move {
                if let Err(error) = serve(&stream, &served).await {
                    violation(&served, error.to_string());
                }
            });
        }
    };
    let told = super::line_on_stdin();
    connections
        .run_until(async {
            tokio::select! {
                result = accepting => result,
                _ = told => Ok::<(), String>(()),
            }
        })
        .await?;
    let served = served.borrow().clone();
    Ok(served)
}

fn listen() -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::UNSPECIFIED, 0).into())?;
    socket.listen(4096)
}

fn violation(served: &Shared, what: String) {
    let mut served = served.borrow_mut();
    served.violated += 1;
    if served.violations.len() < super::TOLD {
        served.violations.push(what);
    }
}

/// One connection, to its end.
async fn serve(stream: &TcpStream, served: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = Vec::new();
    loop {
        while let Some(at) = find(&received, b"\r\n\r\n") {
            let rest = received.split_off(at + 4);
            let Some((path, has_header)) = check(&received) else {
                violation(served, received.escape_ascii().to_string());
                return Ok(());
            };
            {
                let mut served = served.borrow_mut();
                served.requests += 1;
                served.with_header += u64::from(has_header);
            }
            send(stream, answer(&path).as_bytes()).await?;
            received = rest;
        }
        stream.readable().await?;
        let mut some = [0; 1024];
        match stream.try_read(&mut some) {
            Ok(0) => {
                if !received.is_empty() {
                    violation(served, format!("cut off: {}", received.escape_ascii()));
                }
                return Ok(());
            }
            Ok(count) => received.extend_from_slice(&some[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// The path of a request, and whether it has a header of the agent's; nothing if it has
/// any byte that it was not sent with besides.
fn check(request: &[u8]) -> Option<(String, bool)> {
    let end = find(request, b" HTTP")?;
    let path = std::str::from_utf8(request.get(4..end)?).ok()?;
    let rest = request.strip_prefix(head(path).as_bytes())?;
    let (rest, has_header) = match TraceParent::parse_line(rest) {
        Some(_) => (rest.get(HEADER_LEN..)?, true),
        None => (rest, false),
    };
    (rest == b"\r\n").then(|| (path.to_owned(), has_header))
}

/// Writes all of it.
async fn send(stream: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
