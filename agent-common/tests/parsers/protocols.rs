//! What is not HTTP/1.x is not taken for it.

use crate::machine::{Ending, requests, responses};

#[test]
fn requests_of_other_protocols_are_not_http() {
    for (name, bytes) in [
        ("HTTP/2 preface", &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..]),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        ("RTSP", b"OPTIONS rtsp://x/ RTSP/1.0\r\nCSeq: 1\r\n\r\n"),
        ("RTSP 2", b"DESCRIBE rtsp://x/ RTSP/2.0\r\nCSeq: 1\r\n\r\n"),
        ("SIP", b"INVITE sip:a@b SIP/2.0\r\nVia: x\r\n\r\n"),
        ("ICAP", b"REQMOD icap://x/ ICAP/1.0\r\nHost: x\r\n\r\n"),
        ("SMTP", b"EHLO client.example\r\n"),
        ("SMTP, mail", b"MAIL FROM:<a@b>\r\n"),
        ("FTP", b"USER anonymous\r\n"),
        ("IRC", b"NICK someone\r\n"),
        ("POP3", b"STAT\r\n"),
        ("Redis", b"*1\r\n$4\r\nPING\r\n"),
        ("Redis, inline", b"PING\r\n"),
        ("Redis, inline with words", b"SET key value\r\n"),
        ("memcached", b"get key\r\n"),
        ("PostgreSQL", b"\x00\x00\x00\x08\x04\xd2\x16\x2f"),
        ("MQTT", b"\x10\x0c\x00\x04MQTT"),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n"),
        ("AMQP", b"AMQP\x00\x00\x09\x01"),
        ("PROXY", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n"),
        ("NATS", b"CONNECT {\"verbose\":false}\r\n"),
        ("Kafka", b"\x00\x00\x00\x14\x00\x12\x00\x00"),
        ("HTTP/0.9", b"GET /\r\n"),
        ("a response", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("a lower-case method", b"get / HTTP/1.1\r\n\r\n"),
        ("a method too long", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ / HTTP/1.1\r\n\r\n"),
        ("nothing but a space", b" GET / HTTP/1.1\r\n\r\n"),
    ] {
        let seen = requests(bytes);
        assert!(matches!(seen.ending, Ending::NotHttp(_)), "{name}: {:?}", seen.ending);
        assert!(seen.messages.iter().all(|message| message.head_end.is_none()), "{name}");
    }
}

#[test]
fn answers_of_other_protocols_are_not_http() {
    for bytes in [
        &b"\x16\x03\x03"[..],
        b"220 smtp.example ESMTP\r\n",
        b"+PONG\r\n",
        b"RTSP/1.0 200 OK\r\n\r\n",
        b"SIP/2.0 200 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HELLO\r\n",
        b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        assert!(matches!(responses(bytes, &[]).ending, Ending::NotHttp(_)));
    }
}

#[test]
fn what_follows_a_message_must_be_a_message() {
    let seen = requests(b"GET / HTTP/1.1\r\n\r\n\x16\x03\x01");
    assert!(seen.messages[0].end.is_some());
    assert_eq!(seen.ending, Ending::NotHttp(18));
    let seen = responses(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokay", &[]);
    assert!(seen.messages[0].end.is_some());
    assert_eq!(seen.ending, Ending::NotHttp(40));
}
