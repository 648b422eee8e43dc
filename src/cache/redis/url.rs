//! The address of a Redis.

use std::fmt;

use crate::dial::percent_decoded;

/// The schemes that are taken: kind, and whether it is spoken over TLS.
const SCHEMES: [(&str, Form, bool); 6] = [
    ("redis://", Form::Single, false),
    ("rediss://", Form::Single, true),
    ("redis+cluster://", Form::Cluster, false),
    ("rediss+cluster://", Form::Cluster, true),
    ("redis+sentinel://", Form::Sentinel, false),
    ("rediss+sentinel://", Form::Sentinel, true),
];

/// Databases that a server may have, counted from 0; it says itself where it has fewer.
const DATABASES_MAX: u32 = 1 << 16;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Single,
    Cluster,
    Sentinel,
}

/// A server: a name or an address without brackets, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// How the servers are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// There is one.
    Single,
    /// Any of those named knows the others.
    Cluster,
    /// Those named know which one is the master of that name.
    Sentinel(String),
}

/// `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, `rediss://…` over TLS, `redis+cluster://A,B,C`,
/// `redis+sentinel://A,B,C/MASTER[/DATABASE]`. User and password may be written with `%XX`; a password alone is
/// `:PASSWORD@`. Printing it tells scheme and hosts only.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    pub(super) kind: Kind,
    pub(super) tls: bool,
    pub(super) places: Vec<Place>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: u32,
    shown: String,
}

impl RedisUrl {
    /// The address that `text` is.
    ///
    /// # Errors
    /// What is wrong with it, without quoting it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let scheme = SCHEMES.iter().find(|(scheme, ..)| text.starts_with(scheme));
        let Some(&(scheme, form, tls)) = scheme else {
            let schemes: Vec<&str> = SCHEMES.iter().map(|(scheme, ..)| *scheme).collect();
            return Err(format!("an address begins with {}", schemes.join(", ")));
        };
        // A password may hold anything; no host holds an `@`.
        let (login, rest) = text[scheme.len()..]
            .rsplit_once('@')
            .map_or((None, &text[scheme.len()..]), |(login, rest)| (Some(login), rest));
        let (user, password) = login.map_or(Ok((None, None)), read_login)?;
        if rest.contains(['?', '#']) {
            return Err("an address has no parameters: nothing follows the database".to_owned());
        }
        let mut path = rest.split('/');
        let hosts = path.next().unwrap_or("");
        let path: Vec<&str> = path.filter(|part| !part.is_empty()).collect();
        let (kind, database) = match (form, path.as_slice()) {
            (Form::Single, []) => (Kind::Single, 0),
            (Form::Single, [database]) => (Kind::Single, read_database(database)?),
            (Form::Cluster, [] | ["0"]) => (Kind::Cluster, 0),
            (Form::Sentinel, [master]) => (Kind::Sentinel(percent_decoded(master)), 0),
            (Form::Sentinel, [master, database]) => {
                (Kind::Sentinel(percent_decoded(master)), read_database(database)?)
            }
            (Form::Single, _) => {
                return Err("after the host comes a database's number, and nothing else".to_owned());
            }
            (Form::Cluster, _) => {
                return Err("a cluster has no databases: nothing follows its hosts".to_owned());
            }
            (Form::Sentinel, _) => {
                return Err(
                    "after the hosts come the master's name and perhaps a database's number".to_owned()
                );
            }
        };
        let port = if form == Form::Sentinel { 26_379 } else { 6379 };
        let places: Vec<Place> =
            hosts.split(',').map(|host| read_place(host, port)).collect::<Result<_, _>>()?;
        if form == Form::Single && places.len() > 1 {
            return Err("one host, or redis+cluster:// or redis+sentinel:// with several".to_owned());
        }
        let shown = format!("{scheme}{hosts}");
        Ok(Self { kind, tls, places, user, password, database, shown })
    }
}

type Login = (Option<String>, Option<String>);

fn read_login(login: &str) -> Result<Login, String> {
    let Some((user, password)) = login.split_once(':') else {
        return Err("before the `@` stand a user and a password, or `:` and a password".to_owned());
    };
    let user = Some(percent_decoded(user)).filter(|user| !user.is_empty());
    match (user, percent_decoded(password)) {
        (Some(_), password) if password.is_empty() => Err("the user has no password".to_owned()),
        (user, password) => Ok((user, Some(password).filter(|password| !password.is_empty()))),
    }
}

fn read_database(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| *number < DATABASES_MAX);
    number.ok_or_else(|| "what follows is no database's number".to_owned())
}

fn read_place(text: &str, port: u16) -> Result<Place, String> {
    let wrong = || "a host is a name, an address or an [IPv6 address], and perhaps `:` and a port".to_owned();
    let (host, after) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or_else(wrong)?,
        None => text.find(':').map_or((text, ""), |colon| text.split_at(colon)),
    };
    let is_sound = !host.is_empty() && !host.contains(|char: char| char.is_whitespace() || char.is_control());
    let port = match after.strip_prefix(':') {
        None if after.is_empty() => Some(port),
        None => None,
        Some(port) => port.parse().ok().filter(|port| *port > 0),
    };
    match (is_sound, port) {
        (true, Some(port)) => Ok(Place { host: host.to_owned(), port }),
        _ => Err(wrong()),
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for RedisUrl {
    /// Scheme and hosts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_who_logs_in() {
        for (text, shown) in [
            ("redis://127.0.0.1:6379/2", "redis://127.0.0.1:6379"),
            ("rediss://ann:s3cret@cache.example", "rediss://cache.example"),
            ("redis+cluster://:s3cret@a:1,b:2", "redis+cluster://a:1,b:2"),
            ("redis://:s3/c@re?t@h/1", "redis://h"),
        ] {
            let url = RedisUrl::parse(text).unwrap();
            assert_eq!((url.to_string(), format!("{url:?}")), (shown.to_owned(), shown.to_owned()));
        }
    }

    #[test]
    fn an_address_is_read_wholly() {
        let place = |host: &str, port| Place { host: host.to_owned(), port };
        for (text, kind, tls, places, login, database) in [
            ("redis://h", Kind::Single, false, vec![place("h", 6379)], (None, None), 0),
            (
                "rediss://u:p%40ss@[::1]:7/3",
                Kind::Single,
                true,
                vec![place("::1", 7)],
                (Some("u"), Some("p@ss")),
                3,
            ),
            ("redis://:p%@h/", Kind::Single, false, vec![place("h", 6379)], (None, Some("p%")), 0),
            (
                "redis+cluster://a,b:1",
                Kind::Cluster,
                false,
                vec![place("a", 6379), place("b", 1)],
                (None, None),
                0,
            ),
            (
                "rediss+sentinel://u:p@a,b:1/my%20master/9",
                Kind::Sentinel("my master".to_owned()),
                true,
                vec![place("a", 26_379), place("b", 1)],
                (Some("u"), Some("p")),
                9,
            ),
        ] {
            let url = RedisUrl::parse(text).unwrap();
            assert_eq!(
                (url.kind, url.tls, url.places, url.database),
                (kind, tls, places, database),
                "{text}"
            );
            assert_eq!((url.user.as_deref(), url.password.as_deref()), login, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_without_quoting_it() {
        for wrong in [
            "",
            "redis://",
            "http://s3cret",
            "s3cret:6379",
            "redis://s3cret@h",
            "redis://s3cret:@h",
            "redis://h/s3cret",
            "redis://h/1/s3cret",
            "redis://h:s3cret",
            "redis://h?s3cret=1",
            "redis://a,s3cret",
            "redis://[s3cret",
            "redis://h s3cret",
            "redis+cluster://h/7",
            "redis+sentinel://s3cret",
            "redis+sentinel://h/m/s3cret",
        ] {
            assert!(!RedisUrl::parse(wrong).unwrap_err().contains("s3cret"), "{wrong}");
        }
    }
}
