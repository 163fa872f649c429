//! Tests of the reader of Java serialization.

use proptest::prelude::*;

use super::super::super::pointer::Pointer;
use super::super::fixtures;
use super::super::java_fixtures::{JAVA_MAP, JAVA_TEXT, SPRING_CONTEXT};
use super::super::value::{ITEMS_MAX, Resolved};
use super::*;

fn resolve(bytes: &[u8], pointer: &str) -> Option<Resolved> {
    decode(bytes).unwrap().resolve(&Pointer::parse(pointer).unwrap())
}

fn text(text: &str) -> Option<Resolved> {
    Some(Resolved::Text(text.to_owned()))
}

fn number(text: &str) -> Option<Resolved> {
    Some(Resolved::Number(text.to_owned()))
}

fn list(elements: &[&str]) -> Option<Resolved> {
    Some(Resolved::List(elements.iter().map(|element| (*element).to_owned()).collect()))
}

#[test]
fn reads_the_context_of_spring_security() {
    let bytes = fixtures::bytes(SPRING_CONTEXT);
    for (pointer, expected) in [
        ("/authentication/principal/username", text("alice")),
        ("/authentication/principal/enabled", Some(Resolved::Bool(true))),
        ("/authentication/authenticated", Some(Resolved::Bool(true))),
        ("/authentication/authorities/list/1/role", text("ROLE_USER")),
        ("/authentication/credentials", Some(Resolved::Other)),
        ("/authentication/missing", None),
    ] {
        assert_eq!(resolve(&bytes, pointer), expected, "{pointer}");
    }
}

#[test]
fn reads_many_types() {
    let bytes = fixtures::bytes(JAVA_MAP);
    for (pointer, expected) in [
        ("/long", number("42")),
        ("/neg", number("-1")),
        ("/double", number("1.5")),
        ("/bool", Some(Resolved::Bool(true))),
        ("/name", text("ü😀\0")),
        ("/list", list(&["a", "b"])),
        ("/again", list(&["a", "b"])),
        ("/set", list(&["c"])),
        ("/strings", list(&["x", "y"])),
        ("/enum", text("NEW")),
        ("/tree/k", text("v")),
        ("/self/self/long", number("42")),
        ("/uuid/mostSigBits", number("3746381047686122291")),
        ("/ints", Some(Resolved::Other)),
        ("/date", Some(Resolved::Other)),
        ("/when", Some(Resolved::Other)),
        ("/null", Some(Resolved::Other)),
        ("/class", Some(Resolved::Other)),
    ] {
        assert_eq!(resolve(&bytes, pointer), expected, "{pointer}");
    }
    let bytes = fixtures::bytes(JAVA_TEXT);
    assert_eq!(decode(&bytes).unwrap().resolve_tokens(&[]), text("alice"));
}

#[test]
fn rejects_malformed_streams() {
    for bytes in [
        &b""[..],
        b"\xac\xed\0\x05",
        b"\xac\xed\0\x05pp",
        b"\xac\xed\0\x06p",
        b"\xac\xed\0\x05t\0\x05ab",
        b"\xac\xed\0\x05q\0~\0\0",
        b"\xac\xed\0\x05y",
        b"\xac\xed\0\x05sp",
    ] {
        assert_eq!(decode(bytes).err(), Some(MALFORMED), "{bytes:?}");
    }
    for fixture in [JAVA_MAP, SPRING_CONTEXT] {
        let bytes = fixtures::bytes(fixture);
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length]).err(), Some(MALFORMED), "{length} bytes");
        }
    }
}

/// A stream with a class `A` of one field of type Object, and what follows.
fn class_and(rest: &[u8]) -> Vec<u8> {
    [&b"\xac\xed\0\x05sr\0\x01A\0\0\0\0\0\0\0\0\x02\0\x01L\0\x01at\0\x12Ljava/lang/Object;xp"[..], rest]
        .concat()
}

#[test]
fn nesting_is_bounded() {
    // Each object has an object of the same class as its field.
    let deep = class_and(&[&b"sq\0~\0\0".repeat(DEPTH_MAX)[..], b"p"].concat());
    assert_eq!(decode(&deep).err(), Some(SessionError::TooDeep(DEPTH_MAX)));
    assert!(decode(&class_and(&[&b"sq\0~\0\0".repeat(DEPTH_MAX - 1)[..], b"p"].concat())).is_ok());
    // Each class has another class above it.
    let chain =
        [&b"\xac\xed\0\x05s"[..], &b"r\0\x01A\0\0\0\0\0\0\0\0\x02\0\0x".repeat(DEPTH_MAX + 1), b"p"].concat();
    assert_eq!(decode(&chain).err(), Some(SessionError::TooDeep(DEPTH_MAX)));
}

/// An array of objects, each of a new class, below which the class before it is referred to.
#[test]
fn chains_of_classes_are_bounded() {
    let stream = |classes: u32| {
        let mut bytes = b"\xac\xed\0\x05ur\0\x03[LA\0\0\0\0\0\0\0\0\x02\0\0xp".to_vec();
        bytes.extend(classes.to_be_bytes());
        bytes.extend(b"sr\0\x01A\0\0\0\0\0\0\0\0\x02\0\0xp");
        for class in 1..classes {
            bytes.extend(b"sr\0\x01A\0\0\0\0\0\0\0\0\x02\0\0xq");
            // Each object takes two handles: its class and itself.
            bytes.extend((FIRST_HANDLE + 2 * class).to_be_bytes());
        }
        bytes
    };
    assert!(decode(&stream(60)).is_ok());
    assert_eq!(decode(&stream(20_000)).err(), Some(SessionError::TooDeep(DEPTH_MAX)));
}

#[test]
fn the_number_of_elements_is_bounded() {
    let length = u32::try_from(ITEMS_MAX).unwrap().to_be_bytes();
    let array =
        [&b"\xac\xed\0\x05ur\0\x03[LA\0\0\0\0\0\0\0\0\x02\0\0xp"[..], &length, &vec![b'p'; ITEMS_MAX]]
            .concat();
    assert_eq!(decode(&array).err(), Some(SessionError::TooManyItems(ITEMS_MAX)));
}

proptest! {
    #[test]
    fn accepts_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = decode(&[HEADER, &bytes].concat());
    }

    #[test]
    fn damaged_sessions_do_not_panic(at in 0usize..2000, value: u8) {
        for fixture in [JAVA_MAP, SPRING_CONTEXT] {
            let mut bytes = fixtures::bytes(fixture);
            let at = at % bytes.len();
            bytes[at] = value;
            if let Ok(decoded) = decode(&bytes) {
                let _ = decoded.resolve(&Pointer::parse("/authentication/principal/username").unwrap());
            }
        }
    }
}
