//! Tests of the reader of pickle.

use proptest::prelude::*;

use super::super::super::pointer::Pointer;
use super::super::fixtures::{self, DJANGO_OBJECTS, DJANGO_PICKLE, DJANGO_REDIS_PICKLE, PICKLES};
use super::super::value::Resolved;
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
fn reads_sessions_of_django() {
    for fixture in [DJANGO_PICKLE, DJANGO_REDIS_PICKLE] {
        let bytes = fixtures::bytes(fixture);
        assert_eq!(resolve(&bytes, "/_auth_user_id"), text("1"));
        assert_eq!(resolve(&bytes, "/views"), number("1"));
        assert_eq!(resolve(&bytes, "/cart/0/n"), text("ü😀"));
        assert_eq!(resolve(&bytes, "/roles"), list(&["editor", "staff"]));
        assert_eq!(resolve(&bytes, "/missing"), None);
    }
}

#[test]
fn reads_all_protocols() {
    for (protocol, fixture) in PICKLES.into_iter().enumerate() {
        let bytes = fixtures::bytes(fixture);
        for (pointer, expected) in [
            ("/_auth_user_id", text("7")),
            ("/roles", list(&["a", "shared", "shared"])),
            ("/big", number("1267650600228229401496703205376")),
            ("/64", number("9223372036854775808")),
            ("/neg", number("-5")),
            ("/i2", number("65535")),
            ("/i4", number("-70000")),
            ("/f", number("1.5")),
            ("/n", Some(Resolved::Other)),
            ("/t", Some(Resolved::Bool(true))),
            ("/fl", Some(Resolved::Bool(false))),
            ("/l1", list(&["1", "shared"])),
            ("/l2", list(&["1", "shared"])),
            ("/one", list(&["x"])),
            ("/e", list(&[])),
            ("/2t", list(&["1", "2"])),
            ("/u", text("ü😀\\ \n")),
            ("/long", text(&"x".repeat(70))),
            ("/5", text("five")),
            ("/self/self/self/_auth_user_id", text("7")),
            // Objects.
            ("/when", Some(Resolved::Other)),
            ("/od", Some(Resolved::Other)),
            ("/od/a", None),
            ("/b", Some(Resolved::Other)),
        ] {
            assert_eq!(resolve(&bytes, pointer), expected, "{pointer} in protocol {protocol}");
        }
    }
}

#[test]
fn reads_sets_of_protocol_4() {
    let bytes = fixtures::bytes(PICKLES[4]);
    assert_eq!((resolve(&bytes, "/set"), resolve(&bytes, "/fs")), (list(&["1"]), list(&["2"])));
}

#[test]
fn objects_do_not_hide_the_user() {
    let bytes = fixtures::bytes(DJANGO_OBJECTS);
    assert_eq!(resolve(&bytes, "/_auth_user_id"), text("7"));
    assert_eq!(resolve(&bytes, "/message"), Some(Resolved::Other));
    assert_eq!(resolve(&bytes, "/message/message"), None);
}

/// `os.system("id")` by GLOBAL and REDUCE, by STACK_GLOBAL, by INST, by OBJ, and by an extension.
#[test]
fn code_is_opaque() {
    for program in [
        &b"cos\nsystem\n(S'id'\ntR."[..],
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.",
        b"(S'id'\nios\nsystem\n.",
        b"(cos\nsystem\nS'id'\no.",
        b"\x80\x02\x82\x01)R.",
        b"\x80\x02cos\nsystem\n)\x81}b.",
        b"Pid\n.",
    ] {
        let decoded = decode(program).unwrap();
        assert_eq!(decoded.arena.get(decoded.root), &Item::Opaque, "{program:?}");
    }
}

#[test]
fn rejects_malformed_pickles() {
    for bytes in [
        &b""[..],
        b".",
        b"N",
        b"N.N",
        b"NN.",
        b"(N.",
        b"\x80\x06N.",
        b"\x8c\x05abc.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.",
        b"h\x00.",
        b"(u.",
        b"}(Nu.",
        b"}N]a.",
        b"]Na(0N.",
        b"N\x85\x86.",
        b"(\x85.",
        b"N(N\x860.",
        b"\xff.",
    ] {
        assert!(decode(bytes).is_err(), "{bytes:?}");
    }
}

/// A list of 10 references to a list of 10 references, and so on: 10^1000 elements, if they were copied.
#[test]
fn references_do_not_expand() {
    let mut bomb = b"\x80\x04(\x8c\x01x\x94".to_vec();
    for level in 0..1000u32 {
        bomb.push(b'(');
        for _ in 0..10 {
            bomb.push(b'j');
            bomb.extend(level.to_le_bytes());
        }
        bomb.extend(b"l\x94");
    }
    bomb.extend(b"\x8c\x017t.");
    assert_eq!(resolve(&bomb, "/1001"), text("7"));
    assert_eq!(resolve(&bomb, &format!("/1000{}", "/9".repeat(999))), list(&["x"; 10]));
}

#[test]
fn a_list_of_references_to_a_large_text_is_not_copied() {
    let mut bytes = b"\x80\x04X".to_vec();
    bytes.extend(400_000u32.to_le_bytes());
    bytes.extend(b"a".repeat(400_000));
    bytes.extend(b"\x940(");
    for _ in 0..100_000 {
        bytes.extend(b"h\x00");
    }
    bytes.extend(b"l\x85.");
    assert_eq!(resolve(&bytes, "/0"), Some(Resolved::Other));
    assert_eq!(resolve(&bytes, "/0/7"), Some(Resolved::TooLong));
}

#[test]
fn the_number_of_elements_is_bounded() {
    let many = [&[b'N'; ITEMS_MAX + 1][..], b"."].concat();
    assert_eq!(decode(&many).err(), Some(SessionError::TooManyItems(ITEMS_MAX)));
    let many_references = [&b"N"[..], &b"\x94".repeat(ITEMS_MAX + 1), b"."].concat();
    assert_eq!(decode(&many_references).err(), Some(SessionError::TooManyItems(ITEMS_MAX)));
}

#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    let deep = [&b"N"[..], &b"\x85".repeat(60_000), b"."].concat();
    assert!(decode(&deep).is_ok());
}

proptest! {
    #[test]
    fn accepts_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn accepts_any_operations(
        operations in prop::collection::vec(prop::sample::select(b"(012NKaesuldt}])hqb\x85\x86\x87\x94\x81\x93R\x8f\x90\x91\x88cI\n1\x00\x01".to_vec()), 0..60),
    ) {
        let program = [&operations[..], b"."].concat();
        if let Ok(decoded) = decode(&program) {
            for pointer in ["/0", "/0/0", "/1/1"] {
                let _ = decoded.resolve(&Pointer::parse(pointer).unwrap());
            }
        }
    }

    #[test]
    fn damaged_sessions_do_not_panic(at in 0usize..300, value: u8, length in 0usize..300) {
        let mut bytes = fixtures::bytes(DJANGO_PICKLE);
        let at = at % bytes.len();
        bytes[at] = value;
        let _ = decode(&bytes);
        prop_assert!(decode(&bytes[..length.min(bytes.len() - 1)]).is_err());
    }
}
