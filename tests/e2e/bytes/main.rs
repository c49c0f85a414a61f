//! The peer receives exactly what was sent, plus at most one header in each request.

mod ambiguous;
mod bodies;
mod broken;
mod foreign;
mod heads;
mod large;
mod sequences;
mod switched;
mod wire;
