//! A reader of XML for tests: it takes what the report writes, and finds faults in anything else.

use std::collections::BTreeMap;

/// An element.
#[derive(Debug, Default)]
pub(super) struct Element {
    pub(super) name: String,
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) children: Vec<Element>,
    /// All text directly within it.
    pub(super) text: String,
}

impl Element {
    pub(super) fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }
}

/// The text that an escaped one stands for.
pub(super) fn decoded(text: &str) -> Result<String, String> {
    let mut rest = text;
    let mut read = String::new();
    while let Some(at) = rest.find('&') {
        read.push_str(&rest[..at]);
        let (name, after) = rest[at + 1..].split_once(';').ok_or("an & without its ;")?;
        read.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            name => name
                .strip_prefix('#')
                .and_then(|code| code.parse().ok())
                .and_then(char::from_u32)
                .ok_or_else(|| format!("&{name};"))?,
        });
        rest = after;
    }
    read.push_str(rest);
    Ok(read)
}

/// The one element of `text`, after a declaration.
pub(super) fn read(text: &str) -> Result<Element, String> {
    if let Some(c) = text.chars().find(|c| c.is_control() && !matches!(c, '\t' | '\n')) {
        return Err(format!("the control character {c:?}"));
    }
    let mut rest = text.trim();
    if let Some(declared) = rest.strip_prefix("<?xml ") {
        rest = declared.split_once("?>").ok_or("the declaration has no end")?.1.trim_start();
    }
    let (element, rest) = element(rest)?;
    if rest.trim().is_empty() { Ok(element) } else { Err(format!("more after the end: {rest:.40}")) }
}

fn element(text: &str) -> Result<(Element, &str), String> {
    let rest = text.strip_prefix('<').ok_or_else(|| format!("no element: {text:.40}"))?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_:".contains(c);
    let (name, mut rest) = rest.split_at(rest.find(|c| !is_name(c)).ok_or("a tag has no end")?);
    let mut element = Element { name: name.to_owned(), ..Element::default() };
    if name.is_empty() {
        return Err(format!("no name: {text:.40}"));
    }
    loop {
        let trimmed = rest.trim_start();
        if let Some(after) = trimmed.strip_prefix("/>") {
            return Ok((element, after));
        }
        if let Some(after) = trimmed.strip_prefix('>') {
            rest = after;
            break;
        }
        if trimmed.len() == rest.len() {
            return Err(format!("no space before an attribute: {rest:.40}"));
        }
        let (key, after) = trimmed.split_once("=\"").ok_or_else(|| format!("no attribute: {trimmed:.40}"))?;
        let (value, after) = after.split_once('"').ok_or("an attribute has no end")?;
        if value.contains(['<', '\n', '\t']) || !key.chars().all(is_name) {
            return Err(format!("the attribute {key}=\"{value}\""));
        }
        if element.attributes.insert(key.to_owned(), decoded(value)?).is_some() {
            return Err(format!("{key} twice"));
        }
        rest = after;
    }
    loop {
        let at = rest.find('<').ok_or_else(|| format!("{name} has no end"))?;
        element.text.push_str(&decoded(&rest[..at])?);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("</") {
            let (closed, after) = after.split_once('>').ok_or("a tag has no end")?;
            return if closed == name {
                Ok((element, after))
            } else {
                Err(format!("</{closed}> of <{name}>"))
            };
        }
        let (child, after) = self::element(rest)?;
        element.children.push(child);
        rest = after;
    }
}
