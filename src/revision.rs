//! The five released revisions of the Model Context Protocol, and the two eras they fall into.

use std::fmt;

/// One released revision of MCP. An enumerated set: unknown revision strings are never ordered or guessed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Revision {
    /// `2024-11-05`, the first release.
    V2024_11_05,
    /// `2025-03-26`, the only revision with JSON-RPC batches.
    V2025_03_26,
    /// `2025-06-18`.
    V2025_06_18,
    /// `2025-11-25`, the last revision with a handshake.
    V2025_11_25,
    /// `2026-07-28`, stateless: version and capabilities ride in every request.
    V2026_07_28,
}

/// How a conversation is opened and kept (the specification's own words).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Era {
    /// Handshake by `initialize`, then a session (2024-11-05 to 2025-11-25).
    Legacy,
    /// No handshake, no session: metadata in each request (2026-07-28).
    Modern,
}

impl Revision {
    /// All released revisions, oldest first.
    pub const ALL: [Self; 5] =
        [Self::V2024_11_05, Self::V2025_03_26, Self::V2025_06_18, Self::V2025_11_25, Self::V2026_07_28];
    /// The revisions behind the `initialize` handshake, oldest first.
    pub const LEGACY: [Self; 4] =
        [Self::V2024_11_05, Self::V2025_03_26, Self::V2025_06_18, Self::V2025_11_25];
    /// The revisions without a handshake: what `server/discover` and error -32022 name.
    pub const MODERN: [Self; 1] = [Self::V2026_07_28];
    /// What `initialize` answers to a revision that it does not know.
    pub const LATEST_LEGACY: Self = Self::V2025_11_25;

    /// The revision as it is written on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// The released revision spelled exactly `text`, if there is one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|revision| revision.as_str() == text)
    }

    /// The era that the revision belongs to.
    #[must_use]
    pub const fn era(self) -> Era {
        match self {
            Self::V2024_11_05 | Self::V2025_03_26 | Self::V2025_06_18 | Self::V2025_11_25 => Era::Legacy,
            Self::V2026_07_28 => Era::Modern,
        }
    }

    /// Position in [`Revision::ALL`]: an index for tables.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
