//! The ways to send and to receive that are tried.

/// A way to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// write(2).
    Write,
    /// send(2).
    Send,
    /// writev(2), in several vectors.
    Writev,
    /// sendmsg(2), likewise.
    Sendmsg,
    /// sendmmsg(2), several messages a call.
    Sendmmsg,
    /// send(2) with MSG_MORE.
    More,
    /// send(2) with MSG_ZEROCOPY.
    ZeroCopy,
    /// sendfile(2) from a file.
    Sendfile,
    /// splice(2) from a file by way of a pipe.
    SpliceFile,
    /// write(2) into a pipe, and splice(2) from it.
    SplicePipe,
    /// vmsplice(2) into a pipe, and splice(2) from it: the pages are the sender's own.
    Vmsplice,
    /// IORING_OP_SEND.
    UringSend,
    /// IORING_OP_WRITE.
    UringWrite,
    /// IORING_OP_WRITEV.
    UringWritev,
    /// IORING_OP_SENDMSG.
    UringSendmsg,
    /// IORING_OP_SEND_ZC.
    UringZeroCopy,
    /// send(2) with MSG_OOB.
    Urgent,
}

impl Way {
    /// All but urgent data, which has rules of its own.
    pub(crate) const ORDINARY: &[Self] = &[
        Self::Write,
        Self::Send,
        Self::Writev,
        Self::Sendmsg,
        Self::Sendmmsg,
        Self::More,
        Self::ZeroCopy,
        Self::Sendfile,
        Self::SpliceFile,
        Self::SplicePipe,
        Self::Vmsplice,
        Self::UringSend,
        Self::UringWrite,
        Self::UringWritev,
        Self::UringSendmsg,
        Self::UringZeroCopy,
    ];

    /// Whether the bytes come from a file.
    pub(crate) fn is_from_file(self) -> bool {
        matches!(self, Self::Sendfile | Self::SpliceFile)
    }

    /// Whether what is sent by one call is one message to the kernel: not several, nor page by
    /// page.
    pub(crate) fn is_one_message(self) -> bool {
        let is_paged = matches!(self, Self::SplicePipe | Self::Vmsplice | Self::UringZeroCopy);
        !is_paged && !self.is_from_file() && !matches!(self, Self::Sendmmsg | Self::Urgent)
    }

    /// Whether it is an operation of io_uring.
    pub(crate) fn is_by_ring(self) -> bool {
        matches!(
            self,
            Self::UringSend
                | Self::UringWrite
                | Self::UringWritev
                | Self::UringSendmsg
                | Self::UringZeroCopy
        )
    }
}

/// A way to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Take {
    /// read(2) into a large buffer.
    Read,
    /// read(2) into a few bytes.
    ReadTiny,
    /// readv(2) into several buffers.
    Readv,
    /// recvmsg(2).
    Recvmsg,
    /// recv(2) with MSG_PEEK, then the same bytes without.
    Peek,
    /// recv(2) with MSG_WAITALL.
    WaitAll,
    /// recv(2) under SO_RCVLOWAT.
    LowWater,
    /// poll(2), FIONREAD, and a read of so many bytes.
    Fionread,
    /// splice(2) into a pipe, and read(2) from that.
    Splice,
    /// poll(2), then recv(2).
    Poll,
    /// select(2), then recv(2).
    Select,
    /// epoll, level-triggered.
    EpollLevel,
    /// epoll, edge-triggered, read until EAGAIN.
    EpollEdge,
    /// IORING_OP_RECV.
    UringRecv,
    /// IORING_OP_READ.
    UringRead,
}

impl Take {
    /// Every way.
    pub(crate) const ALL: &[Self] = &[
        Self::Read,
        Self::ReadTiny,
        Self::Readv,
        Self::Recvmsg,
        Self::Peek,
        Self::WaitAll,
        Self::LowWater,
        Self::Fionread,
        Self::Splice,
        Self::Poll,
        Self::Select,
        Self::EpollLevel,
        Self::EpollEdge,
        Self::UringRecv,
        Self::UringRead,
    ];

    /// Whether the call works only on what is in the socket's own queue: a verdict program
    /// moves what is received to another one, from which splice(2) does not read, and from
    /// which MSG_WAITALL gives what is there (`tcp_bpf_recvmsg`, net/ipv4/tcp_bpf.c).
    pub(crate) fn needs_own_queue(&self) -> bool {
        matches!(self, Self::Splice | Self::WaitAll)
    }

    /// Whether the call promises a length, which urgent data breaks.
    pub(crate) fn promises_length(&self) -> bool {
        matches!(self, Self::WaitAll | Self::LowWater | Self::Fionread | Self::Splice | Self::Peek)
    }
}
