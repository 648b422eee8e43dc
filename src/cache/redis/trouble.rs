//! What is wrong with a Redis, for everybody to read: no address, no password, nothing of what it said.

use std::io;

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why it cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    #[error("nobody listens at its address, or the connection was lost")]
    Unreachable,
    #[error("it does not answer")]
    Silent,
    #[error("its TLS certificate cannot be verified; SSL_CERT_FILE names a file of root certificates")]
    Untrusted,
    #[error("it speaks TLS; an address that begins with rediss is for that")]
    SpeaksTls,
    #[error("it speaks no TLS; an address that begins with redis, not rediss, is for that")]
    SpeaksNoTls,
    #[error("it refuses the user or the password of redis_url")]
    LoginRefused,
    #[error(
        "the Sentinels refuse the user or the password of redis_url; they are to take the same as the servers, or none"
    )]
    SentinelRefused,
    #[error("its user may not run every command that the cache needs (docs/cache.md lists them)")]
    Forbidden,
    #[error("it is a replica, and only read; redis_url is to name its master, its Sentinels or its cluster")]
    ReadOnly,
    #[error("it refuses writes: its last snapshot to the disk failed (MISCONF); its log says why")]
    Unsaved,
    #[error("it refuses writes: fewer replicas follow it than min-replicas-to-write asks for (NOREPLICAS)")]
    Unfollowed,
    #[error("it takes no more connections: as many as its maxclients are there")]
    Crowded,
    #[error("its memory is full, and it removes nothing to make room")]
    Full,
    #[error("it is busy: loading its data, or with a script")]
    Busy,
    #[error("Sentinel knows no master of that name")]
    NoMaster,
    #[error("it is no cluster; redis:// is for a server alone")]
    NoCluster,
    #[error("the cluster is down, or has no master for some keys")]
    ClusterDown,
    #[error("it belongs to a cluster; redis+cluster:// is for that")]
    Clustered,
    #[error("it is too old: Redis 6 or later is needed")]
    TooOld,
    #[error("it answers what is not understood")]
    Strange,
}

impl Trouble {
    /// Whether trying again soon would be a nuisance: somebody has to change something first.
    pub(super) const fn is_lasting(self) -> bool {
        matches!(
            self,
            Self::SpeaksTls
                | Self::SpeaksNoTls
                | Self::LoginRefused
                | Self::SentinelRefused
                | Self::Forbidden
                | Self::TooOld
                | Self::Untrusted
                | Self::NoCluster
        )
    }

    /// Whether what is wrong lies in the connection, which is to be made anew.
    pub(super) const fn ends_connection(self) -> bool {
        matches!(self, Self::Unreachable | Self::Silent | Self::Strange)
    }

    /// Whether it goes on reading, and refuses every write until somebody has changed something.
    pub(super) const fn refuses_writes(self) -> bool {
        matches!(self, Self::ReadOnly | Self::Unsaved | Self::Unfollowed)
    }

    /// The first of several that says more than that nobody answers, or the first.
    pub(super) fn most_telling(mut troubles: impl Iterator<Item = Self> + Clone) -> Option<Self> {
        let says_more = |trouble: &Self| !matches!(trouble, Self::Unreachable | Self::Silent);
        troubles.clone().find(says_more).or_else(|| troubles.next())
    }

    pub(super) fn of_dialling(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::Silent,
            // What rustls says; and roots that are missing.
            io::ErrorKind::InvalidData | io::ErrorKind::Other => Self::Untrusted,
            _ => Self::Unreachable,
        }
    }

    /// What an answer says of the server; `None` where it concerns that one command only.
    pub(super) fn of(error: &RedisError) -> Option<Self> {
        Some(match error.kind() {
            ErrorKind::AuthenticationFailed => Self::LoginRefused,
            ErrorKind::RESP3NotSupported => Self::TooOld,
            ErrorKind::Io => Self::Unreachable,
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Self::Strange,
            ErrorKind::Server(kind) => match kind {
                ServerErrorKind::BusyLoading => Self::Busy,
                ServerErrorKind::Moved | ServerErrorKind::Ask => Self::Clustered,
                ServerErrorKind::ClusterDown | ServerErrorKind::MasterDown | ServerErrorKind::TryAgain => {
                    Self::ClusterDown
                }
                ServerErrorKind::ReadOnly => Self::ReadOnly,
                ServerErrorKind::NoPerm => Self::Forbidden,
                ServerErrorKind::ResponseError if says(error, "cluster support disabled") => Self::NoCluster,
                ServerErrorKind::ResponseError if says(error, "max number of clients reached") => {
                    Self::Crowded
                }
                _ => return None,
            },
            _ => match error.code()? {
                "WRONGPASS" | "NOAUTH" => Self::LoginRefused,
                "NOPROTO" => Self::TooOld,
                "OOM" => Self::Full,
                "BUSY" => Self::Busy,
                "MISCONF" => Self::Unsaved,
                "NOREPLICAS" => Self::Unfollowed,
                _ => return None,
            },
        })
    }
}

/// `ERR …`: what is not told by its first word.
pub(super) fn says(error: &RedisError, part: &str) -> bool {
    error.detail().is_some_and(|detail| detail.contains(part))
}
