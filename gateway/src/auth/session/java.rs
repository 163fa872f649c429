//! Reads values that Java serialization wrote.
//!
//! No class is looked up and no method is called: an object is a map of its fields, whatever its class.

use std::borrow::Cow;
use std::rc::Rc;

use super::error::SessionError;
use super::value::{Arena, Bytes, DEPTH_MAX, Decoded, Item, ItemId};

const MALFORMED: SessionError = SessionError::Malformed("serialized Java");
/// The header of every stream: magic number and version.
const HEADER: &[u8] = &[0xac, 0xed, 0, 5];
/// The number of the first handle of a stream.
const FIRST_HANDLE: u32 = 0x7e_0000;

const NULL: u8 = 0x70;
const REFERENCE: u8 = 0x71;
const CLASS: u8 = 0x72;
const PROXY_CLASS: u8 = 0x7d;
const END: u8 = 0x78;

/// The class has a method `writeObject`, which may write more than its fields.
const HAS_WRITE_METHOD: u8 = 1;
const IS_SERIALIZABLE: u8 = 2;
const IS_EXTERNALIZABLE: u8 = 4;
const HAS_BLOCK_DATA: u8 = 8;

/// Classes that are read as the value that they hold.
const BOXES: [&str; 7] = ["Boolean", "Byte", "Double", "Float", "Integer", "Long", "Short"];
/// Collections whose `writeObject` writes their elements.
const LISTS: [&str; 5] = ["ArrayDeque", "ArrayList", "HashSet", "LinkedHashSet", "LinkedList"];
/// Collections whose `writeObject` writes keys and values.
const MAPS: [&str; 3] = ["HashMap", "LinkedHashMap", "TreeMap"];

/// Whether bytes are a stream of Java serialization.
pub(super) fn is_stream(bytes: &[u8]) -> bool {
    bytes.starts_with(HEADER)
}

/// Reads the only value of a stream.
///
/// # Errors
/// The bytes are not a stream with one value, are nested too deep, or have too many elements.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded<'_>, SessionError> {
    let mut reader = JavaReader { bytes: Bytes::new(bytes), ..JavaReader::default() };
    reader.bytes.expect(HEADER).ok_or(MALFORMED)?;
    let root = reader.value(0)?;
    if reader.bytes.rest().is_empty() { Ok(Decoded { arena: reader.arena, root }) } else { Err(MALFORMED) }
}

/// A class of which objects follow.
struct Class<'v> {
    name: &'v [u8],
    flags: u8,
    /// Type codes and names.
    fields: Vec<(u8, ItemId)>,
    parent: Option<Rc<Self>>,
    /// The number of classes above this one.
    height: usize,
}

/// Elements that later parts of the stream can refer to.
#[derive(Clone)]
enum Handle<'v> {
    Value(ItemId),
    Class(Rc<Class<'v>>),
}

#[derive(Default)]
struct JavaReader<'v> {
    bytes: Bytes<'v>,
    arena: Arena<'v>,
    handles: Vec<Handle<'v>>,
}

impl<'v> JavaReader<'v> {
    fn value(&mut self, depth: usize) -> Result<ItemId, SessionError> {
        let tag = self.byte()?;
        self.tagged(tag, depth)
    }

    fn tagged(&mut self, tag: u8, depth: usize) -> Result<ItemId, SessionError> {
        check(depth)?;
        match tag {
            NULL => self.arena.add(Item::Null),
            REFERENCE => match self.reference()? {
                Handle::Value(id) => Ok(id),
                Handle::Class(_) => self.arena.add(Item::Opaque),
            },
            0x73 => self.object(depth),
            0x74 => {
                let length = self.u16()?;
                self.string(length.into())
            }
            0x7c => {
                let length = u64::from_be_bytes(self.array()?);
                self.string(usize::try_from(length).map_err(|_| MALFORMED)?)
            }
            0x75 => self.array_object(depth),
            // The class itself.
            0x76 => {
                self.class(depth + 1)?;
                self.shared(Item::Opaque)
            }
            // A constant of an enumeration: its name.
            0x7e => {
                self.class(depth + 1)?;
                let id = self.shared(Item::Opaque)?;
                let name = self.value(depth + 1)?;
                let name = self.arena.get(name).clone();
                self.replace(id, name);
                Ok(id)
            }
            _ => Err(MALFORMED),
        }
    }

    fn object(&mut self, depth: usize) -> Result<ItemId, SessionError> {
        let class = self.class(depth + 1)?.ok_or(MALFORMED)?;
        let id = self.shared(Item::Opaque)?;
        let chain: Vec<Rc<Class<'v>>> =
            std::iter::successors(Some(Rc::clone(&class)), |class| class.parent.clone()).collect();
        let mut entries = Vec::new();
        let mut written = Vec::new();
        for class in chain.iter().rev() {
            let has_annotation = match class.flags & (IS_SERIALIZABLE | IS_EXTERNALIZABLE) {
                IS_SERIALIZABLE => {
                    for (code, name) in &class.fields {
                        entries.push((*name, self.field(*code, depth + 1)?));
                    }
                    class.flags & HAS_WRITE_METHOD != 0
                }
                IS_EXTERNALIZABLE if class.flags & HAS_BLOCK_DATA != 0 => true,
                0 => false,
                // The data of an externalizable object of the first protocol has no end.
                _ => return Err(MALFORMED),
            };
            if has_annotation {
                self.annotation(depth + 1, &mut written)?;
            }
        }
        let item = match kind(class.name) {
            Kind::Box => entries.last().map_or(Item::Opaque, |(_, value)| self.arena.get(*value).clone()),
            Kind::List => Item::List(written),
            Kind::Map => Item::Map(written.as_chunks().0.iter().map(|[key, value]| (*key, *value)).collect()),
            Kind::Object => Item::Map(entries),
        };
        self.replace(id, item);
        Ok(id)
    }

    /// The value of a field.
    fn field(&mut self, code: u8, depth: usize) -> Result<ItemId, SessionError> {
        let item = match code {
            b'B' => Item::integer(i8::from_be_bytes(self.array()?)),
            b'S' => Item::integer(i16::from_be_bytes(self.array()?)),
            b'I' => Item::integer(i32::from_be_bytes(self.array()?)),
            b'J' => Item::integer(i64::from_be_bytes(self.array()?)),
            b'F' => Item::float(f32::from_be_bytes(self.array()?).into()),
            b'D' => Item::float(f64::from_be_bytes(self.array()?)),
            b'Z' => Item::Bool(self.byte()? != 0),
            b'C' => {
                let unit = self.u16()?;
                char::from_u32(unit.into())
                    .map_or(Item::Opaque, |letter| Item::Text(Cow::Owned(letter.into())))
            }
            b'[' | b'L' => return self.value(depth),
            _ => return Err(MALFORMED),
        };
        self.arena.add(item)
    }

    /// An array of objects; an array of a primitive type is skipped.
    fn array_object(&mut self, depth: usize) -> Result<ItemId, SessionError> {
        let class = self.class(depth + 1)?.ok_or(MALFORMED)?;
        let id = self.shared(Item::Opaque)?;
        let length = usize::try_from(u32::from_be_bytes(self.array()?)).map_err(|_| MALFORMED)?;
        let width = match class.name.get(1) {
            Some(b'[' | b'L') => {
                let elements = (0..length).map(|_| self.value(depth + 1)).collect::<Result<_, _>>()?;
                self.replace(id, Item::List(elements));
                return Ok(id);
            }
            Some(b'B' | b'Z') => 1,
            Some(b'S' | b'C') => 2,
            Some(b'I' | b'F') => 4,
            Some(b'J' | b'D') => 8,
            _ => return Err(MALFORMED),
        };
        self.bytes.take(length.saturating_mul(width)).ok_or(MALFORMED)?;
        Ok(id)
    }

    /// The description of a class; `None` for null.
    fn class(&mut self, depth: usize) -> Result<Option<Rc<Class<'v>>>, SessionError> {
        check(depth)?;
        let (name, handle) = match self.byte()? {
            NULL => return Ok(None),
            REFERENCE => match self.reference()? {
                Handle::Class(class) => return Ok(Some(class)),
                Handle::Value(_) => return Err(MALFORMED),
            },
            CLASS => {
                let name = self.utf()?;
                self.bytes.take(8).ok_or(MALFORMED)?;
                (name, self.reserve()?)
            }
            PROXY_CLASS => {
                let handle = self.reserve()?;
                let interfaces = u32::from_be_bytes(self.array()?);
                (0..interfaces).try_for_each(|_| self.utf().map(drop))?;
                (&b""[..], handle)
            }
            _ => return Err(MALFORMED),
        };
        let mut class = Class { name, flags: IS_SERIALIZABLE, fields: Vec::new(), parent: None, height: 0 };
        if !name.is_empty() {
            class.flags = self.byte()?;
            for _ in 0..self.u16()? {
                let code = self.byte()?;
                let field = self.utf()?;
                let field = self.arena.add(text(field))?;
                if matches!(code, b'[' | b'L') {
                    self.value(depth + 1)?;
                }
                class.fields.push((code, field));
            }
        }
        self.annotation(depth + 1, &mut Vec::new())?;
        class.parent = self.class(depth + 1)?;
        // A class above may be a reference, which the depth of the stream does not count.
        class.height = class.parent.as_ref().map_or(0, |parent| parent.height + 1);
        check(class.height)?;
        let class = Rc::new(class);
        *self.handles.get_mut(handle).ok_or(MALFORMED)? = Handle::Class(Rc::clone(&class));
        Ok(Some(class))
    }

    /// Values and bytes up to a mark. The values are added to `values`.
    fn annotation(&mut self, depth: usize, values: &mut Vec<ItemId>) -> Result<(), SessionError> {
        loop {
            match self.byte()? {
                END => return Ok(()),
                0x77 => {
                    let length = self.byte()?;
                    self.bytes.take(length.into()).ok_or(MALFORMED)?;
                }
                0x7a => {
                    let length = usize::try_from(u32::from_be_bytes(self.array()?)).map_err(|_| MALFORMED)?;
                    self.bytes.take(length).ok_or(MALFORMED)?;
                }
                tag => values.push(self.tagged(tag, depth)?),
            }
        }
    }

    fn string(&mut self, length: usize) -> Result<ItemId, SessionError> {
        let bytes = self.bytes.take(length).ok_or(MALFORMED)?;
        self.shared(text(bytes))
    }

    fn utf(&mut self) -> Result<&'v [u8], SessionError> {
        let length = self.u16()?;
        self.bytes.take(length.into()).ok_or(MALFORMED)
    }

    fn reference(&mut self) -> Result<Handle<'v>, SessionError> {
        let index = u32::from_be_bytes(self.array()?).checked_sub(FIRST_HANDLE);
        let handle = index.and_then(|index| self.handles.get(index as usize));
        handle.cloned().ok_or(MALFORMED)
    }

    /// Adds an element that has a handle.
    fn shared(&mut self, item: Item<'v>) -> Result<ItemId, SessionError> {
        let id = self.arena.add(item)?;
        self.handles.push(Handle::Value(id));
        Ok(id)
    }

    /// Adds the handle of a class before the class is read.
    fn reserve(&mut self) -> Result<usize, SessionError> {
        self.shared(Item::Opaque)?;
        Ok(self.handles.len() - 1)
    }

    fn replace(&mut self, id: ItemId, new: Item<'v>) {
        if let Some(item) = self.arena.get_mut(id) {
            *item = new;
        }
    }

    fn byte(&mut self) -> Result<u8, SessionError> {
        self.bytes.byte().ok_or(MALFORMED)
    }

    fn u16(&mut self) -> Result<u16, SessionError> {
        self.array().map(u16::from_be_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SessionError> {
        self.bytes.array().ok_or(MALFORMED)
    }
}

/// How an object of a class is read.
enum Kind {
    Box,
    List,
    Map,
    Object,
}

fn kind(class: &[u8]) -> Kind {
    let within = |package: &str, names: &[&str]| {
        let name = class.strip_prefix(package.as_bytes());
        name.is_some_and(|name| names.iter().any(|known| known.as_bytes() == name))
    };
    if within("java.lang.", &BOXES) {
        Kind::Box
    } else if within("java.util.", &LISTS) {
        Kind::List
    } else if within("java.util.", &MAPS) {
        Kind::Map
    } else {
        Kind::Object
    }
}

fn check(depth: usize) -> Result<(), SessionError> {
    if depth > DEPTH_MAX { Err(SessionError::TooDeep(DEPTH_MAX)) } else { Ok(()) }
}

/// A text in modified UTF-8: characters outside the basic plane are two surrogates of 3 bytes, U+0000 has 2 bytes.
fn text(bytes: &[u8]) -> Item<'_> {
    if let Ok(text) = str::from_utf8(bytes) {
        return Item::Text(Cow::Borrowed(text));
    }
    let mut units = Vec::new();
    let mut bytes = Bytes::new(bytes);
    while let Some(first) = bytes.byte() {
        let more = match first {
            0x00..=0x7f => 0,
            0xc0..=0xdf => 1,
            0xe0..=0xef => 2,
            _ => return Item::Opaque,
        };
        let Some(rest) = bytes.take(more) else { return Item::Opaque };
        let lead = u16::from(first) & (0x7f >> (more + usize::from(more > 0)));
        units.push(rest.iter().fold(lead, |unit, byte| unit << 6 | u16::from(byte & 0x3f)));
    }
    String::from_utf16(&units).map_or(Item::Opaque, |text| Item::Text(Cow::Owned(text)))
}

#[cfg(test)]
mod tests;
