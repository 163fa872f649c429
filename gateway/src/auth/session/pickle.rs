//! Reads pickles of Python (protocols 0 to 5) that hold data: dictionaries, lists, texts, numbers.
//!
//! Nothing is executed. An operation that would import, call or build an object leaves an opaque value, which no
//! pointer enters. References share one element (see [`Arena`]), so that a pickle does not expand, and the reader does
//! not recurse, so that nesting needs no limit.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::error::SessionError;
use super::value::{Arena, Bytes, Decoded, ITEMS_MAX, Item, ItemId};

const MALFORMED: SessionError = SessionError::Malformed("pickle");
/// The newest protocol.
const PROTOCOL_MAX: u8 = 5;
/// Maximum size of an integer; a longer one is opaque.
const INTEGER_BYTES_MAX: usize = 16;
/// Maximum number of digits of an integer in protocols 0 and 1.
const INTEGER_DIGITS_MAX: usize = 39;

/// Reads a pickle.
///
/// # Errors
/// The bytes are not a pickle, are followed by others, or have too many elements.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded<'_>, SessionError> {
    let mut machine = Machine { bytes: Bytes::new(bytes), ..Machine::default() };
    loop {
        let opcode = machine.bytes.byte().ok_or(MALFORMED)?;
        if opcode == b'.' {
            break;
        }
        machine.execute(opcode)?;
    }
    let root = machine.pop()?;
    let is_whole = machine.stack.is_empty() && machine.marks.is_empty() && machine.bytes.rest().is_empty();
    if is_whole { Ok(Decoded { arena: machine.arena, root }) } else { Err(MALFORMED) }
}

/// The state of the stack machine that executes a pickle.
#[derive(Default)]
struct Machine<'v> {
    bytes: Bytes<'v>,
    arena: Arena<'v>,
    stack: Vec<ItemId>,
    /// Heights of the stack at the unconsumed marks.
    marks: Vec<usize>,
    memo: BTreeMap<u32, ItemId>,
}

impl<'v> Machine<'v> {
    fn execute(&mut self, opcode: u8) -> Result<(), SessionError> {
        match opcode {
            // PROTO, FRAME: lengths of frames only help readers of streams.
            0x80 => {
                return if self.number(1)? <= usize::from(PROTOCOL_MAX) { Ok(()) } else { Err(MALFORMED) };
            }
            0x95 => return self.bytes.take(8).map(drop).ok_or(MALFORMED),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => return self.pop_or_mark(),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => self.stack.push(self.top()?),
            b'p' | b'q' | b'r' | 0x94 => return self.memoize(opcode),
            b'g' | b'h' | b'j' => return self.recall(opcode),
            b'a' | b'e' | b's' | b'u' | 0x90 => return self.extend(opcode),
            _ => {
                let item = match self.scalar(opcode)? {
                    Some(item) => item,
                    None => match self.container(opcode)? {
                        Some(item) => item,
                        None => self.object(opcode)?,
                    },
                };
                self.stack.push(self.arena.add(item)?);
            }
        }
        Ok(())
    }

    /// Executes an operation that pushes a text, a number or a constant; `None` for other operations.
    fn scalar(&mut self, opcode: u8) -> Result<Option<Item<'v>>, SessionError> {
        Ok(Some(match opcode {
            b'N' => Item::Null,
            0x88 => Item::Bool(true),
            0x89 => Item::Bool(false),
            b'I' | b'L' => self.line().map(digits)?,
            b'F' => float(self.line()?),
            b'J' => Item::integer(i32::from_le_bytes(self.array()?)),
            b'K' => Item::integer(u8::from_le_bytes(self.array()?)),
            b'M' => Item::integer(u16::from_le_bytes(self.array()?)),
            0x8a => self.prefixed(1).map(integer)?,
            0x8b => self.prefixed(4).map(integer)?,
            b'G' => Item::float(f64::from_be_bytes(self.array()?)),
            b'V' => unescape(self.line()?),
            b'X' => self.prefixed(4).map(Item::text)?,
            0x8c => self.prefixed(1).map(Item::text)?,
            0x8d => self.prefixed(8).map(Item::text)?,
            // Texts of Python 2, and bytes.
            b'S' => self.line().map(|_| Item::Opaque)?,
            b'T' | b'B' => self.prefixed(4).map(|_| Item::Opaque)?,
            b'U' | b'C' => self.prefixed(1).map(|_| Item::Opaque)?,
            0x8e | 0x96 => self.prefixed(8).map(|_| Item::Opaque)?,
            _ => return Ok(None),
        }))
    }

    /// Executes an operation that pushes a container of data; `None` for other operations. Tuples and sets are lists.
    fn container(&mut self, opcode: u8) -> Result<Option<Item<'v>>, SessionError> {
        Ok(Some(match opcode {
            b'}' => Item::Map(Vec::new()),
            b']' | b')' | 0x8f => Item::List(Vec::new()),
            b'l' | b't' | 0x91 => Item::List(self.pop_to_mark()?),
            b'd' => Item::Map(pairs(&self.pop_to_mark()?)?),
            0x85..=0x87 => Item::List(self.pop_many(usize::from(opcode - 0x84))?),
            _ => return Ok(None),
        }))
    }

    /// Executes an operation that would push an object: drops its arguments.
    fn object(&mut self, opcode: u8) -> Result<Item<'v>, SessionError> {
        match opcode {
            // GLOBAL, PERSID, EXT1, EXT2, EXT4
            b'c' => drop((self.line()?, self.line()?)),
            b'P' => drop(self.line()?),
            0x82 | 0x83 => drop(self.number(usize::from(opcode - 0x81))?),
            0x84 => drop(self.number(4)?),
            // BINPERSID, READONLY_BUFFER, NEXT_BUFFER
            b'Q' | 0x98 => drop(self.pop()?),
            0x97 => {}
            // STACK_GLOBAL, REDUCE, BUILD, NEWOBJ; NEWOBJ_EX
            0x93 | b'R' | b'b' | 0x81 => drop(self.pop_many(2)?),
            0x92 => drop(self.pop_many(3)?),
            // INST, OBJ
            b'i' => drop((self.line()?, self.line()?, self.pop_to_mark()?)),
            b'o' => drop(self.pop_to_mark()?),
            _ => return Err(MALFORMED),
        }
        Ok(Item::Opaque)
    }

    /// Adds elements to the container below them. An opaque container, such as an `OrderedDict`, drops them.
    fn extend(&mut self, opcode: u8) -> Result<(), SessionError> {
        let added = match opcode {
            b'a' => self.pop_many(1)?,
            b's' => self.pop_many(2)?,
            _ => self.pop_to_mark()?,
        };
        let container = self.top()?;
        match self.arena.get_mut(container).ok_or(MALFORMED)? {
            Item::List(elements) if matches!(opcode, b'a' | b'e' | 0x90) => elements.extend(added),
            Item::Map(entries) if matches!(opcode, b's' | b'u') => entries.extend(pairs(&added)?),
            Item::Opaque => {}
            _ => return Err(MALFORMED),
        }
        Ok(())
    }

    fn memoize(&mut self, opcode: u8) -> Result<(), SessionError> {
        let index = match opcode {
            0x94 => u32::try_from(self.memo.len()).map_err(|_| MALFORMED)?,
            _ => self.memo_index(opcode, b'q')?,
        };
        if self.memo.len() >= ITEMS_MAX {
            return Err(SessionError::TooManyItems(ITEMS_MAX));
        }
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, opcode: u8) -> Result<(), SessionError> {
        let index = self.memo_index(opcode, b'h')?;
        self.stack.push(*self.memo.get(&index).ok_or(MALFORMED)?);
        Ok(())
    }

    /// The index of PUT, GET (a line), BINPUT, BINGET (`short`), LONG_BINPUT, LONG_BINGET.
    fn memo_index(&mut self, opcode: u8, short: u8) -> Result<u32, SessionError> {
        let index = match opcode {
            b'p' | b'g' => str::from_utf8(self.line()?).ok().and_then(|text| text.parse().ok()),
            _ => u32::try_from(self.number(if opcode == short { 1 } else { 4 })?).ok(),
        };
        index.ok_or(MALFORMED)
    }

    /// The height of the stack at the newest mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<ItemId, SessionError> {
        let above = self.stack.get(self.floor()..).unwrap_or_default();
        above.last().copied().ok_or(MALFORMED)
    }

    fn pop(&mut self) -> Result<ItemId, SessionError> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// Removes the topmost elements, and returns them in the order in which they were pushed.
    fn pop_many(&mut self, count: usize) -> Result<Vec<ItemId>, SessionError> {
        let start = self.stack.len().checked_sub(count).filter(|start| *start >= self.floor());
        Ok(self.stack.drain(start.ok_or(MALFORMED)?..).collect())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<ItemId>, SessionError> {
        let start = self.marks.pop().filter(|start| *start <= self.stack.len());
        Ok(self.stack.drain(start.ok_or(MALFORMED)?..).collect())
    }

    fn pop_or_mark(&mut self) -> Result<(), SessionError> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
    }

    /// Takes a little-endian length or number.
    fn number(&mut self, bytes: usize) -> Result<usize, SessionError> {
        let taken = self.bytes.take(bytes).ok_or(MALFORMED)?;
        let number = taken.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
        usize::try_from(number).map_err(|_| MALFORMED)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SessionError> {
        self.bytes.array().ok_or(MALFORMED)
    }

    fn prefixed(&mut self, length_bytes: usize) -> Result<&'v [u8], SessionError> {
        let length = self.number(length_bytes)?;
        self.bytes.take(length).ok_or(MALFORMED)
    }

    fn line(&mut self) -> Result<&'v [u8], SessionError> {
        self.bytes.until(b'\n').ok_or(MALFORMED)
    }
}

fn pairs(items: &[ItemId]) -> Result<Vec<(ItemId, ItemId)>, SessionError> {
    let (pairs, []) = items.as_chunks() else { return Err(MALFORMED) };
    Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
}

/// A little-endian integer in two's complement.
fn integer<'v>(bytes: &[u8]) -> Item<'v> {
    if bytes.len() > INTEGER_BYTES_MAX {
        return Item::Opaque;
    }
    let is_negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut extended = [if is_negative { 0xff } else { 0 }; INTEGER_BYTES_MAX];
    extended[..bytes.len()].copy_from_slice(bytes);
    Item::integer(i128::from_le_bytes(extended))
}

/// An integer of protocol 0 or 1: digits, `L` after a long one; 00 and 01 are booleans.
fn digits(line: &[u8]) -> Item<'_> {
    let text = str::from_utf8(line).unwrap_or_default();
    let text = text.strip_suffix('L').unwrap_or(text);
    let digits = text.strip_prefix('-').unwrap_or(text);
    match line {
        b"00" => Item::Bool(false),
        b"01" => Item::Bool(true),
        _ if (1..=INTEGER_DIGITS_MAX).contains(&digits.len())
            && digits.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            Item::Number(Cow::Borrowed(text))
        }
        _ => Item::Opaque,
    }
}

fn float<'v>(line: &[u8]) -> Item<'v> {
    str::from_utf8(line).ok().and_then(|text| text.parse().ok()).map_or(Item::Opaque, Item::float)
}

/// A text of protocol 0: Latin-1 with `\uXXXX` and `\UXXXXXXXX`; opaque if an escape is invalid.
fn unescape<'v>(line: &[u8]) -> Item<'v> {
    let mut text = String::new();
    let mut bytes = Bytes::new(line);
    while let Some(byte) = bytes.byte() {
        let digits = match (byte, bytes.rest().first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                text.push(char::from(byte));
                continue;
            }
        };
        let escape = bytes.take(1 + digits).and_then(|escape| str::from_utf8(&escape[1..]).ok());
        let character =
            escape.and_then(|digits| u32::from_str_radix(digits, 16).ok()).and_then(char::from_u32);
        let Some(character) = character else { return Item::Opaque };
        text.push(character);
    }
    Item::Text(Cow::Owned(text))
}

#[cfg(test)]
mod tests;
