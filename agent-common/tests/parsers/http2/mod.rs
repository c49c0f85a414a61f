//! HTTP/2: the machine that follows frames, and the scanner of header blocks.

#[cfg(test)]
mod blocks;
#[cfg(test)]
mod bound;
#[cfg(test)]
mod encoder;
#[cfg(test)]
mod frames;
pub mod machine;
pub mod reference;
