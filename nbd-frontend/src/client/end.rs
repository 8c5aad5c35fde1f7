//! How an attached connection ends.

/// Why a connection is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum End {
    /// The client said goodbye and everything it had asked for was done.
    #[error("the client disconnected")]
    Disconnected,
    /// This node is stopping and everything that was under way is answered.
    #[error("this node is shutting down")]
    ShuttingDown,
    /// The client closed the connection without a goodbye.
    #[error("the client closed the connection without a disconnect request")]
    PeerClosed,
    /// The connection broke.
    #[error("the connection broke")]
    ConnectionLost,
    /// A request without its magic number: the two sides have lost each other.
    #[error("a request begins with {0:#010x} instead of its magic number")]
    BadMagic(u32),
    /// A payload that nobody in his right mind would send.
    #[error("a write of {0} bytes is more than is read even to refuse it")]
    AbsurdLength(u32),
}

impl End {
    /// Whether the socket is to be closed in an orderly way (TLS close_notify), or just dropped.
    pub const fn is_orderly(self) -> bool {
        match self {
            Self::Disconnected | Self::ShuttingDown => true,
            Self::PeerClosed | Self::ConnectionLost | Self::BadMagic(_) | Self::AbsurdLength(_) => {
                false
            }
        }
    }
}
