//! Leases: who makes what others wait for, and whose late answer is refused.
//!
//! A lease is one key, `tmws:lease:1:{<project>}:<digest>`: the number of the last lease, and until when it holds by the
//! server's clock. Numbers grow: each is the last one's successor, and at least the time, so that they also do where the
//! key was lost. A numbered put is kept only while the number is the key's; without the key it is refused.

use std::sync::LazyLock;

use redis::Script;

use super::Operation;

/// `KEYS` lease; `ARGV` length and rest of its life, both in ms. The number, or 0: somebody holds it.
const TAKE: &str = "
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local last, till = 0, 0
local held = redis.call('GET', KEYS[1])
if held then
  local a, b = string.match(held, '^(%d+) (%d+)$')
  last, till = tonumber(a) or 0, tonumber(b) or 0
end
if till > now then return 0 end
local number = math.max(last + 1, now)
redis.call('SET', KEYS[1], string.format('%.0f %.0f', number, now + ARGV[1]), 'PX', ARGV[1] + ARGV[2])
return number
";

/// `KEYS` lease, entry; `ARGV` number, bytes, life in ms. 1: kept.
const PUT: &str = "
local held = redis.call('GET', KEYS[1])
if not held or string.match(held, '^%d+') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 1
";

/// `KEYS` lease; `ARGV` number.
const GIVE_BACK: &str = "
local held = redis.call('GET', KEYS[1])
if not held or string.match(held, '^%d+') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1] .. ' 0', 'KEEPTTL')
return 1
";

const TEXTS: [&str; 3] = [TAKE, PUT, GIVE_BACK];

static HASHES: LazyLock<[String; 3]> =
    LazyLock::new(|| TEXTS.map(|text| Script::new(text).get_hash().to_owned()));

/// One of the scripts, in the order of their texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Procedure {
    Take,
    Put,
    GiveBack,
}

impl Procedure {
    /// What it is for.
    pub(super) const fn operation(self) -> Operation {
        match self {
            Self::Take => Operation::Lease,
            Self::Put => Operation::Put,
            Self::GiveBack => Operation::GiveBack,
        }
    }

    /// What is sent: by its hash, or wholly, where the server does not know it.
    pub(super) fn command(self, whole: bool, keys: &[&str], arguments: &[&[u8]]) -> redis::Cmd {
        let mut command = if whole { redis::cmd("EVAL") } else { redis::cmd("EVALSHA") };
        if whole {
            command.arg(TEXTS[self as usize]);
        } else {
            command.arg(&HASHES[self as usize]);
        }
        command.arg(keys.len());
        for key in keys {
            command.arg(*key);
        }
        for argument in arguments {
            command.arg(*argument);
        }
        command
    }
}
