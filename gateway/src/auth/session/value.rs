//! The part of a decoded session that a pointer resolves to, and decoded sessions of the binary formats.

use std::borrow::Cow;

use super::super::pointer::{Pointer, index};
use super::error::SessionError;

/// Maximum size of a stored session, before and after decompression.
pub(super) const SESSION_BYTES_MAX: usize = 1 << 20;
/// Maximum number of elements of a decoded session.
pub(super) const ITEMS_MAX: usize = 1 << 16;
/// Maximum size of a text that is taken from a session.
pub(super) const TEXT_BYTES_MAX: usize = 512;
/// Maximum number of elements of an array that is taken from a session.
pub(super) const LIST_ITEMS_MAX: usize = 256;
/// The deepest nesting of a session in a format whose reader recurses.
pub(super) const DEPTH_MAX: usize = 64;

/// The value that a pointer resolves to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resolved {
    /// A text.
    Text(String),
    /// A number, as decimal text.
    Number(String),
    /// A boolean.
    Bool(bool),
    /// An array of texts, numbers and booleans, as texts.
    List(Vec<String>),
    /// A text or number of more than [`TEXT_BYTES_MAX`] bytes.
    TooLong,
    /// Anything else: null, an object, an array with other elements or with more than [`LIST_ITEMS_MAX`].
    Other,
}

impl Resolved {
    /// A text, if it is not too long.
    pub(super) fn text(text: &str) -> Self {
        if text.len() > TEXT_BYTES_MAX { Self::TooLong } else { Self::Text(text.to_owned()) }
    }

    /// A number, if it is not too long.
    pub(super) fn number(text: &str) -> Self {
        if text.len() > TEXT_BYTES_MAX { Self::TooLong } else { Self::Number(text.to_owned()) }
    }

    /// An array of these elements.
    pub(super) fn list(elements: impl ExactSizeIterator<Item = Self>) -> Self {
        if elements.len() > LIST_ITEMS_MAX {
            return Self::Other;
        }
        elements.map(Self::into_scalar).collect::<Option<Vec<_>>>().map_or(Self::Other, Self::List)
    }

    /// The text of a text, a number or a boolean.
    pub(super) fn into_scalar(self) -> Option<String> {
        match self {
            Self::Text(text) | Self::Number(text) => Some(text),
            Self::Bool(value) => Some(value.to_string()),
            Self::List(_) | Self::TooLong | Self::Other => None,
        }
    }
}

/// An element of a decoded session.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item<'v> {
    /// No value.
    Null,
    /// A boolean.
    Bool(bool),
    /// A number, as decimal text.
    Number(Cow<'v, str>),
    /// A text.
    Text(Cow<'v, str>),
    /// An array.
    List(Vec<ItemId>),
    /// Keys and values. The last of several equal keys counts.
    Map(Vec<(ItemId, ItemId)>),
    /// A value that is not read: an object, bytes that are not text, a date.
    Opaque,
}

impl Item<'_> {
    /// A floating-point number; opaque if it is infinite or not a number.
    pub(super) fn float(value: f64) -> Self {
        if value.is_finite() { Self::Number(Cow::Owned(format!("{value:?}"))) } else { Self::Opaque }
    }

    /// An integer.
    pub(super) fn integer(value: impl Into<i128>) -> Self {
        Self::Number(Cow::Owned(value.into().to_string()))
    }
}

impl<'v> Item<'v> {
    /// A text; opaque if the bytes are not UTF-8.
    pub(super) fn text(bytes: &'v [u8]) -> Self {
        str::from_utf8(bytes).map_or(Self::Opaque, |text| Self::Text(Cow::Borrowed(text)))
    }
}

/// The number of an element of one [`Arena`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ItemId(u32);

/// The elements of one decoded session. Containers refer to their elements by number, so that an element that several
/// containers share exists once: memory is linear in the stored bytes, also with references of pickle.
#[derive(Debug, Default)]
pub(super) struct Arena<'v> {
    items: Vec<Item<'v>>,
}

impl<'v> Arena<'v> {
    /// Adds an element.
    ///
    /// # Errors
    /// The session has more than [`ITEMS_MAX`] elements.
    pub(super) fn add(&mut self, item: Item<'v>) -> Result<ItemId, SessionError> {
        let id = ItemId(u32::try_from(self.items.len()).unwrap_or(u32::MAX));
        if self.items.len() >= ITEMS_MAX {
            return Err(SessionError::TooManyItems(ITEMS_MAX));
        }
        self.items.push(item);
        Ok(id)
    }

    /// An element of this session.
    pub(super) fn get(&self, id: ItemId) -> &Item<'v> {
        self.items.get(id.0 as usize).unwrap_or(&Item::Opaque)
    }

    /// An element of this session, to change it.
    pub(super) fn get_mut(&mut self, id: ItemId) -> Option<&mut Item<'v>> {
        self.items.get_mut(id.0 as usize)
    }

    /// The value that the tokens of a pointer name below `root`; `None` if there is none.
    fn resolve(&self, root: ItemId, tokens: &[String]) -> Option<Resolved> {
        let found = tokens.iter().try_fold(root, |at, token| self.child(at, token))?;
        Some(match self.get(found) {
            Item::List(elements) => Resolved::list(elements.iter().map(|id| self.scalar(*id))),
            _ => self.scalar(found),
        })
    }

    fn child(&self, parent: ItemId, token: &str) -> Option<ItemId> {
        match self.get(parent) {
            Item::List(elements) => elements.get(index(token)?).copied(),
            Item::Map(entries) => {
                let is_key =
                    |id: ItemId| matches!(self.get(id), Item::Text(key) | Item::Number(key) if key == token);
                entries.iter().rev().find(|(key, _)| is_key(*key)).map(|(_, value)| *value)
            }
            Item::Null | Item::Bool(_) | Item::Number(_) | Item::Text(_) | Item::Opaque => None,
        }
    }

    fn scalar(&self, id: ItemId) -> Resolved {
        match self.get(id) {
            Item::Text(text) => Resolved::text(text),
            Item::Number(text) => Resolved::number(text),
            Item::Bool(value) => Resolved::Bool(*value),
            Item::Null | Item::List(_) | Item::Map(_) | Item::Opaque => Resolved::Other,
        }
    }
}

/// A decoded session: its elements, and its root element.
#[derive(Debug)]
pub(super) struct Decoded<'v> {
    /// All elements.
    pub(super) arena: Arena<'v>,
    /// The element that contains the others.
    pub(super) root: ItemId,
}

impl Decoded<'_> {
    /// The value that a pointer names; `None` if there is none.
    pub(super) fn resolve(&self, pointer: &Pointer) -> Option<Resolved> {
        self.resolve_tokens(pointer.tokens())
    }

    /// Like [`Self::resolve`]. Without tokens, the whole value.
    pub(super) fn resolve_tokens(&self, tokens: &[String]) -> Option<Resolved> {
        self.arena.resolve(self.root, tokens)
    }
}

/// A position in stored bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Bytes<'v> {
    rest: &'v [u8],
}

impl<'v> Bytes<'v> {
    /// Starts at the first byte.
    pub(super) fn new(bytes: &'v [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes that are left.
    pub(super) fn rest(&self) -> &'v [u8] {
        self.rest
    }

    /// Takes the next byte.
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// Takes the next `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Option<&'v [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    /// Takes the next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// Takes the bytes up to and including the next `end`.
    pub(super) fn until(&mut self, end: u8) -> Option<&'v [u8]> {
        let at = self.rest.iter().position(|byte| *byte == end)?;
        let taken = &self.rest[..at];
        self.rest = &self.rest[at + 1..];
        Some(taken)
    }

    /// Takes `expected` if it comes next.
    pub(super) fn expect(&mut self, expected: &[u8]) -> Option<()> {
        self.rest = self.rest.strip_prefix(expected)?;
        Some(())
    }
}
