//! The values that expressions work on: JSON with shared parts, metered, never nested deeper than [`DEPTH_MAX`].

use std::{cmp::Ordering, fmt, sync::Arc};

use jaq_core::{Exn, ValR as JaqResult, ValX, path::Opt, val::Range};
use serde_json::{Number, Value};

use super::meter::{self, Stop};

/// Deepest nesting of a value; what would be deeper ends the evaluation.
pub(super) const DEPTH_MAX: u32 = 128;
/// What one value costs beside its text, in bytes.
const VAL_BYTES: usize = 24;

pub(super) type Error = jaq_core::Error<Val>;
pub(super) type ValR = JaqResult<Val>;
pub(super) type Members = jaq_json::Map<Arc<str>, Val>;

/// A JSON value. Cloning is cheap; making one is paid for.
#[derive(Clone)]
pub(super) enum Val {
    Null,
    Bool(bool),
    Number(Number),
    Text(Arc<str>),
    Array(Arc<Array>),
    Object(Arc<Object>),
}

#[derive(Clone)]
pub(super) struct Array {
    pub(super) items: Vec<Val>,
    depth: u32,
}

#[derive(Clone)]
pub(super) struct Object {
    pub(super) members: Members,
    depth: u32,
}

fn deeper(depth: u32) -> u32 {
    if depth >= DEPTH_MAX {
        meter::stop(Stop::Depth);
    }
    depth + 1
}

impl Val {
    pub(super) fn text(text: impl Into<Arc<str>>) -> Self {
        let text = text.into();
        meter::spend(VAL_BYTES + text.len());
        Self::Text(text)
    }

    pub(super) fn array(items: Vec<Self>) -> Self {
        meter::spend(VAL_BYTES * (1 + items.len()));
        let depth = deeper(items.iter().map(Self::depth).max().unwrap_or(0));
        Self::Array(Arc::new(Array { items, depth }))
    }

    pub(super) fn object(members: Members) -> Self {
        meter::spend(VAL_BYTES + members.len() * 3 * VAL_BYTES);
        let depth = deeper(members.values().map(Self::depth).max().unwrap_or(0));
        Self::Object(Arc::new(Object { members, depth }))
    }

    fn number(number: f64) -> ValR {
        Number::from_f64(number)
            .map(|number| {
                // Whole numbers are written without a decimal point, as in jq.
                let whole = number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9.0e15);
                Self::Number(whole.map_or(number, |f| Number::from(f as i64)))
            })
            .ok_or_else(|| Error::str("the result is not a finite number"))
    }

    fn depth(&self) -> u32 {
        match self {
            Self::Array(array) => array.depth,
            Self::Object(object) => object.depth,
            _ => 0,
        }
    }

    /// What it is, for messages: never the value itself, which may be secret.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }

    /// Copies a JSON value in.
    pub(super) fn from_json(value: &Value) -> Self {
        Self::from_json_at(value, 0)
    }

    fn from_json_at(value: &Value, depth: u32) -> Self {
        if depth > DEPTH_MAX {
            meter::stop(Stop::Depth);
        }
        match value {
            Value::Null => Self::Null,
            Value::Bool(bool) => Self::Bool(*bool),
            Value::Number(number) => Self::Number(number.clone()),
            Value::String(text) => Self::text(text.as_str()),
            Value::Array(items) => {
                Self::array(items.iter().map(|item| Self::from_json_at(item, depth + 1)).collect())
            }
            Value::Object(members) => Self::object(
                members
                    .iter()
                    .map(|(name, value)| (Arc::from(name.as_str()), Self::from_json_at(value, depth + 1)))
                    .collect(),
            ),
        }
    }

    /// Copies the value out; stops when the JSON text would be longer than `left` bytes.
    pub(super) fn to_json(&self, left: &mut usize) -> Value {
        let own = match self {
            Self::Text(text) => text.len() + 2,
            Self::Array(array) => array.items.len() + 2,
            Self::Object(object) => object.members.keys().map(|name| name.len() + 4).sum::<usize>() + 2,
            _ => 4,
        };
        match left.checked_sub(own) {
            Some(rest) => *left = rest,
            None => meter::stop(Stop::Output),
        }
        meter::tick();
        match self {
            Self::Null => Value::Null,
            Self::Bool(bool) => Value::Bool(*bool),
            Self::Number(number) => Value::Number(number.clone()),
            Self::Text(text) => Value::String(text.as_ref().to_owned()),
            Self::Array(array) => Value::Array(array.items.iter().map(|item| item.to_json(left)).collect()),
            Self::Object(object) => Value::Object(
                object
                    .members
                    .iter()
                    .map(|(name, value)| (name.as_ref().to_owned(), value.to_json(left)))
                    .collect(),
            ),
        }
    }

    /// The JSON text.
    pub(super) fn to_json_text(&self) -> String {
        // Values shared in many places may be far longer as text than in memory: paid for on the way.
        struct Paid(Vec<u8>);
        impl std::io::Write for Paid {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                meter::spend(bytes.len());
                self.0.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        fn write(value: &Val, out: &mut Paid) -> serde_json::Result<()> {
            use std::io::Write as _;
            let raw = |out: &mut Paid, text: &[u8]| out.write_all(text).map_err(serde_json::Error::io);
            match value {
                Val::Null => raw(out, b"null"),
                Val::Bool(bool) => serde_json::to_writer(out, bool),
                Val::Number(number) => serde_json::to_writer(out, number),
                Val::Text(text) => serde_json::to_writer(out, text.as_ref()),
                Val::Array(array) => {
                    raw(out, b"[")?;
                    for (index, item) in array.items.iter().enumerate() {
                        raw(out, if index == 0 { b"" } else { b"," })?;
                        write(item, out)?;
                    }
                    raw(out, b"]")
                }
                Val::Object(object) => {
                    raw(out, b"{")?;
                    for (index, (name, value)) in object.members.iter().enumerate() {
                        raw(out, if index == 0 { b"" } else { b"," })?;
                        serde_json::to_writer(&mut *out, name.as_ref())?;
                        raw(out, b":")?;
                        write(value, out)?;
                    }
                    raw(out, b"}")
                }
            }
        }
        let mut out = Paid(Vec::new());
        match write(self, &mut out) {
            Ok(()) => String::from_utf8(out.0).unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// The text of a string, else the JSON text.
    pub(super) fn display_text(&self) -> Arc<str> {
        match self {
            Self::Text(text) => text.clone(),
            other => other.to_json_text().into(),
        }
    }

    pub(super) fn as_str(&self) -> Result<&str, Error> {
        match self {
            Self::Text(text) => Ok(text),
            other => Err(Error::str(format_args!("{} is not a string", other.kind()))),
        }
    }

    pub(super) fn into_items(self) -> Result<Vec<Self>, Error> {
        match self {
            Self::Array(array) => Ok(match Arc::try_unwrap(array) {
                Ok(array) => array.items,
                Err(array) => {
                    meter::spend(VAL_BYTES * array.items.len());
                    array.items.clone()
                }
            }),
            other => Err(Error::str(format_args!("{} is not an array", other.kind()))),
        }
    }

    fn into_members(object: Arc<Object>) -> Members {
        match Arc::try_unwrap(object) {
            Ok(object) => object.members,
            Err(object) => {
                meter::spend(3 * VAL_BYTES * object.members.len());
                object.members.clone()
            }
        }
    }

    fn as_position(&self) -> Option<i64> {
        match self {
            Self::Number(number) => number
                .as_i64()
                .or_else(|| number.as_f64().filter(|f| f.is_finite()).map(|f| f.floor() as i64)),
            _ => None,
        }
    }

    /// `[from, upto)` of a sequence of `len` things, as jq clips it.
    fn span(range: Range<&Self>, len: usize) -> Result<(usize, usize), Error> {
        let bound = |value: Option<&Self>, default: usize| match value {
            None | Some(Self::Null) => Ok(default),
            Some(value) => {
                let position = value
                    .as_position()
                    .ok_or_else(|| Error::str(format_args!("{} cannot be a slice position", value.kind())))?;
                let len = i64::try_from(len).unwrap_or(i64::MAX);
                Ok(if position < 0 { (len + position).max(0) } else { position.min(len) } as usize)
            }
        };
        let from = bound(range.start, 0)?;
        Ok((from, bound(range.end, len)?.max(from)))
    }

    fn index_of(&self, len: usize) -> Option<usize> {
        let position = self.as_position()?;
        let absolute =
            if position < 0 { position + i64::try_from(len).unwrap_or(i64::MAX) } else { position };
        usize::try_from(absolute).ok().filter(|index| *index < len)
    }

    fn no_index(&self, index: &Self) -> Error {
        match index {
            Self::Text(name) if name.len() <= 64 => {
                Error::str(format_args!("{} has no member \"{name}\"", self.kind()))
            }
            _ => Error::str(format_args!("{} cannot be indexed with {}", self.kind(), index.kind())),
        }
    }

    fn no_iterate(&self) -> Error {
        Error::str(format_args!("{} has no items", self.kind()))
    }

    fn slice(&self, range: Range<&Self>) -> ValR {
        match self {
            Self::Null => Ok(Self::Null),
            Self::Array(array) => {
                let (from, upto) = Self::span(range, array.items.len())?;
                Ok(Self::array(array.items[from..upto].to_vec()))
            }
            Self::Text(text) => {
                let (from, upto) = Self::span(range, text.chars().count())?;
                Ok(Self::text(text.chars().skip(from).take(upto - from).collect::<String>()))
            }
            other => Err(Error::str(format_args!("{} cannot be sliced", other.kind()))),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Bool(false) => 1,
            Self::Bool(true) => 2,
            Self::Number(_) => 3,
            Self::Text(_) => 4,
            Self::Array(_) => 5,
            Self::Object(_) => 6,
        }
    }
}

impl fmt::Display for Val {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

impl From<bool> for Val {
    fn from(bool: bool) -> Self {
        Self::Bool(bool)
    }
}

impl From<isize> for Val {
    fn from(number: isize) -> Self {
        meter::tick();
        Self::Number(Number::from(number as i64))
    }
}

impl From<usize> for Val {
    fn from(number: usize) -> Self {
        meter::tick();
        Self::Number(Number::from(number as u64))
    }
}

impl From<f64> for Val {
    fn from(number: f64) -> Self {
        Self::number(number).unwrap_or(Self::Null)
    }
}

impl From<String> for Val {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl From<Range<Self>> for Val {
    fn from(range: Range<Self>) -> Self {
        let mut members = Members::default();
        for (name, value) in [("start", range.start), ("end", range.end)] {
            if let Some(value) = value {
                members.insert(name.into(), value);
            }
        }
        Self::object(members)
    }
}

impl FromIterator<Self> for Val {
    fn from_iter<I: IntoIterator<Item = Self>>(iter: I) -> Self {
        let items = iter.into_iter().inspect(|_| meter::spend(VAL_BYTES)).collect();
        Self::array(items)
    }
}

impl Ord for Val {
    fn cmp(&self, other: &Self) -> Ordering {
        meter::tick();
        match (self, other) {
            (Self::Number(l), Self::Number(r)) => match (l.as_i64(), r.as_i64()) {
                (Some(l), Some(r)) => l.cmp(&r),
                _ => l.as_f64().unwrap_or(f64::MAX).total_cmp(&r.as_f64().unwrap_or(f64::MAX)),
            },
            (Self::Text(l), Self::Text(r)) => l.cmp(r),
            (Self::Array(l), Self::Array(r)) if Arc::ptr_eq(l, r) => Ordering::Equal,
            (Self::Array(l), Self::Array(r)) => l.items.iter().cmp(r.items.iter()),
            (Self::Object(l), Self::Object(r)) if Arc::ptr_eq(l, r) => Ordering::Equal,
            (Self::Object(l), Self::Object(r)) => {
                let sorted = |object: &Object| {
                    meter::spend(16 * object.members.len());
                    let mut names: Vec<_> = object.members.keys().cloned().collect();
                    names.sort_unstable();
                    names
                };
                let (names_l, names_r) = (sorted(l), sorted(r));
                names_l.cmp(&names_r).then_with(|| {
                    let values = |object: &Arc<Object>| {
                        let object = object.clone();
                        move |name: &Arc<str>| object.members.get(name).cloned().unwrap_or(Self::Null)
                    };
                    names_l.iter().map(values(l)).cmp(names_r.iter().map(values(r)))
                })
            }
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Val {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Val {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Val {}

fn arithmetic(
    (l, r): (&Number, &Number),
    whole: impl FnOnce(i64, i64) -> Option<i64>,
    float: impl FnOnce(f64, f64) -> f64,
) -> ValR {
    meter::tick();
    if let (Some(l), Some(r)) = (l.as_i64(), r.as_i64())
        && let Some(result) = whole(l, r)
    {
        return Ok(Val::Number(Number::from(result)));
    }
    match (l.as_f64(), r.as_f64()) {
        (Some(l), Some(r)) => Val::number(float(l, r)),
        _ => Err(Error::str("the result is not a finite number")),
    }
}

fn no_math(l: &Val, sign: &str, r: &Val) -> Error {
    Error::str(format_args!("{} {sign} {} is not defined", l.kind(), r.kind()))
}

impl std::ops::Add for Val {
    type Output = ValR;

    fn add(self, other: Self) -> ValR {
        match (self, other) {
            (Self::Null, value) | (value, Self::Null) => Ok(value),
            (Self::Number(l), Self::Number(r)) => arithmetic((&l, &r), i64::checked_add, |l, r| l + r),
            (Self::Text(l), Self::Text(r)) => {
                meter::spend(VAL_BYTES + l.len() + r.len());
                Ok(Self::Text([l.as_ref(), r.as_ref()].concat().into()))
            }
            (Self::Array(l), Self::Array(r)) => {
                let mut items = Self::Array(l).into_items()?;
                meter::spend(VAL_BYTES * (1 + r.items.len()));
                let depth = items.iter().chain(&r.items).map(Self::depth).max().unwrap_or(0);
                items.extend(r.items.iter().cloned());
                Ok(Self::Array(Arc::new(Array { items, depth: deeper(depth) })))
            }
            (Self::Object(l), Self::Object(r)) => {
                let depth = l.depth.max(r.depth);
                let mut members = Self::into_members(l);
                meter::spend(3 * VAL_BYTES * (1 + r.members.len()));
                for (name, value) in &r.members {
                    members.insert(name.clone(), value.clone());
                }
                Ok(Self::Object(Arc::new(Object { members, depth })))
            }
            (l, r) => Err(no_math(&l, "+", &r)),
        }
    }
}

impl std::ops::Sub for Val {
    type Output = ValR;

    fn sub(self, other: Self) -> ValR {
        match (self, other) {
            (Self::Number(l), Self::Number(r)) => arithmetic((&l, &r), i64::checked_sub, |l, r| l - r),
            (l @ Self::Array(_), Self::Array(r)) => {
                let mut items = l.into_items()?;
                items.retain(|item| !r.items.contains(item));
                Ok(Self::array(items))
            }
            (l, r) => Err(no_math(&l, "-", &r)),
        }
    }
}

impl std::ops::Mul for Val {
    type Output = ValR;

    fn mul(self, other: Self) -> ValR {
        fn merge(l: Arc<Object>, r: &Object) -> Val {
            let mut members = Val::into_members(l);
            for (name, value) in &r.members {
                meter::spend(3 * VAL_BYTES);
                let merged = match (members.swap_remove_entry_in_place(name), value) {
                    (Some(Val::Object(l)), Val::Object(r)) => merge(l, r),
                    _ => value.clone(),
                };
                members.insert(name.clone(), merged);
            }
            Val::object(members)
        }
        match (self, other) {
            (Self::Number(l), Self::Number(r)) => arithmetic((&l, &r), i64::checked_mul, |l, r| l * r),
            (Self::Object(l), Self::Object(r)) => Ok(merge(l, &r)),
            (Self::Text(_), _) | (_, Self::Text(_)) => Err(Error::str("strings cannot be multiplied")),
            (l, r) => Err(no_math(&l, "*", &r)),
        }
    }
}

/// Takes a value out of its place and leaves the place.
trait TakeInPlace {
    fn swap_remove_entry_in_place(&mut self, name: &Arc<str>) -> Option<Val>;
}

impl TakeInPlace for Members {
    fn swap_remove_entry_in_place(&mut self, name: &Arc<str>) -> Option<Val> {
        self.get_mut(name).map(|value| std::mem::replace(value, Val::Null))
    }
}

impl std::ops::Div for Val {
    type Output = ValR;

    fn div(self, other: Self) -> ValR {
        match (self, other) {
            (Self::Number(l), Self::Number(r)) => {
                if r.as_f64() == Some(0.0) {
                    return Err(Error::str("division by zero"));
                }
                arithmetic(
                    (&l, &r),
                    |l, r| (l.checked_rem(r) == Some(0)).then(|| l.checked_div(r)).flatten(),
                    |l, r| l / r,
                )
            }
            (Self::Text(l), Self::Text(r)) => Ok(split(&l, &r)),
            (l, r) => Err(no_math(&l, "/", &r)),
        }
    }
}

/// The parts of `text` between `separator`s.
pub(super) fn split(text: &str, separator: &str) -> Val {
    if separator.is_empty() {
        text.chars().map(|char| Val::text(char.to_string())).collect()
    } else if text.is_empty() {
        Val::array(Vec::new())
    } else {
        text.split(separator).map(Val::text).collect()
    }
}

impl std::ops::Rem for Val {
    type Output = ValR;

    fn rem(self, other: Self) -> ValR {
        match (self, other) {
            (Self::Number(l), Self::Number(r)) => {
                if r.as_f64() == Some(0.0) {
                    return Err(Error::str("division by zero"));
                }
                arithmetic((&l, &r), i64::checked_rem, |l, r| l % r)
            }
            (l, r) => Err(no_math(&l, "%", &r)),
        }
    }
}

impl std::ops::Neg for Val {
    type Output = ValR;

    fn neg(self) -> ValR {
        match self {
            Self::Number(number) => {
                arithmetic((&Number::from(0), &number), i64::checked_sub, |_, number| -number)
            }
            other => Err(Error::str(format_args!("{} cannot be negated", other.kind()))),
        }
    }
}

impl jaq_core::ValT for Val {
    fn from_num(text: &str) -> ValR {
        if let Ok(whole) = text.parse::<i64>() {
            return Ok(Self::Number(whole.into()));
        }
        let number = text.parse::<f64>().map_err(|_| Error::str("not a number"))?;
        Self::number(number)
    }

    fn from_map<I: IntoIterator<Item = (Self, Self)>>(iter: I) -> ValR {
        let mut members = Members::default();
        for (name, value) in iter {
            match name {
                Self::Text(name) => members.insert(name, value),
                other => {
                    return Err(Error::str(format_args!("{} cannot name an object member", other.kind())));
                }
            };
        }
        Ok(Self::object(members))
    }

    fn key_values(self) -> Box<dyn Iterator<Item = Result<(Self, Self), Error>>> {
        match self {
            Self::Array(array) => Box::new((0..array.items.len()).map(move |index| {
                meter::tick();
                Ok((Self::from(index), array.items[index].clone()))
            })),
            Self::Object(object) => Box::new((0..object.members.len()).filter_map(move |index| {
                meter::tick();
                let (name, value) = object.members.get_index(index)?;
                Some(Ok((Self::Text(name.clone()), value.clone())))
            })),
            other => Box::new(std::iter::once(Err(other.no_iterate()))),
        }
    }

    fn values(self) -> Box<dyn Iterator<Item = ValR>> {
        match self {
            Self::Array(array) => Box::new((0..array.items.len()).map(move |index| {
                meter::tick();
                Ok(array.items[index].clone())
            })),
            Self::Object(object) => Box::new((0..object.members.len()).filter_map(move |index| {
                meter::tick();
                object.members.get_index(index).map(|(_, value)| Ok(value.clone()))
            })),
            other => Box::new(std::iter::once(Err(other.no_iterate()))),
        }
    }

    fn index(self, index: &Self) -> ValR {
        meter::tick();
        match (&self, index) {
            (Self::Null, Self::Text(_) | Self::Number(_) | Self::Null) => Ok(Self::Null),
            (Self::Object(object), Self::Text(name)) => {
                Ok(object.members.get(name).cloned().unwrap_or(Self::Null))
            }
            (Self::Array(array), Self::Number(_)) => {
                Ok(index.index_of(array.items.len()).map_or(Self::Null, |index| array.items[index].clone()))
            }
            (Self::Null | Self::Text(_) | Self::Array(_), Self::Object(range)) => {
                let start = range.members.get("start");
                let end = range.members.get("end");
                self.slice(start..end)
            }
            _ => Err(self.no_index(index)),
        }
    }

    fn range(self, range: Range<&Self>) -> ValR {
        self.slice(range)
    }

    fn map_values<'a, I: Iterator<Item = ValX<'a, Self>>>(
        self,
        opt: Opt,
        f: impl Fn(Self) -> I,
    ) -> ValX<'a, Self> {
        match self {
            Self::Array(_) => self.into_items().map_err(Exn::from)?.into_iter().flat_map(f).collect(),
            Self::Object(object) => {
                let mut members = Members::default();
                for (name, value) in Self::into_members(object) {
                    if let Some(value) = f(value).next().transpose()? {
                        members.insert(name, value);
                    }
                }
                Ok(Self::object(members))
            }
            other => opt.fail(other, |other| Exn::from(other.no_iterate())),
        }
    }

    fn map_index<'a, I: Iterator<Item = ValX<'a, Self>>>(
        self,
        index: &Self,
        opt: Opt,
        f: impl Fn(Self) -> I,
    ) -> ValX<'a, Self> {
        match (self, index) {
            (Self::Null, Self::Text(_)) => Self::object(Members::default()).map_index(index, opt, f),
            (Self::Object(object), Self::Text(name)) => {
                let mut members = Self::into_members(object);
                let value = members.swap_remove_entry_in_place(name).unwrap_or(Self::Null);
                match f(value).next().transpose()? {
                    Some(value) => drop(members.insert(name.clone(), value)),
                    None => drop(members.shift_remove(name)),
                }
                Ok(Self::object(members))
            }
            (array @ Self::Array(_), Self::Number(_)) => {
                let mut items = array.into_items().map_err(Exn::from)?;
                let Some(index) = index.index_of(items.len()) else {
                    return opt.fail(Self::array(items), |_| {
                        Exn::from(Error::str("there is no array item at that position"))
                    });
                };
                let value = std::mem::replace(&mut items[index], Self::Null);
                match f(value).next().transpose()? {
                    Some(value) => items[index] = value,
                    None => drop(items.remove(index)),
                }
                Ok(Self::array(items))
            }
            (value, index) => opt.fail(value, |value| Exn::from(value.no_index(index))),
        }
    }

    fn map_range<'a, I: Iterator<Item = ValX<'a, Self>>>(
        self,
        range: Range<&Self>,
        opt: Opt,
        f: impl Fn(Self) -> I,
    ) -> ValX<'a, Self> {
        match self {
            Self::Array(array) => {
                let (from, upto) = Self::span(range, array.items.len()).map_err(Exn::from)?;
                let part = Self::array(array.items[from..upto].to_vec());
                let part = match f(part).next().transpose()? {
                    Some(part) => part.into_items().map_err(Exn::from)?,
                    None => Vec::new(),
                };
                let mut items = Self::Array(array).into_items().map_err(Exn::from)?;
                items.splice(from..upto, part);
                Ok(Self::array(items))
            }
            other => opt.fail(other, |other| {
                Exn::from(Error::str(format_args!("{} cannot be changed by slices", other.kind())))
            }),
        }
    }

    fn as_bool(&self) -> bool {
        meter::tick();
        !matches!(self, Self::Null | Self::Bool(false))
    }

    fn into_string(self) -> Self {
        match self {
            Self::Text(_) => self,
            other => Self::text(other.to_json_text()),
        }
    }
}

impl jaq_std::ValT for Val {
    fn into_seq<S: FromIterator<Self>>(self) -> Result<S, Self> {
        match self {
            Self::Array(_) => Ok(self.into_items().unwrap_or_default().into_iter().collect()),
            other => Err(other),
        }
    }

    fn is_int(&self) -> bool {
        matches!(self, Self::Number(number) if !number.is_f64())
    }

    fn as_isize(&self) -> Option<isize> {
        match self {
            Self::Number(number) => number.as_i64().and_then(|number| isize::try_from(number).ok()),
            _ => None,
        }
    }

    fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Number(number) => number.as_f64(),
            _ => None,
        }
    }

    fn is_utf8_str(&self) -> bool {
        matches!(self, Self::Text(_))
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Text(text) => Some(text.as_bytes()),
            _ => None,
        }
    }

    fn as_sub_str(&self, sub: &[u8]) -> Self {
        Self::text(String::from_utf8_lossy(sub).into_owned())
    }

    fn from_utf8_bytes(bytes: impl AsRef<[u8]> + Send + 'static) -> Self {
        Self::text(String::from_utf8_lossy(bytes.as_ref()).into_owned())
    }
}
