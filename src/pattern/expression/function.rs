//! The functions an expression may call: nothing else is compiled in.

use std::{
    cell::RefCell,
    collections::HashMap,
    convert::Infallible,
    ops::Range,
    rc::Rc,
    sync::{Arc, LazyLock},
};

use jaq_core::{
    Bind, DataT, Exn, RunPtr,
    data::JustLut,
    load::{self, parse::Def},
    native::{Filter, Fun, bome, run, unary, v},
};

use super::{
    meter,
    value::{Error, Val, ValR, split},
};
use crate::stoppable::{Groups, Reading, Scratch, Stoppable, Unfit};

/// What filters work on.
pub(super) type Data = JustLut<Val>;

/// Every function by name and number of arguments.
#[rustfmt::skip]
pub(super) const ALLOWED: &[(&str, usize)] = &[
    // values and conditions
    ("empty", 0), ("error", 0), ("error", 1), ("null", 0), ("true", 0), ("false", 0), ("not", 0), ("select", 1),
    ("type", 0), ("values", 0), ("nulls", 0), ("booleans", 0), ("numbers", 0), ("strings", 0), ("arrays", 0),
    ("objects", 0), ("iterables", 0), ("scalars", 0), ("isempty", 1),
    ("all", 0), ("all", 1), ("all", 2), ("any", 0), ("any", 1), ("any", 2),
    // numbers
    ("abs", 0), ("floor", 0), ("ceil", 0), ("round", 0), ("tonumber", 0),
    // text
    ("tostring", 0), ("tojson", 0), ("fromjson", 0), ("ascii_downcase", 0), ("ascii_upcase", 0), ("ltrimstr", 1),
    ("rtrimstr", 1), ("trim", 0), ("ltrim", 0), ("rtrim", 0), ("startswith", 1), ("endswith", 1), ("split", 1),
    ("join", 1), ("utf8bytelength", 0), ("explode", 0), ("implode", 0), ("test", 1), ("capture", 1), ("scan", 1),
    ("sub", 2), ("gsub", 2),
    // arrays
    ("length", 0), ("map", 1), ("add", 0), ("add", 1), ("first", 0), ("first", 1), ("last", 0), ("last", 1),
    ("nth", 1), ("nth", 2), ("limit", 2), ("skip", 2), ("flatten", 0), ("flatten", 1), ("reverse", 0), ("sort", 0),
    ("sort_by", 1), ("group_by", 1), ("unique", 0), ("unique_by", 1), ("min", 0), ("max", 0), ("min_by", 1),
    ("max_by", 1), ("transpose", 0),
    // objects
    ("keys", 0), ("keys_unsorted", 0), ("has", 1), ("in", 1), ("contains", 1), ("inside", 1), ("indices", 1),
    ("index", 1), ("rindex", 1), ("to_entries", 0), ("from_entries", 0), ("with_entries", 1), ("map_values", 1),
    ("del", 1), ("getpath", 1),
];

/// Functions of jq that are refused, and what to do instead.
#[rustfmt::skip]
pub(super) const REFUSED: &[(&[&str], &str)] = &[
    (&["range", "repeat", "until", "while", "recurse", "recurse_down", "walk", "combinations", "paths", "leaf_paths"],
     "it loops without a bound: iterate over data with .[], map, reduce or limit"),
    (&["env", "$ENV", "input_filename", "get_search_list", "builtins", "modulemeta"],
     "expressions do not see the environment: pass a value through `inputs` or `bind`"),
    (&["input", "inputs", "input_line_number"], "there is no input stream: read .inputs and .steps"),
    (&["now", "localtime", "gmtime", "mktime", "strftime", "strptime", "strflocaltime", "todate", "fromdate", "date", "dateadd", "datesub"],
     "expressions do not see the clock: bind `now`, or let a step resolve the time"),
    (&["debug", "stderr", "halt", "halt_error"], "expressions have no side effects"),
    (&["path", "path_value", "setpath", "delpaths", "pick", "tostream", "fromstream", "truncate_stream"],
     "paths as values are not available: name the members"),
    (&["match", "splits", "ascii"], "not available: use test, capture, scan, split, sub or gsub"),
    (&["import", "include", "module"], "expressions stand alone"),
];

const REGEX_BYTES_MAX: usize = 1 << 20;
const REGEXES_CACHED_MAX: usize = 32;

/// A regex of an expression, and what its searches keep.
struct Known {
    regex: Stoppable,
    scratch: RefCell<Scratch>,
}

thread_local! {
    static REGEXES: RefCell<HashMap<String, Rc<Known>>> = RefCell::default();
}

/// A linear-time regex, compiled once a thread.
fn regex(source: &str) -> Result<Rc<Known>, Error> {
    if let Some(regex) = REGEXES.with_borrow(|regexes| regexes.get(source).cloned()) {
        return Ok(regex);
    }
    let reading = Reading { size_max: REGEX_BYTES_MAX, ..Reading::default() };
    // What is not a regex is not quoted: it may be data.
    let regex = Stoppable::new(source, reading).map_err(|unfit| match unfit {
        Unfit::Syntax(_) => {
            Error::str("not a linear-time regex (crate regex: no look-around, no back-references)")
        }
        unfit => Error::str(unfit),
    })?;
    let regex = Rc::new(Known { regex, scratch: RefCell::default() });
    REGEXES.with_borrow_mut(|regexes| {
        if regexes.len() >= REGEXES_CACHED_MAX {
            regexes.clear();
        }
        regexes.insert(source.to_owned(), Rc::clone(&regex));
    });
    Ok(regex)
}

/// A search goes on until the meter ends the evaluation.
fn metered() -> impl FnMut() -> Result<(), Infallible> {
    || {
        meter::look();
        Ok(())
    }
}

impl Known {
    fn is_match(&self, text: &str) -> bool {
        let scratch = &mut self.scratch.borrow_mut();
        let Ok(found) = self.regex.find(scratch, text.as_bytes(), 0..text.len(), &mut metered());
        found.is_some()
    }

    /// Hands over the matches one after the other for as long as they are wanted.
    fn each(&self, text: &str, each: impl FnMut(Groups) -> bool) {
        let scratch = &mut self.scratch.borrow_mut();
        let Ok(()) = self.regex.each(scratch, text, &mut metered(), each);
    }

    /// The named groups of the first match as an object.
    fn capture(&self, text: &str) -> Option<Val> {
        let scratch = &mut self.scratch.borrow_mut();
        let Ok(found) = self.regex.groups(scratch, text, 0, &mut metered());
        let found = found?;
        let named = self.regex.group_names().zip(found);
        let members = named.filter_map(|(name, group)| Some((Arc::from(name?), part(text, group))));
        Some(Val::object(members.collect()))
    }

    /// Each match as text, or as the list of its groups where it has any.
    fn scan(&self, text: &str) -> Vec<Val> {
        let mut found = Vec::new();
        self.each(text, |groups| {
            let mut groups = groups.into_iter();
            let whole = groups.next().flatten();
            found.push(if groups.len() == 0 {
                part(text, whole)
            } else {
                groups.map(|group| part(text, group)).collect()
            });
            true
        });
        found
    }
}

fn part(text: &str, range: Option<Range<usize>>) -> Val {
    range.map_or(Val::Null, |range| Val::text(&text[range]))
}

fn length(value: &Val) -> ValR {
    match value {
        Val::Null => Ok(Val::from(0_usize)),
        Val::Number(number) => Ok(Val::from(number.as_f64().unwrap_or_default().abs())),
        Val::Text(text) => Ok(Val::from(text.chars().count())),
        Val::Array(array) => Ok(Val::from(array.items.len())),
        Val::Object(object) => Ok(Val::from(object.members.len())),
        Val::Bool(_) => Err(Error::str("a boolean has no length")),
    }
}

fn has(value: &Val, key: &Val) -> ValR {
    match (value, key) {
        (Val::Object(object), Val::Text(name)) => Ok(object.members.contains_key(name).into()),
        (Val::Array(array), Val::Number(index)) => {
            Ok(index.as_u64().is_some_and(|index| (index as usize) < array.items.len()).into())
        }
        _ => Err(Error::str(format_args!("{} has no members called by {}", value.kind(), key.kind()))),
    }
}

fn contains(value: &Val, part: &Val) -> bool {
    meter::tick();
    match (value, part) {
        (Val::Text(text), Val::Text(part)) => text.contains(part.as_ref()),
        (Val::Array(array), Val::Array(parts)) => {
            parts.items.iter().all(|part| array.items.iter().any(|item| contains(item, part)))
        }
        (Val::Object(object), Val::Object(parts)) => parts
            .members
            .iter()
            .all(|(name, part)| object.members.get(name).is_some_and(|value| contains(value, part))),
        _ => value == part,
    }
}

fn indices(value: &Val, part: &Val) -> ValR {
    match (value, part) {
        (Val::Text(text), Val::Text(part)) if !part.is_empty() => {
            // Characters, not bytes, as in jq; overlapping finds count.
            let starts = text.char_indices().enumerate();
            let found = starts.filter(|(_, (byte, _))| {
                meter::tick();
                text[*byte..].starts_with(part.as_ref())
            });
            Ok(found.map(|(index, _)| Val::from(index)).collect())
        }
        (Val::Array(array), Val::Array(part)) if !part.items.is_empty() => {
            let windows = array.items.windows(part.items.len()).enumerate();
            Ok(windows
                .filter(|(_, window)| *window == part.items)
                .map(|(index, _)| Val::from(index))
                .collect())
        }
        (Val::Text(_), Val::Text(_)) | (Val::Array(_), Val::Array(_)) => Ok(Val::array(Vec::new())),
        (Val::Array(array), part) => {
            let items = array.items.iter().enumerate();
            Ok(items.filter(|(_, item)| *item == part).map(|(index, _)| Val::from(index)).collect())
        }
        (Val::Null, _) => Ok(Val::Null),
        _ => Err(Error::str(format_args!("{} has no indices of {}", value.kind(), part.kind()))),
    }
}

fn add(value: Val) -> ValR {
    let items: Vec<Val> = match &value {
        Val::Null => return Ok(Val::Null),
        Val::Object(object) => object.members.values().cloned().collect(),
        _ => value.into_items()?,
    };
    // Texts are joined at once: adding them one by one would copy the whole each time.
    if items.len() > 2 && items.iter().all(|item| matches!(item, Val::Text(_))) {
        return join(&items, "");
    }
    items.into_iter().try_fold(Val::Null, |sum, item| sum + item)
}

fn join(items: &[Val], separator: &str) -> ValR {
    let mut text = String::new();
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            meter::spend(separator.len());
            text.push_str(separator);
        }
        match item {
            Val::Null => {}
            Val::Array(_) | Val::Object(_) => {
                return Err(Error::str(format_args!("{} cannot be joined to a string", item.kind())));
            }
            scalar => {
                let part = scalar.display_text();
                meter::spend(part.len());
                text.push_str(&part);
            }
        }
    }
    Ok(Val::text(text))
}

fn flatten(value: Val, depth: i64, out: &mut Vec<Val>) -> Result<(), Error> {
    for item in value.into_items()? {
        meter::spend(16);
        match item {
            Val::Array(_) if depth > 0 => flatten(item, depth - 1, out)?,
            other => out.push(other),
        }
    }
    Ok(())
}

fn transpose(value: Val) -> ValR {
    let rows = value.into_items()?;
    let rows = rows.into_iter().map(Val::into_items).collect::<Result<Vec<_>, _>>()?;
    let width = rows.iter().map(Vec::len).max().unwrap_or(0);
    let column = |index: usize| rows.iter().map(|row| row.get(index).cloned().unwrap_or(Val::Null)).collect();
    Ok((0..width).map(column).collect())
}

fn number_of(value: &Val) -> ValR {
    match value {
        Val::Number(_) => Ok(value.clone()),
        Val::Text(text) => <Val as jaq_core::ValT>::from_num(text.trim()),
        other => Err(Error::str(format_args!("{} is not a number", other.kind()))),
    }
}

fn from_json(value: &Val) -> ValR {
    let text = value.as_str()?;
    // serde_json refuses nesting beyond 128 by itself.
    meter::spend(text.len() * 4);
    let parsed = serde_json::from_str(text).map_err(|_| Error::str("the text is not JSON"))?;
    Ok(Val::from_json(&parsed))
}

fn kind_name(value: &Val) -> Val {
    Val::text(value.kind().rsplit(' ').next().unwrap_or("null"))
}

/// Functions that are ours, because jaq's would loop over characters without being metered, or copy the whole each time.
fn own<D: for<'a> DataT<V<'a> = Val>>() -> Box<[Filter<RunPtr<D>>]> {
    Box::new([
        ("type", v(0), |cv| bome(Ok(kind_name(&cv.1)))),
        ("length", v(0), |cv| bome(length(&cv.1))),
        ("add", v(0), |cv| bome(add(cv.1))),
        ("tojson", v(0), |cv| bome(Ok(Val::text(cv.1.to_json_text())))),
        ("fromjson", v(0), |cv| bome(from_json(&cv.1))),
        ("tonumber", v(0), |cv| bome(number_of(&cv.1))),
        ("transpose", v(0), |cv| bome(transpose(cv.1))),
        ("flatten", v(0), |cv| {
            let mut out = Vec::new();
            bome(flatten(cv.1, i64::MAX, &mut out).map(|()| Val::array(out)))
        }),
        ("flatten", v(1), |cv| {
            unary(cv, |value, depth| {
                let depth =
                    jaq_std::ValT::as_isize(&depth).ok_or_else(|| Error::str("the depth is not a number"))?;
                let mut out = Vec::new();
                flatten(value, depth as i64, &mut out).map(|()| Val::array(out))
            })
        }),
        ("has", v(1), |cv| unary(cv, |value, key| has(&value, &key))),
        ("contains", v(1), |cv| unary(cv, |value, part| Ok(contains(&value, &part).into()))),
        ("indices", v(1), |cv| unary(cv, |value, part| indices(&value, &part))),
        ("join", v(1), |cv| unary(cv, |value, separator| join(&value.into_items()?, separator.as_str()?))),
        ("split", v(1), |cv| unary(cv, |value, separator| Ok(split(value.as_str()?, separator.as_str()?)))),
        ("test", v(1), |cv| {
            unary(cv, |value, source| Ok(regex(source.as_str()?)?.is_match(value.as_str()?).into()))
        }),
        ("capture", v(1), |mut cv| {
            let source = cv.0.pop_var();
            let found: Result<Option<Val>, Error> =
                (|| Ok(regex(source.as_str()?)?.capture(cv.1.as_str()?)))();
            Box::new(found.map_err(Exn::from).transpose().into_iter())
        }),
        ("scan", v(1), |mut cv| {
            let source = cv.0.pop_var();
            let found: Result<Vec<Val>, Error> = (|| Ok(regex(source.as_str()?)?.scan(cv.1.as_str()?)))();
            match found {
                Ok(found) => Box::new(found.into_iter().map(Ok)),
                Err(error) => bome(Err(error)),
            }
        }),
        ("sub", v(2), |mut cv| {
            let (with, source) = (cv.0.pop_var(), cv.0.pop_var());
            bome(replace(&cv.1, &source, &with, 1))
        }),
        ("gsub", v(2), |mut cv| {
            let (with, source) = (cv.0.pop_var(), cv.0.pop_var());
            bome(replace(&cv.1, &source, &with, 0))
        }),
    ])
}

/// Replaces up to `limit` finds (0: all) by the text `with`, which is not a template.
fn replace(value: &Val, source: &Val, with: &Val, limit: usize) -> ValR {
    let (text, with) = (value.as_str()?, with.as_str()?);
    let regex = regex(source.as_str()?)?;
    let mut left = if limit == 0 { usize::MAX } else { limit };
    let (mut out, mut end) = (String::new(), 0);
    regex.each(text, |groups| {
        let Some(Some(found)) = groups.into_iter().next() else { return false };
        meter::spend(found.start - end + with.len());
        out.push_str(&text[end..found.start]);
        out.push_str(with);
        end = found.end;
        left -= 1;
        left > 0
    });
    out.push_str(&text[end..]);
    Ok(Val::text(out))
}

/// Native functions, the helpers of the prelude included.
pub(super) fn natives() -> impl Iterator<Item = Fun<Data>> {
    const HELPERS: &[&str] = &["error_empty", "key_values", "min_by_or_empty", "max_by_or_empty"];
    let core = jaq_core::funs::<Data>();
    let std = jaq_std::base_funs::<Data>();
    let allowed = |(name, arguments, _): &Fun<Data>| {
        HELPERS.contains(name) || ALLOWED.contains(&(*name, <[Bind]>::len(arguments)))
    };
    core.chain(std).filter(allowed).chain(own().into_vec().into_iter().map(run))
}

/// Functions defined by other functions.
pub(super) fn definitions() -> Vec<Def<&'static str>> {
    static PRELUDE: LazyLock<Vec<Def<&'static str>>> =
        LazyLock::new(|| load::parse(include_str!("prelude.jq"), |parser| parser.defs()).unwrap_or_default());
    PRELUDE.clone()
}
