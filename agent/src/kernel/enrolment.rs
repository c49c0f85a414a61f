//! The socket map, and whether sockets can be put in it without harm.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{MapData, SockHash};
use aya::programs::{SkMsg, SkSkb};

use super::fionread::Pair;

/// What enrolment does to `FIONREAD` on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readability {
    /// It answers as it should.
    Right,
    /// It answers wrongly, and nothing was done about it.
    Broken,
    /// It answers as it should with a verdict program on the map.
    Restored,
    /// It answers wrongly either way.
    Wrong,
}

/// The map of enrolled sockets.
pub(super) fn sockets(ebpf: &mut Ebpf) -> Result<SockHash<MapData, u64>> {
    Ok(SockHash::try_from(ebpf.take_map("ENROLLED").context("the object has no map ENROLLED")?)?)
}

/// Attaches what the map needs (a socket takes the programs with it that are there when
/// it enters), and tries whether sockets in it still say how much there is to read. Only if
/// `mend`, it attaches what makes them, and harms them in other ways.
pub(super) fn prepare(
    ebpf: &mut Ebpf,
    enrolled: &mut SockHash<MapData, u64>,
    mend: bool,
) -> Result<Readability> {
    let rewrite: &mut SkMsg = ebpf
        .program_mut("rewrite_request")
        .context("the object has no program rewrite_request")?
        .try_into()?;
    rewrite.attach(enrolled.fd()).context("cannot attach rewrite_request to the socket map")?;
    if reader_counts(enrolled)? {
        return Ok(Readability::Right);
    }
    if !mend {
        return Ok(Readability::Broken);
    }
    let verdict: &mut SkSkb = ebpf
        .program_mut("keep_readable")
        .context("the object has no program keep_readable")?
        .try_into()?;
    verdict.attach(enrolled.fd()).context("cannot attach keep_readable to the socket map")?;
    Ok(if reader_counts(enrolled)? { Readability::Restored } else { Readability::Wrong })
}

/// One try, with sockets of our own.
fn reader_counts(enrolled: &mut SockHash<MapData, u64>) -> Result<bool> {
    let mut pair = Pair::new().context("cannot make sockets to probe FIONREAD with")?;
    // The key is free: cookies are never 0.
    enrolled.insert(0, pair.reader.as_raw_fd(), 0).context("the socket map refused a socket")?;
    let counts = pair.reader_counts().context("FIONREAD failed on a socket of the agent's own");
    let _gone_with_the_socket = enrolled.remove(&0);
    counts
}
