//! Protocols that talk in lines.

use fastrand::Rng;

use super::fill::{INNER, chance, content, one_of, word};
use crate::dialogue::Dialogue;

/// Redis' serialisation protocol, and its inline commands.
pub(super) fn redis(rng: &mut Rng) -> Dialogue {
    let mut dialogue = Dialogue::default();
    for _ in 0..rng.usize(1..8) {
        for _ in 0..if chance(rng, 30) { rng.usize(2..30) } else { 1 } {
            if chance(rng, 15) {
                dialogue.client(one_of(rng, &["PING\r\n", "GET key\r\n", "SET / HTTP/1.2\r\r\n"]));
                continue;
            }
            let value = if chance(rng, 30) { INNER.into() } else { content(rng) };
            dialogue.client("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n");
            dialogue.client(format!("${}\r\n", value.len()));
            dialogue.client(&value);
            dialogue.client("\r\n");
        }
        let value = content(rng);
        dialogue.server(format!("+OK\r\n${}\r\n", value.len()));
        dialogue.server(&value);
        dialogue.server("\r\n");
    }
    dialogue
}

/// SMTP (RFC 5321) and its like: the server speaks first, the client in commands.
pub(super) fn smtp(rng: &mut Rng) -> Dialogue {
    let mut dialogue = Dialogue::default();
    if chance(rng, 25) {
        // Request lines that are not HTTP's.
        let line = one_of(
            rng,
            &[
                "OPTIONS sip:a@example.test SIP/2.0\r\nVia: SIP/2.0/TCP a\r\nContent-Length: 0\r\n\r\n",
                "DESCRIBE rtsp://example.test/a RTSP/1.0\r\nCSeq: 1\r\n\r\n",
                "SOURCE /live ICE/1.0\r\ncontent-type: audio/mpeg\r\n\r\n",
                "NICK a\r\nUSER a 0 * :GET / HTTP/1.1\r\n",
                "GET /gopher\r\n",
                "SSH-2.0-OpenSSH_9.2p1\r\n",
            ],
        );
        dialogue.client(line);
        dialogue.server("SIP/2.0 200 OK\r\n\r\n");
        dialogue.client(INNER);
        return dialogue;
    }
    dialogue.server("220 mail.example.test ESMTP\r\n");
    dialogue.client("EHLO client.example.test\r\n");
    dialogue.server("250-mail.example.test\r\n250 PIPELINING\r\n");
    for _ in 0..rng.usize(1..4) {
        let name = word(rng, 8);
        dialogue.client(format!("MAIL FROM:<{name}@example.test>\r\n"));
        dialogue.server("250 OK\r\n");
        dialogue.client("RCPT TO:<b@example.test>\r\nDATA\r\n");
        dialogue.server("250 OK\r\n354 go on\r\n");
        dialogue.client("Subject: GET / HTTP/1.1\r\n\r\n");
        dialogue.client(INNER);
        dialogue.client(content(rng));
        dialogue.client("\r\n.\r\n");
        dialogue.server("250 OK\r\n");
    }
    dialogue.client("QUIT\r\n");
    dialogue.server("221 bye\r\n");
    dialogue
}
