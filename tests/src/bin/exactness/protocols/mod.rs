//! What is spoken: one generator of dialogues for each protocol.

mod adversarial;
mod fastcgi;
mod fill;
mod framed;
mod frames;
mod games;
mod http1;
mod http2;
mod http2_games;
mod lines;
mod tls;
mod websocket;

use fastrand::Rng;

use crate::dialogue::Dialogue;

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Protocol {
    /// HTTP/1.x in good order, answered in good order.
    Http1,
    /// HTTP/1.x with the liberties that readers read differently.
    Http1Games,
    /// HTTP/2 with prior knowledge, in good order.
    Http2,
    /// HTTP/2 out of order, and what only begins like it.
    Http2Games,
    /// FastCGI, in good order and out of it.
    #[value(name = "fastcgi")]
    FastCgi,
    /// Records as TLS sends them.
    Tls,
    /// WebSocket, after its upgrade.
    Websocket,
    /// The serialisation protocol of Redis.
    Redis,
    /// The messages of PostgreSQL.
    Postgres,
    /// Frames as yamux sends them, with requests inside.
    Yamux,
    /// SMTP, and others that talk in lines.
    Smtp,
    /// Bytes of no protocol at all.
    Random,
    /// HTTP/1.x, broken in places.
    Adversarial,
}

impl Protocol {
    /// Every protocol.
    pub(crate) const ALL: &[Self] = &[
        Self::Http1,
        Self::Http1Games,
        Self::Http2,
        Self::Http2Games,
        Self::FastCgi,
        Self::Tls,
        Self::Websocket,
        Self::Redis,
        Self::Postgres,
        Self::Yamux,
        Self::Smtp,
        Self::Random,
        Self::Adversarial,
    ];

    /// Something that is said in it.
    pub(crate) fn dialogue(self, rng: &mut Rng) -> Dialogue {
        match self {
            Self::Http1 => http1::dialogue(rng),
            Self::Http1Games => games::dialogue(rng),
            Self::Http2 => http2::dialogue(rng),
            Self::Http2Games => http2_games::dialogue(rng),
            Self::FastCgi => fastcgi::dialogue(rng),
            Self::Tls => tls::dialogue(rng),
            Self::Websocket => websocket::dialogue(rng),
            Self::Redis => lines::redis(rng),
            Self::Postgres => framed::postgres(rng),
            Self::Yamux => framed::yamux(rng),
            Self::Smtp => lines::smtp(rng),
            Self::Random => adversarial::random(rng),
            Self::Adversarial => adversarial::broken(rng),
        }
    }

    /// Whether its clients' heads pass contexts on that they received, and where so many threads receive
    /// requests it is known for which of them a head is.
    pub(crate) fn passes_contexts_on(self, threads: u64) -> bool {
        matches!(self, Self::Http1 | Self::FastCgi) || self == Self::Http2 && threads == 1
    }

    /// Whether its clients' heads are given headers.
    pub(crate) fn is_given_headers(self) -> bool {
        matches!(
            self,
            Self::Http1 | Self::Http1Games | Self::Http2 | Self::Http2Games | Self::Websocket
        )
    }
}
