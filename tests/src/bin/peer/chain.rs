//! A small HTTP server: answers with the path, and with the next server's answer.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use tracewire_tests::http1::{Message, Reader};
use tracewire_tests::process::patience;
use tracewire_tests::script::{Chain, ChainHeaders};

pub(crate) fn run(script: &Chain) -> std::result::Result<(), String> {
    let record = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&script.record)
        .map_err(|error| format!("{}: {error}", script.record.display()))?;
    let listener =
        TcpListener::bind(script.listen).map_err(|error| format!("{}: {error}", script.listen))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    println!("listening {address}");
    let script = Arc::new(script.clone());
    let record = Arc::new(record);
    loop {
        let (stream, _) = listener.accept().map_err(|error| format!("accept: {error}"))?;
        let (script, record) = (Arc::clone(&script), Arc::clone(&record));
        std::thread::spawn(move || {
            if let Err(error) = serve(stream, &script, &record) {
                eprintln!("peer: {error}");
            }
        });
    }
}

fn serve(mut stream: TcpStream, script: &Chain, mut record: &File) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut requests = Reader::new(stream.try_clone()?);
    let mut next = script.next.map(Next::new);
    while let Some(request) = requests.next(false)? {
        record.write_all(&request.head)?;
        let mut body = format!("{}\n", request.start(1)).into_bytes();
        if let Some(next) = &mut next {
            body.extend(next.ask(&request, &script.headers)?.body);
        }
        let mut answer =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        answer.extend(body);
        stream.write_all(&answer)?;
    }
    Ok(())
}

/// The next server, and the kept connection to it.
struct Next {
    address: SocketAddr,
    connection: Option<(TcpStream, Reader<TcpStream>)>,
}

impl Next {
    fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    fn ask(&mut self, request: &Message, headers: &ChainHeaders) -> Result<Message> {
        let mut head = format!("GET {} HTTP/1.1\r\nHost: {}\r\n", request.start(1), self.address);
        match headers {
            ChainHeaders::None => {}
            ChainHeaders::Forward => {
                let kept = request.headers().filter(|(name, _)| name.starts_with("trace"));
                head.extend(kept.map(|(name, value)| format!("{name}: {value}\r\n")));
            }
            ChainHeaders::Own(value) => head.push_str(&format!("traceparent: {value}\r\n")),
        }
        head.push_str("\r\n");
        let (stream, answers) = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let stream = TcpStream::connect_timeout(&self.address, patience())?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(patience()))?;
                let answers = Reader::new(stream.try_clone()?);
                none.insert((stream, answers))
            }
        };
        stream.write_all(head.as_bytes())?;
        answers.next(true)?.ok_or_else(|| Error::from(ErrorKind::UnexpectedEof))
    }
}
